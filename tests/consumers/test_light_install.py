"""The install of a robot: numpy, onnxruntime and msgspec, then the wheel without its dependencies."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

from sb3_clanker import ExportOptions, export_policy
from sb3_clanker.dependencies import READING
from tests.worlds import BOX_OBSERVATION, draw, make_model, predict_raw

ROOT = Path(__file__).parents[2]
LIGHT = READING.removeprefix("pip install ").split()
HEAVY = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "onnx", "onnx_ir", "onnxscript", "filelock")
BUILD = "from setuptools import build_meta; build_meta.build_wheel({!r})"
PREDICT = """
import json, sys
import numpy as np
from sb3_clanker import OnnxPolicy
policy = OnnxPolicy(sys.argv[1])
batch = np.array(json.loads(sys.argv[2]), np.float32)
print(json.dumps([policy.predict(batch)[0].tolist(), [policy.predict(row)[0].tolist() for row in batch]]))
"""
WARN = """
import logging, sys
import numpy as np
from sb3_clanker import OnnxPolicy
logging.basicConfig(stream=sys.stdout, format="%(message)s")
OnnxPolicy(sys.argv[1], on_outside="warn").predict(np.full(3, 90.0, np.float32))
"""
WITHOUT_ONE = """
import sys
sys.modules[sys.argv[1]] = None  # an import of it fails
from sb3_clanker.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def _do(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)


