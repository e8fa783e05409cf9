"""The outermost layer of an ONNX file: split, joined, and never anything but an answer or a MalformedContainerError."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from sb3_clanker.policy_file.container import MalformedContainerError, join_container, split_container

ENTRIES = {"robot": "arm-3", "": "an empty key", "empty": "", "Ünïcode €": "\U0001f916\n\0", "long": "x" * 300}


def small_model(*, with_function: bool = False) -> onnx.ModelProto:
    """One node and one weight; a function is written after the metadata."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "small",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 2])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.array([1.5, -2.5], np.float32), "w")],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    function = onnx.helper.make_function("own", "f", ["a"], ["b"], [onnx.helper.make_node("Abs", ["a"], ["b"])], opsets)
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=[function] if with_function else [])


def file_bytes(entries: Mapping[str, str] = ENTRIES) -> bytes:
    return join_container(small_model().SerializeToString(), entries)


def join_body(body: list[memoryview]) -> bytes:
    return b"".join(body)


def field(number: int, payload: bytes, wire_type: int = 2) -> bytes:
    """One field of a message, its payload shorter than 128 bytes."""
    return bytes([number << 3 | wire_type, *([len(payload)] if wire_type == 2 else [])]) + payload


def split_or_none(data: bytes) -> tuple[bytes, dict[str, str]] | None:
    """What was split, or None where it was refused; any other error is passed on."""
    try:
        body, entries = split_container(data)
    except MalformedContainerError:
        return None
    return join_body(body), entries


def test_what_was_joined_is_split_again() -> None:
    model = small_model().SerializeToString()
    body, entries = split_container(join_container(model, ENTRIES))
    assert join_body(body) == model
    assert entries == ENTRIES
    assert list(entries) == list(ENTRIES)


def test_the_body_stands_in_the_file_byte_for_byte() -> None:
    model = small_model().SerializeToString()
    joined = join_container(model, ENTRIES)
    assert joined.startswith(model)
    assert len(joined) > len(model)
    assert join_container(model, {}) == model


def test_onnx_reads_the_same_entries_and_the_same_model() -> None:
    loaded = onnx.load_model_from_string(file_bytes())
    assert {entry.key: entry.value for entry in loaded.metadata_props} == ENTRIES
    del loaded.metadata_props[:]
    assert loaded == small_model()


def test_entries_that_onnx_wrote_are_split() -> None:
    model = small_model()
    onnx.helper.set_model_props(model, ENTRIES)
    body, entries = split_container(model.SerializeToString())
    assert entries == ENTRIES
    assert join_body(body) == small_model().SerializeToString()


def test_entries_in_the_middle_of_a_file_are_split() -> None:
    model = small_model(with_function=True)
    onnx.helper.set_model_props(model, ENTRIES)
    data = model.SerializeToString()
    body, entries = split_container(data)
    assert not data.endswith(file_bytes()[-20:]), "the function should come last"
    assert entries == ENTRIES
    assert join_body(body) == small_model(with_function=True).SerializeToString()


def test_nothing_is_copied() -> None:
    data = file_bytes()
    body, _ = split_container(data)
    assert all(stretch.obj is data for stretch in body)


