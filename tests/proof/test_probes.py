"""Observations that a cross-check tries: of the space, exact in float32, and from a generator of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_clanker.proof.probes import batch_size, draw_observations, gather_probes, take
from sb3_clanker.sb3.statistics import Statistics

SPACES: list[spaces.Space[Any]] = [
    spaces.Box(-2.0, 3.0, (3,), np.float32),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Box(np.array([0.0, 5e4]), np.array([1e9, np.inf]), dtype=np.float64),
    spaces.Box(-3.4e38, 3.4e38, (2,), np.float32),
    spaces.Box(0, 255, (3, 8, 8), np.uint8),
    spaces.Box(-5, 9, (2,), np.int32),
    spaces.Discrete(5),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiBinary(4),
    spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Discrete(3)}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_probe_is_an_observation_of_the_space(space: spaces.Space[Any]) -> None:
    probes = gather_probes(draw_observations(space, {}, 20), None)
    assert len(probes) > 20
    assert probes.n_seen == 0
    for index in range(len(probes)):
        assert space.contains(take(probes.observations, index))


def test_the_bounds_are_tried_and_capped_where_there_are_none() -> None:
    bounded = draw_observations(SPACES[0], {}, 4)
    assert isinstance(bounded, np.ndarray)
    assert {-2.0, 0.0, 3.0} <= set(bounded[:, 0].tolist())
    unbounded = draw_observations(SPACES[3], {}, 4)
    assert isinstance(unbounded, np.ndarray)
    assert np.abs(unbounded).max() == 1e3


def test_unbounded_dimensions_are_drawn_where_training_was() -> None:
    statistics = Statistics(mean=np.array([1e6, -5.0]), variance=np.array([4.0, 0.01]), epsilon=1e-8, clip_obs=10.0)
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    observations = draw_observations(space, {None: statistics}, 400)
    assert isinstance(observations, np.ndarray)
    normalized = (observations - statistics.mean) / statistics.deviation
    assert np.abs(normalized).max() == pytest.approx(20, rel=1e-2)
    assert np.median(np.abs(normalized)) < 5


def test_values_are_exact_in_float32() -> None:
    observations = draw_observations(SPACES[1], {}, 50)
    assert isinstance(observations, np.ndarray)
    assert observations.dtype == np.float64
    np.testing.assert_array_equal(observations, observations.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_large_whole_numbers_are_exact_in_float32_too(dtype: Any) -> None:
    largest = np.iinfo(dtype).max
    space = spaces.Box(0, largest, (2,), dtype)
    statistics = Statistics(mean=np.full(2, 1.7e9), variance=np.full(2, 1e4), epsilon=1e-8, clip_obs=10.0)
    seen = np.array([[1_700_000_001, largest], [2**24 + 1, 3]], dtype)
    observations = gather_probes(draw_observations(space, {None: statistics}, 50), seen).observations
    assert isinstance(observations, np.ndarray)
    assert observations.dtype == dtype
    assert observations[0].tolist() == [1_700_000_000, pytest.approx(largest, rel=1e-6)]
    assert observations[1].tolist() == [2**24, 3]
    for value in observations.ravel().tolist():
        assert int(np.float32(value)) == value


def test_seen_observations_come_first_and_are_counted() -> None:
    seen = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=np.float32)
    probes = gather_probes(draw_observations(SPACES[0], {}, 5), seen)
    assert probes.n_seen == 2
    np.testing.assert_array_equal(take(probes.observations, slice(0, 2)), seen)


def test_no_generator_of_anyone_advances_and_draws_are_the_same() -> None:
    space = spaces.Box(-1.0, 1.0, (2,), seed=3)
    state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    before = space.np_random.bit_generator.state
    first, second = (draw_observations(space, {}, 9) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert space.np_random.bit_generator.state == before
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]  # noqa: NPY002


def test_rows_of_a_dict_are_taken_together() -> None:
    batch = {"a": np.arange(6).reshape(3, 2), "b": np.arange(3)}
    assert batch_size(batch) == 3
    taken = take(batch, np.array([0, 2]))
    assert isinstance(taken, dict)
    assert taken["a"].tolist() == [[0, 1], [4, 5]]
    assert taken["b"].tolist() == [0, 2]
