"""Train SAC on Pendulum with normalized observations, and feed the .onnx raw ones.

Writes ``runs/pendulum/best_model.zip``, ``.onnx`` and ``best_model_vecnormalize.pkl``, all of the same instant.
"""

from pathlib import Path

import gymnasium as gym
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import OnnxCheckpointCallback, OnnxPolicy

FOLDER = Path("runs/pendulum")


def main() -> None:
    """Train, then evaluate the file on the raw environment."""
    model = SAC(
        "MlpPolicy",
        VecNormalize(make_vec_env("Pendulum-v1", seed=1), norm_reward=False),
        learning_rate=1e-3,
        policy_kwargs={"net_arch": [64, 64]},
        seed=1,
        device="cpu",
    )
    eval_env = VecNormalize(make_vec_env("Pendulum-v1", seed=2), training=False, norm_reward=False)
    callback = OnnxCheckpointCallback(FOLDER, eval_env=eval_env, eval_freq=1_000, verbose=1)
    model.learn(6_000, callback=callback)
    print(callback.reports[-1].validation)

    policy = OnnxPolicy(FOLDER / "best_model.onnx")
    mean, deviation = evaluate_policy(policy, Monitor(gym.make("Pendulum-v1")), n_eval_episodes=10)
    print(f"best_model.onnx on raw observations: mean return {mean:.1f} +/- {deviation:.1f}")


if __name__ == "__main__":
    main()
