"""What the policies play: CartPole, Pendulum, and a small game of images. It needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SIZE, PADDLE, BALLS = 36, 9, 5


class Catch(gym.Env[Any, Any]):
    """Five balls fall, one after another, and a paddle moves left, stays or moves right; the return counts the caught.

    An observation is an image of 36 x 36 grey bytes, channels first. A ball falls three pixels a step.
    """

    observation_space = spaces.Box(0, 255, (1, SIZE, SIZE), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._paddle, self._balls = SIZE // 2, 0
        self._drop()
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._paddle = int(np.clip(self._paddle + 3 * (int(action) - 1), PADDLE // 2, SIZE - 1 - PADDLE // 2))
        self._row += 3
        if self._row < SIZE - 3:
            return self._draw(), 0.0, False, False, {}
        caught = abs(self._column - self._paddle) <= PADDLE // 2 + 1
        self._balls += 1
        self._drop()
        return self._draw(), float(caught), self._balls >= BALLS, False, {}

    def _drop(self) -> None:
        self._row, self._column = 1, int(self.np_random.integers(1, SIZE - 1))

    def _draw(self) -> Any:
        image = np.zeros((1, SIZE, SIZE), np.uint8)
        image[0, self._row - 1 : self._row + 2, self._column - 1 : self._column + 2] = 255
        image[0, SIZE - 3 :, self._paddle - PADDLE // 2 : self._paddle + PADDLE // 2 + 1] = 180
        return image


GAMES: Mapping[str, Callable[[], gym.Env[Any, Any]]] = {
    "cartpole": lambda: gym.make("CartPole-v1"),
    "pendulum": lambda: gym.make("Pendulum-v1"),
    "catch": Catch,
}
"""By name: what makes an environment."""


def play(predict: Callable[[Any], Any], env: gym.Env[Any, Any], n_episodes: int) -> list[float]:
    """The returns of episodes on the seeds 0, 1, 2, ...

    :param predict: the action for an observation
    """
    returns = []
    for seed in range(n_episodes):
        observation, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(predict(observation))
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return returns
