"""The record in a file: what stands in it, and that no damage passes for a record."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gymnasium import spaces
from msgspec.structs import replace
from stable_baselines3 import PPO

from sb3_clanker import ClankerError, ExportOptions, PolicyMetadata, export_policy, read_metadata
from sb3_clanker.errors import (
    MetadataError,
    MissingFileError,
    OptionError,
    PolicyFileError,
    ReservedMetadataKeyError,
    SchemaVersionError,
)
from sb3_clanker.policy_file.container import join_container, split_container
from sb3_clanker.policy_file.entries import CONTRACT_KEYS, check_entries, contract_entries
from sb3_clanker.policy_file.reading import parse
from sb3_clanker.policy_file.record import (
    CheckpointRecord,
    EnvironmentRecord,
    EvaluationRecord,
    NormalizationRecord,
    ObservationRange,
    ObservationRanges,
    PairedFile,
)
from sb3_clanker.policy_file.seal import stamp
from sb3_clanker.policy_file.spaces import BoxSpace, DiscreteSpace
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.report import CrossCheckRecord
from tests.policy_file.sealing import SEAL_KEY, resealed
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_model

ENTRIES = {"robot": "arm-3", "Ünïcode": "€ \n\0", "notes": "a careful person wrote this. " * 20}
EVALUATION = EvaluationRecord(
    role="best", num_timesteps=1000, mean_reward=-0.1, std_reward=2.0, n_episodes=5, deterministic=True
)
RANGES = ObservationRanges(
    n_observations=7,
    margin=0.1,
    ranges=(
        ObservationRange(
            key=None,
            minimum=(-1.0, 0.0, -1e-300),
            maximum=(1.0, 0.0, 3.4e38),
            mean=(0.1, 0.0, 1 / 3),
            deviation=(0.5, 0.0, 1e38),
            quantiles=((0.0,) * 7, (0.0,) * 7, (1e-300, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        ),
    ),
)
RECORD_KEY = "sb3_clanker"
DAMAGED = "the file was changed or damaged after it was proven"


@dataclass(frozen=True, kw_only=True)
class File:
    """An exported file, and its parts.

    :ivar body: everything but metadata entries
    :ivar entries: the metadata entries
    :ivar metadata: what the export reported
    """

    path: Path
    data: bytes
    body: bytes
    entries: dict[str, str]
    metadata: PolicyMetadata

    def with_record(self, record: str) -> bytes:
        """The file with another text for a record, and a seal that fits it."""
        return resealed(self.body, {**self.entries, RECORD_KEY: record})

    def with_fields(self, **changes: object) -> bytes:
        """The file with some fields of its record changed."""
        return self.with_record(json.dumps(json.loads(self.entries[RECORD_KEY]) | changes))


def export(path: Path, action_space: spaces.Space[Any]) -> File:
    model = make_model(PPO, BOX_OBSERVATION, action_space)
    model.num_timesteps = 1234
    report = export_policy(model, path, options=ExportOptions(metadata=ENTRIES))
    data = path.read_bytes()
    body, entries = split_container(data)
    return File(path=path, data=data, body=b"".join(body), entries=entries, metadata=report.metadata)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> File:
    return export(tmp_path_factory.mktemp("box") / "policy.onnx", BOX_ACTION)


@pytest.fixture(scope="module")
def discrete(tmp_path_factory: pytest.TempPathFactory) -> File:
    return export(tmp_path_factory.mktemp("discrete") / "policy.onnx", spaces.Discrete(4))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "policy.onnx"
        path.write_bytes(data)
        return path

    return write


Write = Callable[[bytes], Path]


# What stands in a file ----------------------------------------------------------------------------------------------


def test_a_box_policy_has_the_nine_keys_of_the_contract(box: File) -> None:
    expected = {
        "clanker_policy_version": "1.0.0",
        "action_space": '{"type": "Box", "shape": [2], "dtype": "float32", "low": [-1.0, -0.5], "high": [2.0, 0.25]}',
        "action_transform": "none",
        "action_scale": "[1.0, 1.0]",
        "action_offset": "[0.0, 0.0]",
        "training_framework": "stable-baselines3",
        "recurrent": "false",
        "deterministic_mode": "false",
        "batch_inference": "true",
    }
    found = {entry.key: entry.value for entry in onnx.load(box.path).metadata_props}
    assert list(found) == [*expected, *ENTRIES, RECORD_KEY, SEAL_KEY]
    assert {key: found[key] for key in expected} == expected
    assert contract_entries(box.metadata) == expected


def test_a_discrete_policy_has_the_nine_keys_of_the_contract(discrete: File) -> None:
    expected = {
        "clanker_policy_version": "1.0.0",
        "action_space": '{"type": "Discrete", "n": 4, "shape": [], "dtype": "int64"}',
        "action_transform": "none",
        "action_scale": "[1.0]",
        "action_offset": "[0.0]",
        "training_framework": "stable-baselines3",
        "recurrent": "false",
        "deterministic_mode": "false",
        "batch_inference": "true",
    }
    found = {entry.key: entry.value for entry in onnx.load(discrete.path).metadata_props}
    assert list(found) == [*expected, *ENTRIES, RECORD_KEY, SEAL_KEY]
    assert {key: found[key] for key in expected} == expected
    assert contract_entries(discrete.metadata) == expected


def test_the_contract_tells_of_a_policy_with_a_memory(box: File) -> None:
    assert contract_entries(replace(box.metadata, recurrent=True)) == {
        **contract_entries(box.metadata),
        "recurrent": "true",
    }


def test_the_record_says_what_was_exported(box: File) -> None:
    metadata = read_metadata(box.path)
    assert metadata.schema_version == 3
    assert metadata.algorithm == "PPO"
    assert metadata.policy_class == "stable_baselines3.common.policies.ActorCriticPolicy"
    assert metadata.observation_space == BoxSpace(shape=(3,), dtype="float32", low=-2.0, high=3.0)
    assert metadata.action_space == BoxSpace(shape=(2,), dtype="float32", low=(-1.0, -0.5), high=(2.0, 0.25))
    assert metadata.inputs == (
        TensorSpec(
            name="obs",
            dtype="float32",
            shape=("batch", 3),
            role="observation",
            key=None,
            meaning=metadata.inputs[0].meaning,
        ),
    )
    assert metadata.outputs == (
        TensorSpec(
            name="action",
            dtype="float32",
            shape=("batch", 2),
            role="action",
            key=None,
            meaning=metadata.outputs[0].meaning,
        ),
    )
    assert (metadata.predict_dtype, metadata.recurrent) == ("float32", False)
    assert (metadata.opset_version, metadata.ir_version) == (18, 8)
    assert metadata.normalization == NormalizationRecord(status="none")
    assert (metadata.training.num_timesteps, metadata.training.mean_reward) == (1234, None)
    assert metadata.checkpoint is None
    assert metadata.provenance.versions["onnx"] == onnx.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", metadata.provenance.created)
    assert metadata.cross_check is not None
    assert (metadata.cross_check.n_mismatches, metadata.cross_check.atol) == (0, 1e-5)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", metadata.digest)


def test_a_discrete_record_has_the_dtype_of_its_actions(discrete: File) -> None:
    metadata = read_metadata(discrete.path)
    assert metadata.action_space == DiscreteSpace(n=4)
    assert metadata.predict_dtype == "int64"
    assert metadata.outputs[0].dtype == "float32"
    assert metadata.outputs[0].shape == ("batch", 1)


def test_what_is_read_is_what_the_export_reported(box: File, discrete: File) -> None:
    assert read_metadata(box.path) == box.metadata
    assert read_metadata(str(discrete.path)) == discrete.metadata
    assert parse(box.data).metadata == box.metadata


def test_the_callers_entries_come_back(box: File) -> None:
    assert read_metadata(box.path).entries == ENTRIES
    assert "entries" not in json.loads(box.entries[RECORD_KEY])


def test_a_record_with_every_field_filled_comes_back(box: File) -> None:
    assert box.metadata.cross_check is not None
    full = replace(
        box.metadata,
        normalization=NormalizationRecord(status="folded", keys=("a", "b"), clip_obs=10.0, epsilon=1e-8),
        training=replace(box.metadata.training, evaluation=EVALUATION),
        environment_spec=EnvironmentRecord(
            id="ALE/Pong-v5", kwargs={"a": None, "b": (1, 0.5, "x"), "c": {"d": True}, "e": 3}, omitted=("f",)
        ),
        checkpoint=CheckpointRecord(
            algorithm_file=PairedFile(name="policy.zip", digest="zip:00"),
            statistics_file=PairedFile(name="policy.pkl", digest="sha256:00"),
            replay_buffer=True,
            together=True,
        ),
        observation_ranges=RANGES,
        cross_check=replace(box.metadata.cross_check, max_difference=1e-300),
        entries={"another": "entry"},
    )
    for metadata in (full, replace(full, cross_check=None, entries={})):
        assert parse(stamp(box.body, metadata)).metadata == metadata


def test_the_graph_stands_in_a_file_byte_for_byte(box: File) -> None:
    assert stamp(box.body, box.metadata) == box.data
    assert box.data.startswith(box.body)


# The caller's own entries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*CONTRACT_KEYS, RECORD_KEY, SEAL_KEY])
def test_a_reserved_key_is_refused(key: str) -> None:
    with pytest.raises(ReservedMetadataKeyError, match=f"^The metadata key '{key}' is reserved") as raised:
        check_entries({"robot": "arm-3", key: "x"})
    assert (raised.value.key, raised.value.reserved) == (key, (*CONTRACT_KEYS, RECORD_KEY, SEAL_KEY))
    assert isinstance(raised.value, ValueError)


def test_entries_that_are_no_strings_are_refused() -> None:
    with pytest.raises(OptionError, match=re.escape("metadata={'robot': 3} cannot be used: expected a mapping of")):
        check_entries({"robot": 3})


# The digest and the seal --------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_graph_and_the_seal_that_of_all_bytes_before_it(box: File) -> None:
    assert box.metadata.digest == f"sha256:{hashlib.sha256(box.body).hexdigest()}"
    assert json.loads(box.entries[RECORD_KEY])["digest"] == box.metadata.digest
    assert box.data[-64:].decode() == box.entries[SEAL_KEY] == hashlib.sha256(box.data[:-64]).hexdigest()
    assert list(box.entries)[-1] == SEAL_KEY


def test_a_graph_of_any_size_is_hashed_alike(box: File, monkeypatch: pytest.MonkeyPatch) -> None:
    for large in (0, 1 << 30):
        monkeypatch.setattr("sb3_clanker.policy_file.seal._LARGE_BODY", large)
        assert stamp(box.body, box.metadata) == box.data


def test_a_file_without_its_seal_or_with_something_behind_it_is_refused(box: File, write: Write) -> None:
    others = {key: value for key, value in box.entries.items() if key != SEAL_KEY}
    moved = {SEAL_KEY: box.entries[SEAL_KEY], **others}
    upper = {**others, SEAL_KEY: box.entries[SEAL_KEY].upper()}
    for data in (
        join_container(box.body, others),
        join_container(box.body, moved),
        join_container(box.body, upper),
        join_container(box.data, {"site": "hall 2"}),
    ):
        with pytest.raises(PolicyFileError, match=DAMAGED):
            read_metadata(write(data))


@pytest.mark.parametrize("entries", [{}, {**ENTRIES, "robot": "arm-4"}, {**ENTRIES, "site": "hall 2"}], ids=len)
def test_entries_of_the_caller_are_sealed_too(box: File, write: Write, entries: dict[str, str]) -> None:
    others = {key: value for key, value in box.entries.items() if key not in ENTRIES and key != SEAL_KEY}
    changed = {**others, **entries}
    with pytest.raises(PolicyFileError, match=DAMAGED):
        read_metadata(write(join_container(box.body, {**changed, SEAL_KEY: box.entries[SEAL_KEY]})))
    assert read_metadata(write(resealed(box.body, changed))) == replace(box.metadata, entries=entries)


def test_a_seal_that_fits_does_not_vouch_for_a_digest_that_does_not(box: File, discrete: File, write: Write) -> None:
    for data in (resealed(discrete.body, box.entries), box.with_fields(digest=discrete.metadata.digest)):
        with pytest.raises(PolicyFileError, match=DAMAGED):
            read_metadata(write(data))


def test_a_graph_behind_its_metadata_has_no_digest(box: File, write: Write) -> None:
    entries = {key: value for key, value in box.entries.items() if key != SEAL_KEY}
    with pytest.raises(PolicyFileError, match=DAMAGED):
        read_metadata(write(resealed(join_container(b"", entries) + box.body, {})))


def test_the_same_weights_have_the_same_digest(box: File, tmp_path: Path) -> None:
    again = export(tmp_path / "again.onnx", BOX_ACTION)
    assert again.body == box.body
    assert again.metadata.digest == box.metadata.digest


def test_another_weight_has_another_digest(box: File) -> None:
    model = onnx.load_model_from_string(box.body)
    weight = model.graph.initializer[0]
    raw = bytearray(weight.raw_data)
    raw[0] ^= 1
    weight.raw_data = bytes(raw)
    assert parse(stamp(model.SerializeToString(), box.metadata)).metadata.digest != box.metadata.digest


# Files that are no policies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["missing.onnx", "", "a/folder/of/none"])
def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    message = f"{path}: there is no such policy file. Check the path."
    with pytest.raises(MissingFileError, match=f"^{re.escape(message)}$") as raised:
        read_metadata(str(path))
    assert raised.value.path == path
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, FileNotFoundError)


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 100, b"PK\x03\x04" + bytes(100), b"not an onnx file at all", b'{"json": true}', bytes(50)],
    ids=["ones", "zip", "text", "JSON", "zeros"],
)
def test_bytes_that_are_no_onnx_file_are_refused(write: Write, data: bytes) -> None:
    path = write(data)
    message = f"{path}: this is not an ONNX file, or it is damaged: "
    with pytest.raises(PolicyFileError, match=f"^{re.escape(message)}") as raised:
        read_metadata(path)
    assert raised.value.path == path
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


def test_an_onnx_file_of_others_is_refused(box: File, write: Write) -> None:
    others = {"producer": "somebody else"}
    for data in (b"", box.body, join_container(box.body, others), join_container(box.body, ENTRIES)):
        path = write(data)
        message = (
            f"{path}: there is no record 'sb3_clanker' in it: not a policy of this package. Export it with sb3_clanker."
        )
        with pytest.raises(PolicyFileError, match=f"^{re.escape(message)}$") as raised:
            read_metadata(path)
        assert raised.value.path == path


def test_an_error_about_bytes_in_memory_has_no_path(box: File) -> None:
    with pytest.raises(PolicyFileError, match=r"^these bytes: there is no record 'sb3_clanker' in it") as raised:
        parse(box.body)
    assert raised.value.path is None


def test_a_file_cut_off_anywhere_is_refused(box: File) -> None:
    for cut in range(len(box.data)):
        with pytest.raises(PolicyFileError, match=r"damaged|there is no record"):
            parse(box.data[:cut])


def test_a_file_with_something_appended_is_refused(box: File, write: Write) -> None:
    with pytest.raises(PolicyFileError, match="is not an ONNX file, or it is damaged"):
        read_metadata(write(box.data + b"\0"))
    with pytest.raises(PolicyFileError, match="the file was changed or damaged after it was proven"):
        read_metadata(write(box.data + b"\x08\x08"))
    with pytest.raises(PolicyFileError, match="the metadata entry 'robot' stands twice"):
        read_metadata(write(join_container(box.data, {"robot": "arm-4"})))


# Damage -------------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_weight_is_found(box: File, write: Write) -> None:
    weights = onnx.load(box.path).graph.initializer
    assert len(weights) > 4
    for weight in weights:
        data = bytearray(box.data)
        data[box.data.index(weight.raw_data)] ^= 1
        path = write(bytes(data))
        message = f"{path}: the file was changed or damaged after it was proven. Export the policy again."
        with pytest.raises(PolicyFileError, match=f"^{re.escape(message)}$") as raised:
            read_metadata(path)
        assert raised.value.path == path


def test_a_flipped_bit_anywhere_is_found(box: File, write: Write) -> None:
    rng = np.random.default_rng(0)
    for flip in rng.choice(len(box.data) * 8, 300, replace=False):
        position, bit = divmod(int(flip), 8)
        data = bytearray(box.data)
        data[position] ^= 1 << bit
        with pytest.raises(PolicyFileError, match=r"damaged|there is no record"):
            read_metadata(write(bytes(data)))


def test_a_flipped_bit_in_a_flat_key_of_the_contract_is_found(box: File, write: Write) -> None:
    contract = join_container(b"", {key: box.entries[key] for key in CONTRACT_KEYS})
    start = box.data.index(contract)
    for position in range(start, start + len(contract)):
        data = bytearray(box.data)
        data[position] ^= 1 << position % 8
        with pytest.raises(PolicyFileError, match="damaged"):
            read_metadata(write(bytes(data)))


@pytest.mark.parametrize("key", CONTRACT_KEYS)
def test_a_changed_flat_key_is_named(box: File, write: Write, key: str) -> None:
    path = write(resealed(box.body, {**box.entries, key: "other"}))
    problem = f"{key}: expected {box.entries[key]!r}, got 'other'"
    message = f"{path}: the record in the file is damaged:\n  {problem}"
    with pytest.raises(MetadataError, match=f"^{re.escape(message)}$") as raised:
        read_metadata(path)
    assert (raised.value.path, raised.value.problems) == (path, (problem,))
    assert isinstance(raised.value, PolicyFileError)


def test_every_missing_flat_key_is_named(box: File, write: Write) -> None:
    path = write(resealed(box.body, {RECORD_KEY: box.entries[RECORD_KEY]}))
    with pytest.raises(MetadataError, match=r"clanker_policy_version: expected '1\.0\.0', got None") as raised:
        read_metadata(path)
    assert raised.value.problems == tuple(f"{key}: expected {box.entries[key]!r}, got None" for key in CONTRACT_KEYS)


# Damaged records ----------------------------------------------------------------------------------------------------


def refused(path: Path, *problems: str) -> None:
    """See that the record is refused for these problems, and that the message tells of all of them."""
    message = "".join([f"{path}: the record in the file is damaged:", *(f"\n  {problem}" for problem in problems)])
    with pytest.raises(MetadataError, match=f"^{re.escape(message)}$") as raised:
        read_metadata(path)
    assert (raised.value.path, raised.value.problems) == (path, problems)
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"algorithm": 3}, "algorithm: expected `str`, got `int`"),
        ({"recurrent": "false"}, "recurrent: expected `bool`, got `str`"),
        ({"opset_version": True}, "opset_version: expected `int`, got `bool`"),
        ({"inputs": {}}, "inputs: expected `array`, got `object`"),
        ({"inputs": [1]}, "inputs[0]: expected `object`, got `int`"),
        (
            {"training": {"num_timesteps": 1.5, "evaluation": None}},
            "training.num_timesteps: expected `int`, got `float`",
        ),
        ({"training": {"num_timesteps": 1}}, "training: object missing required field `evaluation`"),
        (
            {"action_space": {"type": "Tuple"}},
            "action_space.type: invalid value 'Tuple'",
        ),
        (
            {"action_space": {"type": "Discrete", "n": "2", "shape": [], "dtype": "int64"}},
            "action_space.n: expected `int`, got `str`",
        ),
        (
            {"observation_space": {"type": "Dict", "spaces": {"a": {"type": "Dict", "spaces": {}}}}},
            "observation_space.spaces[...].type: invalid value 'Dict'",
        ),
        ({"extra": 1}, "object contains unknown field `extra`"),
        ({"provenance": {}}, "provenance: object missing required field `created`"),
    ],
    ids=str,
)
def test_a_field_of_the_wrong_type_is_named(box: File, write: Write, changes: dict[str, object], problem: str) -> None:
    refused(write(box.with_fields(**changes)), problem)


def test_a_missing_field_is_named_though_it_has_a_default(box: File, write: Write) -> None:
    document = json.loads(box.entries[RECORD_KEY])
    for name in ("sampling", "frame_stacks", "cross_check", "checkpoint", "latency"):
        others = {key: value for key, value in document.items() if key != name}
        refused(write(box.with_record(json.dumps(others))), f"object missing required field `{name}`")
    del document["inputs"][0]["divisor"]
    refused(write(box.with_record(json.dumps(document))), "inputs[0]: object missing required field `divisor`")


@pytest.mark.parametrize("record", ["", "{", "not JSON", "{'schema_version': 1}", '{"schema_version": 1} more'])
def test_a_record_that_is_not_json_is_refused(box: File, write: Write, record: str) -> None:
    path = write(box.with_record(record))
    with pytest.raises(MetadataError, match=r"the record in the file is damaged:\n  record: not JSON: ") as raised:
        read_metadata(path)
    assert raised.value.path == path
    assert isinstance(raised.value.__cause__, ValueError)


@pytest.mark.parametrize(("record", "kind"), [("[]", "list"), ("1", "int"), ('"text"', "str"), ("null", "NoneType")])
def test_a_record_that_is_no_object_is_refused(box: File, write: Write, record: str, kind: str) -> None:
    refused(write(box.with_record(record)), f"record: expected an object, got {kind}")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_does_not_have_is_refused(box: File, write: Write, constant: str) -> None:
    record = box.entries[RECORD_KEY].replace('"atol": 1e-05', f'"atol": {constant}')
    assert record != box.entries[RECORD_KEY]
    refused(write(box.with_record(record)), f"record: not JSON: {constant} is not a JSON number")


def test_a_record_is_never_written_with_a_number_that_json_does_not_have(box: File) -> None:
    metadata = replace(
        box.metadata, training=replace(box.metadata.training, evaluation=replace(EVALUATION, mean_reward=float("nan")))
    )
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        stamp(box.body, metadata)


def test_a_number_that_no_float_holds_is_refused(box: File, write: Write) -> None:
    assert isinstance(box.metadata.cross_check, CrossCheckRecord)
    check = json.loads(box.entries[RECORD_KEY])["cross_check"]
    with pytest.raises(MetadataError, match=r"cross_check\.atol: number out of range"):
        read_metadata(write(box.with_fields(cross_check={**check, "atol": 10**400})))


def test_a_number_of_too_many_digits_is_refused(box: File, write: Write) -> None:
    record = box.entries[RECORD_KEY].replace('"num_timesteps": 1234', f'"num_timesteps": 1{"0" * 5000}')
    assert record != box.entries[RECORD_KEY]
    with pytest.raises(MetadataError, match="record: not JSON: Exceeds the limit"):
        read_metadata(write(box.with_record(record)))


def test_a_huge_record_is_refused_before_it_is_read(box: File, write: Write) -> None:
    largest = 1 << 24
    refused(
        write(box.with_record("[" * (largest + 1))),
        f"record: expected at most {largest} characters, got {largest + 1}",
    )


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")], ids=["lists", "objects"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_record_nested_without_end_is_refused(
    box: File, write: Write, opening: str, closing: str, closed: bool
) -> None:
    depth = 200_000
    record = opening * depth + ("0" + closing * depth if closed else "")
    with pytest.raises(MetadataError, match="record: not JSON: "):
        read_metadata(write(box.with_record(record)))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")], ids=["lists", "objects"])
def test_a_field_nested_to_any_depth_is_refused(box: File, opening: str, closing: str) -> None:
    for depth in range(sys.getrecursionlimit() + 50):
        record = f'{{"schema_version": 1, "algorithm": {opening * depth}0{closing * depth}}}'
        with pytest.raises(MetadataError, match="record"):
            parse(box.with_record(record))


@pytest.mark.parametrize("found", [4, 1000], ids=repr)
def test_a_newer_schema_version_asks_for_an_upgrade(box: File, write: Write, found: int) -> None:
    path = write(box.with_fields(schema_version=found, field_of_the_future=True))
    message = f"{path}: schema version {found} of the record is unknown, expected 1 to 3. Upgrade sb3-clanker."
    with pytest.raises(SchemaVersionError, match=f"^{re.escape(message)}$") as raised:
        read_metadata(path)
    assert (raised.value.path, raised.value.found, raised.value.known) == (path, found, 3)
    assert isinstance(raised.value, PolicyFileError)
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("found", [0, -1, "1", 1.0, True, None, [1]], ids=repr)
def test_any_other_schema_version_asks_for_another_export(box: File, write: Write, found: object) -> None:
    path = write(box.with_fields(schema_version=found))
    message = f"{path}: schema version {found!r} of the record is unknown, expected 1 to 3. Export the policy again."
    with pytest.raises(SchemaVersionError, match=f"^{re.escape(message)}$") as raised:
        read_metadata(path)
    assert raised.value.found == found


def test_a_record_without_a_schema_version_is_refused(box: File, write: Write) -> None:
    with pytest.raises(SchemaVersionError, match="schema version None of the record is unknown") as raised:
        read_metadata(write(box.with_record("{}")))
    assert raised.value.found is None


def test_a_record_of_a_huge_action_is_refused(box: File) -> None:
    document = json.loads(box.entries[RECORD_KEY])
    document |= {"action_space": {**document["action_space"], "shape": [10**18]}}
    with pytest.raises(PolicyFileError, match="damaged"):
        parse(box.with_record(json.dumps(document)))
