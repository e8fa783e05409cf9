"""tract, an engine written in Rust, run through its Python package by the program of examples/rust."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sb3_clanker import ExportOptions, export_policy
from sb3_clanker.policy_file.vectors import TestVectors, read_vectors
from tests.consumers.conftest import KINDS
from tests.consumers.tools import require_module

EXACT = ("cartpole", "image", "masked")
SCRIPT = Path(__file__).parents[2] / "examples" / "rust" / "run_tract.py"


@pytest.fixture(scope="module")
def example() -> Any:
    """The module examples.rust.run_tract."""
    require_module("tract", "pip install tract==0.23.9")
    return importlib.import_module("examples.rust.run_tract")


@pytest.fixture
def tract(example: Any) -> Any:
    """The package itself."""
    return example.tract


@pytest.mark.parametrize("batch", [None, 1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_passes_the_vectors(example: Any, policies: Path, kind: str, batch: int | None) -> None:
    runnable = example.load(policies / f"{kind}.onnx", batch)
    vectors = read_vectors(policies / f"{kind}.vectors.json")
    for size in (1, 3, 7) if batch is None else (batch,):
        assert example.check(runnable, vectors, size) <= (0.0 if kind in EXACT else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_takes_a_shape_before_it_has_looked_at_the_graph(example: Any, tract: Any, policies: Path, kind: str) -> None:
    """The usual way in Rust: each input gets its whole shape, and must agree with everything that the graph says."""
    model = tract.onnx().load(policies / f"{kind}.onnx")
    for index in range(model.input_count()):
        model.set_input_fact(index, model.input_fact(index).dump().replace("batch", "7"))
    runnable = model.into_model().into_runnable()
    vectors = read_vectors(policies / f"{kind}.vectors.json")
    assert example.check(runnable, vectors, 7) <= (0.0 if kind in EXACT else 1e-5)


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_tells_what_is_outside_to_the_last_digit(
    example: Any, policies: Path, on_the_bounds: Path, batch: int | None
) -> None:
    runnable = example.load(policies / "outside.onnx", batch)
    assert example.check(runnable, read_vectors(on_the_bounds), batch or 4) <= 1e-5
    arm, grid = np.full((batch or 4, 3), 3.0, np.float32), np.zeros((batch or 4, 2, 2), np.float32)
    arm[:, 1] = np.nan
    outside = runnable.run([arm, grid])[-1].to_numpy()
    assert outside.tolist() == [[False, True, False, False, False, False, False]] * (batch or 4)


@pytest.mark.parametrize("opset", [17, 19, 20, 21])
@pytest.mark.parametrize("kind", ["box", "cartpole"])
def test_takes_every_opset(example: Any, tmp_path: Path, kind: str, opset: int) -> None:
    path = tmp_path / "policy.onnx"
    export_policy(KINDS[kind](), path, options=ExportOptions(opset_version=opset, test_vectors=8))
    vectors = read_vectors(tmp_path / "policy.vectors.json")
    for batch in (None, 7):
        assert example.check(example.load(path, batch), vectors, 7) <= (0.0 if kind in EXACT else 1e-5)


def test_what_it_does_not_do(tract: Any, policies: Path) -> None:
    """The table in the example's README."""
    model = tract.onnx().load(policies / "box.onnx")
    assert model.input_name(0) == "obs"
    assert model.output_name(0) != "action"
    model = model.into_model()
    assert "onnx.metadata_props.sb3_clanker" in model.property_keys()
    with pytest.raises(tract.bindings.TractError, match="Unsupported DatumType in the public API String"):
        model.property("onnx.metadata_props.sb3_clanker").to_numpy()


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros((2, 4), np.float32), "Clashing resolution for expression. 3=3 != 4"),
        (np.zeros(3, np.float32), "incorrect dtype or shape"),
        (np.zeros((2, 3), np.float64), "incorrect dtype or shape"),
    ],
)
def test_refuses_a_wrong_observation(
    example: Any, tract: Any, policies: Path, observation: NDArray[Any], message: str
) -> None:
    with pytest.raises(tract.bindings.TractError, match=message):
        example.load(policies / "box.onnx").run([observation])


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program(example: Any, policies: Path, tmp_path: Path) -> None:
    policy, vectors = policies / "recurrent.onnx", policies / "recurrent.vectors.json"
    for options in ((), ("--batch", 7)):
        done = _run(policy, vectors, *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("16 cases, largest difference ")

    document = json.loads(vectors.read_text())
    document["cases"][3]["outputs"]["h_out"][0] += 1e-3
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(document))
    for arguments, code, message in [
        ((policy, wrong), 1, "error: in cases 3 and on, h_out is"),
        ((policy, policies / "box.vectors.json"), 1, "error: the vectors were written for another file"),
        ((policy, tmp_path / "missing.json"), 1, "error: "),
        ((tmp_path / "missing.onnx", vectors), 1, "error: "),
        ((policy,), 2, "usage: "),
        ((policy, vectors, "--batch", 0), 2, "usage: "),
    ]:
        done = _run(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert done.stderr.startswith(message)


def test_a_wrong_shape_is_no_match(example: Any, policies: Path) -> None:
    """An output that would only broadcast to what is expected is wrong."""

    class Tensor:
        def to_numpy(self) -> NDArray[Any]:
            return np.zeros((1, 1), np.float32)

    class Runnable:
        def run(self, inputs: list[NDArray[Any]]) -> list[Tensor]:
            return [Tensor()]

    vectors: TestVectors = read_vectors(policies / "cartpole.vectors.json")
    with pytest.raises(SystemExit, match="action is"):
        example.check(Runnable(), vectors, 3)
