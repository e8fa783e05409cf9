"""Headers in C on an emulated Cortex-M4F, held against the test vectors, and against the table of docs/c.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from stable_baselines3 import SAC

from sb3_clanker import ExportOptions, OnnxPolicy, export_policy
from sb3_clanker.policy_file.reading import read_policy_file
from sb3_clanker.policy_file.vectors import TestVectors, read_vectors
from sb3_clanker.runtime.check_vectors import check_vectors
from sb3_clanker.writers.c.header import Header
from tests.consumers.cortex_m4 import Board, BoardRunner, Cost, prefix
from tests.consumers.tools import require_tool
from tests.support import OBSERVATIONS
from tests.worlds import UNBOUNDED_OBSERVATION, make_model

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "c.md"
KINDS = {
    "cartpole": "PPO on CartPole, 64 and 64",
    "normalized": "SAC with VecNormalize, 16 and 16",
    "anything": "SAC on a Dict of all kinds of spaces, 16 and 16",
    "recurrent": "RecurrentPPO, an LSTM of 16",
    "masked": "MaskablePPO, 16 and 16",
    "image": "DQN on an image of 36 by 36, NatureCNN",
}
"""The policies, and what the documentation calls them."""
_MOST_CASES = {"image": 2}
"""A convolution takes the emulator long."""
_BAND = 0.25
"""How far a cost may be from the documented one, as another compiler has it."""


@pytest.fixture(scope="module")
def compiler() -> str:
    return require_tool("arm-none-eabi-gcc", "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi")


@pytest.fixture(scope="module")
def folder(policies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the policies are."""
    folder = tmp_path_factory.mktemp("boards")
    for kind in KINDS:
        for name in (f"{kind}.onnx", f"{kind}.vectors.json"):
            if (policies / name).exists():
                (folder / name).symlink_to(policies / name)
    normalized = make_model(SAC, UNBOUNDED_OBSERVATION, normalize=True)
    anything = make_model(SAC, OBSERVATIONS["Dict of anything"], policy="MultiInputPolicy")
    for name, model in (("normalized", normalized), ("anything", anything)):
        model.learn(32)
        export_policy(model, folder / name, options=ExportOptions(test_vectors=16))
    return folder


def _read(folder: Path, kind: str) -> tuple[str, TestVectors, OnnxPolicy]:
    """The header of a policy, its test vectors, and the policy."""
    file = read_policy_file(folder / f"{kind}.onnx")
    vectors = read_vectors(folder / f"{kind}.vectors.json")
    vectors = replace(vectors, cases=vectors.cases[: _MOST_CASES.get(kind, 16)])
    return Header(file.data, file.metadata, kind).text(vectors), vectors, OnnxPolicy.from_file(file)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in _MOST_CASES else kind for kind in KINDS]
)
def test_answers_as_stable_baselines3_does(kind: str, compiler: str, folder: Path, tmp_path: Path) -> None:
    header, vectors, policy = _read(folder, kind)
    runner = BoardRunner(compiler, header, policy.metadata, tmp_path)
    report = check_vectors(OnnxPolicy.from_runner(runner, policy.metadata), vectors)
    assert report.n_cases == len(vectors.cases)
    assert {cost.flash for cost in runner.costs} == {runner.costs[0].flash}
    mean = sum(cost.instructions for cost in runner.costs) // len(runner.costs)
    measured = Cost(runner.costs[0].flash, max(cost.memory for cost in runner.costs), mean)
    documented = _documented(KINDS[kind])
    for name in ("flash", "memory", "instructions"):
        expected = getattr(documented, name)
        assert getattr(measured, name) == pytest.approx(expected, rel=_BAND, abs=64), f"{kind}: {measured}"


def _documented(title: str) -> Cost:
    row = re.search(rf"^\| {re.escape(title)} \|(.*)\|$", DOCUMENTATION.read_text(), re.MULTILINE)
    assert row is not None, f"no row of {title!r}"
    flash, memory, instructions = (int(cell.replace(",", "")) for cell in row[1].split("|"))
    return Cost(flash, memory, instructions)


def test_tests_itself(compiler: str, folder: Path, tmp_path: Path) -> None:
    header, vectors, _ = _read(folder, "normalized")
    name = prefix(header)
    source = f'#define {name.upper()}_SELF_TEST\n#include "policy.h"\nint main(void) {{ return {name}_self_test(); }}\n'
    for wrong in (0, 3):
        cases = list(vectors.cases)
        for number in range(wrong):
            outputs = {key: tuple(value + 0.01 for value in values) for key, values in cases[number].outputs.items()}
            cases[number] = replace(cases[number], outputs=outputs)
        file = read_policy_file(folder / "normalized.onnx")
        text = Header(file.data, file.metadata, "normalized").text(replace(vectors, cases=tuple(cases)))
        (tmp_path / "policy.h").write_text(text)
        assert Board(compiler, source, tmp_path).run()[0] == wrong
