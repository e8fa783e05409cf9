"""Test vectors: what a policy must answer, as plain JSON, so that a consumer in any language can prove itself.

``NAME.vectors.json`` stands beside ``NAME.onnx``. Each case holds the inputs of the graph, exactly as they go in, and
what Stable-Baselines3's own ``predict`` gave for them. Checking a file against them needs no torch.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from itertools import islice
from math import inf, prod
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
import numpy as np

from sb3_clanker.errors import OptionError, VectorsError
from sb3_clanker.paths import local_path
from sb3_clanker.policy_file.documents import decode, encode, parse_json
from sb3_clanker.policy_file.reading import read_file

VECTORS_VERSION = 1
_LARGEST = 1 << 26
"""Bytes of a file: far beyond any useful one, and small enough to be read without harm."""
_MAX_RANK = 31
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class VectorInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of the graph.

    :ivar name: its name
    :ivar dtype: its element type: ``float32``, ``uint8`` or ``bool``
    :ivar shape: its shape in every case; the batch is 1
    """

    name: str
    dtype: Literal["float32", "uint8", "bool"]
    shape: tuple[int, ...]


class VectorOutput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One output of the graph; of one that is bool, true is 1 and false 0.

    :ivar name: its name
    :ivar shape: its shape in every case; the batch is 1
    :ivar atol: for each element, the difference that floating point may make; 0 for a choice
    :ivar rtol: the same, relative to the expected value: ``abs(got - expected) <= atol + rtol * abs(expected)``
    """

    name: str
    shape: tuple[int, ...]
    atol: tuple[float, ...]
    rtol: float


class VectorCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inputs, and the outputs that belong to them; flat, in row-major order.

    :ivar inputs: values of each input, by name; a bool is true or false
    :ivar outputs: values of each output, by name
    """

    inputs: dict[str, tuple[float | bool, ...]]
    outputs: dict[str, tuple[float, ...]]


class TestVectors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The test vectors of one policy file.

    A recurrent policy's cases are the steps of one environment, with resets between; each holds the state it starts
    from, so it can be checked alone.

    :ivar format_version: version of this format
    :ivar digest: the digest in the policy file's record
    :ivar inputs: inputs of the graph
    :ivar outputs: outputs of the graph
    :ivar cases: what to try, and what must come out
    """

    __test__: ClassVar[bool] = False  # no test of pytest

    format_version: int = VECTORS_VERSION
    digest: str
    inputs: tuple[VectorInput, ...]
    outputs: tuple[VectorOutput, ...]
    cases: tuple[VectorCase, ...]


def encode_vectors(vectors: TestVectors) -> bytes:
    """Test vectors as the bytes of their file.

    :raises OptionError: there are so many that no reader would take the file
    """
    data = encode(vectors).encode()
    if len(data) > _LARGEST:
        raise OptionError("test_vectors", len(vectors.cases), f"so few that their file has at most {_LARGEST:,} bytes")
    return data


def read_vectors(path: str | Path) -> TestVectors:
    """Read and check a file of test vectors.

    :raises MissingFileError: there is no such file
    :raises UnreadableFileError: it cannot be read, or it is too large
    :raises VectorsError: it is none, or damaged, or of a version that this reader does not know
    """
    path = local_path(path)
    data = read_file(path, "file of test vectors", _LARGEST)
    try:
        document = parse_json(data)
    except ValueError as error:
        raise VectorsError(path, f"it is not JSON: {error}") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is not int or version != VECTORS_VERSION:
        raise VectorsError(path, f"format_version is {reprlib.repr(version)}, expected {VECTORS_VERSION}")
    try:
        vectors = decode(TestVectors, document)
    except ValueError as error:
        raise VectorsError(path, str(error)) from error
    if problems := list(islice(_contradictions(vectors), 5)):
        raise VectorsError(path, "; ".join(problems))
    return vectors


def _contradictions(vectors: TestVectors) -> Iterator[str]:
    if not vectors.cases:
        yield "cases: there are none"
    specs: tuple[VectorInput | VectorOutput, ...] = (*vectors.inputs, *vectors.outputs)
    for spec in specs:
        if len(spec.shape) > _MAX_RANK or not all(0 <= dim <= _LARGEST for dim in spec.shape):
            yield f"{_short_name(spec)} has the shape {reprlib.repr(spec.shape)}"
            return
    for output in vectors.outputs:
        if len(output.atol) != prod(output.shape):
            yield f"outputs: {_short_name(output)} has {len(output.atol)} tolerances for {output.shape}"
        if not all(0 <= tolerance < inf for tolerance in (*output.atol, output.rtol)):
            yield f"outputs: {_short_name(output)} has a tolerance that is negative or infinite"
    n_inputs = {spec.name: prod(spec.shape) for spec in vectors.inputs}
    n_outputs = {spec.name: prod(spec.shape) for spec in vectors.outputs}
    for number, case in enumerate(vectors.cases):
        got = ({name: len(v) for name, v in case.inputs.items()}, {name: len(v) for name, v in case.outputs.items()})
        if got != (n_inputs, n_outputs):
            expected = f"{reprlib.repr(n_inputs)} and {reprlib.repr(n_outputs)}"
            yield f"cases[{number}]: expected as many values as {expected}, got {reprlib.repr(got)}"
    for number, case in enumerate(vectors.cases):
        for given in vectors.inputs:
            if any(not _fits(value, given.dtype) for value in case.inputs.get(given.name, ())):
                yield f"cases[{number}].inputs[{_short_name(given)}]: a value is not {given.dtype}"
        for name, values in case.outputs.items():
            if any(abs(value) > _LARGEST_FLOAT32 for value in values):
                yield f"cases[{number}].outputs[{name[:60]!r}]: a value is not float32"


def _short_name(spec: VectorInput | VectorOutput) -> str:
    return repr(spec.name[:60])


def _fits(value: float | bool, dtype: str) -> bool:
    if dtype == "bool" or isinstance(value, bool):
        return dtype == "bool" and isinstance(value, bool)
    if dtype == "uint8":
        return 0 <= value <= 255 and value == int(value)
    return abs(value) <= _LARGEST_FLOAT32
