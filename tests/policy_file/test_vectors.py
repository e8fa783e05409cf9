"""Test vectors: their file, what is refused of it, and that a wrong policy is found out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from gymnasium import spaces
from msgspec.structs import replace
from onnx import numpy_helper
from stable_baselines3 import PPO

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy, export_policy
from sb3_clanker.cli.main import main
from sb3_clanker.errors import (
    ClankerError,
    MissingFileError,
    OptionError,
    UnreadableFileError,
    VectorsError,
    VectorsMismatchError,
)
from sb3_clanker.policy_file import vectors
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.documents import decode
from sb3_clanker.policy_file.reading import parse
from sb3_clanker.policy_file.seal import stamp
from sb3_clanker.policy_file.vectors import TestVectors, encode_vectors, read_vectors
from sb3_clanker.runtime.check_vectors import check_vectors
from tests.integration.test_reading_side import run as run_without_training_side
from tests.support import OBSERVATIONS
from tests.worlds import make_model

Capture = pytest.CaptureFixture[str]
Damage = Callable[[dict[str, Any]], object]


@dataclass(frozen=True, kw_only=True)
class File:
    """A policy, and its test vectors."""

    policy: Path
    path: Path

    @property
    def document(self) -> dict[str, Any]:
        """The test vectors, as JSON has them."""
        document: dict[str, Any] = json.loads(self.path.read_bytes())
        return document


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> File:
    """A policy of everything: masks, an image of bytes, an index, floats."""
    from sb3_contrib import MaskablePPO

    space = spaces.Dict(
        {
            "camera": OBSERVATIONS["image"],
            "gear": spaces.Discrete(3),
            "joints": spaces.Box(-3.0, 3.0, (4,)),
        }
    )
    model = make_model(MaskablePPO, space, spaces.MultiDiscrete([3, 4]), policy="MultiInputPolicy")
    return _write(tmp_path_factory.mktemp("everything"), model)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> File:
    return _write(tmp_path_factory.mktemp("box"), make_model(PPO, normalize=True))


def _write(folder: Path, model: Any) -> File:
    model.learn(32)
    export_policy(model, folder / "policy.onnx", options=ExportOptions(test_vectors=6))
    return File(policy=folder / "policy.onnx", path=folder / "policy.vectors.json")


# The file -----------------------------------------------------------------------------------------------------------


def test_reading_what_was_written_gives_the_same_again(file: File, tmp_path: Path) -> None:
    read = read_vectors(file.path)
    assert isinstance(read, TestVectors)
    (tmp_path / "again.json").write_bytes(encode_vectors(read))
    assert read_vectors(tmp_path / "again.json") == read
    assert read_vectors(str(file.path)) == read


def test_the_file_is_plain_json_of_the_inputs_and_outputs_of_the_graph(file: File) -> None:
    document = file.document
    assert list(document) == ["format_version", "digest", "inputs", "outputs", "cases"]
    assert document["format_version"] == 1
    assert document["digest"] == OnnxPolicy(file.policy).metadata.digest
    assert document["inputs"] == [
        {"name": "camera", "dtype": "uint8", "shape": [1, 3, 36, 36]},
        {"name": "gear", "dtype": "float32", "shape": [1, 1]},
        {"name": "joints", "dtype": "float32", "shape": [1, 4]},
        {"name": "action_masks", "dtype": "bool", "shape": [1, 7]},
    ]
    assert document["outputs"] == [{"name": "action", "shape": [1, 2], "atol": [0.0, 0.0], "rtol": 0.0}]
    for case in document["cases"]:
        assert list(case) == ["inputs", "outputs"]
        assert {type(value) for value in case["inputs"]["action_masks"]} <= {bool}
        assert {type(value) for value in case["inputs"]["camera"]} == {int}
        assert {type(value) for value in case["inputs"]["joints"]} == {float}


def test_every_number_of_float32_survives(file: File, tmp_path: Path) -> None:
    written = read_vectors(file.path)
    values = np.array([np.finfo(np.float32).max, np.finfo(np.float32).tiny, -1 / 3, 1e-45], np.float32)
    inputs = {**written.cases[0].inputs, "joints": tuple(values.tolist())}
    changed = replace(written, cases=(replace(written.cases[0], inputs=inputs),))
    (tmp_path / "changed.json").write_bytes(encode_vectors(changed))
    again = read_vectors(tmp_path / "changed.json")
    np.testing.assert_array_equal(np.array(again.cases[0].inputs["joints"], np.float32), values)


def test_checking_a_file_says_how_far_it_is_off(file: File, box: File) -> None:
    report = check_vectors(OnnxPolicy(file.policy), read_vectors(file.path))
    assert (report.n_cases, report.max_difference) == (6, 0.0)
    report = check_vectors(OnnxPolicy(box.policy), read_vectors(box.path))
    assert report.n_cases == 6
    assert 0 <= report.max_difference < 1e-5


def test_more_than_a_reader_takes_are_not_written(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_LARGEST", 1000)
    with pytest.raises(
        OptionError, match="test_vectors=6 cannot be used: expected so few that their file has at most 1"
    ):
        encode_vectors(read_or_fail(file))


def read_or_fail(file: File) -> TestVectors:
    """The vectors, whatever the limit on their file is."""
    return decode(TestVectors, file.document)


# What cannot be read ------------------------------------------------------------------------------------------------


def _change(*path: str | int, to: object) -> Damage:
    def damage(document: dict[str, Any]) -> None:
        part: Any = document
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = to

    return damage


def _drop(*path: str | int) -> Damage:
    def damage(document: dict[str, Any]) -> None:
        part: Any = document
        for step in path[:-1]:
            part = part[step]
        del part[path[-1]]

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no version": (_drop("format_version"), "format_version is None, expected 1"),
    "a newer version": (_change("format_version", to=2), "format_version is 2, expected 1"),
    "a version as text": (_change("format_version", to="1"), "format_version is '1', expected 1"),
    "a version as true": (_change("format_version", to=True), "format_version is True, expected 1"),
    "a version as a float": (_change("format_version", to=1.0), r"format_version is 1\.0, expected 1"),
    "no digest": (_drop("digest"), "damaged: object missing required field `digest`"),
    "a digest as number": (_change("digest", to=5), "digest: expected `str`, got `int`"),
    "an unknown field": (_change("more", to=1), "damaged: object contains unknown field `more`"),
    "inputs as an object": (_change("inputs", to={}), "inputs: expected `array`, got `object`"),
    "an unknown type": (
        _change("inputs", 0, "dtype", to="int64"),
        r"inputs\[0\]\.dtype: invalid enum value 'int64'",
    ),
    "a shape as text": (_change("inputs", 0, "shape", to="3"), r"inputs\[0\]\.shape: expected `array`, got `str`"),
    "a dynamic shape": (_change("inputs", 0, "shape", 0, to="batch"), r"inputs\[0\]\.shape\[0\]: expected `int`"),
    "a negative shape": (_change("inputs", 1, "shape", to=[-1, -1]), r"'gear' has the shape \(-1, -1\)"),
    "cases as text": (_change("cases", to="none"), "cases: expected `array`, got `str`"),
    "no cases": (_change("cases", to=[]), "cases: there are none"),
    "a case without outputs": (_drop("cases", 2, "outputs"), r"cases\[2\]: object missing required field `outputs`"),
    "a case without an input": (_drop("cases", 2, "inputs", "gear"), r"cases\[2\]: expected as many values as"),
    "a case with another input": (_change("cases", 1, "inputs", "x", to=[1.0]), r"cases\[1\]: expected as many values"),
    "a value too few": (_drop("cases", 1, "inputs", "joints", 0), r"cases\[1\]: expected as many values as"),
    "an expected value too few": (_drop("cases", 0, "outputs", "action", 0), r"cases\[0\]: expected as many values as"),
    "a tolerance too few": (_drop("outputs", 0, "atol", 0), r"outputs: 'action' has 1 tolerances for \(1, 2\)"),
    "a negative tolerance": (_change("outputs", 0, "atol", 0, to=-1.0), "'action' has a tolerance that is negative or"),
    "a relative tolerance below 0": (_change("outputs", 0, "rtol", to=-0.1), "'action' has a tolerance that is negat"),
    "a value as text": (
        _change("cases", 0, "inputs", "joints", 0, to="0"),
        r"inputs\[\.\.\.\]\[0\]: expected `",
    ),
    "a value as null": (
        _change("cases", 0, "outputs", "action", 0, to=None),
        r"outputs\[\.\.\.\]\[0\]: expected `",
    ),
    "a byte of 256": (_change("cases", 0, "inputs", "camera", 0, to=256), r"'camera'\]: a value is not uint8"),
    "a byte below 0": (_change("cases", 0, "inputs", "camera", 0, to=-1), r"'camera'\]: a value is not uint8"),
    "half a byte": (_change("cases", 0, "inputs", "camera", 0, to=0.5), r"'camera'\]: a value is not uint8"),
    "a number for a mask": (_change("cases", 0, "inputs", "action_masks", 0, to=1), r"masks'\]: a value is not bool"),
    "a mask for a number": (_change("cases", 0, "inputs", "joints", 0, to=True), r"joints'\]: a value is not float32"),
    "more than float32": (_change("cases", 0, "inputs", "joints", 0, to=1e39), r"joints'\]: a value is not float32"),
    "an answer beyond float32": (_change("cases", 0, "outputs", "action", 0, to=-1e39), "a value is not float32"),
    "a number without end": (
        _change("cases", 0, "outputs", "action", 0, to=10**400),
        r"cases\[0\]\.outputs\[\.\.\.\]\[0\]: number out of range",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(file: File, tmp_path: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    document = file.document
    damage(document)
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(document))
    with pytest.raises(VectorsError, match=expected) as caught:
        read_vectors(path)
    assert isinstance(caught.value, ClankerError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: these are no test vectors, or they are damaged: ")
    assert str(caught.value).endswith("Export them again.")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_does_not_have_are_refused(file: File, tmp_path: Path, constant: str) -> None:
    for name in ("joints", "action"):
        text = re.sub(rf'("{name}": \[)[^,]+,', rf"\g<1>{constant},", file.path.read_text(), count=1)
        (tmp_path / "damaged.json").write_text(text)
        with pytest.raises(VectorsError, match=f"it is not JSON: {constant} is not a JSON number"):
            read_vectors(tmp_path / "damaged.json")


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_numbers_that_become_infinite_are_refused(file: File, tmp_path: Path, number: str) -> None:
    for name in ("joints", "action", "atol", "camera"):
        text = re.sub(rf'("{name}": \[)[^,]+,', rf"\g<1>{number},", file.path.read_text(), count=1)
        (tmp_path / "damaged.json").write_text(text)
        with pytest.raises(VectorsError):
            read_vectors(tmp_path / "damaged.json")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"{", b"[" * 100_000, b"null", b"[]", b"3", b'"text"'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "none.json"
    path.write_bytes(data)
    with pytest.raises(VectorsError, match=r"it is not JSON|format_version is None, expected 1"):
        read_vectors(path)


def test_a_policy_is_no_test_vectors(file: File) -> None:
    with pytest.raises(VectorsError, match="it is not JSON"):
        read_vectors(file.policy)


def test_half_a_file_is_refused_wherever_it_ends(box: File, tmp_path: Path) -> None:
    data, path = box.path.read_bytes(), tmp_path / "half.json"
    for end in range(0, len(data) - 1, max(1, len(data) // 50)):
        path.write_bytes(data[:end])
        with pytest.raises(VectorsError):
            read_vectors(path)


def test_a_file_that_is_too_large_is_not_read(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_LARGEST", 1000)
    with pytest.raises(UnreadableFileError, match=r"policy\.vectors\.json.*and 1,000 are the most"):
        read_vectors(file.path)


@pytest.mark.parametrize("name", ["none.json", "", "\0", "n" * 300])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingFileError, match="there is no such file of test vectors"):
        read_vectors(tmp_path / name)


# A policy that differs ----------------------------------------------------------------------------------------------


def test_vectors_of_another_file_are_refused(file: File, box: File) -> None:
    with pytest.raises(VectorsMismatchError, match="they were written for another file, whose digest is sha256:"):
        check_vectors(OnnxPolicy(box.policy), read_vectors(file.path))


@pytest.mark.parametrize(
    "change",
    [
        lambda read: replace(read, inputs=read.inputs[::-1]),
        lambda read: replace(read, inputs=(replace(read.inputs[0], name="x"), *read.inputs[1:])),
        lambda read: replace(read, inputs=(replace(read.inputs[0], dtype="float32"), *read.inputs[1:])),
        lambda read: replace(read, inputs=(replace(read.inputs[0], shape=(1, 36, 36, 3)), *read.inputs[1:])),
        lambda read: replace(read, outputs=()),
        lambda read: replace(read, outputs=(replace(read.outputs[0], name="actions"),)),
        lambda read: replace(read, outputs=(replace(read.outputs[0], shape=(2, 1)),)),
    ],
)
def test_other_inputs_and_outputs_are_refused(file: File, change: Callable[[TestVectors], TestVectors]) -> None:
    with pytest.raises(VectorsMismatchError, match="their inputs and outputs are not those of the file"):
        check_vectors(OnnxPolicy(file.policy), change(read_vectors(file.path)))


def test_each_changed_expectation_is_found(file: File, box: File) -> None:
    for of_file, off in ((file, 1.0), (box, 1e-3)):
        policy, read = OnnxPolicy(of_file.policy), read_vectors(of_file.path)
        for number, case in enumerate(read.cases):
            for element in range(2):
                action = list(case.outputs["action"])
                action[element] += off
                cases = list(read.cases)
                cases[number] = replace(case, outputs={"action": tuple(action)})
                with pytest.raises(
                    VectorsMismatchError,
                    match=rf"^The file does not agree with the test vectors: in case {number}, action is \[.*\], ",
                ):
                    check_vectors(policy, replace(read, cases=tuple(cases)))


def test_a_case_that_cannot_be_run_is_told(box: File, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = OnnxPolicy(box.policy)

    def run(_: object) -> NoReturn:
        raise RuntimeError("indices element out of data bounds")

    monkeypatch.setattr(policy, "run", run)
    with pytest.raises(VectorsMismatchError, match=r"case 0 cannot be run: indices element out of data bounds\.$"):
        check_vectors(policy, read_vectors(box.path))


def _sabotaged(path: Path) -> bytes:
    """The file with its largest weight tensor halved, and a record that fits."""
    data = path.read_bytes()
    metadata = parse(data).metadata
    body, _ = split_container(data)
    model = onnx.load_from_string(b"".join(body))
    largest = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    weights = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(weights / 2, largest.name))
    return stamp(model.SerializeToString(), metadata)


def test_weights_that_were_changed_are_found(box: File) -> None:
    data = _sabotaged(box.policy)
    policy, read = OnnxPolicy.from_bytes(data), read_vectors(box.path)
    with pytest.raises(VectorsMismatchError, match="they were written for another file"):
        check_vectors(policy, read)
    with pytest.raises(VectorsMismatchError, match=r"in case [0-9]+, action is"):
        check_vectors(policy, replace(read, digest=policy.metadata.digest))


# The callback and the command line ----------------------------------------------------------------------------------


def test_the_callback_writes_vectors_beside_each_policy(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(
        tmp_path, save_freq=32, options=ExportOptions(test_vectors=3), on_error="raise", name_prefix="ppo"
    )
    make_model(PPO, normalize=True).learn(64, callback=callback)
    stems = ["final_model", "ppo_32_steps", "ppo_64_steps"]
    assert sorted(path.name for path in tmp_path.glob("*.vectors.json")) == [f"{stem}.vectors.json" for stem in stems]
    for stem in stems:
        policy = OnnxPolicy(tmp_path / f"{stem}.onnx")
        assert check_vectors(policy, read_vectors(tmp_path / f"{stem}.vectors.json")).n_cases == 3
    with pytest.raises(VectorsMismatchError, match="written for another file"):
        check_vectors(OnnxPolicy(tmp_path / "final_model.onnx"), read_vectors(tmp_path / "ppo_32_steps.vectors.json"))


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "3"])
def test_their_number_is_checked(count: Any) -> None:
    with pytest.raises(OptionError, match=r"test_vectors=.* cannot be used: expected a positive integer, or None"):
        ExportOptions(test_vectors=count)


def _run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_command_line_writes_and_checks_vectors(tmp_path: Path, capsys: Capture) -> None:
    make_model(PPO).save(tmp_path / "m.zip")
    assert _run("export", "--model", tmp_path / "m.zip", "--vecnormalize", "none", "--test-vectors", 5) == 0
    policy, path = tmp_path / "m.onnx", tmp_path / "m.vectors.json"
    capsys.readouterr()
    assert _run("validate", policy, "--vectors", path) == 0
    captured = capsys.readouterr()
    whole, pair, agrees = captured.out.splitlines()
    assert (whole, pair) == (f"{policy} is undamaged", f"{tmp_path / 'm.zip'} belongs to it")
    assert re.fullmatch(r"it agrees with 5 test vectors, within \S+", agrees)
    assert captured.err == ""


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_change("digest", to="sha256:0"), "they were written for another file, whose digest is sha256:0"),
        (_change("cases", 3, "outputs", "action", 0, to=7.0), "in case 3, action is"),
        (_change("format_version", to=9), "format_version is 9, expected 1"),
        (_drop("cases"), "object missing required field `cases`"),
    ],
)
def test_the_command_line_refuses_in_one_line(
    box: File, tmp_path: Path, capsys: Capture, damage: Damage, expected: str
) -> None:
    document = box.document
    damage(document)
    (tmp_path / "v.json").write_text(json.dumps(document))
    assert _run("validate", box.policy, "--vectors", tmp_path / "v.json") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sb3-clanker: ")
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_the_command_line_refuses_a_policy_that_was_changed(box: File, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "policy.onnx").write_bytes(_sabotaged(box.policy))
    assert _run("validate", tmp_path / "policy.onnx", "--vectors", box.path) == 1
    assert "they were written for another file" in capsys.readouterr().err


def test_checking_vectors_needs_no_training_side(box: File, tmp_path: Path) -> None:
    script = (
        "from sb3_clanker.cli.main import main\nsys.exit(main(['validate', sys.argv[1], '--vectors', sys.argv[2]]))"
    )
    result = run_without_training_side(script, box.policy, box.path)
    assert result.returncode == 0, result.stderr
    assert "agrees with 6 test vectors" in result.stdout
    command = [
        sys.executable,
        "-c",
        f"import sys\n{script.replace('sys.exit(', '(')}\nassert 'torch' not in sys.modules",
    ]
    assert subprocess.run([*command, box.policy, box.path], check=False).returncode == 0


def test_a_file_may_lie_anywhere(box: File, tmp_path: Path) -> None:
    shutil.copy(box.path, tmp_path / "elsewhere")
    assert read_vectors(tmp_path / "elsewhere") == read_vectors(box.path)
