"""Every format beside ONNX on every row of the support table, held against Stable-Baselines3; and in trainings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_clanker import ExportOptions, OnnxPolicy, export_policy
from sb3_clanker.errors import FormatError
from sb3_clanker.formats.format import FormatName, open_format
from sb3_clanker.policy_file.vectors import TestVectors, read_vectors
from sb3_clanker.run_folder.names import VECTORS, Checkpoint, running_kind
from sb3_clanker.runtime.check_vectors import check_vectors
from tests.integration.test_support_table import contexts, make_case, normalized, raw_observation
from tests.support import ACTIONS, CASES, Case

FORMATS: tuple[FormatName, ...] = get_args(FormatName)
REFUSED: dict[tuple[FormatName, str], str] = {}
"""What a format refuses of the table, with a text of the error."""
_QUICK = {"SAC-unboundedBox-Box-VecNormalize", "RecurrentPPO-twoLSTMlayers-Box-Box", "MaskablePPO-Box-MultiDiscrete"}
"""What the default suite tries of the table; the long tests try all."""
_ROW = re.compile(r"^\| `(?P<format>\w+)` \|.*\| (?P<vectors>[\d.e+-]+) \| (?P<random>[\d.e+-]+) \|$", re.MULTILINE)


def _documented() -> dict[str, tuple[float, float]]:
    """By format, the largest differences that the documentation promises: on vectors, and on random observations."""
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    return {row["format"]: (float(row["vectors"]), float(row["random"])) for row in _ROW.finditer(text)}


def _batches() -> Iterator[int | None]:
    """Sizes of batches that make 1,000 observations."""
    yield from [7] * 142
    yield from [1] * 5
    yield None


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if str(case) in _QUICK else pytest.mark.slow) for case in CASES], ids=str
)
def test_a_format_does_what_stable_baselines3_does(case: Case, tmp_path: Path) -> None:
    model: Any = make_case(case)
    model.learn(60)
    if case.wrapper == "SubprocVecEnv":
        model.get_env().close()
    for name in FORMATS:
        if text := REFUSED.get((name, str(case))):
            with pytest.raises(FormatError, match=text):
                export_policy(model, tmp_path / "refused.onnx", options=ExportOptions(formats=(name,)))
    assert list(tmp_path.iterdir()) == []
    names = [name for name in FORMATS if (name, str(case)) not in REFUSED]
    path = tmp_path / "policy.onnx"
    report = export_policy(model, path, options=ExportOptions(formats=names, test_vectors=16))
    assert set(report.validation.formats) == set(names)
    files, metadata = Checkpoint(path.stem).files, report.metadata
    policies = {
        name: OnnxPolicy.from_runner(open_format(name, (tmp_path / files[running_kind(name)]).read_bytes()), metadata)
        for name in names
    }
    vectors = read_vectors(tmp_path / files[VECTORS])
    space, rng = ACTIONS[case.action], np.random.default_rng(11)
    unit = (space.high.astype(np.float64) - space.low) / 2 if isinstance(space, spaces.Box) else np.ones(())
    largest = {name: [_apart_on_vectors(policy, vectors, unit), 0.0] for name, policy in policies.items()}
    seen = set()
    for n in _batches():
        for context in contexts(model, rng, n):
            raw = raw_observation(case, rng, n)
            observation = normalized(case, raw, model.get_vec_normalize_env())
            expected, state = model.predict(observation, deterministic=True, **context)
            seen |= {row.tobytes() for row in (expected if n else expected[None])}
            for name, policy in policies.items():
                got, got_state = policy.predict(raw, **context)
                assert (got.shape, got.dtype) == (expected.shape, expected.dtype), name
                parts = [(got / unit, expected / unit), *zip(got_state or (), state or (), strict=True)]
                largest[name][1] = max(largest[name][1], *(_apart(*part) for part in parts))
    assert len(seen) > 1, "the weights tell no actions apart"
    print(largest)  # noqa: T201 - shown by -s, for the documentation
    for name, (on_vectors, on_random) in largest.items():
        of_vectors, of_random = _documented()[name]
        assert on_vectors <= of_vectors, name
        assert on_random <= of_random, name


def _apart_on_vectors(policy: OnnxPolicy, vectors: TestVectors, unit: NDArray[np.float64]) -> float:
    """The largest difference on test vectors, of actions in a unit; all are within their own tolerances."""
    check_vectors(policy, vectors)
    largest = 0.0
    for case in vectors.cases:
        feed = {spec.name: np.array(case.inputs[spec.name], spec.dtype).reshape(spec.shape) for spec in vectors.inputs}
        for name, got in policy.run(feed).items():
            expected = np.array(case.outputs[name]).reshape(got.shape)
            units = unit.reshape(-1) if name == "action" else np.ones(())
            largest = max(largest, _apart(got / units, expected / units))
    return largest


def _apart(got: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(got.astype(np.float64) - expected).max())
