"""Observations drawn from ranges lie in them, as often as these say, whatever the record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sb3_clanker.observations import drawn
from sb3_clanker.observations.drawn import draw_from_ranges
from sb3_clanker.observations.ranges import Ranges
from sb3_clanker.policy_file.record import QUANTILES, ObservationRange, ObservationRanges
from sb3_clanker.policy_file.spaces import (
    BoxSpace,
    DictSpace,
    DiscreteSpace,
    LeafSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
)

ARM = BoxSpace(shape=(2, 2), dtype="float32", low=None, high=None)
LEAVES: dict[str, LeafSpace] = {
    "arm": ARM,
    "ticks": BoxSpace(shape=(1,), dtype="int16", low=-5.0, high=5.0),
    "camera": BoxSpace(shape=(8, 6, 3), dtype="uint8", low=0.0, high=255.0),
    "mode": DiscreteSpace(n=3),
    "modes": MultiDiscreteSpace(nvec=(2, 5), shape=(2,)),
    "flags": MultiBinarySpace(n=3, shape=(3,)),
    "wide": BoxSpace(shape=(1_100,), dtype="float64", low=(None,) * 1_100, high=1.0),
    "near": BoxSpace(shape=(1_100,), dtype="float32", low=2.0, high=3.0),
}
WORLD = DictSpace(spaces=LEAVES)


def record() -> ObservationRanges:
    rng = np.random.default_rng(1)
    ranges = Ranges(WORLD)
    ranges.add({"arm": np.exp(rng.normal(size=(4_000, 2, 2))), "ticks": rng.integers(-5, 6, (4_000, 1))})
    found = ranges.record()
    assert found is not None
    return found


def draw(ranges: ObservationRanges | None, n: int = 5_000, seed: int = 0) -> dict[str, Any]:
    batch = draw_from_ranges(WORLD, ranges, n, seed=seed)
    assert isinstance(batch, dict)
    return batch


def test_each_component_is_drawn_by_its_quantiles() -> None:
    of_record, batch = record(), draw(record())
    rows = batch["arm"].reshape(5_000, 4)
    (arm, ticks) = of_record.ranges
    assert (rows >= np.array(arm.minimum, np.float32)).all()
    assert (rows <= np.array(arm.maximum, np.float32)).all()
    levels = [[(column <= value).mean() for value in row] for column, row in zip(rows.T, arm.quantiles, strict=True)]
    assert np.abs(np.subtract(levels, QUANTILES)).max() < 0.03
    assert set(np.unique(batch["ticks"])) == set(range(-5, 6))
    assert (ticks.minimum, ticks.maximum) == ((-5.0,), (5.0,))


def test_what_has_no_ranges_is_drawn_from_its_space() -> None:
    for ranges in (record(), None):
        batch = draw(ranges, 300)
        assert {key: (rows.shape[1:], str(rows.dtype)) for key, rows in batch.items()} == {
            key: (leaf.shape, leaf.dtype) for key, leaf in LEAVES.items()
        }
        assert (batch["camera"].min(), batch["camera"].max()) == (0, 255)
        assert set(batch["mode"]) == {0, 1, 2}
        assert batch["modes"].max(axis=0).tolist() == [1, 4]
        assert set(np.unique(batch["flags"])) == {0, 1}
        assert batch["wide"].max() == 1.0
        assert -6.0 < batch["wide"].min() < -3.0
        assert (batch["near"].min(), batch["near"].max()) == pytest.approx((2.0, 3.0), abs=1e-3)
        assert all(np.isfinite(rows).all() for rows in batch.values())


def test_a_seed_gives_the_same_and_another_gives_others() -> None:
    first, again, other = draw(record(), 50), draw(record(), 50), draw(record(), 50, seed=1)
    for key in LEAVES:
        np.testing.assert_array_equal(first[key], again[key])
    assert (first["arm"] != other["arm"]).any()


def test_a_space_without_keys_gives_one_array() -> None:
    ranges = Ranges(ARM)
    ranges.add({None: np.ones((10, 2, 2))})
    batch = draw_from_ranges(ARM, ranges.record(), 3, seed=0)
    assert isinstance(batch, np.ndarray)
    assert batch.tolist() == np.ones((3, 2, 2)).tolist()


def test_however_many_are_asked_for_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "_MOST_ELEMENTS", 1_000)
    assert len(draw_from_ranges(BoxSpace(shape=(10,), dtype="float32", low=0.0, high=1.0), None, 10**9, seed=0)) == 100
    assert len(draw_from_ranges(BoxSpace(shape=(5_000,), dtype="float32", low=0.0, high=1.0), None, 7, seed=0)) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "int64", "bool"])
@pytest.mark.parametrize("largest", [0.0, 3.4e38])
def test_a_hostile_record_is_drawn_from_without_a_crash(dtype: str, largest: float) -> None:
    space = BoxSpace(shape=(2,), dtype=dtype, low=3e300, high=-3e300)
    of_record = ObservationRange(
        key=None,
        minimum=(-largest,) * 2,
        maximum=(largest,) * 2,
        mean=(0.0,) * 2,
        deviation=(0.0,) * 2,
        quantiles=((largest,) * 7, (-largest,) * 7),
    )
    for ranges in (ObservationRanges(n_observations=1, ranges=(of_record,)), None):
        batch = draw_from_ranges(space, ranges, 100, seed=0)
        assert isinstance(batch, np.ndarray)
        assert (batch.shape, str(batch.dtype)) == ((100, 2), dtype)
        assert np.isfinite(batch).all()
