"""Ranges are what numpy finds in all observations at once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sb3_clanker.observations import ranges as module
from sb3_clanker.observations.ranges import Ranges, at_levels
from sb3_clanker.policy_file.documents import decode, encode, parse_json
from sb3_clanker.policy_file.record import QUANTILES, ObservationRange, ObservationRanges
from sb3_clanker.policy_file.spaces import BoxSpace, DictSpace, DiscreteSpace, LeafSpace, ObservationSpace

BATCHES = (1, 1, 7, 3, 5_000, 2, 1, 40_000, 9)


def box(*shape: int, dtype: str = "float64") -> BoxSpace:
    return BoxSpace(shape=shape, dtype=dtype, low=None, high=None)


def rows_of(n: int, width: int = 3, seed: int = 0) -> NDArray[np.float64]:
    """Components of very different kinds: far from zero, skewed, whole numbers."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(3.0, 2.0, (n, width))
    rows[:, 0] += 1e6
    rows[:, 1] = np.exp(rows[:, 1])
    return rows


def collect(space: ObservationSpace, rows: NDArray[Any], ranges: Ranges | None = None) -> Ranges:
    """Add rows in batches of many sizes."""
    ranges, start = ranges or Ranges(space), 0
    shape = next(iter(space.leaves().values())).shape
    while start < len(rows):
        for size in BATCHES:
            ranges.add({None: rows[start : start + size].reshape(-1, *shape)})
            start += size
    return ranges


def only(ranges: Ranges) -> ObservationRange:
    record = ranges.record()
    assert record is not None
    (found,) = record.ranges
    return found


def ranks(rows: NDArray[Any], found: ObservationRange) -> NDArray[np.float64]:
    """The true level of each quantile that was found."""
    points = np.array(found.quantiles)
    return np.array(
        [np.searchsorted(np.sort(column), row) / len(rows) for column, row in zip(rows.T, points, strict=True)]
    )


@pytest.mark.parametrize("n", [1, 2, 100, 3_000, 100_000])
def test_they_are_those_of_numpy(n: int) -> None:
    rows = rows_of(n)
    ranges = collect(box(3), rows)
    found, record = only(ranges), ranges.record()
    assert record is not None
    assert record.n_observations == n
    assert found.key is None
    assert found.minimum == tuple(rows.min(axis=0))
    assert found.maximum == tuple(rows.max(axis=0))
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, rows.std(axis=0), rtol=1e-9)
    if n <= 4_096:  # all are in the sample
        np.testing.assert_allclose(found.quantiles, np.quantile(rows, QUANTILES, axis=0).T, rtol=1e-12)
    else:  # four standard errors of a sample's quantile
        errors = 4 * np.sqrt(np.array(QUANTILES) * (1 - np.array(QUANTILES)) / 4_096)
        assert (np.abs(ranks(rows, found) - QUANTILES) < errors).all()


def test_the_sample_is_of_all_that_was_seen_and_not_of_its_beginning_or_end() -> None:
    rows = np.linspace(0.0, 1.0, 60_000)[:, None]
    assert np.abs(np.array(only(collect(box(1), rows)).quantiles) - QUANTILES).max() < 0.04


def test_every_vector_of_a_dict_has_its_own() -> None:
    image = BoxSpace(shape=(8, 8, 3), dtype="uint8", low=0.0, high=255.0)
    arm, wide = box(2, 2, dtype="float32"), box(1_001)
    leaves: dict[str, LeafSpace] = {"arm": arm, "camera": image, "mode": DiscreteSpace(n=3), "wide": wide, "one": box()}
    ranges = Ranges(DictSpace(spaces=leaves))
    assert ranges.keys == ("arm", "one")
    rows = rows_of(200, 5).astype(np.float32)
    for row in rows.reshape(50, 4, 5):
        ranges.add({"arm": row[:, :4].reshape(4, 2, 2), "one": row[:, 4], "camera": None})  # type: ignore[dict-item]
    record = ranges.record()
    assert record is not None
    assert [(each.key, len(each.mean)) for each in record.ranges] == [("arm", 4), ("one", 1)]
    assert record.ranges[0].maximum == tuple(rows[:, :4].max(axis=0).tolist())
    assert record.ranges[1].minimum == (float(rows[:, 4].min()),)


def test_there_are_at_most_a_thousand_components() -> None:
    wide: dict[str, LeafSpace] = {"a": box(400), "b": box(400), "c": box(400), "d": box(200)}
    assert Ranges(DictSpace(spaces=wide)).keys == ("a", "b", "d")
    assert Ranges(box(1_000)).keys == (None,)
    assert Ranges(box(1_001)).keys == Ranges(box(0)).keys == ()


def test_where_nothing_is_a_vector_nothing_is_kept() -> None:
    ranges = Ranges(DiscreteSpace(n=3))
    ranges.add({None: np.array([1, 2])})
    assert ranges.record() is None
    assert Ranges(box(3)).record() is None


def test_what_is_not_finite_is_left_out_whole() -> None:
    rows = rows_of(1_000)
    with_others = np.repeat(rows, 2, axis=0)
    with_others[1::2, 1] = np.resize([np.nan, np.inf, -np.inf, 1e39, -1e300], 1_000)
    space = DictSpace(spaces={"a": box(1), "b": box(2)})
    ranges = Ranges(space)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranges.add({"a": with_others[:, :1], "b": with_others[:, 1:]})
        record = ranges.record()
    assert record is not None
    assert record.n_observations == 1_000
    assert [value for each in record.ranges for value in each.minimum] == rows.min(axis=0).tolist()
    nothing = Ranges(box(1))
    nothing.add({None: np.full((20_000, 1), np.nan)})
    assert nothing.record() is None


