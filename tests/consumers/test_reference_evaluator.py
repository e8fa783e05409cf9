"""onnx's own reference implementation, in plain numpy: every operator means what the standard says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from sb3_clanker.policy_file.vectors import read_vectors
from tests.consumers.conftest import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_passes_the_vectors(policies: Path, kind: str) -> None:
    _check(policies / f"{kind}.onnx", policies / f"{kind}.vectors.json")


def test_tells_what_is_outside_to_the_last_digit(policies: Path, on_the_bounds: Path) -> None:
    _check(policies / "outside.onnx", on_the_bounds)


def _check(policy: Path, path: Path) -> None:
    evaluator = ReferenceEvaluator(str(policy))
    vectors = read_vectors(path)
    names = [output.name for output in vectors.outputs]
    for case in vectors.cases:
        feed = {spec.name: np.array(case.inputs[spec.name], spec.dtype).reshape(spec.shape) for spec in vectors.inputs}
        for output, got in zip(vectors.outputs, evaluator.run(names, feed), strict=True):
            assert isinstance(got, np.ndarray)
            assert got.dtype == (np.bool_ if output.name == "outside" else np.float32)
            assert got.shape == output.shape
            expected = np.array(case.outputs[output.name])
            difference = np.abs(got.reshape(-1).astype(np.float64) - expected)
            assert (difference <= np.array(output.atol) + output.rtol * np.abs(expected)).all()
