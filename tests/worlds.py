"""Environments and algorithms for the tests: any spaces, small networks, weights that tell actions apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

BOX_OBSERVATION = spaces.Box(-2.0, 3.0, (3,), np.float32)
UNBOUNDED_OBSERVATION = spaces.Box(-np.inf, np.inf, (3,), np.float32)
BOX_ACTION = spaces.Box(np.array([-1.0, -0.5], np.float32), np.array([2.0, 0.25], np.float32))
LARGE_ACTION = spaces.Box(-1000.0, 1000.0, (2,), np.float32)
MATRIX_ACTION = spaces.Box(-1.0, 1.0, (2, 3), np.float32)
SMALL_NET = {"net_arch": [16, 16]}

_OFF_POLICY = {"SAC", "TD3", "DDPG", "TQC", "CrossQ", "DQN", "QRDQN"}
_ON_POLICY = {"PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO"}


class SpacesEnv(gym.Env[Any, Any]):
    """Random observations and rewards in episodes of 20 steps; a wrong action is an error."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._observe(), float(self.np_random.normal()), False, self._steps >= 20, {}

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """The reward of a goal environment, which HER computes anew."""
        return -np.linalg.norm(achieved_goal - desired_goal, axis=-1)

    def action_masks(self) -> np.ndarray:
        """At least the first choice of each dimension is allowed, others by chance."""
        space = self.action_space
        dims = (
            [space.n] if isinstance(space, spaces.Discrete) else getattr(space, "nvec", [2] * (space.shape or (1,))[0])
        )
        return np.concatenate([[True, *(self.np_random.random(dim - 1) < 0.5)] for dim in dims]).astype(bool)

    def _observe(self) -> Any:
        return draw(self.observation_space, self.np_random)


def draw(space: spaces.Space[Any], rng: np.random.Generator, n: int | None = None) -> Any:
    """One raw observation, or a batch of n; unbounded dimensions are drawn from N(3, 5)."""
    shape = space.shape if n is None else (n, *(space.shape or ()))
    if isinstance(space, spaces.Dict):
        return {key: draw(leaf, rng, n) for key, leaf in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return np.int64(rng.integers(0, space.n)) if n is None else rng.integers(0, space.n, n)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec, shape)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(0, 2, shape, dtype=np.int8)
    assert isinstance(space, spaces.Box)
    if np.issubdtype(space.dtype, np.integer):
        drawn = rng.integers(space.low, space.high, shape, dtype=space.dtype, endpoint=True)
        if space.dtype != np.uint8:
            return drawn
        image = space.shape  # images of mere noise look all alike to a network
        batch = () if n is None else (n,)
        patches = rng.random((*batch, *(-(-size // 12) for size in image))) < 0.5
        for axis in range(-len(image), 0):
            patches = np.repeat(patches, 12, axis).take(range(image[axis]), axis)
        return drawn * patches
    low, high = np.nan_to_num(space.low, neginf=-1e3), np.nan_to_num(space.high, posinf=1e3)
    return np.clip(rng.normal(3.0, 5.0, shape), low, high).astype(space.dtype)


def make_env(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], *, n_envs: int = 1, normalize: bool = False
) -> VecEnv:
    """A vectorized environment, normalized on demand."""
    env: VecEnv = DummyVecEnv([lambda: Monitor(SpacesEnv(observation_space, action_space))] * n_envs)
    return VecNormalize(env) if normalize else env


def make_model(
    algorithm: type[BaseAlgorithm] = PPO,
    observation_space: spaces.Space[Any] = BOX_OBSERVATION,
    action_space: spaces.Space[Any] = BOX_ACTION,
    *,
    n_envs: int = 1,
    normalize: bool = False,
    policy: str = "MlpPolicy",
    env: VecEnv | None = None,
    scale: float = 1.0,
    **kwargs: Any,
) -> BaseAlgorithm:
    """A small algorithm that is quick to train, with weights spread so that actions saturate and differ."""
    name = algorithm.__name__
    if name in _OFF_POLICY:
        kwargs = {"buffer_size": 500, "learning_starts": 20, "batch_size": 16} | kwargs
    elif name in _ON_POLICY:
        kwargs = {"n_steps": 16} | kwargs
    if name in _ON_POLICY - {"A2C"}:
        kwargs = {"batch_size": 16} | kwargs
    if name == "ARS":
        kwargs = {"n_delta": 2} | kwargs
    net = SMALL_NET | ({"lstm_hidden_size": 16} if name == "RecurrentPPO" else {})
    kwargs["policy_kwargs"] = net | kwargs.get("policy_kwargs", {})
    env = env or make_env(observation_space, action_space, n_envs=n_envs, normalize=normalize)
    model: BaseAlgorithm = algorithm(policy, env, seed=0, **{"device": "cpu"} | kwargs)
    spread(model, scale)
    return model


def spread(model: BaseAlgorithm, scale: float = 1.0, seed: int = 0) -> None:
    """Give every weight a random part, as large as its layer bears: actions leave their bounds, and differ."""
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for parameter in model.policy.parameters():
            fan_in = parameter[0].numel() / 2 if parameter.dim() > 1 else 16
            parameter.add_(scale * th.randn(parameter.shape, generator=generator) / fan_in**0.5)


def predict_raw(model: BaseAlgorithm, observation: Any, vec_normalize: VecNormalize | None = None) -> np.ndarray:
    """What Stable-Baselines3 itself does on a raw observation."""
    if vec_normalize is not None:
        observation = vec_normalize.normalize_obs(observation)
    action, _ = model.predict(observation, deterministic=True)
    return action


def assert_same_actions(
    predict: Callable[[Any], np.ndarray], reference: Callable[[Any], np.ndarray], space: spaces.Space[Any], action: Any
) -> np.ndarray:
    """Compare single observations, and batches of 1 and 7; return the reference's actions on many more."""
    rng = np.random.default_rng(7)
    for n in (None, 1, 7, 64):
        observation = draw(space, rng, n)
        got, expected = predict(observation), reference(observation)
        assert type(got) is type(expected)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        if isinstance(action, spaces.Box):
            half = (action.high.astype(np.float64) - action.low) / 2
            np.testing.assert_allclose(got / half, expected / half, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(got, expected)
    return expected
