"""The support table: what is exported and proven, in the tests and in the README."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from tests.worlds import BOX_ACTION, BOX_OBSERVATION, LARGE_ACTION, MATRIX_ACTION, UNBOUNDED_OBSERVATION

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
VECTOR_AND_IMAGE: dict[str, spaces.Space[Any]] = {"camera": IMAGE, "joints": spaces.Box(-3.0, 3.0, (4,))}

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "Box": BOX_OBSERVATION,
    "unbounded Box": UNBOUNDED_OBSERVATION,
    "Box float64": spaces.Box(-2.0, 2.0, (3,), np.float64),
    "Box (2, 3)": spaces.Box(-2.0, 2.0, (2, 3), np.float32),
    "integer Box": spaces.Box(-5, 9, (3,), np.int32),
    "image": IMAGE,
    "image, channels last": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "float image": spaces.Box(0.0, 1.0, (3, 36, 36), np.float32),
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(4),
    "Dict": spaces.Dict(VECTOR_AND_IMAGE),
    "Dict of anything": spaces.Dict(
        {
            "action": spaces.Box(-1.0, 1.0, (2,)),
            "two words": spaces.Discrete(3),
            "two-words": spaces.MultiDiscrete([2, 2]),
            "bits": spaces.MultiBinary(2),
            "matrix": spaces.Box(-1.0, 1.0, (2, 2)),
        }
    ),
    "goal": spaces.Dict({key: spaces.Box(-1.0, 1.0, (2,)) for key in ("achieved_goal", "desired_goal", "observation")}),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "Box": BOX_ACTION,
    "large Box": LARGE_ACTION,
    "Box (2, 3)": MATRIX_ACTION,
    "Box float64": spaces.Box(np.array([-0.1, -0.7]), np.array([0.1, 1.3]), dtype=np.float64),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "MultiBinary": spaces.MultiBinary(3),
}

_POLICIES = {"image": "CnnPolicy", "image, channels last": "CnnPolicy", "float image": "CnnPolicy"}
_DICTS = ("Dict", "Dict of anything", "goal")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the support table."""

    algorithm: str
    action: str
    observation: str = "Box"
    wrapper: str = ""
    variant: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [self.algorithm, self.variant, self.observation, self.action, self.wrapper]
        return "-".join(part.replace(" ", "").replace(",", "") for part in parts if part)

    @property
    def policy(self) -> str:
        """The policy's alias in Stable-Baselines3."""
        kind = "MultiInputPolicy" if self.observation in _DICTS else _POLICIES.get(self.observation, "MlpPolicy")
        return kind.replace("Policy", "LstmPolicy") if self.algorithm == "RecurrentPPO" else kind


