"""The program of examples/python: plays and films an episode without torch, as Stable-Baselines3 plays it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO

from sb3_clanker import OnnxPolicy
from tests.consumers.cartpole import Forgetful, play, recurrent_policy
from tests.consumers.tools import require_module
from tests.worlds import BOX_OBSERVATION, SpacesEnv

SCRIPT = Path(__file__).parents[2] / "examples" / "python" / "run_policy.py"
WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "stable_baselines3", "sb3_contrib", "onnx"):
    sys.modules[name] = None  # an import of it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FRAME = 20
"""Milliseconds that CartPole shows a frame."""


@pytest.fixture(autouse=True)
def _tools() -> None:
    require_module("PIL", "pip install pillow")
    require_module("pygame", "pip install pygame-ce")


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _assert_films(gif: Path, steps: int) -> None:
    """One frame at the start and one after each step; equal ones are one frame that is shown for longer."""
    from PIL import Image

    with Image.open(gif) as image:
        assert image.format == "GIF"
        durations, frames = [], []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            durations.append(image.info["duration"])
            frames.append(np.asarray(image.convert("RGB")))
    assert sum(durations) == (steps + 1) * FRAME
    assert frames[0].shape == (400, 600, 3)
    assert (frames[0] < 50).all(axis=2).sum() > 1000  # the cart is black
    assert (frames[0] != frames[-1]).any()


@pytest.mark.parametrize("seed", [0, 3])
def test_plays_what_stable_baselines3_plays(policies: Path, tmp_path: Path, seed: int) -> None:
    gif = tmp_path / "episode.gif"
    done = _run(policies / "cartpole.onnx", "--env", "CartPole-v1", "--seed", seed, "--output", gif)
    assert done.returncode == 0, done.stderr
    total, steps = play(PPO.load(policies / "cartpole-run/final_model.zip", device="cpu"), seed=seed)
    assert done.stdout == f"return {total:g}, {steps} steps, {gif}\n"
    _assert_films(gif, steps)


def test_plays_a_recurrent_policy(tmp_path: Path) -> None:
    model = recurrent_policy(tmp_path / "recurrent.onnx")
    gif = tmp_path / "episode.gif"
    done = _run(tmp_path / "recurrent.onnx", "--env", "CartPole-v1", "--output", gif)
    assert done.returncode == 0, done.stderr
    total, steps = play(model, seed=0)
    policy = OnnxPolicy(tmp_path / "recurrent.onnx")
    assert all(play(Forgetful(policy, half), seed=0) != (total, steps) for half in (0, 1))
    assert done.stdout == f"return {total:g}, {steps} steps, {gif}\n"
    _assert_films(gif, steps)


class _MaskedEnv(SpacesEnv):
    """What is not allowed is an error."""

    def __init__(self) -> None:
        super().__init__(BOX_OBSERVATION, spaces.MultiDiscrete([3, 4]))
        self.allowed: NDArray[Any] = np.array([])
        self.n_rendered = 0

    def action_masks(self) -> NDArray[Any]:
        self.allowed = super().action_masks()
        return self.allowed

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.allowed[action[0]]
        assert self.allowed[3 + action[1]]
        return super().step(action)

    def render(self) -> Any:
        self.n_rendered += 1
        return self.n_rendered


def test_asks_the_environment_what_is_allowed(policies: Path) -> None:
    example: Any = importlib.import_module("examples.python.run_policy")
    total, frames = example.play(OnnxPolicy(policies / "masked.onnx"), _MaskedEnv(), seed=0)
    assert total != 0.0
    assert frames == list(range(1, 22))


@pytest.mark.parametrize(
    ("kind", "env", "message"),
    [
        ("missing", "CartPole-v1", "missing.onnx"),
        ("cartpole", "NoSuchEnv-v1", "`NoSuchEnv` doesn't exist"),
        ("box", "CartPole-v1", r"must have the shape \(3,\)"),
    ],
)
def test_says_what_went_wrong(policies: Path, tmp_path: Path, kind: str, env: str, message: str) -> None:
    done = _run(policies / f"{kind}.onnx", "--env", env, "--output", tmp_path / "episode.gif")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(rf"^error: .*{message}", done.stderr, re.MULTILINE), done.stderr
    assert not (tmp_path / "episode.gif").exists()


def test_wrong_usage(policies: Path) -> None:
    done = _run(policies / "cartpole.onnx")
    assert done.returncode == 2
    assert "--env" in done.stderr
