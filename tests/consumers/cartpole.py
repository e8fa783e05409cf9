"""A recurrent policy of CartPole, for the examples that play it, and what Stable-Baselines3 itself plays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_clanker import OnnxPolicy, export_policy
from tests.worlds import make_model, spread


def recurrent_policy(path: Path) -> BaseAlgorithm:
    """Write an untrained recurrent policy, whose actions depend on its state.

    :param path: where to write it
    :return: the algorithm that it is of
    """
    from sb3_contrib import RecurrentPPO

    env = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))])
    model = make_model(RecurrentPPO, policy="MlpLstmPolicy", env=env)
    spread(model, seed=4)  # with most others, the action depends on the last observation alone
    export_policy(model, path)
    return model


class Forgetful:
    """A recurrent policy that loses one half of its state at each step, to show that the other half is not enough."""

    def __init__(self, policy: OnnxPolicy, half: int) -> None:
        self._policy, self._half = policy, half

    def predict(self, observation: Any, state: Any, **kwargs: Any) -> Any:
        """As that of the policy."""
        if state is not None:
            state = tuple(part * (index != self._half) for index, part in enumerate(state))
        return self._policy.predict(observation, state=state, **kwargs)


def play(predictor: Any, *, seed: int = 0, start: tuple[float, ...] | None = None) -> tuple[float, int]:
    """Play an episode of CartPole.

    :param predictor: an algorithm, or a policy file
    :param seed: seed of the environment
    :param start: state that it starts from in place of the seed's
    :return: return and length
    """
    env: Any = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=seed)
    if start is not None:
        env.unwrapped.state = np.array(start)
        observation = np.array(start, dtype=np.float32)
    total, steps, state, done = 0.0, 0, None, False
    while not done:
        action, state = predictor.predict(
            observation, state=state, episode_start=np.array([steps == 0]), deterministic=True
        )
        observation, reward, terminated, truncated, _ = env.step(action)
        total, steps, done = total + reward, steps + 1, terminated or truncated
    return total, steps
