"""``sb3-clanker diff``: readable, in one screen, with the exit codes that a shell expects of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from msgspec.structs import replace
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_clanker import ExportOptions, export_policy, read_metadata
from sb3_clanker.cli.main import main
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.seal import stamp
from tests.play.games import BALL
from tests.worlds import make_model, spread

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(","), None))  # an import of one fails
from sb3_clanker.cli.main import main
code = main(sys.argv[2:])
assert not {"torch", "stable_baselines3", "onnx"} & {name for name, module in sys.modules.items() if module}
sys.exit(code)
"""
HEAVY = "torch,stable_baselines3,sb3_contrib,onnx,onnx_ir,onnxscript,filelock"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a later one, and one of another space."""
    folder = tmp_path_factory.mktemp("policies")
    options = ExportOptions(action_names=["push"], action_units=["N m"])
    model = make_model(PPO, env=DummyVecEnv([lambda: Monitor(gym.make(BALL))]), scale=0.1)
    export_policy(model, folder / "a.onnx", options=options)
    spread(model, 0.1, seed=1)
    model.num_timesteps = 5000
    export_policy(model, folder / "b.onnx", options=options)
    export_policy(make_model(PPO), folder / "other.onnx")
    np.save(folder / "seen.npy", np.random.default_rng(0).normal(size=(70, 2)).astype(np.float32))
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def _diff(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["diff", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_same_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _diff(capsys, "a.onnx", "a.onnx", "--env", "--episodes", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "verdict                   they act the same"
    assert "graph and weights         the same bytes" in lines
    assert "actions                   none of 1,000 differ" in lines
    assert "  push                    never differs" in lines
    assert "second less first mean 0.00, standard deviation 0.00; more on 0, less on 0" in " ".join(out.split())
    assert lines[-1] == "record                    no field differs"


def test_what_differs_is_read_on_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _diff(capsys, "a.onnx", "b.onnx", "--env", BALL, "--seed", "3", "--observations", "seen.npy")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert lines[0] == "verdict                   they do not act the same"
    assert re.search(r"^actions +[\d.]+ % differ \(\d+ of 70\)$", out, re.MULTILINE)
    assert re.search(r"^compared on +observations of seen.npy$", out, re.MULTILINE)
    assert re.search(r"^  push +differs on [\d.]+ %; mean [\d.]+ N m, largest [\d.]+ N m", out, re.MULTILINE)
    assert re.search(r"^played in +tests/Ball-v0, 10 episodes each, from seed 3 on$", out, re.MULTILINE)
    assert re.search(r"^  seed 12 +-?[\d.]+ +-?[\d.]+ +[+-][\d.]+$", out, re.MULTILINE)
    assert re.search(r"^  training.num_timesteps  0 -> 5,000$", out, re.MULTILINE)


def test_what_cannot_be_compared_still_says_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _diff(capsys, "a.onnx", "other.onnx")
    assert code == 2
    assert re.search(r"^  observation_space.shape\n +\[2\] -> \[3\]$", out, re.MULTILINE)
    assert err == (
        "sb3-clanker: Cannot compare how these policies act: the observation of the first is Box float32 [2], and that "
        "of the second Box float32 [3]. Compare policies of the same spaces.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.onnx", "gone.onnx"], "gone.onnx: there is no such policy file. Check the path."),
        (["a.onnx", "seen.npy"], "seen.npy: this is not an ONNX file, or it is damaged"),
        (["a.onnx", "b.onnx", "--observations", "a.onnx"], "a.onnx: "),
        (["a.onnx", "b.onnx", "--env", "Nobody-v0"], "Cannot play this policy in Nobody-v0"),
        (["a.onnx", "b.onnx", "--env", "CartPole-v1"], "Cannot play this policy in CartPole-v1"),
        (["a.onnx", "b.onnx", "--seed", "-1"], "seed=-1 cannot be used"),
    ],
)
def test_trouble_is_one_line_and_no_verdict(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = _diff(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"sb3-clanker: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.onnx", "b.onnx", "--episodes", "3"], "--episodes needs --env"),
        (["a.onnx", "b.onnx", "--env", "--episodes", "0"], "--episodes must be at least 1"),
        (["a.onnx"], "the following arguments are required: B.onnx"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["diff", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["diff", "--help"])
    assert "exit codes: 0 they act the same, 1 they do not, 2 they could not be compared" in " ".join(
        capsys.readouterr().out.split()
    )


def _without(packages: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", WITHOUT, packages, "diff", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_numpy_and_onnxruntime_are_enough() -> None:
    done = _without(f"{HEAVY},gymnasium", "a.onnx", "b.onnx", "--observations", "seen.npy")
    assert (done.returncode, done.stderr) == (1, "")
    done = _without(f"{HEAVY},gymnasium", "a.onnx", "a.onnx", "--env")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "sb3-clanker: Playing a policy needs the package gymnasium, which is not installed. "
        "Install it: pip install gymnasium\n"
    )


def test_with_an_environment_gymnasium_is_enough(tmp_path: Path) -> None:
    pendulum = tmp_path / "pendulum.onnx"
    env = DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1"))])
    export_policy(make_model(PPO, env=env), pendulum)
    done = _without(HEAVY, str(pendulum), str(pendulum), "--env", "--episodes", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "played in                 Pendulum-v1, 1 episode each," in done.stdout


def test_a_record_from_a_stranger_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\x07\n" * 50
    body, _ = split_container(Path("a.onnx").read_bytes())
    metadata = read_metadata("a.onnx")
    action = replace(metadata.outputs[0], names=(evil,), units=(evil,))
    changed = replace(metadata, policy_class=evil, outputs=(action, *metadata.outputs[1:]), environment=(evil,) * 1000)
    (tmp_path / "evil.onnx").write_bytes(stamp(b"".join(body), changed))
    for order in ([str(tmp_path / "evil.onnx"), "b.onnx"], ["b.onnx", str(tmp_path / "evil.onnx")]):
        code, out, err = _diff(capsys, *order)
        assert (code, err) == (1, "")
        assert all(line.isprintable() and len(line) <= 100 for line in out.splitlines())
        assert len(out.splitlines()) <= 40
    code, out, err = _diff(capsys, str(tmp_path / "evil.onnx"), "b.onnx", "--env")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err[:-1].isprintable()
