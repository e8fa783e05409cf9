"""What a prediction costs, beside a bare session.run of the same file and Stable-Baselines3's own predict."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks import models
from benchmarks.harness import Row, ratio_row, report, side_by_side
from sb3_clanker import OnnxPolicy, export_policy

REPEATS, INNER = 15, 300


class Drawn(gym.Env[Any, Any]):
    """An environment of any spaces, to be predicted in, not stepped."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def _bare(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _measure(name: str, model: BaseAlgorithm, folder: Path, at_most: float) -> list[Row]:
    path = export_policy(model, folder / "policy.onnx").path
    policy, session = OnnxPolicy(path), _bare(path)
    space = model.observation_space
    one: Any = space.sample()
    many: Any = (
        {key: np.stack([np.asarray(one[key])] * 64) for key in one} if isinstance(one, dict) else np.stack([one] * 64)
    )
    feed = {
        spec.name: np.asarray(one[spec.key] if isinstance(one, dict) else one, dtype=spec.dtype).reshape(
            [1 if dim == "batch" else int(dim) for dim in spec.shape]
        )
        for spec in policy.metadata.inputs
    }
    seconds = side_by_side(
        {
            "bare": lambda: session.run(["action"], feed),
            "ours": lambda: policy.predict(one),
            "theirs": lambda: model.predict(one, deterministic=True),
        },
        REPEATS,
        INNER,
    )
    batch = side_by_side(
        {"ours": lambda: policy.predict(many), "theirs": lambda: model.predict(many, deterministic=True)},
        REPEATS,
        INNER // 3,
    )
    return [
        ratio_row(f"{name}: predict / bare session.run", seconds["ours"], seconds["bare"], at_most=at_most),
        ratio_row(f"{name}: model.predict / predict", seconds["theirs"], seconds["ours"], at_least=12),
        ratio_row(f"{name}: batch of 64, predict / model.predict", batch["ours"], batch["theirs"], at_most=1.0),
    ]


def main() -> None:
    """Measure and report."""
    box = spaces.Box(-1.0, 1.0, (4,))
    dict_space = spaces.Dict({"joints": box, "goal": spaces.Box(-1.0, 1.0, (2,))})
    cases: list[tuple[str, BaseAlgorithm, float]] = [
        ("Box", models.sac(), 1.3),
        ("CartPole", models.ppo_mlp(), 1.5),
        ("Dict", PPO("MultiInputPolicy", Drawn(dict_space, spaces.Box(-1.0, 1.0, (2,))), device="cpu"), 1.5),
        ("Discrete observations", PPO("MlpPolicy", Drawn(spaces.Discrete(9), spaces.Discrete(4)), device="cpu"), 1.5),
    ]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model, at_most in cases:
            rows += _measure(name, model, Path(folder), at_most)
    report("inference", rows)


if __name__ == "__main__":
    main()
