"""Whatever spaces and networks are drawn: an export equals Stable-Baselines3, or says why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, settings
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_clanker import ClankerError, ExportOptions, OnnxPolicy, ValidationError, export_policy
from tests.worlds import SpacesEnv, draw, make_model, predict_raw

KEYS = ("joints", "two words", "action", "größe", "Camera_2")
ACTIVATIONS = (th.nn.Tanh, th.nn.ReLU, th.nn.ELU, th.nn.GELU)
Folder = Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class World:
    """One example."""

    algorithm: type[BaseAlgorithm]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    net_arch: list[int]
    activation_fn: type[th.nn.Module]
    normalize: bool
    seed: int


def _shapes(max_rank: int) -> st.SearchStrategy[tuple[int, ...]]:
    ranks = [0, *range(1, max_rank + 1), *range(1, max_rank + 1)]
    return st.sampled_from(ranks).flatmap(lambda rank: st.tuples(*[st.integers(1, 4)] * rank))


@st.composite
def _boxes(draw_from: st.DrawFn) -> spaces.Box:
    """Of any rank up to three, any type, bounded, unbounded or here so and there so."""
    shape = draw_from(_shapes(3))
    dtype: Any = draw_from(st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.int8, np.uint8]))
    rng = np.random.default_rng(draw_from(st.integers(0, 99)))
    if np.issubdtype(dtype, np.integer):
        if dtype == np.uint8 and draw_from(st.booleans()):
            return spaces.Box(0, 255, shape, dtype)
        start = rng.integers(0 if dtype == np.uint8 else -9, 5, shape)
        return spaces.Box((low := start.astype(dtype)), (low + rng.integers(1, 9, shape)).astype(dtype), dtype=dtype)
    low = rng.uniform(-9.0, 5.0, shape)
    high = low + rng.uniform(0.5, 9.0, shape)
    unbounded = {"bounded": 0.0, "mixed": 0.5, "unbounded": 1.0}[
        draw_from(st.sampled_from(["bounded", "mixed", "unbounded"]))
    ]
    low = np.where(rng.random(shape) < unbounded, -np.inf, low).astype(dtype)
    high = np.where(rng.random(shape) < unbounded, np.inf, high).astype(dtype)
    return spaces.Box(low, high, dtype=dtype)


def _leaves() -> st.SearchStrategy[spaces.Space[Any]]:
    return st.one_of(
        _boxes(),
        _boxes(),
        st.integers(1, 6).map(spaces.Discrete),
        st.lists(st.integers(1, 4), min_size=1, max_size=4).map(spaces.MultiDiscrete),
        st.integers(1, 5).map(spaces.MultiBinary),
        st.just(spaces.MultiBinary([2, 3])),
    )


def _observations() -> st.SearchStrategy[spaces.Space[Any]]:
    dicts = st.dictionaries(st.sampled_from(KEYS), _leaves(), min_size=1, max_size=3).map(spaces.Dict)
    return st.one_of(_leaves(), _leaves(), dicts)


@st.composite
def _bounded_actions(draw_from: st.DrawFn) -> spaces.Box:
    shape = draw_from(_shapes(2))
    dtype: Any = draw_from(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw_from(st.integers(0, 99)))
    low = rng.uniform(-3.0, 1.0, shape)
    scale = draw_from(st.sampled_from([1.0, 1.0, 100.0]))
    high = low + rng.uniform(1.0, 4.0, shape)
    return spaces.Box(np.asarray(scale * low, dtype), np.asarray(scale * high, dtype), dtype=dtype)


def _actions() -> st.SearchStrategy[spaces.Space[Any]]:
    return st.one_of(
        _bounded_actions(),
        _bounded_actions(),
        st.integers(1, 6).map(spaces.Discrete),
        st.lists(st.integers(1, 4), min_size=1, max_size=4).map(spaces.MultiDiscrete),
        st.integers(1, 5).map(spaces.MultiBinary),
    )


@st.composite
def _worlds(draw_from: st.DrawFn) -> World:
    action_space = draw_from(_actions())
    algorithms: list[type[BaseAlgorithm]] = [PPO, SAC] if isinstance(action_space, spaces.Box) else [PPO]
    observation_space = draw_from(_observations())
    return World(
        algorithm=draw_from(st.sampled_from(algorithms)),
        observation_space=observation_space,
        action_space=action_space,
        net_arch=draw_from(st.lists(st.integers(1, 24), max_size=3)),
        activation_fn=draw_from(st.sampled_from(ACTIVATIONS)),
        normalize=bool(_normalizable(observation_space)) and draw_from(st.booleans()),
        seed=draw_from(st.integers(0, 999)),
    )


def _normalizable(space: spaces.Space[Any]) -> list[str]:
    """The keys that VecNormalize takes, some text where it takes a space without keys, and nothing for any other."""
    if isinstance(space, spaces.Dict):
        return [key for key, leaf in space.spaces.items() if isinstance(leaf, spaces.Box)]
    return ["the observation"] if isinstance(space, spaces.Box) else []


def _make(world: World) -> BaseAlgorithm:
    env: VecEnv = DummyVecEnv([lambda: SpacesEnv(world.observation_space, world.action_space)])
    is_dict = isinstance(world.observation_space, spaces.Dict)
    if world.normalize:
        keys = _normalizable(world.observation_space)
        env = VecNormalize(env, norm_obs_keys=keys if is_dict else None)
        running: Any = env.obs_rms
        rng = np.random.default_rng(world.seed)
        for statistics in running.values() if is_dict else [running]:
            statistics.mean = rng.normal(2.0, 3.0, statistics.mean.shape)
            statistics.var = rng.uniform(0.5, 30.0, statistics.var.shape)
    return make_model(
        world.algorithm,
        env=env,
        policy="MultiInputPolicy" if is_dict else "MlpPolicy",
        policy_kwargs={"net_arch": world.net_arch, "activation_fn": world.activation_fn, "normalize_images": False}
        if world.normalize
        else {"net_arch": world.net_arch, "activation_fn": world.activation_fn},
    )


def _check(world: World, folder: Folder) -> str:
    """Where Stable-Baselines3 can predict, the file must, and the same; where it cannot, it is a typed error.

    :return: what became of it
    """
    try:
        model = _make(world)
    except Exception:
        hypothesis.reject()
    vec_normalize = model.get_vec_normalize_env()
    rng = np.random.default_rng(world.seed)
    observations = [draw(model.observation_space, rng, n) for n in (1, 7)]
    path, options = folder("world") / "policy", ExportOptions(n_samples=32)
    try:
        expected = [predict_raw(model, observation, vec_normalize) for observation in observations]
    except Exception:
        with pytest.raises(ClankerError):
            export_policy(model, path, options=options)
        return "refused, as Stable-Baselines3 fails"
    try:
        policy = OnnxPolicy(export_policy(model, path, options=options).path)
    except ValidationError as error:
        pytest.fail(f"a file that does not equal Stable-Baselines3 was made: {error}")
    except ClankerError as error:
        return f"refused: {type(error).__name__}"
    for observation, wanted in zip(observations, expected, strict=True):
        got, _ = policy.predict(observation)
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        if isinstance(world.action_space, spaces.Box):
            half = (world.action_space.high.astype(np.float64) - world.action_space.low) / 2
            np.testing.assert_allclose(got / half, wanted / half, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(got, wanted)
    return "exported"


def _check_many(n: int, folder: Folder) -> None:
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=n,
        derandomize=True,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @hypothesis.given(world=_worlds())
    def check(world: World) -> None:
        outcomes[_check(world, folder)] += 1

    check()
    assert outcomes["exported"] > n / 2, f"too little was exported to prove anything: {outcomes}"


def test_a_few_drawn_worlds_are_exported_or_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    _check_many(6, tmp_path_factory.mktemp)


@pytest.mark.slow
def test_hundreds_of_drawn_worlds_are_exported_or_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    _check_many(300, tmp_path_factory.mktemp)