def test_a_constant_has_no_deviation_and_is_its_own_mean() -> None:
    found = only(collect(box(2), np.tile([0.1, 1e6 + 1 / 3], (50_000, 1))))
    assert found.deviation == (0.0, 0.0)
    assert found.minimum == found.mean == found.maximum == (0.1, 1e6 + 1 / 3)
    assert set(found.quantiles[0]) == {0.1}


@pytest.mark.parametrize("largest", [3e38, 1e-320])
def test_the_largest_and_the_smallest_numbers_are_numbers_in_json(largest: float) -> None:
    rows = np.random.default_rng(0).uniform(-largest, largest, (10_000, 2))
    ranges = collect(box(2), rows)
    record = ranges.record()
    assert record is not None
    assert decode(ObservationRanges, parse_json(encode(record))) == record
    assert record.ranges[0].maximum == tuple(rows.max(axis=0))


def test_far_from_zero_no_digit_is_lost() -> None:
    """A sum of squares would lose all of it."""
    rows = 1e6 + np.random.default_rng(0).normal(0.0, 1e-3, (200_000, 1))
    found = only(collect(box(1), rows))
    np.testing.assert_allclose(found.deviation, rows.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_every_type_of_numbers_is_taken_as_it_is(dtype: str) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (100, 2)).astype(dtype)
    found = only(collect(box(2, dtype=dtype), rows))
    assert (found.minimum, found.maximum) == ((0.0, 0.0), (1.0, 1.0))


def test_they_are_the_same_each_time_and_no_generator_advances() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    first, second = (collect(box(3), rows_of(20_000)).record() for _ in range(2))
    assert first == second
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002


def test_what_was_given_may_be_changed_afterwards() -> None:
    ranges, row = Ranges(box(2)), np.zeros((1, 2))
    ranges.add({None: row})
    row += 9.0
    assert only(ranges).maximum == (0.0, 0.0)


# Going on from a record ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_before", [1, 50, 30_000])
def test_they_go_on_from_a_record(n_before: int) -> None:
    before, after = rows_of(n_before), rows_of(30_000, seed=1)
    record = collect(box(3), before).record()
    assert record is not None
    at_once = Ranges.from_record(box(3), record).record()
    assert at_once is not None
    (one,), (other,) = at_once.ranges, record.ranges
    assert (at_once.n_observations, one.minimum, one.maximum, one.mean) == (
        *(n_before, other.minimum, other.maximum, other.mean),
    )
    reach = np.subtract(one.maximum, one.minimum)[:, None]
    assert (np.abs(np.subtract(one.quantiles, other.quantiles)) <= (0.01 if n_before > 50 else 0.2) * reach).all()
    rows = np.concatenate([before, after])
    went_on = collect(box(3), after, Ranges.from_record(box(3), record))
    found, whole = only(went_on), went_on.record()
    assert whole is not None
    assert whole.n_observations == len(rows)
    assert (found.minimum, found.maximum) == (tuple(rows.min(axis=0)), tuple(rows.max(axis=0)))
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, rows.std(axis=0), rtol=1e-9)
    assert np.abs(ranks(rows, found) - QUANTILES).max() < 0.04


def test_what_was_seen_before_keeps_its_weight() -> None:
    """30,000 observations of zero before, and 10,000 of one after, are a quarter of one."""
    record = collect(box(1), np.zeros((30_000, 1))).record()
    assert record is not None
    found = only(collect(box(1), np.ones((10_000, 1)), Ranges.from_record(box(1), record)))
    assert found.mean == pytest.approx((0.25,), rel=1e-12)
    assert found.quantiles[0][:4] == (0.0, 0.0, 0.0, 0.0)
    assert found.quantiles[0][5:] == (1.0, 1.0)


def test_the_record_of_another_space_is_refused() -> None:
    record = collect(box(3), rows_of(5)).record()
    assert record is not None
    with pytest.raises(ValueError, match=r"expected the ranges of \['arm'\], got those of \[None\]"):
        Ranges.from_record(DictSpace(spaces={"arm": box(3)}), record)
    with pytest.raises(ValueError, match=r"of 2 components, got 3"):
        Ranges.from_record(box(2), record)


def test_values_at_levels_lie_between_quantiles_and_extremes() -> None:
    found = only(collect(box(3), rows_of(4_000)))
    values = at_levels(found, np.array([0.0, *QUANTILES, 1.0]))
    np.testing.assert_array_equal(values[0], found.minimum)
    np.testing.assert_array_equal(values[1:-1].T, found.quantiles)
    np.testing.assert_array_equal(values[-1], found.maximum)
    of_each = at_levels(found, np.array([[0.0, 0.5, 1.0], [0.5, 0.5, 0.5]]))
    assert of_each[0].tolist() == [found.minimum[0], found.quantiles[1][3], found.maximum[2]]


# What the checks above would notice ---------------------------------------------------------------------------------


def test_the_checks_notice_a_sample_of_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Ranges, "_draw", lambda self, rows, before: _keep_first(self, rows, before))
    with pytest.raises(AssertionError):
        test_the_sample_is_of_all_that_was_seen_and_not_of_its_beginning_or_end()


def _keep_first(ranges: Any, rows: NDArray[Any], before: int) -> None:
    room = max(ranges._sample.shape[1] - before, 0)
    ranges._sample[:, before : before + min(room, len(rows))] = rows[:room].T
