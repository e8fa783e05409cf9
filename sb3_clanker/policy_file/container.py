"""The outermost layer of an ONNX file: its metadata entries, and the bytes that are not metadata.

An ONNX file is one protocol buffer message, ``ModelProto``. Its metadata entries are top-level fields of their own,
so they can be separated from graph and weights without parsing either. That is what lets a reader check a file before
handing it to any parser, and lets a writer append metadata to the very bytes that were proven.

Wire format: https://protobuf.dev/programming-guides/encoding/ and
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (``ModelProto.metadata_props`` is field 14).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2
_GRAPH, _INITIALIZER, _TENSOR_NAME, _RAW_DATA, _OUTPUT = 7, 5, 8, 9, 12
_END_OF_NUMBERS = 1 << 29  # parsers differ in what they make of larger ones
_MAX_FIELDS = 100_000  # far beyond any real file; bounds the time that a hostile one can take
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


class MalformedContainerError(ValueError):
    """The bytes are no protocol buffer message; turned into a typed error where the file's name is known."""


def split_container(data: bytes) -> tuple[list[memoryview], dict[str, str]]:
    """Split a file into what is not metadata and what is.

    :param data: the bytes of an ONNX file
    :return: the stretches of ``data`` that hold everything but metadata, in order, and the metadata entries
    :raises MalformedContainerError: the bytes are no protocol buffer message
    """
    view = memoryview(data)
    body: list[memoryview] = []
    entries: dict[str, str] = {}
    for number, start, payload, end in read_fields(view):
        if number != _METADATA_PROPS:
            body.append(view[start:end])
            continue
        message = view[payload:end]
        entry: dict[int, memoryview] = {}
        for field, _, first, last in read_fields(message):
            if field in entry or field not in (_KEY, _VALUE):
                raise MalformedContainerError("a metadata entry is not a key and a value")
            entry[field] = message[first:last]
        if len(entry) != 2:
            raise MalformedContainerError("a metadata entry is not a key and a value")
        try:
            key, value = str(entry[_KEY], "utf-8"), str(entry[_VALUE], "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedContainerError("a metadata entry is not UTF-8") from error
        if key in entries:
            raise MalformedContainerError(f"the metadata entry {key[:60]!r} stands twice")
        entries[key] = value
    return body, entries


def join_container(body: bytes, entries: Mapping[str, str]) -> bytes:
    """Append metadata entries to a serialized ``ModelProto`` that has none."""
    return b"".join([body, *(_message(_METADATA_PROPS, _entry(key, value)) for key, value in entries.items())])


def find_tensors(data: bytes) -> dict[str, tuple[int, int]]:
    """Where the values of each initializer stand in a serialized ``ModelProto``: name to first and last byte."""
    view = memoryview(data)
    found: dict[str, tuple[int, int]] = {}
    for graph_first, graph_last in _payloads(view, 0, len(view), _GRAPH):
        for first, last in _payloads(view, graph_first, graph_last, _INITIALIZER):
            (name_span,) = _payloads(view, first, last, _TENSOR_NAME)
            for values in _payloads(view, first, last, _RAW_DATA):
                found[str(view[slice(*name_span)], "utf-8")] = values
    return found


def cut_last_output(data: bytes) -> tuple[bytes, list[slice]]:
    """How to leave the last output out of a graph.

    :param data: a serialized ``ModelProto``
    :return: the beginning of the ``ModelProto`` without it, and the stretches of ``data`` that follow
    """
    view = memoryview(data)
    ((start, first, last),) = (span for number, *span in read_fields(view) if number == _GRAPH)
    outputs = [(begin, end) for number, begin, _, end in read_fields(view[first:last]) if number == _OUTPUT]
    begin, end = outputs[-1]
    header = _varint(_GRAPH << 3 | _LENGTH_DELIMITED) + _varint(last - first - (end - begin))
    return data[:start] + header, [slice(first, first + begin), slice(first + end, None)]


def _payloads(view: memoryview, first: int, last: int, wanted: int) -> list[tuple[int, int]]:
    """The payloads of every field with a number within a stretch."""
    fields = read_fields(view[first:last])
    return [(first + payload, first + end) for number, _, payload, end in fields if number == wanted]


def _entry(key: str, value: str) -> bytes:
    return _message(_KEY, key.encode()) + _message(_VALUE, value.encode())


def _message(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_fields(view: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Every field of a message: its number, where it starts, where its payload starts, and where it ends.

    :raises MalformedContainerError: the bytes are no protocol buffer message, or one of more fields than any real one
    """
    position = count = 0
    while position < len(view):
        start = position
        count += 1
        tag = view[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = _read_varint(view, position)
        number, wire_type = tag >> 3, tag & 7
        payload = position
        if wire_type == _LENGTH_DELIMITED:
            length, payload = _read_varint(view, position)
            position = payload + length
        elif wire_type == _VARINT:
            _, position = _read_varint(view, position)
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        else:
            raise MalformedContainerError(f"unknown wire type {wire_type} at byte {start}")
        if not 0 < number < _END_OF_NUMBERS or position > len(view) or count > _MAX_FIELDS:
            raise MalformedContainerError(f"the field at byte {start} is damaged or cut off")
        yield number, start, payload, position


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            break
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedContainerError(f"the number that ends at byte {position} is damaged or cut off")
