"""Environments that gymnasium makes by an id, in which each action counts."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

BALL = "tests/Ball-v0"
DOORS = "tests/Doors-v0"
SCREEN = "tests/Screen-v0"
PARTS = "tests/Parts-v0"
BLIND = "tests/Blind-v0"
LIMIT = 25


class Game(gym.Env[Any, Any]):
    """The reward is large where the action is near a place that moves by itself, as the observation tells."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, drift: float = 0.1, render_mode: str | None = None) -> None:
        self.drift, self.render_mode = drift, render_mode
        self.places = np.zeros(2)
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.places = self.np_random.normal(2.0, 3.0, 2)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.reward(action)
        self.places += self.np_random.normal(self.drift, 1.0, 2)
        return self.observe(), reward, bool(abs(self.places[0]) > 9.0), False, {}

    def observe(self) -> Any:
        return self.places.astype(np.float32)

    def reward(self, action: Any) -> float:
        assert action.shape == self.action_space.shape
        return -float(abs(self.places[0] / 5.0 - action[0]))

    def render(self) -> Any:
        return np.full((8, 12, 3), int(abs(self.places[0]) * 20) % 256, np.uint8)

    def close(self) -> None:
        self.closed = True


class Ball(Game):
    observation_space = spaces.Box(np.array([-np.inf, -9.0], np.float32), np.array([np.inf, 40.0], np.float32))


class Doors(Game):
    """Choices, some of which are not allowed."""

    observation_space = Ball.observation_space
    action_space = spaces.MultiDiscrete([3, 2])

    def reward(self, action: Any) -> float:
        assert self.action_masks()[[action[0], 3 + action[1]]].all()
        return float(action[0] * self.places[0] - action[1])

    def action_masks(self) -> Any:
        return np.array([True, self.places[0] > 2.0, self.places[1] > 2.0, self.places[0] > 1.0, True])


class Screen(Game):
    """A picture, its channels last."""

    observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = spaces.Discrete(4)

    def observe(self) -> Any:
        screen = np.zeros((36, 40, 3), np.uint8)
        row, column = (np.clip(self.places, 0, 9) * 2).astype(int)
        screen[row : row + 12, column : column + 12] = (255, 80, 160)
        return screen

    def reward(self, action: Any) -> float:
        assert type(action) is np.int64
        return float(action * self.places[1])


class Parts(Game):
    """A vector and a picture."""

    observation_space = spaces.Dict({"place": Ball.observation_space, "screen": Screen.observation_space})

    def observe(self) -> Any:
        return {"place": super().observe(), "screen": Screen.observe(self)}  # type: ignore[arg-type]


class Blind(Ball):
    """It does not draw, and takes no word of it."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()


for env_id, game in {BALL: Ball, DOORS: Doors, SCREEN: Screen, PARTS: Parts, BLIND: Blind}.items():
    gym.register(env_id, f"tests.play.games:{game.__name__}", max_episode_steps=LIMIT)
