"""Headers in C of policies from real trainings: compiled with every warning and sanitizer, and testing themselves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sb3_clanker import OnnxPolicy
from sb3_clanker.formats.c import open_policy, read_record, seal
from sb3_clanker.policy_file.reading import read_policy_file
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.writers.c.header import Header
from tests.consumers.conftest import KINDS
from tests.consumers.tools import require_tool

WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wdouble-promotion", "-pedantic", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
SMALL = [kind for kind in KINDS if kind not in ("image", "camera", "dict")]
"""Those without a convolution, whose weights take a compiler seconds."""


@pytest.fixture(scope="module")
def folder(policies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``{kind}.h`` is, for each kind of policy, and ``{kind}.c``, which tests it."""
    folder = tmp_path_factory.mktemp("headers")
    for kind in KINDS:
        file = read_policy_file(policies / f"{kind}.onnx")
        vectors = read_vectors(policies / f"{kind}.vectors.json")
        (folder / f"{kind}.h").write_bytes(seal(Header(file.data, file.metadata, kind).text(vectors)))
    return folder


def _test(folder: Path, kinds: list[str], compiler: str, *flags: str) -> None:
    """A program that has all of these policies, and returns how many vectors fail."""
    source = "".join(f'#define {kind.upper()}_SELF_TEST\n#include "{kind}.h"\n' for kind in kinds)
    tests = " + ".join(f"{kind}_self_test()" for kind in kinds)
    main = folder / ("main.cpp" if "++" in compiler else "main.c")
    main.write_text(f"{source}int main(void)\n{{\n    return {tests};\n}}\n")
    command = [require_tool(compiler, f"apt-get install {compiler}"), *WARNINGS, *flags, main.name, "-o", "main", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:2000]) == (0, "")
    run = subprocess.run([folder / "main"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr[:2000], run.stdout) == (0, "", "")


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("gcc", ("-std=c99", "-O1", *SANITIZERS)),
        ("clang", ("-std=c99", "-O1")),
        ("g++", ("-std=c++11", "-O0")),
        ("clang++", ("-std=c++11", "-O0")),
    ],
)
def test_compilers_and_sanitizers_are_silent(folder: Path, compiler: str, flags: tuple[str, ...]) -> None:
    _test(folder, SMALL, compiler, *flags)


@pytest.mark.slow
@pytest.mark.parametrize("optimization", ["-O0", "-O1", "-O2", "-O3", "-Os"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_every_level_of_optimization_will_do(folder: Path, compiler: str, optimization: str) -> None:
    _test(folder, list(KINDS), compiler, "-std=c99", optimization)


@pytest.mark.slow
def test_sanitizers_are_silent_on_images_too(folder: Path) -> None:
    _test(folder, list(KINDS), "gcc", "-std=c99", "-O1", *SANITIZERS)


def test_the_program_of_the_documentation_runs(policies: Path, tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "c.md").read_text()
    program = re.search(r"<!-- main\.c: begin -->\n```c\n(.*?)```\n", document, re.DOTALL)
    command = re.search(r"^cc -std=c99 .*$", document, re.MULTILINE)
    assert program is not None
    assert command is not None
    file = read_policy_file(policies / "cartpole.onnx")
    (tmp_path / "best_model.h").write_text(Header(file.data, file.metadata, "best_model").text())
    (tmp_path / "main.c").write_text(program[1])
    require_tool("cc", "apt-get install gcc")
    subprocess.run([*command[0].split(), *WARNINGS], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    action, _ = OnnxPolicy.from_file(file).predict(np.array([0.01, 0.0, 0.02, 0.0], np.float32))
    assert done.stdout == f"push to the {'right' if action == 1 else 'left'}\n"


@pytest.mark.parametrize("kind", SMALL)
def test_what_is_not_a_number_makes_no_action(folder: Path, kind: str) -> None:
    header = (folder / f"{kind}.h").read_bytes()
    metadata = read_record(header)
    feed = {
        spec.name: np.ones([3 if n == "batch" else int(n) for n in spec.shape], spec.dtype) for spec in metadata.inputs
    }
    runner = open_policy(header)
    name = next(spec.name for spec in metadata.inputs if spec.dtype == "float32")
    feed[name][(1, *[0] * (feed[name].ndim - 1))] = np.nan
    (action,) = runner.run(["action"], feed)
    assert np.isfinite(action[[0, 2]]).all()
    assert np.isnan(action[1]).all()
