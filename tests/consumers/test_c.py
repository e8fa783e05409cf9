"""The programs of examples/c: compiled with sanitizers, and held against the test vectors."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sb3_clanker import OnnxPolicy, read_metadata
from tests.consumers.cartpole import Forgetful, play, recurrent_policy
from tests.consumers.conftest import KINDS
from tests.consumers.tools import require_path, require_tool

SOURCES = Path(__file__).parents[2] / "examples" / "c"
CFLAGS = "-O1 -g -Werror -fsanitize=address,undefined -fno-sanitize-recover=undefined"
OFFICIAL = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
"""Where the official header is, if it is anywhere: as Debian 13 installs it, or elsewhere."""

HEADERS = ["stand-in", "official"] if (OFFICIAL / "onnxruntime_c_api.h").exists() else ["stand-in"]
STARTS = [(0.01, 0.0, 0.03, 0.0), (-0.5, 0.4, 0.05, -0.6), (2.3, 1.0, -0.1, 0.2)]

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", params=HEADERS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Runs one of the programs, by name."""
    make_tool, _ = (require_tool(tool, "apt-get install build-essential") for tool in ("make", "cc"))
    require_path(Path("/usr/include/jansson.h"), "apt-get install libjansson-dev")
    folder = tmp_path_factory.mktemp("c") / "example"
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("build"))

    def make(*arguments: str) -> None:
        done = subprocess.run([make_tool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    make("from-python", f"PYTHON={sys.executable}")
    if request.param == "official":
        (folder / "build/onnxruntime/include").symlink_to(OFFICIAL)
    make(f"CFLAGS={CFLAGS}")

    def program(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(folder / "build" / name), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return program


@pytest.fixture(scope="module")
def recurrent_cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recurrent") / "recurrent.onnx"
    recurrent_policy(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_passes_the_vectors(run: Program, policies: Path, kind: str) -> None:
    done = run("check", policies / f"{kind}.onnx", policies / f"{kind}.vectors.json")
    assert (done.returncode, done.stderr) == (0, "")
    cases, largest = done.stdout.split(" cases, largest difference ")
    assert int(cases) == len(json.loads((policies / f"{kind}.vectors.json").read_text())["cases"])
    assert float(largest) <= (0.0 if kind in ("cartpole", "image", "masked") else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_describes_a_file(run: Program, policies: Path, kind: str) -> None:
    done = run("describe", policies / f"{kind}.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    metadata = read_metadata(policies / f"{kind}.onnx")
    expected = []
    for what, specs in (("input", metadata.inputs), ("output", metadata.outputs)):
        for spec in specs:
            expected.append(f"{what} {spec.name}: {spec.dtype} {[1 if dim == 'batch' else dim for dim in spec.shape]}")
    lines = done.stdout.splitlines()
    assert lines[: len(expected)] == expected
    entries = dict(line.split(": ", 1) for line in lines[len(expected) :])
    assert len(entries) == 10
    assert entries["recurrent"] == ("true" if kind == "recurrent" else "false")
    assert entries["training_framework"] == "stable-baselines3"
    assert json.loads(entries["sb3_clanker"])["digest"] == metadata.digest


@pytest.mark.parametrize("start", STARTS)
def test_plays_cartpole_as_gymnasium_does(run: Program, policies: Path, start: tuple[float, ...]) -> None:
    done = run("cartpole", policies / "cartpole.onnx", *start)
    _, steps = play(OnnxPolicy(policies / "cartpole.onnx"), start=start)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{steps} steps\n", "")


def test_starts_with_a_small_tilt(run: Program, policies: Path) -> None:
    path = policies / "cartpole.onnx"
    assert run("cartpole", path).stdout == run("cartpole", path, *STARTS[0]).stdout


@pytest.mark.parametrize("start", STARTS)
def test_keeps_the_state_of_a_recurrent_policy(
    run: Program, recurrent_cartpole: Path, start: tuple[float, ...]
) -> None:
    done = run("cartpole", recurrent_cartpole, *start)
    policy = OnnxPolicy(recurrent_cartpole)
    _, steps = play(policy, start=start)
    assert all(play(Forgetful(policy, half), start=start)[1] != steps for half in (0, 1))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{steps} steps\n", "")


def _change(path: Path, target: Path, change: Callable[[Any], None]) -> Path:
    document = json.loads(path.read_text())
    change(document)
    target.write_text(json.dumps(document))
    return target


def _wrong_output(document: Any) -> None:
    document["cases"][3]["outputs"]["action"][0] += 1e-3


def _wrong_input(document: Any) -> None:
    document["cases"][3]["inputs"]["obs"][0] += 0.5


def _wrong_digest(document: Any) -> None:
    document["digest"] = "sha256:" + 64 * "0"


def _wrong_version(document: Any) -> None:
    document["format_version"] = 2


def _wrong_shape(document: Any) -> None:
    document["inputs"][0]["shape"] = [3]


def _wrong_type(document: Any) -> None:
    document["cases"][0]["inputs"]["obs"][1] = True


def _no_cases(document: Any) -> None:
    document["cases"] = []


def _short_input(document: Any) -> None:
    document["cases"][0]["inputs"]["obs"].pop()


def _short_output(document: Any) -> None:
    document["cases"][0]["outputs"]["action"].pop()


def _text_output(document: Any) -> None:
    document["cases"][0]["outputs"]["action"][0] = "0"


@pytest.mark.parametrize(
    ("sabotage", "message"),
    [
        (_wrong_output, r"in case 3, action\[0\] is "),
        (_wrong_input, r"in case 3, action\[\d\] is "),
        (_wrong_digest, "written for another file"),
        (_wrong_version, "format_version is not 1"),
        (_wrong_shape, "do not describe obs"),
        (_wrong_type, "value 1 of obs is not float32"),
        (_no_cases, "have no cases"),
        (_short_input, "do not have the 3 values of obs"),
        (_short_output, "do not have the 2 values of action"),
        (_text_output, "value 0 of action is no number"),
    ],
)
def test_notices_wrong_vectors(
    run: Program, policies: Path, tmp_path: Path, sabotage: Callable[[Any], None], message: str
) -> None:
    vectors = _change(policies / "box.vectors.json", tmp_path / "wrong.json", sabotage)
    _assert_fails(run("check", policies / "box.onnx", vectors), message)


def test_notices_a_value_that_its_type_cannot_hold(run: Program, policies: Path, tmp_path: Path) -> None:
    def pixel(document: Any) -> None:
        document["cases"][0]["inputs"]["obs"][5] = 256

    def mask(document: Any) -> None:
        document["cases"][0]["inputs"]["action_masks"][2] = 1

    vectors = _change(policies / "image.vectors.json", tmp_path / "image.json", pixel)
    _assert_fails(run("check", policies / "image.onnx", vectors), "value 5 of obs is not uint8")
    vectors = _change(policies / "masked.vectors.json", tmp_path / "masked.json", mask)
    _assert_fails(run("check", policies / "masked.onnx", vectors), "value 2 of action_masks is not bool")


def test_vectors_of_another_file_are_refused(run: Program, policies: Path) -> None:
    _assert_fails(run("check", policies / "box.onnx", policies / "cartpole.vectors.json"), "written for another file")


def test_a_file_that_is_none(run: Program, policies: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.write_bytes(b"no file of either kind")
    vectors = policies / "box.vectors.json"
    _assert_fails(run("check", nothing, vectors), "Protobuf parsing failed")
    _assert_fails(run("check", policies / "box.onnx", nothing), "expected near .no.")
    for program in ("describe", "cartpole"):
        _assert_fails(run(program, nothing), "Protobuf parsing failed")
        _assert_fails(run(program, tmp_path / "missing.onnx"), "File doesn't exist")
    _assert_fails(run("check", tmp_path / "missing.onnx", vectors), "File doesn't exist")
    _assert_fails(run("check", policies / "box.onnx", tmp_path / "missing.json"), "unable to open")


def test_cartpole_refuses_another_policy(run: Program, policies: Path) -> None:
    for kind in ("box", "image", "dict", "recurrent", "masked"):
        _assert_fails(run("cartpole", policies / f"{kind}.onnx"), "does not take what CartPole-v1 shows")


@pytest.mark.parametrize(
    "arguments",
    [
        ("describe",),
        ("describe", "a", "b"),
        ("check", "a"),
        ("check", "a", "b", "c"),
        ("cartpole",),
        ("cartpole", "a", "0.1"),
        ("cartpole", "a", "0.1", "0.1", "0.1", "left"),
        ("cartpole", "a", "0.1", "0.1", "0.1", "nan"),
    ],
)
def test_wrong_usage(run: Program, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: ")
    assert "POLICY.onnx" in done.stderr


def _assert_fails(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr
