"""Train PPO on CartPole, and play the policy from its .zip and from its .onnx.

Writes ``runs/cartpole/best_model.zip``, ``best_model.onnx`` and, for consumers that prove themselves,
``best_model.vectors.json``.
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy

FOLDER = Path("runs/cartpole")
N_EPISODES = 20


def train() -> None:
    """Train, with one more argument than usual."""
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=1),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gae_lambda=0.8,
        gamma=0.98,
        learning_rate=lambda progress: 1e-3 * progress,
        clip_range=lambda progress: 0.2 * progress,
        seed=1,
        device="cpu",
    )
    callback = OnnxCheckpointCallback(
        FOLDER,
        eval_env=Monitor(gym.make("CartPole-v1")),
        eval_freq=625,
        n_eval_episodes=20,
        callback_on_new_best=StopTrainingOnRewardThreshold(500, verbose=1),
        options=ExportOptions(test_vectors=16),
        verbose=1,
    )
    model.learn(100_000, callback=callback)
    print(callback.reports[-1].validation)


def play(policy: PPO | OnnxPolicy) -> list[float]:
    """Returns of seeded episodes."""
    env = gym.make("CartPole-v1")
    returns = []
    for seed in range(N_EPISODES):
        observation, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action, _ = policy.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def main() -> None:
    """Train, then play with both files."""
    train()
    from_zip = play(PPO.load(FOLDER / "best_model.zip", device="cpu"))
    from_onnx = play(OnnxPolicy(FOLDER / "best_model.onnx"))
    print(f"best_model.zip  : mean return {np.mean(from_zip):.1f} over {N_EPISODES} episodes")
    print(f"best_model.onnx : mean return {np.mean(from_onnx):.1f} over {N_EPISODES} episodes")
    if from_zip != from_onnx:
        raise SystemExit(f"The returns differ: {from_zip} and {from_onnx}")
    print("The returns are identical, episode by episode.")


if __name__ == "__main__":
    main()
