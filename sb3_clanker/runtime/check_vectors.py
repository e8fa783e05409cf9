"""Run test vectors through a policy file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.display import printable
from sb3_clanker.errors import VectorsMismatchError
from sb3_clanker.policy_file.vectors import TestVectors
from sb3_clanker.runtime.policy import OnnxPolicy
from sb3_clanker.runtime.session import Array, Runner


@dataclass(frozen=True, kw_only=True)
class VectorsReport:
    """What a check against test vectors measured.

    :ivar n_cases: cases tried
    :ivar max_difference: largest absolute difference in any output
    """

    n_cases: int
    max_difference: float


def check_vectors(policy: OnnxPolicy, vectors: TestVectors) -> VectorsReport:
    """Run every case through a policy file.

    :raises VectorsMismatchError: the vectors belong to another file, or an output is wrong
    """
    _require_own(policy.metadata.digest, vectors)
    graph = [(spec.name, spec.dtype, _of_one(spec.shape)) for spec in policy.metadata.inputs]
    named = [(spec.name, spec.dtype, spec.shape) for spec in vectors.inputs]
    outputs = [(spec.name, _of_one(spec.shape)) for spec in policy.metadata.outputs]
    if graph != named or outputs != [(spec.name, spec.shape) for spec in vectors.outputs]:
        raise VectorsMismatchError("their inputs and outputs are not those of the file")
    return _run(policy.run, vectors)


def check_format(runner: Runner, digest: str, vectors: TestVectors) -> VectorsReport:
    """Run every case through a file of a format beside ONNX.

    :param runner: the file, opened
    :param digest: that of the policy file that it belongs to, as it says itself
    :raises VectorsMismatchError: the vectors belong to another file, or an output is wrong
    """
    _require_own(digest, vectors)
    names = [spec.name for spec in vectors.outputs]
    return _run(lambda feed: dict(zip(names, runner.run(names, feed), strict=True)), vectors)


def _require_own(digest: str, vectors: TestVectors) -> None:
    if vectors.digest != digest:
        raise VectorsMismatchError(
            f"they were written for another file, whose digest is {printable(vectors.digest[:80])}"
        )


def _run(run: Callable[[dict[str, Array]], Mapping[str, Array]], vectors: TestVectors) -> VectorsReport:
    largest = 0.0
    for number, case in enumerate(vectors.cases):
        feed = {spec.name: _array(case.inputs[spec.name], spec.dtype, spec.shape) for spec in vectors.inputs}
        try:
            got = run(feed)
        except Exception as error:  # what runs a format has no root of its own errors
            raise VectorsMismatchError(f"case {number} cannot be run: {error}") from error
        for output in vectors.outputs:
            expected = np.array(case.outputs[output.name])
            if got[output.name].size != expected.size:
                raise VectorsMismatchError(f"in case {number}, {output.name} has {got[output.name].size} elements")
            with np.errstate(invalid="ignore", over="ignore"):
                difference = np.abs(got[output.name].reshape(-1).astype(np.float64) - expected)
                agrees = difference <= np.array(output.atol) + output.rtol * np.abs(expected)
            if not agrees.all():
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
