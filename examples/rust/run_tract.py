"""Run a policy file in tract, an engine written in Rust, and prove it against its test vectors.

python run_tract.py best_model.onnx best_model.vectors.json [--batch 7]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tract  # type: ignore[import-untyped]

from sb3_clanker import ClankerError, read_metadata
from sb3_clanker.policy_file.vectors import TestVectors, read_vectors


def load(path: Path, batch: int | None = None) -> Any:
    """Load a policy.

    :param path: the file
    :param batch: the batch that it will always be fed; None leaves it open
    :return: what runs: ``run`` takes a list of arrays, in the order of the graph's inputs, and gives a list of tensors
    """
    model = tract.onnx().load(path).into_model()
    if batch is not None:
        model.transform(tract.transform.SetSymbols({"batch": batch}))
    return model.into_runnable()


def check(runnable: Any, vectors: TestVectors, batch: int) -> float:
    """Feed the cases of test vectors, ``batch`` at once, and compare.

    :return: the largest difference
    :raises SystemExit: an output is wrong
    """
    largest = 0.0
    for start in range(0, len(vectors.cases), batch):
        # the last batch is filled up with cases from the beginning
        cases = [vectors.cases[(start + row) % len(vectors.cases)] for row in range(batch)]
        feeds = []
        for given in vectors.inputs:
            rows = [np.array(case.inputs[given.name], given.dtype).reshape(given.shape) for case in cases]
            feeds.append(np.concatenate(rows, axis=_batch_axis(given.name)))
        # tract takes inputs and gives outputs by position, in the order of the graph, which is that of the vectors
        outputs = [tensor.to_numpy() for tensor in runnable.run(feeds)]
        for output, got in zip(vectors.outputs, outputs, strict=True):
            rows = [np.array(case.outputs[output.name]).reshape(output.shape) for case in cases]
            expected = np.concatenate(rows, axis=_batch_axis(output.name))
            atol = np.concatenate([np.reshape(output.atol, output.shape)] * batch, axis=_batch_axis(output.name))
            allowed = atol + output.rtol * np.abs(expected)
            if got.shape != expected.shape or not (np.abs(got - expected) <= allowed).all():
                raise SystemExit(f"error: in cases {start} and on, {output.name} is\n{got}, expected\n{expected}")
            largest = max(largest, float(np.abs(got - expected).max()))
    return largest


def _batch_axis(name: str) -> int:
    """The state of a recurrent policy has its layers first."""
    return 1 if name in ("h_in", "c_in", "h_out", "c_out") else 0


def main() -> None:
    """Prove a file."""
    parser = argparse.ArgumentParser(description="Prove a policy file in tract.")
    parser.add_argument("policy", type=Path, metavar="POLICY.onnx")
    parser.add_argument("vectors", type=Path, metavar="POLICY.vectors.json")
    parser.add_argument("--batch", type=int, help="fix the batch; without it, one loaded model is fed 1 and 3 at once")
    arguments = parser.parse_args()
    if arguments.batch is not None and arguments.batch < 1:
        parser.error("--batch: at least 1")
    try:
        vectors = read_vectors(arguments.vectors)
        digest = read_metadata(arguments.policy).digest
    except ClankerError as error:
        raise SystemExit(f"error: {error}") from None
    if vectors.digest != digest:
        raise SystemExit(f"error: the vectors were written for another file, whose digest is {vectors.digest}")
    runnable = load(arguments.policy, arguments.batch)
    batches = (1, 3) if arguments.batch is None else (arguments.batch,)
    largest = max(check(runnable, vectors, batch) for batch in batches)
    print(f"{len(vectors.cases)} cases, largest difference {largest:.3g}")


if __name__ == "__main__":
    main()
