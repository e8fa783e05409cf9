"""VecNormalize in float32: as close to its float64 as float32 allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_clanker.actor.normalize import Normalize
from sb3_clanker.sb3.statistics import Statistics, collect_statistics
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, SpacesEnv, make_env


def _vec_normalize(mean: float, deviation: float, clip_obs: float = 10.0) -> Any:
    env = make_env(spaces.Box(-np.inf, np.inf, (3,), np.float32), BOX_ACTION)
    vec_normalize: Any = VecNormalize(env, clip_obs=clip_obs)
    vec_normalize.obs_rms.mean = np.array([mean, mean + 0.1, -mean])
    vec_normalize.obs_rms.var = np.full(3, deviation**2)
    return vec_normalize


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (3.3, 0.7), (1e6, 1.0), (-1e6, 300.0), (1e-3, 1e-6)])
def test_it_equals_vec_normalize(mean: float, deviation: float) -> None:
    vec_normalize = _vec_normalize(mean, deviation)
    centers = np.array([mean, mean + 0.1, -mean])
    drawn = np.random.default_rng(0).normal(centers, deviation, (200, 3))
    observations = drawn.astype(np.float32)
    expected = vec_normalize.normalize_obs(observations)
    got = Normalize(collect_statistics(vec_normalize)[None])(th.as_tensor(observations)).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-6, rtol=2e-6)


def test_a_plain_float32_mean_would_not() -> None:
    vec_normalize = _vec_normalize(1e6 + 0.03, 1.0)
    observations = np.random.default_rng(0).normal(1e6, 1.0, (200, 3)).astype(np.float32)
    expected = vec_normalize.normalize_obs(observations)
    mean = vec_normalize.obs_rms.mean.astype(np.float32)
    plain = (observations - mean) / np.sqrt(vec_normalize.obs_rms.var + 1e-8).astype(np.float32)
    assert np.abs(plain[:, 0] - expected[:, 0]).max() > 1e-3


def test_values_are_clipped_where_vec_normalize_clips_them() -> None:
    vec_normalize = _vec_normalize(0.0, 1.0, clip_obs=2.5)
    observations = np.array([[-99.0, 0.0, 99.0]], dtype=np.float32)
    got = Normalize(collect_statistics(vec_normalize)[None])(th.as_tensor(observations)).numpy()
    np.testing.assert_allclose(got, [[-2.5, -0.1, 2.5]], rtol=1e-6)


def test_a_dimension_that_never_changed_stays_finite() -> None:
    statistics = Statistics(mean=np.array([4.0]), variance=np.array([0.0]), epsilon=1e-8, clip_obs=10.0)
    normalized = Normalize(statistics)(th.tensor([[4.0], [4.00001]]))
    assert normalized[0].item() == 0.0
    assert th.isfinite(normalized).all()


def test_there_are_no_statistics_without_vec_normalize_or_with_norm_obs_off() -> None:
    assert collect_statistics(None) == {}
    env = DummyVecEnv([lambda: SpacesEnv(BOX_OBSERVATION, BOX_ACTION)])
    assert collect_statistics(VecNormalize(env, norm_obs=False)) == {}


def test_a_dict_space_has_statistics_for_its_normalized_keys_alone() -> None:
    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    env = DummyVecEnv([lambda: SpacesEnv(observation_space, BOX_ACTION)])
    assert set(collect_statistics(VecNormalize(env, norm_obs_keys=["a"]))) == {"a"}
