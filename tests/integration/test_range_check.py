"""The range check of policies that were really trained: what it finds, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy
from sb3_clanker.writers.onnx import OnnxWriter
from tests.worlds import UNBOUNDED_OBSERVATION, make_model

OUTSIDE = ExportOptions(further_outputs=("outside",))
Fault = Callable[[NDArray[Any]], NDArray[Any]]


def test_a_checkpoint_takes_new_bounds_and_is_not_traced_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces, trace = [], OnnxWriter.trace

    def counted(*args: Any) -> Any:
        traces.append(args)
        return trace(*args)

    monkeypatch.setattr(OnnxWriter, "trace", counted)
    model = make_model(PPO, UNBOUNDED_OBSERVATION, normalize=True)
    model.learn(96, callback=OnnxCheckpointCallback(tmp_path, save_freq=16, options=OUTSIDE, on_error="raise"))
    assert len(traces) == 1
    lows, counts = [], []
    for steps in range(16, 97, 16):
        policy = OnnxPolicy(tmp_path / f"rl_model_{steps}_steps.onnx")
        ranges = policy.metadata.observation_ranges
        assert ranges is not None
        assert ranges.margin == 0.1
        low, high = np.array(ranges.ranges[0].minimum), np.array(ranges.ranges[0].maximum)
        margin = 0.1 * (high - low)
        counts.append(ranges.n_observations)
        lows.append(low)
        observations = np.stack([low, high, low - 0.99 * margin, high + 0.99 * margin, low - 1.01 * margin])
        outside = policy.outputs(observations)["outside"]
        assert outside.tolist() == [[row == 4] * 3 for row in range(5)]
    assert counts == sorted(set(counts))
    assert (np.diff(lows, axis=0) <= 0).all()
    assert (lows[-1] < lows[0]).any()


# What it finds --------------------------------------------------------------------------------------------------------


def _in_degrees(component: int) -> Fault:
    def fault(observation: NDArray[Any]) -> NDArray[Any]:
        observation[component] = np.degrees(observation[component])
        return observation

    return fault


def _stuck(observation: NDArray[Any]) -> NDArray[Any]:
    observation[-1] = 0.01
    return observation


def _dead(observation: NDArray[Any]) -> NDArray[Any]:
    return observation * 0.0


def _outside(path: Path, env: gym.Env[Any, Any], fault: Fault = lambda observation: observation) -> list[list[bool]]:
    """Of each step of some episodes, whether anything is outside, where the policy acts on a sensor with a fault."""
    policy, episodes = OnnxPolicy(path), []
    for seed in range(10):
        observation, _ = env.reset(seed=10_000 + seed)
        steps: list[bool] = []
        over = False
        while not over:
            felt = fault(observation.copy()).astype(np.float32)
            steps.append(bool(policy.outputs(felt)["outside"].any()))
            observation, _, terminated, truncated, _ = env.step(policy.predict(felt)[0])
            over = terminated or truncated
        episodes.append(steps)
    return episodes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "env_id", "n_steps"), [(PPO, "CartPole-v1", 40_000), (SAC, "Pendulum-v1", 5_000)]
)
def test_finds_degrees_and_not_what_is_stuck_or_dead(
    algorithm: type[BaseAlgorithm], env_id: str, n_steps: int, tmp_path: Path
) -> None:
    model = algorithm("MlpPolicy", env_id, seed=0, device="cpu")  # type: ignore[call-arg]
    model.learn(n_steps, callback=OnnxCheckpointCallback(tmp_path, options=OUTSIDE, on_error="raise"))
    path, env = tmp_path / "final_model.onnx", gym.make(env_id)
    for fault in (_stuck, _dead):
        assert np.mean(np.concatenate(_outside(path, env, fault))) < 0.05
    assert not np.concatenate(_outside(path, env)).any()
    in_degrees = _outside(path, env, _in_degrees(-1))
    assert np.mean(np.concatenate(in_degrees)) > 0.4
    assert all(any(steps[:10]) for steps in in_degrees)
