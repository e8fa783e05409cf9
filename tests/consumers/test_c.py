"""The programs of examples/c: compiled with sanitizers, and held against the test vectors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

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
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs."""
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
    return folder / "build"


@pytest.fixture(scope="module")
def run(built: Path) -> Program:
    """Runs one of the programs, by name."""

    def program(name: str, *arguments: object, stdin: str = os.devnull) -> subprocess.CompletedProcess[str]:
        command = [str(built / name), *map(str, arguments)]
        with Path(stdin).open() as file:
            return subprocess.run(command, stdin=file, capture_output=True, text=True, check=False)

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


def test_tells_what_is_outside_to_the_last_digit(run: Program, policies: Path, on_the_bounds: Path) -> None:
    done = run("check", policies / "outside.onnx", on_the_bounds)
    assert (done.returncode, done.stdout.startswith("4 cases"), done.stderr) == (0, True, "")


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
    for program, *further in (("describe",), ("cartpole",), ("control", 0.001, 1, 0)):
        _assert_fails(run(program, nothing, *further), "Protobuf parsing failed")
        _assert_fails(run(program, tmp_path / "missing.onnx", *further), "File doesn't exist")
    _assert_fails(run("check", tmp_path / "missing.onnx", vectors), "File doesn't exist")
    _assert_fails(run("check", policies / "box.onnx", tmp_path / "missing.json"), "unable to open")


@pytest.mark.parametrize(
    ("episode_start", "action", "name"), [("BOOL", "FLOAT", "episode_start"), ("FLOAT", "UINT8", "action")]
)
def test_memory_of_another_type_is_not_taken_for_floats(
    run: Program, tmp_path: Path, episode_start: str, action: str, name: str
) -> None:
    start, out = TensorProto.DataType.Value(episode_start), TensorProto.DataType.Value(action)
    inputs: list[Any] = [("obs", TensorProto.FLOAT, ["batch", 1]), ("episode_start", start, ["batch"])]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["obs"], ["action"], to=out)],
        "policy",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info("action", out, ["batch", 1])],
    )
    path = tmp_path / "policy.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    )
    _assert_fails(run("describe", path), f"{name} is not float32")


def test_cartpole_refuses_another_policy(run: Program, policies: Path) -> None:
    for kind in ("box", "image", "dict", "recurrent", "masked"):
        _assert_fails(run("cartpole", policies / f"{kind}.onnx"), "does not take what CartPole-v1 shows")


class Loop:
    """Runs ``control`` on lines that stand for what the sensors say in each period."""

    def __init__(self, run: Program, policies: Path, folder: Path) -> None:
        self._run, self._policies, self._file = run, policies, folder / "sensors.txt"

    def cases(self, kind: str) -> Any:
        """Those of the first episode: what goes in, and what Stable-Baselines3 answers."""
        cases = json.loads((self._policies / f"{kind}.vectors.json").read_text())["cases"]
        starts = [index for index, case in enumerate(cases) if case["inputs"].get("episode_start") == [1.0]]
        return cases[starts[0] : starts[1]] if len(starts) > 1 else cases

    def line(self, kind: str, case: Any) -> str:
        """What the sensors say in one case."""
        names = [spec.name for spec in read_metadata(self._policies / f"{kind}.onnx").inputs]
        seen = (case["inputs"][name] for name in names if name not in ("h_in", "c_in", "episode_start"))
        return " ".join(f"{float(value):.9g}" for values in seen for value in values)

    def __call__(self, kind: str, lines: list[str], safe: tuple[float, ...], period: float = 1e-4) -> tuple[Any, str]:
        """Source and numbers of each action, the last one's too, and what was said."""
        self._file.write_text("".join(f"{line}\n" for line in lines))
        done = self._run("control", self._policies / f"{kind}.onnx", period, len(lines), *safe, stdin=str(self._file))
        assert done.returncode == 0, done.stderr
        actions = [line.split() for line in done.stdout.splitlines()]
        return [(source, [float(number) for number in numbers]) for source, *numbers in actions], done.stderr


