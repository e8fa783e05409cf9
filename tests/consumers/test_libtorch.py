"""The program of examples/libtorch: built against the libtorch of the wheel of torch, and held against the vectors."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch as th

from sb3_clanker import ExportOptions, export_policy
from sb3_clanker.policy_file.vectors import read_vectors
from tests.consumers.tools import require_tool
from tests.worlds import make_model

SOURCE = Path(__file__).parents[2] / "examples" / "libtorch" / "run_policy.cpp"
TORCH = Path(th.__file__).parent
WIDTH = 3


def test_the_program_is_one_that_can_be_read_at_once() -> None:
    assert len(SOURCE.read_text().splitlines()) <= 25


@pytest.mark.slow
def test_a_program_in_cpp_agrees_with_the_test_vectors(tmp_path: Path) -> None:
    compiler = require_tool("g++", "apt-get install g++")
    folders = [f"-I{TORCH / 'include'}", f"-I{TORCH / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
    command = [compiler, "-std=c++20", *folders, str(SOURCE), "-o", str(tmp_path / "run_policy"), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    options = ExportOptions(formats=("torchscript",), test_vectors=16)
    export_policy(make_model(), tmp_path / "arm.onnx", options=options)
    vectors = read_vectors(tmp_path / "arm.vectors.json")
    lines = [" ".join(map(repr, case.inputs["obs"])) for case in vectors.cases]
    done = subprocess.run(
        [tmp_path / "run_policy", tmp_path / "arm_torchscript" / "policy.pt", str(WIDTH)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = done.stdout.splitlines()
    assert len(answers) == len(vectors.cases) >= 8
    (spec,) = vectors.outputs
    for case, answer in zip(vectors.cases, answers, strict=True):
        got = [float(number) for number in answer.split()]
        for value, expected, atol in zip(got, case.outputs["action"], spec.atol, strict=True):
            assert abs(value - expected) <= atol + spec.rtol * abs(expected)
