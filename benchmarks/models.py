"""The algorithms that are measured, trained a little, so that their optimizers have a state as in real training."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class Frames(gym.Env[Any, Any]):
    """Random frames of 84 x 84 x 4 in episodes of 100 steps."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(6)

    def __init__(self) -> None:
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._steps = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One more frame."""
        self._steps += 1
        return self._frame(), 0.0, False, self._steps >= 100, {}

    def _frame(self) -> Any:
        return self.np_random.integers(0, 256, (4, 84, 84), dtype=np.uint8)


def ppo_mlp() -> BaseAlgorithm:
    """PPO with the default network of 64 x 64."""
    return PPO("MlpPolicy", "CartPole-v1", n_steps=256, device="cpu", seed=0).learn(256)


class Extractor(BaseFeaturesExtractor):
    """Code of a user, whose hidden state is looked at before each export."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 64)
        self.layers = nn.Sequential(nn.Linear(spaces.flatdim(observation_space), 64), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Features, float32 of shape (batch, 64)."""
        features: th.Tensor = self.layers(observations)
        return features


def ppo_own_extractor() -> BaseAlgorithm:
    """PPO with the default network, behind an extractor of a user's own."""
    policy_kwargs = {"features_extractor_class": Extractor}
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=256, policy_kwargs=policy_kwargs, device="cpu", seed=0)
    return model.learn(256)


def sac() -> BaseAlgorithm:
    """SAC with the default networks of 256 x 256."""
    return SAC("MlpPolicy", "Pendulum-v1", learning_starts=50, buffer_size=1_000, device="cpu", seed=0).learn(100)


def dqn() -> BaseAlgorithm:
    """DQN with the default network of 64 x 64."""
    return DQN("MlpPolicy", "CartPole-v1", learning_starts=50, buffer_size=1_000, device="cpu", seed=0).learn(200)


def ppo_cnn() -> BaseAlgorithm:
    """PPO with NatureCNN on frames of 84 x 84 x 4."""
    return PPO("CnnPolicy", Frames(), n_steps=64, batch_size=32, n_epochs=1, device="cpu", seed=0).learn(64)


def dqn_cnn() -> BaseAlgorithm:
    """DQN with NatureCNN on frames of 84 x 84 x 4."""
    return DQN("CnnPolicy", Frames(), learning_starts=20, buffer_size=200, device="cpu", seed=0).learn(60)