@pytest.fixture
def loop(run: Program, policies: Path, tmp_path: Path) -> Loop:
    return Loop(run, policies, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_controls_as_stable_baselines3_answers(loop: Loop, kind: str) -> None:
    cases = loop.cases(kind)
    assert len(cases) > 1
    safe = tuple(0.125 for _ in cases[0]["outputs"]["action"])
    (*actions, last), said = loop(kind, [loop.line(kind, case) for case in cases], safe)
    for case, (source, action) in zip(cases, actions, strict=True):
        assert source == "policy"
        assert action == pytest.approx(case["outputs"]["action"], abs=1e-5)
    assert last == ("safe", list(safe))
    assert re.fullmatch(rf"{len(cases)} steps, 0 with the safe action, \d+ overruns\n", said)


def test_holds_still_until_it_can_see(loop: Loop) -> None:
    seen = loop.line("box", loop.cases("box")[0])
    lines = ["", seen, "", "", "", "", seen, "0 nan 0", "", seen, "0 1e39 0", "0 0", "", seen, "0 0 0 0", "0 0 left"]
    actions, said = loop("box", lines, (0.5, -0.25))
    what = {"policy": "p", "safe": "-"}
    assert "".join(what[source] for source, _ in actions) == "-ppp--p--p---p---"
    assert all(action == [0.5, -0.25] for source, action in actions if source == "safe")
    assert actions[1:4] == [actions[1]] * 3  # the last observation stands for two periods, and not for the third
    assert said.splitlines()[:-1] == [
        "step 0: safe action: no observation",
        "step 4: safe action: no observation",
        "step 7: safe action: the observation is not finite",
        "step 8: safe action: no observation",
        "step 10: safe action: the observation is not finite",
        "step 11: safe action: the observation is not what the policy takes",
        "step 12: safe action: no observation",
        "step 14: safe action: the observation is not what the policy takes",
    ]
    assert said.splitlines()[-1].startswith("16 steps, 10 with the safe action, ")


@pytest.mark.parametrize(("kind", "wrong"), [("image", "256"), ("image", "0.5"), ("image", "nan"), ("masked", "2")])
def test_refuses_what_is_no_byte_and_no_mask(loop: Loop, kind: str, wrong: str) -> None:
    case = loop.cases(kind)[0]
    safe = tuple(0.0 for _ in case["outputs"]["action"])
    seen = loop.line(kind, case)
    (first, second, _), said = loop(kind, [f"{seen.rsplit(' ', 1)[0]} {wrong}", seen], safe)
    assert (first[0], second[0]) == ("safe", "policy")
    assert "step 0: safe action: the observation is not what the policy takes" in said


def test_begins_an_episode_after_a_safe_action(loop: Loop) -> None:
    first, second = (loop.line("recurrent", case) for case in loop.cases("recurrent")[:2])
    remembered, _ = loop("recurrent", [first, second, first], (0.0, 0.0))
    forgotten, _ = loop("recurrent", [first, second, "0 0 nan", first], (0.0, 0.0))
    assert forgotten[3] == forgotten[0] == remembered[0]
    assert remembered[2] != remembered[0]


def test_counts_steps_that_do_not_fit_in_their_period(loop: Loop) -> None:
    seen = loop.line("cartpole", loop.cases("cartpole")[0])
    actions, said = loop("cartpole", [seen] * 5, (0.0,), period=1e-9)  # nothing fits in a nanosecond
    assert len(actions) == 6
    assert said == "5 steps, 0 with the safe action, 5 overruns\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_leaves_the_robot_safe(built: Path, policies: Path, number: signal.Signals) -> None:
    command = [str(built / "control"), str(policies / "box.onnx"), "3600", "0", "0.5", "-0.25"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "safe 0.5 -0.25\n"
        program.send_signal(number)
        assert program.stdout.read() == "safe 0.5 -0.25\n"
    assert program.returncode == 0


@pytest.mark.parametrize("safe", [(0.5,), (0.5, 0.5, 0.5), (0.5, "nan"), (0.5, "1e39"), (0.5, "left")])
def test_needs_a_safe_action_that_is_one(run: Program, policies: Path, safe: tuple[object, ...]) -> None:
    _assert_fails(run("control", policies / "box.onnx", 0.001, 1, *safe), "the safe action takes 2 numbers")


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
        ("control", "a", "0.1", "5"),
        ("control", "a", "0", "5", "0"),
        ("control", "a", "inf", "5", "0"),
        ("control", "a", "0.1", "-1", "0"),
        ("control", "a", "0.1", "1.5", "0"),
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
