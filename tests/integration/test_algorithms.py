"""Every feed-forward algorithm, on every action space that it supports, exported from inside a running learn()."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import OnnxCheckpointCallback, OnnxPolicy
from sb3_clanker.statistics import load_statistics
from tests.worlds import (
    BOX_ACTION,
    BOX_OBSERVATION,
    LARGE_ACTION,
    MATRIX_ACTION,
    UNBOUNDED_OBSERVATION,
    assert_same_actions,
    make_model,
    predict_raw,
)

ACTIONS: dict[str, spaces.Space[Any]] = {
    "Box": BOX_ACTION,
    "large Box": LARGE_ACTION,
    "Box (2, 3)": MATRIX_ACTION,
    "Box float64": spaces.Box(np.array([-0.1, -0.7]), np.array([0.1, 1.3]), dtype=np.float64),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "MultiBinary": spaces.MultiBinary(3),
}
OBSERVATIONS: dict[str, spaces.Space[Any]] = {"Box": BOX_OBSERVATION, "unbounded": UNBOUNDED_OBSERVATION}


@dataclass(frozen=True, kw_only=True)
class Case:
    algorithm: str
    action: str
    observation: str = "Box"
    normalize: bool = False
    kwargs: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        parts = [self.algorithm, self.action, self.observation, self.note, "VecNormalize" if self.normalize else ""]
        return "-".join(part.replace(" ", "") for part in parts if part)


def _cases() -> list[Case]:
    discrete, box = ["Discrete"], ["Box", "large Box", "Box (2, 3)"]
    every = [*box, "Discrete", "MultiDiscrete", "MultiBinary"]
    supported = {
        "PPO": [*every, "Box float64"],
        "A2C": every,
        "TRPO": every,
        "ARS": [*box, *discrete],
        "SAC": [*box, "Box float64"],
        "TD3": box,
        "DDPG": box,
        "TQC": box,
        "CrossQ": box,
        "DQN": discrete,
        "QRDQN": discrete,
    }
    cases = [Case(algorithm=name, action=action) for name, actions in supported.items() for action in actions]
    for name, action in (("PPO", "Box"), ("PPO", "Discrete"), ("SAC", "Box"), ("DQN", "Discrete"), ("CrossQ", "Box")):
        cases.append(Case(algorithm=name, action=action, observation="unbounded"))
        cases.append(Case(algorithm=name, action=action, observation="unbounded", normalize=True))
    squashed = {"use_sde": True, "policy_kwargs": {"squash_output": True}}
    cases += [
        Case(algorithm="PPO", action="Box", kwargs={"use_sde": True}, note="gSDE"),
        Case(algorithm="A2C", action="Box", kwargs={"use_sde": True}, note="gSDE"),
        Case(algorithm="SAC", action="Box", kwargs={"use_sde": True}, note="gSDE"),
        Case(algorithm="TQC", action="Box", kwargs={"use_sde": True}, note="gSDE"),
        Case(algorithm="PPO", action="Box", kwargs=squashed, note="squash_output"),
        Case(algorithm="PPO", action="large Box", kwargs=squashed, note="squash_output", normalize=True),
    ]
    return cases


@pytest.mark.parametrize("case", _cases(), ids=str)
def test_every_file_equals_its_own_zip(case: Case, tmp_path: Path) -> None:
    algorithm: type[BaseAlgorithm] = getattr(stable_baselines3, case.algorithm, None) or getattr(
        sb3_contrib, case.algorithm
    )
    observation_space, action_space = OBSERVATIONS[case.observation], ACTIONS[case.action]
    model = make_model(algorithm, observation_space, action_space, n_envs=1, normalize=case.normalize, **case.kwargs)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    callback = OnnxCheckpointCallback(tmp_path, save_freq=25, on_error="raise")
    model.learn(60, callback=callback)
    assert any(not th.equal(old, new) for old, new in zip(before, model.policy.parameters(), strict=True))

    checkpoints = [report for report in callback.reports if report.path.name != "final_model.onnx"]
    assert len(checkpoints) >= 2
    for report in (checkpoints[-1], callback.reports[-1]):
        metadata = report.metadata
        assert metadata.provenance.algorithm_file is not None
        saved = algorithm.load(tmp_path / metadata.provenance.algorithm_file.name, device="cpu")
        statistics = metadata.provenance.statistics_file
        assert (statistics is not None) == case.normalize
        vec_normalize = load_statistics(tmp_path / statistics.name) if statistics is not None else None
        expected = assert_same_actions(
            lambda observation, path=report.path: OnnxPolicy(path).predict(observation)[0],  # type: ignore[misc]
            lambda observation, saved=saved, vn=vec_normalize: predict_raw(saved, observation, vn),  # type: ignore[misc]
            observation_space,
            action_space,
        )
        assert len(np.unique(expected.reshape(len(expected), -1), axis=0)) > 1, "the weights tell no actions apart"