def _cases() -> list[Case]:
    boxes = ["Box", "large Box", "Box (2, 3)"]
    every = [*boxes, "Discrete", "MultiDiscrete", "MultiBinary"]
    actions = {
        "PPO": [*every, "Box float64"],
        "A2C": every,
        "TRPO": every,
        "ARS": [*boxes, "Discrete"],
        "SAC": [*boxes, "Box float64"],
        "TD3": boxes,
        "DDPG": boxes,
        "TQC": boxes,
        "CrossQ": boxes,
        "DQN": ["Discrete"],
        "QRDQN": ["Discrete"],
        "MaskablePPO": ["Discrete", "MultiDiscrete", "MultiBinary"],
        "RecurrentPPO": ["Box", "Discrete"],
    }
    cases = [Case(algorithm=name, action=action) for name, supported in actions.items() for action in supported]
    usual = {name: "Discrete" if "Box" not in supported else "Box" for name, supported in actions.items()}

    for name in ("PPO", "A2C", "SAC", "TD3", "DQN", "TQC", "QRDQN", "CrossQ", "RecurrentPPO", "MaskablePPO", "ARS"):
        cases.append(Case(algorithm=name, action=usual[name], observation="unbounded Box", wrapper="VecNormalize"))
    for name in ("PPO", "DQN", "SAC", "TQC", "QRDQN", "MaskablePPO", "RecurrentPPO"):
        cases.append(Case(algorithm=name, action=usual[name], observation="image"))
        cases.append(Case(algorithm=name, action=usual[name], observation="Dict"))
    for observation in OBSERVATIONS:
        if observation not in ("Box", "image", "Dict", "float image"):
            cases.append(Case(algorithm="PPO", action="MultiDiscrete", observation=observation))
    for name in ("SAC", "DQN", "TD3"):
        cases.append(Case(algorithm=name, action=usual[name], observation="image, channels last"))
        cases.append(Case(algorithm=name, action=usual[name], observation="Dict of anything", wrapper="3 environments"))
    for name in ("SAC", "TD3", "DQN", "TQC"):
        cases.append(Case(algorithm=name, action=usual[name], observation="goal", variant="HER"))
    cases.append(Case(algorithm="SAC", action="Box", observation="goal", variant="HER", wrapper="VecNormalize"))

    gsde = {"use_sde": True}
    for name in ("PPO", "A2C", "SAC", "TQC"):
        cases.append(Case(algorithm=name, action="Box", variant="gSDE", kwargs=gsde))
    squashed = gsde | {"policy_kwargs": {"squash_output": True}}
    cases.append(Case(algorithm="PPO", action="large Box", variant="squash_output", kwargs=squashed))
    for variant, policy_kwargs in {
        "shared LSTM": {"shared_lstm": True, "enable_critic_lstm": False},
        "no critic LSTM": {"enable_critic_lstm": False},
        "two LSTM layers": {"n_lstm_layers": 2},
    }.items():
        cases.append(
            Case(algorithm="RecurrentPPO", action="Box", variant=variant, kwargs={"policy_kwargs": policy_kwargs})
        )
    separate = {"policy_kwargs": {"share_features_extractor": False}}
    cases.append(
        Case(algorithm="PPO", action="Box", observation="Dict", variant="separate extractors", kwargs=separate)
    )
    unscaled = {"policy_kwargs": {"normalize_images": False}, "scale": 0.1}  # pixels of 255 make large sums
    cases += [
        Case(algorithm="PPO", action="Box", observation="image", variant="normalize_images=False", kwargs=unscaled),
        Case(algorithm="PPO", action="Box", observation="float image", kwargs=unscaled),
        Case(algorithm="PPO", action="Box", observation="image", wrapper="VecNormalize", kwargs=unscaled),
        Case(algorithm="PPO", action="Box", observation="Dict", wrapper="VecNormalize of some keys"),
        Case(algorithm="SAC", action="Box", observation="Dict", wrapper="VecNormalize of some keys"),
        Case(algorithm="PPO", action="Box", wrapper="VecNormalize with norm_obs=False"),
        Case(algorithm="DQN", action="Discrete", kwargs={"optimize_memory_usage": True}, variant="less memory"),
        Case(algorithm="PPO", action="Box", wrapper="3 environments"),
        Case(algorithm="SAC", action="Box", wrapper="VecMonitor"),
        Case(algorithm="PPO", action="Box", wrapper="SubprocVecEnv"),
        Case(algorithm="PPO", action="Box", wrapper="VecFrameStack"),
        Case(algorithm="DQN", action="Discrete", observation="image", wrapper="VecFrameStack"),
        Case(algorithm="SAC", action="Box", observation="unbounded Box", wrapper="VecNormalize of VecFrameStack"),
        Case(algorithm="PPO", action="Box", observation="unbounded Box", wrapper="VecFrameStack of VecNormalize"),
        Case(algorithm="A2C", action="Discrete", observation="image, channels last", wrapper="VecFrameStack"),
    ]
    return cases


CASES = _cases()


def support_table() -> str:
    """The table as it stands in the README, in Markdown."""
    rows: dict[str, dict[str, dict[str, None]]] = {}
    for case in CASES:
        row = rows.setdefault(case.algorithm, {"observations": {}, "actions": {}, "also": {}})
        row["observations"][case.observation] = None
        row["actions"][case.action] = None
        for also in (case.variant, case.wrapper):
            if also:
                row["also"][also] = None
    lines = ["| algorithm | observations | actions | also with |", "| --- | --- | --- | --- |"]
    for name in sorted(rows, key=str.lower):
        cells = ["; ".join(sorted(rows[name][column], key=str.lower)) for column in ("observations", "actions", "also")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