def test_an_empty_file_has_no_body_and_no_entries() -> None:
    assert split_container(b"") == ([], {})


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_entries_of_every_length_are_split(size: int) -> None:
    entries = {"k" * max(size // 2, 1): "v" * size}
    assert split_container(join_container(b"", entries)) == ([], entries)
    loaded = onnx.load_model_from_string(join_container(small_model().SerializeToString(), entries))
    assert {entry.key: entry.value for entry in loaded.metadata_props} == entries


def test_a_file_cut_off_anywhere_is_refused_or_is_a_beginning() -> None:
    model, data = small_model().SerializeToString(), file_bytes()
    results = [split_or_none(data[:cut]) for cut in range(len(data))]
    accepted = [result for result in results if result is not None]
    assert len(accepted) < 20 < results.count(None)
    for body, entries in accepted:
        assert model.startswith(body)
        assert entries.items() <= ENTRIES.items()
        assert not entries or body == model


def test_random_bytes_are_refused_or_split_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    results = [split_or_none(rng.bytes(int(size))) for size in rng.integers(1, 60, 5000)]
    assert 0 < results.count(None) < len(results)


def test_a_file_with_random_bytes_in_it_is_refused_or_split_and_nothing_else() -> None:
    rng, data = np.random.default_rng(1), file_bytes()
    results = []
    for position in rng.integers(0, len(data), 3000):
        changed = bytearray(data)
        changed[position : position + 1] = rng.bytes(int(rng.integers(0, 4)))
        results.append(split_or_none(bytes(changed)))
    assert 0 < results.count(None) < len(results)


def test_a_key_that_stands_twice_is_refused() -> None:
    data = join_container(join_container(b"", {"robot": "arm-3"}), {"robot": "arm-4"})
    with pytest.raises(MalformedContainerError, match="the metadata entry 'robot' stands twice"):
        split_container(data)


@pytest.mark.parametrize(
    "entry", [field(1, b"\xff") + field(2, b"v"), field(1, b"k") + field(2, b"\xc3")], ids=["key", "value"]
)
def test_an_entry_that_is_not_utf_8_is_refused(entry: bytes) -> None:
    with pytest.raises(MalformedContainerError, match="a metadata entry is not UTF-8"):
        split_container(field(14, entry))


@pytest.mark.parametrize(
    "entry",
    [b"", field(1, b"k"), field(2, b"v"), field(1, b"k") + field(2, b"v") + field(3, b"more")],
    ids=["empty", "no value", "no key", "more"],
)
def test_an_entry_that_is_not_a_key_and_a_value_is_refused(entry: bytes) -> None:
    with pytest.raises(MalformedContainerError, match="a metadata entry is not a key and a value"):
        split_container(field(14, entry))


@pytest.mark.parametrize("wire_type", [3, 4, 6, 7])
def test_an_unknown_wire_type_is_refused(wire_type: int) -> None:
    data = field(1, b"\x08", wire_type=0) + bytes([7 << 3 | wire_type, 0])
    with pytest.raises(MalformedContainerError, match=f"unknown wire type {wire_type} at byte 2"):
        split_container(data)


@pytest.mark.parametrize(
    "data",
    [field(1, b"\x80\x01", wire_type=0), field(1, b"12345678", wire_type=1), field(1, b"1234", wire_type=5)],
    ids=["varint", "64 bits", "32 bits"],
)
def test_fields_of_a_fixed_length_belong_to_the_body(data: bytes) -> None:
    body, entries = split_container(data + field(14, field(1, b"k") + field(2, b"v")) + data)
    assert ([bytes(stretch) for stretch in body], entries) == ([data, data], {"k": "v"})
    with pytest.raises(MalformedContainerError, match="cut off"):
        split_container(data[:-1])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x80", "the number that ends at byte 1 is damaged or cut off"),
        (b"\x08" + b"\x80" * 9, "the number that ends at byte 10 is damaged or cut off"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "the number that ends at byte 11 is damaged or cut off"),
        (b"\xff" * 11, "the number that ends at byte 10 is damaged or cut off"),
        (b"\x0a" + b"\xff" * 9 + b"\x7f", "the field at byte 0 is damaged or cut off"),
        (b"\x0a\x05abcd", "the field at byte 0 is damaged or cut off"),
        (b"\x08\x01\x02\x00", "the field at byte 2 is damaged or cut off"),
        (b"\x00\x00", "the field at byte 0 is damaged or cut off"),
    ],
    ids=["cut tag", "cut number", "overlong number", "overlong tag", "huge length", "short", "field 0", "zeros"],
)
def test_a_damaged_field_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedContainerError, match=re.escape(problem)):
        split_container(data)


def test_a_file_of_too_many_fields_is_refused() -> None:
    some = field(1, b"\x00", wire_type=0) * 100_000
    body, entries = split_container(some)
    assert (join_body(body), entries) == (some, {})
    with pytest.raises(MalformedContainerError, match="the field at byte 200000 is damaged or cut off"):
        split_container(some + field(1, b"\x00", wire_type=0))


def test_malformed_is_a_value_error() -> None:
    assert issubclass(MalformedContainerError, ValueError)
