"""Policies as the callback writes them in a real training, each with its test vectors, for consumers to prove."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy, read_metadata
from sb3_clanker.options import FurtherOutput
from sb3_clanker.targets.target import TargetName
from tests.worlds import BOX_OBSERVATION, UNBOUNDED_OBSERVATION, make_model

IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
GRID = spaces.Box(-1.0, 1.0, (2, 2))
DICT = spaces.Dict({"image": IMAGE, "joints": BOX_OBSERVATION, "gear": spaces.Discrete(4)})


def _box() -> BaseAlgorithm:
    return make_model(PPO, normalize=True)


def _cartpole() -> BaseAlgorithm:
    env = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))])
    return PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0, device="cpu")


def _image() -> BaseAlgorithm:
    return make_model(DQN, IMAGE, spaces.Discrete(4), policy="CnnPolicy")


def _camera() -> BaseAlgorithm:
    return make_model(PPO, IMAGE, policy="CnnPolicy")


def _dict() -> BaseAlgorithm:
    return make_model(SAC, DICT, policy="MultiInputPolicy")


def _outside() -> BaseAlgorithm:
    return make_model(PPO, spaces.Dict({"arm": UNBOUNDED_OBSERVATION, "grid": GRID}), policy="MultiInputPolicy")


def _recurrent() -> BaseAlgorithm:
    from sb3_contrib import RecurrentPPO

    return make_model(RecurrentPPO, policy="MlpLstmPolicy")


def _masked() -> BaseAlgorithm:
    from sb3_contrib import MaskablePPO

    return make_model(MaskablePPO, action_space=spaces.MultiDiscrete([3, 4]))


KINDS: Mapping[str, Any] = {
    "box": _box,
    "cartpole": _cartpole,
    "image": _image,
    "camera": _camera,
    "dict": _dict,
    "outside": _outside,
    "recurrent": _recurrent,
    "masked": _masked,
}
"""Kinds of policies, by the name of their files."""
TARGETS: Mapping[str, TargetName] = {"camera": "clankers"}
"""The programs for which some of them are made."""

FURTHER_OUTPUTS: Mapping[str, tuple[FurtherOutput, ...]] = {"outside": ("outside",)}
"""What some of them give beside the action."""


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``{kind}.onnx`` and ``{kind}.vectors.json`` for each of :data:`KINDS`."""
    folder = tmp_path_factory.mktemp("policies")
    for kind, make in KINDS.items():
        run = folder / f"{kind}-run"
        further = FURTHER_OUTPUTS.get(kind, ())
        options = ExportOptions(test_vectors=16, target=TARGETS.get(kind), further_outputs=further)
        callback = OnnxCheckpointCallback(run, options=options, on_error="raise")
        make().learn(64, callback=callback)
        for name in ("onnx", "vectors.json"):
            (run / f"final_model.{name}").rename(folder / f"{kind}.{name}")
    return folder


@pytest.fixture(scope="session")
def on_the_bounds(policies: Path) -> Path:
    """Vectors of ``outside.onnx`` on the bounds of what training saw and right beyond, by numpy from its record."""
    metadata = read_metadata(policies / "outside.onnx")
    ranges = metadata.observation_ranges
    assert ranges is not None
    document = json.loads((policies / "outside.vectors.json").read_text())
    policy, cases = OnnxPolicy(policies / "outside.onnx"), []
    for end, sign in (("minimum", -1.0), ("maximum", 1.0)):
        inside, beyond = {}, {}
        for spec, seen in zip(metadata.inputs, ranges.ranges, strict=True):
            slack = 0.1 * (np.array(seen.maximum) - np.array(seen.minimum))
            bound = np.array(getattr(seen, end)) + sign * slack
            rounded = bound.astype(np.float32)
            too_near = sign * (rounded - bound) < 0
            inside[spec.name] = np.where(too_near, np.nextafter(rounded, np.float32(sign * np.inf)), rounded)
            beyond[spec.name] = np.nextafter(inside[spec.name], np.float32(sign * np.inf))
        for observation, is_outside in ((inside, 0.0), (beyond, 1.0)):
            shaped = {spec.name: observation[spec.name].reshape(1, *spec.shape[1:]) for spec in metadata.inputs}
            outputs = policy.run(shaped)
            outputs["outside"] = np.full((1, 7), is_outside)
            given, expected = (
                {name: array.reshape(-1).astype(float).tolist() for name, array in arrays.items()}
                for arrays in (shaped, outputs)
            )
            cases.append({"inputs": given, "outputs": expected})
    path = policies / "on_the_bounds.vectors.json"
    path.write_text(json.dumps({**document, "cases": cases}))
    return path
