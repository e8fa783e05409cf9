"""What the README says is what the tests prove: its code and its commands run, and nothing in it is left out."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import sb3_clanker
from sb3_clanker import ExportOptions
from sb3_clanker.cli.main import main
from sb3_clanker.dependencies import READING
from tests.integration.test_rl_zoo import ONE_LINE
from tests.support import support_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"(make|pip|npm|node|pytest|python|sb3-clanker|\w+=\S+) ")

SHORTER = {
    "100_000": "256",
    "50_000": "128",
    "50000_steps": "256_steps",
    "10_000": "64",
    "eval_env=eval_env": "eval_env=eval_env, eval_freq=64",
}
"""Steps in the README, and those of a test."""

FILES = {"POLICY.onnx": "policy.onnx", "NAME.vectors.json": "policy.vectors.json"}
"""Files of which the README does not say where they come from, and those of a test."""


def _inline(text: str) -> list[str]:
    """Code in the text, outside of blocks."""
    return list(dict.fromkeys(re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text))))


def _model(env: VecEnv) -> PPO:
    return PPO("MlpPolicy", env, n_steps=64, n_epochs=1, seed=1, device="cpu", policy_kwargs={"net_arch": [8]})


def _run_python(code: str, line: int, names: dict[str, Any]) -> None:
    """Run a program of the README; a callback that stands there alone is given to a training."""
    for piece, ours in SHORTER.items():
        code = code.replace(piece, ours)
    for statement in ast.parse("\n" * line + code).body:
        if isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), "README.md", "eval"), names)  # noqa: S307 - our own
            if isinstance(value, BaseCallback):
                _model(make_vec_env("CartPole-v1")).learn(256, callback=value)
        else:
            exec(compile(ast.Module([statement], []), "README.md", "exec"), names)  # noqa: S102 - our own


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the programs of the README, run one after the other in a folder of their own, leave behind."""
    env = Monitor(gym.make("CartPole-v1"))
    names: dict[str, Any] = {
        "model": _model(make_vec_env("CartPole-v1")),
        "env": env,
        "eval_env": Monitor(gym.make("CartPole-v1")),
        "observation": env.reset(seed=1)[0],
        "EvalCallback": EvalCallback,
        "EveryNTimesteps": EveryNTimesteps,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        for block in _BLOCK.finditer(README):
            if block[1] == "python":
                _run_python(block[2], README[: block.start(2)].count("\n"), names)
        yield names


@pytest.fixture(scope="module")
def files(names: dict[str, Any]) -> Iterator[None]:
    """A folder with files of the names in the README's commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("runs/cartpole")
        normalized = _model(VecNormalize(make_vec_env("CartPole-v1")))
        sb3_clanker.export_policy(normalized, "policy.onnx", options=ExportOptions(test_vectors=2))
        normalized.save("of_P")
        normalized.get_vec_normalize_env().save("P.pkl")  # type: ignore[union-attr]
        np.save("seen.npy", np.stack([names["observation"]] * 3))
        np.savez("seen.npz", obs=np.zeros((2, 4)))
        Path("runs").mkdir()
        normalized.save("runs/model.zip")
        normalized.get_vec_normalize_env().save("runs/model_vecnormalize.pkl")  # type: ignore[union-attr]
        sb3_clanker.export_policy(normalized, "runs/model.onnx", options=ExportOptions(test_vectors=2))
        yield


# Python --------------------------------------------------------------------------------------------------------------


def test_the_programs_do_what_they_say(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert names["policy"].metadata.training.num_timesteps <= 256
    assert names["action"] in names["env"].action_space
    assert names["vec_normalize"] is None
    assert [report.path.stem for report in names["callback"].reports][-1] == "final_model"
    assert names["callback"].reports[-1].metadata.training.num_timesteps == 256 + 128
    assert names["report"].validation.passed
    assert len(names["found"].returns.differences) == 5


@pytest.mark.parametrize("text", [text for text in _inline(README) if re.fullmatch(r"[\w.]+\(.+\)", text)])
def test_code_in_the_text_runs(text: str, names: dict[str, Any]) -> None:
    known = {name: getattr(sb3_clanker, name) for name in dir(sb3_clanker)} | names
    known |= {"evaluate_policy": evaluate_policy, "path": names["report"].path, "obs": names["observation"]}
    if "..." not in text:
        eval(text, known)  # noqa: S307 - our own
        return
    called, _, arguments = text.rstrip(")").partition("(")
    parameters = inspect.signature(eval(called, known)).parameters  # noqa: S307 - our own
    for name, _, value in (argument.partition("=") for argument in arguments.split(", ")):
        assert name in ("*", "...") or name in parameters
        if "*" in arguments and value:
            assert parameters[name].default == ast.literal_eval(value)


def test_the_defaults_in_the_table_of_options_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (`\w+=?.*?`) \|", README.partition("| option | meaning |")[2].partition("\n\n")[0], re.M)
    options = [option for row in rows for option in re.findall(r"`(.+?)`", row)]
    assert {option.partition("=")[0] for option in options} == {option.name for option in fields(ExportOptions)}
    for name, _, default in (option.partition("=") for option in options):
        if default and "..." not in default:
            assert getattr(ExportOptions(), name) == ast.literal_eval(default)


# Commands ------------------------------------------------------------------------------------------------------------


def _commands(text: str) -> list[str]:
    """The commands, in blocks of their own and in the text; what is indented goes on with the line before."""
    blocks = [re.sub(r"\n +", " ", block[2]) for block in _BLOCK.finditer(text) if block[1] != "python"]
    lines = [line for block in blocks for line in block.splitlines() if line]
    return lines + [text for text in _inline(text) if _COMMAND.match(text)]


def _is_ours(command: str) -> bool:
    """Whether it is one of the program, which a test runs."""
    return command.startswith("sb3-clanker ")


def _spelled_out(command: str) -> Iterator[list[str]]:
    """A command without what is optional, with one option at a time, and with all of them; each alternative."""
    for file, ours in FILES.items():
        command = command.replace(file, ours)
    optional = re.findall(r" \[(.*?)\]", command)
    required = re.sub(r" \[.*?\]", "", command)
    lines = [required, *(f"{required} {option}" for option in optional), " ".join([required, *optional])]
    for line in dict.fromkeys(lines):
        for words in itertools.product(*(word.split("|") for word in shlex.split(line))):
            yield list(words)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "words", [words for line in _commands(README) if _is_ours(line) for words in _spelled_out(line)], ids=" ".join
)
def test_a_command_of_the_program_works(words: list[str]) -> None:
    _, verb, *arguments = words
    if "P.pkl" in arguments:
        arguments = [argument.replace("best_model.zip", "of_P.zip") for argument in arguments]
    if verb == "diff":
        assert main([verb, *arguments]) in (0, 1)
    elif verb in ("card", "export", "validate"):
        assert main([verb, *arguments]) == 0
    else:  # the program itself starts fast, without torch
        program = Path(sys.executable).with_name("sb3-clanker")
        subprocess.run([program, verb, *arguments], check=True, capture_output=True)


def _is_target(command: str) -> bool:
    """Whether the Makefile makes it."""
    words = command.split()
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return words[0] == "make" and len(words) == 2 and words[1] in targets


def _is_installation(command: str) -> bool:
    """Whether it installs this project, with extras that it has, or as ``consumers/test_light_install`` does."""
    if command in (READING, "pip install --no-deps sb3-clanker"):
        return True
    match = re.fullmatch(r"pip install '?\.(?:\[(\w+)\])?'?", command)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return match is not None and (match[1] is None or match[1] in extras)


def _is_of_rl_zoo(command: str) -> bool:
    """Whether ``integration/test_rl_zoo`` runs it: the line of a hyperparameter file, and the program that reads it."""
    train = "python -m rl_zoo3.train --algo ppo --env CartPole-v1 -conf FILE.yml"
    return command in (f"CartPole-v1: {ONE_LINE}", train)


def _left_out(text: str) -> list[str]:
    """What no test of this module runs or checks."""
    kinds = [block[1] for block in _BLOCK.finditer(text)]
    unknown = ["a block"] * (text.count("```") - 2 * len(kinds))
    unknown += [f"a block of {kind}" for kind in kinds if kind not in ("python", "sh", "yaml", "")]
    rules = (_is_ours, _is_target, _is_installation, _is_of_rl_zoo)
    return unknown + [command for command in _commands(text) if not any(rule(command) for rule in rules)]


def test_nothing_is_left_out() -> None:
    assert _left_out(README) == []
    programs = "".join(block[2] for block in _BLOCK.finditer(README) if block[1] == "python")
    assert all(piece in programs for piece in SHORTER)
    assert all(any(file in command for command in _commands(README)) for file in FILES)


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("\n```yaml\na: 1\n```\n", ["a: 1"]),
        ("\n  ```python\n  a\n  ```\n", ["a block", "a block"]),
        ("\n```\nmake example\nmake coffee\n```\n", ["make coffee"]),
        (
            "`pip install '.[contrib]'`, `pip install '.[tea]'`, `pip install tea`",
            ["pip install '.[tea]'", "pip install tea"],
        ),
        ("`python -m tea`, `sb3-clanker inspect`, `CUDA=1 pytest`", ["python -m tea", "CUDA=1 pytest"]),
    ],
)
def test_what_has_no_rule_is_found(text: str, left_out: list[str]) -> None:
    assert sorted(_left_out(text)) == sorted(left_out)


def test_the_support_table_is_that_of_the_tests() -> None:
    match = re.search(r"<!-- support table: begin -->\n(.*?)\n<!-- support table: end -->", README, re.DOTALL)
    assert match is not None
    assert match[1] == support_table()
