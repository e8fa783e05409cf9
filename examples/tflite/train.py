"""Train for one of the games with the callback, and keep what the training saw.

    python train.py pendulum runs/tflite/pendulum

writes ``final_model.zip``, ``.onnx`` and statistics there, and ``observations.npy``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from games import Catch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import OnnxCheckpointCallback

SAMPLES = 500
"""How many times observations are kept."""


def _cartpole() -> BaseAlgorithm:
    return PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=4, seed=0), n_steps=256, seed=0, device="cpu")


def _pendulum() -> BaseAlgorithm:
    env = VecNormalize(make_vec_env("Pendulum-v1", seed=1), norm_reward=False)
    return SAC("MlpPolicy", env, learning_rate=1e-3, policy_kwargs={"net_arch": [64, 64]}, seed=1, device="cpu")


def _catch() -> BaseAlgorithm:
    env = make_vec_env(Catch, n_envs=8, seed=0)
    return PPO("CnnPolicy", env, n_steps=64, batch_size=128, n_epochs=4, learning_rate=5e-4, seed=0, device="cpu")


TRAININGS: Mapping[str, tuple[Callable[[], BaseAlgorithm], int]] = {
    "cartpole": (_cartpole, 30_000),
    "pendulum": (_pendulum, 12_000),
    "catch": (_catch, 60_000),
}
"""By the name of the game: the algorithm, and for how many timesteps it trains."""


class Seen(BaseCallback):
    """Raw observations that a training sees, one in so many steps."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self._every = every
        self.observations: list[Any] = []

    def _on_step(self) -> bool:
        if self.n_calls % self._every == 0:
            vec_normalize = self.model.get_vec_normalize_env()
            self.observations.append(vec_normalize.get_original_obs() if vec_normalize else self.locals["new_obs"])
        return True


def train(game: str, folder: Path) -> None:
    """Train for a game, and write what the program says."""
    make, timesteps = TRAININGS[game]
    model = make()
    seen = Seen(every=timesteps // model.n_envs // SAMPLES)
    export = OnnxCheckpointCallback(folder, save_final=True, overwrite=True, on_error="raise")
    model.learn(timesteps, [export, seen])
    np.save(folder / "observations.npy", np.concatenate(seen.observations))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("game", choices=TRAININGS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    train(arguments.game, arguments.folder)
