"""Play one episode with a policy file and film it, without torch: numpy, onnxruntime, gymnasium and Pillow are enough.

python run_policy.py best_model.onnx --env CartPole-v1 --seed 0 --output episode.gif
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from sb3_clanker import ClankerError, OnnxPolicy


def play(policy: OnnxPolicy, env: gym.Env[Any, Any], seed: int) -> tuple[float, list[Any]]:
    """Play one episode.

    :param policy: the policy
    :param env: the raw environment: what normalizes is in the policy
    :param seed: seed of the environment
    :return: the return, and what ``env.render()`` gave at the start and after each step
    """
    maskable = any(spec.name == "action_masks" for spec in policy.metadata.inputs)
    observation, _ = env.reset(seed=seed)
    frames = [env.render()]
    total, state, done = 0.0, None, False
    while not done:
        action, state = policy.predict(
            observation,
            state=state,  # a recurrent policy's memory; None, and ignored, for any other
            episode_start=np.array([state is None]),
            action_masks=env.get_wrapper_attr("action_masks")() if maskable else None,
        )
        observation, reward, terminated, truncated, _ = env.step(action)
        frames.append(env.render())
        total, done = total + float(reward), terminated or truncated
    return total, frames


def write_gif(frames: list[Any], path: Path, fps: float) -> None:
    """Write frames, uint8 of shape (height, width, 3), as an animation.

    A GIF counts in hundredths of a second, and Pillow shows a frame that equals the one before it by a longer pause.
    """
    images = [Image.fromarray(frame).quantize() for frame in frames]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps, -1), loop=0)


def main() -> None:
    """Play, film and report."""
    parser = argparse.ArgumentParser(description="Play one episode with a policy file, and film it.")
    parser.add_argument("policy", type=Path, metavar="POLICY.onnx")
    parser.add_argument("--env", required=True, help="id of a gymnasium environment, such as CartPole-v1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("episode.gif"))
    arguments = parser.parse_args()
    try:
        policy = OnnxPolicy(arguments.policy)
        env = gym.make(arguments.env, render_mode="rgb_array")
        total, frames = play(policy, env, arguments.seed)
    except (ClankerError, gym.error.Error) as error:
        raise SystemExit(f"error: {error}") from None
    write_gif(frames, arguments.output, env.metadata["render_fps"])
    env.close()
    print(f"return {total:g}, {len(frames) - 1} steps, {arguments.output}")


if __name__ == "__main__":
    main()