def _done(*command: object, cwd: Path | None = None) -> str:
    done = _do(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("document", ["README.md", "docs/deploying.md", "examples/ros2/README.md"])
def test_the_documents_say_how(document: str) -> None:
    assert f"\n{READING}\npip install --no-deps sb3-clanker\n" in (ROOT / document).read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it, built from a copy: setuptools writes beside what it builds from."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "sb3_clanker", source / "sb3_clanker", ignore=shutil.ignore_patterns("__pycache__"))
    _done(sys.executable, "-c", BUILD.format(str(source)), cwd=source)
    (path,) = source.glob("*.whl")
    return path


@pytest.fixture(
    scope="module",
    params=[
        "linked",
        pytest.param(sys.executable, id="installed", marks=pytest.mark.light),
        pytest.param("python3.10", marks=pytest.mark.light),
    ],
)
def robot(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the light install; ``linked`` takes the three from this environment."""
    env = tmp_path_factory.mktemp("robot")
    if request.param == "linked":
        _done(sys.executable, "-m", "venv", "--without-pip", env)
        (packages,) = env.glob("lib/python*/site-packages")
        for package in LIGHT:
            for found in Path(sysconfig.get_path("purelib")).glob(f"{package}*"):  # numpy.libs too
                (packages / found.name).symlink_to(found)
        pip = [sys.executable, "-m", "pip", "--python", env / "bin/python", "install", "--no-index"]
    else:
        if shutil.which(request.param) is None or _do(request.param, "--version").returncode != 0:
            pytest.skip(f"there is no {request.param}; vermin holds the syntax and the standard library to it")
        _done(request.param, "-m", "venv", env)
        pip = [env / "bin/pip", "install", "--quiet"]
        constraints = ROOT / ("constraints-3.10.txt" if request.param == "python3.10" else "constraints.txt")
        _done(*pip, "--constraint", constraints, *LIGHT)
    _done(*pip, "--no-deps", wheel)
    return env / "bin"


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model(PPO, normalize=True)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies")
    model.save(folder / "policy.zip")
    seen = draw(BOX_OBSERVATION, np.random.default_rng(1), 50)
    options = ExportOptions(test_vectors=4, further_outputs=("outside",))
    export_policy(model, folder / "policy.onnx", observations=seen, options=options)
    return folder


def _python(robot: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return _do(robot / "python", "-W", "error", *arguments)


@pytest.mark.parametrize("name", HEAVY)
def test_nothing_else_can_be_imported(robot: Path, name: str) -> None:
    done = _python(robot, "-c", f"import {name}")
    assert done.stderr.endswith(f"ModuleNotFoundError: No module named {name!r}\n")


def test_a_policy_predicts_what_stable_baselines3_does(robot: Path, folder: Path, model: Any) -> None:
    batch = draw(BOX_OBSERVATION, np.random.default_rng(0), 8)
    done = _python(robot, "-c", PREDICT, folder / "policy.onnx", json.dumps(batch.tolist()))
    assert (done.returncode, done.stderr) == (0, "")
    expected = predict_raw(model, batch, model.get_vec_normalize_env())
    for actions in json.loads(done.stdout):
        np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)


def test_a_policy_warns_of_what_is_outside_of_what_training_saw(robot: Path, folder: Path) -> None:
    done = _python(robot, "-c", WARN, folder / "policy.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The observation is outside of what training saw: obs[0] is 90, and training saw -")


def test_the_command_line_reads_and_checks(robot: Path, folder: Path) -> None:
    program, policy = robot / "sb3-clanker", folder / "policy.onnx"
    assert "Box float32 [3]" in _done(program, "inspect", policy)
    assert json.loads(_done(program, "inspect", policy, "--json"))["algorithm"] == "PPO"
    assert "takes it" in _done(robot / "python", "-m", "sb3_clanker", "inspect", policy, "--target", "clankers")
    assert json.loads(_done(program, "schema", "record"))["title"] == "PolicyMetadata"
    checked = _done(program, "validate", policy, "--vectors", folder / "policy.vectors.json")
    assert "is undamaged" in checked
    assert "it agrees with 4 test vectors" in checked
    assert "none of 1,000 differ" in _done(program, "diff", policy, policy)
    for verb in ("export", "validate", "inspect", "diff", "card", "schema"):
        assert "usage" in _done(program, verb, "--help")


def test_the_command_line_finds_what_is_wrong(robot: Path, folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "policy.vectors.json").read_text())
    document["cases"][0]["outputs"]["action"] = [9.0, 9.0]
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    done = _do(robot / "sb3-clanker", "validate", folder / "policy.onnx", "--vectors", tmp_path / "wrong.json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_a_reader_of_the_help_may_want_no_more(robot: Path) -> None:
    command = '"$0" -u -m sb3_clanker inspect --help | true'
    done = _do("bash", "-o", "pipefail", "-c", command, robot / "python")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("code", "message", "install"),
    [
        ("from sb3_clanker import export_policy", "export_policy", "sb3-clanker"),
        ("from sb3_clanker import *", "ExportReport", "sb3-clanker"),
        ("sb3_clanker.validate_policy", "validate_policy", "sb3-clanker"),
        ("sb3_clanker.load_checkpoint('policy.zip')", "load_checkpoint", "sb3-clanker"),
        ("sb3_clanker.OnnxCheckpointCallback('runs')", "OnnxCheckpointCallback", "sb3-clanker"),
        ("sb3_clanker.compare_policies(*2 * sys.argv[1:], n_episodes=1, env='A-v0')", "Playing a policy", "gymnasium"),
        ("sb3_clanker.policy_card(sys.argv[1])", "A policy card", "jinja2"),
        ("sb3_clanker.OnnxPolicy(sys.argv[1]).observation_space", "A space of gymnasium", "gymnasium"),
        ("sb3_clanker.OnnxPolicy(sys.argv[1]).action_space", "A space of gymnasium", "gymnasium"),
        ("sb3_clanker.read_metadata(sys.argv[1]).action_space.to_gymnasium()", "A space of gymnasium", "gymnasium"),
    ],
)
def test_what_needs_more_says_what_to_install(robot: Path, folder: Path, code: str, message: str, install: str) -> None:
    done = _python(robot, "-c", f"import sys, sb3_clanker\n{code}", folder / "policy.onnx")
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"sb3_clanker.MissingDependencyError: {message} needs the package ")
    assert error.endswith(f", which is not installed. Install it: pip install {install}")


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [("export", ()), ("export", ("--algo", "ppo", "--target", "clankers")), ("validate --model", ("policy.onnx",))],
)
def test_a_verb_that_needs_more_says_so_in_one_line(
    robot: Path, folder: Path, verb: str, arguments: tuple[str, ...]
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    words = ["--model", "policy.zip", *arguments]
    done = _do(robot / "sb3-clanker", verb.split()[0], *words, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"sb3-clanker: sb3-clanker {verb} needs the package ")
    assert done.stderr.endswith(", which is not installed. Install it: pip install sb3-clanker\n")
    assert sorted(path.name for path in folder.iterdir()) == before


def test_with_jinja2_it_makes_a_policy_card(robot: Path, folder: Path, tmp_path: Path) -> None:
    for package in ("jinja2", "markupsafe"):
        (tmp_path / package).symlink_to(Path(sysconfig.get_path("purelib")) / package)
    code = (
        "import sys; sys.path.append(sys.argv[1]); from sb3_clanker.cli.main import main; sys.exit(main(sys.argv[2:]))"
    )
    done = _python(robot, "-c", code, tmp_path, "card", folder / "policy.onnx", "--out", tmp_path / "card.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "card.html").read_text(encoding="utf-8").endswith("</html>")


@pytest.mark.parametrize("name", ["numpy", "msgspec"])
def test_without_one_of_the_three_the_import_says_what_to_install(robot: Path, name: str) -> None:
    done = _python(robot, "-c", WITHOUT_ONE, name, "schema", "record")
    assert done.stdout == ""
    assert done.stderr.endswith(
        f"sb3_clanker needs the package {name}, which is not installed. "
        "Install it: pip install numpy onnxruntime msgspec\n"
    )


def test_without_onnxruntime_a_policy_can_be_read_and_not_run(robot: Path, folder: Path) -> None:
    policy, vectors = folder / "policy.onnx", folder / "policy.vectors.json"
    for words in (["inspect", policy], ["validate", policy]):
        done = _python(robot, "-c", WITHOUT_ONE, "onnxruntime", *words)
        assert (done.returncode, done.stderr) == (0, "")
    done = _python(robot, "-c", WITHOUT_ONE, "onnxruntime", "validate", policy, "--vectors", vectors)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "sb3-clanker: Running a policy needs the package onnxruntime, which is not installed. "
        "Install it: pip install onnxruntime\n"
    )
