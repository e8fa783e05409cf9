"""Wrappers of vectorized environments for the tests: some leave observations alone, some change them."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper


class Mapped(VecEnvWrapper):
    """Gives what :meth:`change` makes of each observation, and of each array in a Dict; images stay as they are."""

    def change(self, array: Any) -> Any:
        """Leave it alone."""
        return array

    def reset(self) -> Any:
        return self._map(self.venv.reset())

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        return self._map(observations), rewards, dones, infos

    def _map(self, observations: Any) -> Any:
        if isinstance(observations, dict):
            return {key: self._map(array) for key, array in observations.items()}
        return observations if observations.dtype == np.uint8 else self.change(observations)


class Log(Mapped):
    """Keeps figures of episodes, and refers to itself and to what it wraps."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.returns: list[float] = []
        self.calls, self.generator, self.owner, self.base = 0, np.random.default_rng(0), self, venv.unwrapped

    def step_wait(self) -> Any:
        result = super().step_wait()
        self.calls += 1
        self.returns += [info["episode"]["r"] for info, done in zip(result[3], result[2], strict=True) if done]
        return result


class HalfReward(Mapped):
    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards / 2, dones, infos


class NamedMonitor(VecMonitor):
    """Does what its base does."""


class Scale(Mapped):
    def change(self, array: Any) -> Any:
        return array * 0.5


class Clip(Mapped):
    def change(self, array: Any) -> Any:
        return np.clip(array, -0.5, 0.5)


class ClipFar(Mapped):
    """Changes what lies far out alone."""

    def change(self, array: Any) -> Any:
        return np.clip(array, -5.0, 5.0)


class InPlace(Mapped):
    def change(self, array: Any) -> Any:
        array[array > 0.5] = 0.5
        return array


class Noise(Mapped):
    """From the generator of all."""

    def change(self, array: Any) -> Any:
        return array + np.random.normal(size=array.shape)  # noqa: NPY002


class Seldom(Mapped):
    """Noise, one time in thirty."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._generator = np.random.default_rng(3)

    def change(self, array: Any) -> Any:
        return array + 1.0 if self._generator.random() < 1 / 30 else array


class Late(Mapped):
    """Leaves observations alone for the first 20 steps of the environment of a training."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.steps = 0

    def step_wait(self) -> Any:
        self.steps += type(self.venv).__module__.startswith("stable_baselines3")
        return super().step_wait()

    def change(self, array: Any) -> Any:
        return array if self.steps < 20 else array * 0.5


class StepsOnly(Mapped):
    """Leaves what comes from a reset alone."""

    def reset(self) -> Any:
        return self.venv.reset()

    def change(self, array: Any) -> Any:
        return -array


class ResetOnly(Mapped):
    """Leaves what comes from a step alone."""

    def step_wait(self) -> Any:
        return self.venv.step_wait()

    def change(self, array: Any) -> Any:
        return array + 1.0


class NeedsInfo(Mapped):
    """Fails in any environment but its own."""

    def step_wait(self) -> Any:
        result = super().step_wait()
        if any("of_my_env" not in info for info in result[3]) and not type(self.venv).__module__.startswith("stable"):
            raise KeyError("of_my_env")
        return result


class HalfStack(VecFrameStack):
    """A stack that is not VecFrameStack's."""

    def reset(self) -> Any:
        return _half(super().reset())

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        return _half(observations), rewards, dones, infos


class NamedNormalize(VecNormalize):
    """Normalizes as its base does, and rewards otherwise."""

    def normalize_reward(self, reward: Any) -> Any:
        return super().normalize_reward(reward) * 2


class HalfNormalize(VecNormalize):
    """Changes what it hands out, not how it is asked."""

    def reset(self) -> Any:
        return _half(super().reset())

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        return _half(observations), rewards, dones, infos


class MeanNormalize(VecNormalize):
    """Does not divide by the deviation."""

    def _normalize_obs(self, obs: Any, obs_rms: RunningMeanStd) -> Any:
        return np.asarray(obs - obs_rms.mean)


def _half(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: array * 0.5 for key, array in observations.items()}
    return observations * 0.5


def patched(vec_normalize: VecNormalize) -> VecNormalize:
    """One whose method was replaced by hand."""
    by_hand: Any = vec_normalize
    by_hand.normalize_obs = _half
    return vec_normalize
