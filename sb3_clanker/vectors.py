"""Test vectors: what a policy must answer, as plain JSON, so that a consumer in any language can prove itself.

``NAME.vectors.json`` stands beside ``NAME.onnx``. Each case holds the inputs of the graph, exactly as they go in, and
what Stable-Baselines3's own ``predict`` gave for them. Checking a file against them needs numpy and onnxruntime alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.errors import MissingFileError, VectorsError, VectorsMismatchError
from sb3_clanker.policy import OnnxPolicy
from sb3_clanker.schema import from_json, refuse_constant, to_json

VECTORS_VERSION = 1
_LARGEST = 1 << 28
"""Bytes of a file: far beyond any real one, and small enough to be read without harm."""


@dataclass(frozen=True, kw_only=True)
class VectorInput:
    """One input of the graph.

    :ivar name: its name
    :ivar dtype: its element type: ``float32``, ``uint8`` or ``bool``
    :ivar shape: its shape in every case; the batch is 1
    """

    name: str
    dtype: Literal["float32", "uint8", "bool"]
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class VectorOutput:
    """One output of the graph, float32.

    :ivar name: its name
    :ivar shape: its shape in every case; the batch is 1
    :ivar atol: for each element, the difference that floating point may make; 0 for a choice
    :ivar rtol: the same, relative to the expected value: ``abs(got - expected) <= atol + rtol * abs(expected)``
    """

    name: str
    shape: tuple[int, ...]
    atol: tuple[float, ...]
    rtol: float


@dataclass(frozen=True, kw_only=True)
class VectorCase:
    """Inputs, and the outputs that belong to them; flat, in row-major order.

    :ivar inputs: values of each input, by name; a bool is true or false
    :ivar outputs: values of each output, by name
    """

    inputs: dict[str, tuple[float | bool, ...]]
    outputs: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class TestVectors:
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


@dataclass(frozen=True, kw_only=True)
class VectorsReport:
    """What a check against test vectors measured.

    :ivar n_cases: cases tried
    :ivar max_difference: largest absolute difference in any output
    """

    n_cases: int
    max_difference: float


def encode_vectors(vectors: TestVectors) -> bytes:
    """Test vectors as the bytes of their file."""
    return json.dumps(to_json(vectors), allow_nan=False).encode()


def read_vectors(path: str | Path) -> TestVectors:
    """Read and check a file of test vectors.

    :raises MissingFileError: there is no such file
    :raises VectorsError: it is none, or damaged, or of a version that this reader does not know
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(path, "file of test vectors")
    if path.stat().st_size > _LARGEST:
        raise VectorsError(path, f"it is larger than {_LARGEST:,} bytes")
    try:
        document = json.loads(path.read_bytes(), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise VectorsError(path, f"it is not JSON: {error}") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is not int or version != VECTORS_VERSION:
        raise VectorsError(path, f"format_version is {version!r}, expected {VECTORS_VERSION}")
    problems: list[str] = []
    vectors = from_json(TestVectors, document, problems)
    if vectors is None or (problems := _contradictions(vectors)):
        raise VectorsError(path, "; ".join(problems[:5]))
    return vectors


def check_vectors(policy: OnnxPolicy, vectors: TestVectors) -> VectorsReport:
    """Run every case through a policy file.

    :raises VectorsMismatchError: the vectors belong to another file, or an output is wrong
    """
    if vectors.digest != policy.metadata.digest:
        raise VectorsMismatchError(f"they were written for another file, whose digest is {vectors.digest}")
    graph = [(spec.name, spec.dtype, _of_one(spec.shape)) for spec in policy.metadata.inputs]
    named = [(spec.name, spec.dtype, spec.shape) for spec in vectors.inputs]
    outputs = [(spec.name, _of_one(spec.shape)) for spec in policy.metadata.outputs]
    if graph != named or outputs != [(spec.name, spec.shape) for spec in vectors.outputs]:
        raise VectorsMismatchError("their inputs and outputs are not those of the file")
    largest = 0.0
    for number, case in enumerate(vectors.cases):
        feed = {spec.name: _array(case.inputs[spec.name], spec.dtype, spec.shape) for spec in vectors.inputs}
        got = policy.run(feed)
        for output in vectors.outputs:
            expected = np.array(case.outputs[output.name])
            difference = np.abs(got[output.name].reshape(-1).astype(np.float64) - expected)
            if not (difference <= np.array(output.atol) + output.rtol * np.abs(expected)).all():
                raise VectorsMismatchError(
                    f"in case {number}, {output.name} is {_short(got[output.name])}, expected {_short(expected)}"
                )
            largest = max(largest, float(difference.max(initial=0.0)))
    return VectorsReport(n_cases=len(vectors.cases), max_difference=largest)


def _array(values: tuple[float | bool, ...], dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    return np.array(values, dtype=np.dtype(dtype)).reshape(shape)


def _of_one(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    """A shape for a batch of one."""
    return tuple(1 if isinstance(dim, str) else dim for dim in shape)


def _short(values: NDArray[np.generic]) -> str:
    return np.array2string(values.reshape(-1), threshold=8, edgeitems=3)


def _contradictions(vectors: TestVectors) -> list[str]:
    problems = [] if vectors.cases else ["cases: there are none"]
    for output in vectors.outputs:
        if len(output.atol) != prod(output.shape):
            problems.append(f"outputs: {output.name!r} has {len(output.atol)} tolerances for {output.shape}")
    n_inputs = {spec.name: prod(spec.shape) for spec in vectors.inputs}
    n_outputs = {spec.name: prod(spec.shape) for spec in vectors.outputs}
    for number, case in enumerate(vectors.cases):
        got = ({name: len(v) for name, v in case.inputs.items()}, {name: len(v) for name, v in case.outputs.items()})
        if got != (n_inputs, n_outputs):
            problems.append(f"cases[{number}]: expected as many values as {n_inputs} and {n_outputs}, got {got}")
    for number, case in enumerate(vectors.cases):
        for spec in vectors.inputs:
            if any(not _fits(value, spec.dtype) for value in case.inputs.get(spec.name, ())):
                problems.append(f"cases[{number}].inputs[{spec.name!r}]: a value is not {spec.dtype}")
    return problems


def _fits(value: float | bool, dtype: str) -> bool:
    if dtype == "bool" or isinstance(value, bool):
        return dtype == "bool" and isinstance(value, bool)
    return dtype == "float32" or (0 <= value <= 255 and value == int(value))
