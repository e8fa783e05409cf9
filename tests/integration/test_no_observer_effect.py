"""Training with the callback is the training without it, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

from sb3_clanker import ExportOptions, OnnxCheckpointCallback
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model

ALGORITHMS: list[type[BaseAlgorithm]] = [PPO, A2C, SAC, TD3, DQN, TQC, CrossQ, RecurrentPPO, MaskablePPO]
EVAL_FREQ, SAVE_FREQ = 20, 15


class _Returns(BaseCallback):
    """Collects what the monitors report."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[tuple[float, int]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.returns.append((info["episode"]["r"], info["episode"]["l"]))
        return True


def _spaces(algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    discrete = algorithm in (DQN, MaskablePPO)
    return {"observation_space": BOX_OBSERVATION, "action_space": spaces.Discrete(3) if discrete else BOX_ACTION}


def _eval_env(algorithm: type[BaseAlgorithm]) -> VecEnv:
    env = make_env(**_spaces(algorithm))
    env.seed(11)
    return VecNormalize(env, training=False, norm_reward=False)


class _Noisy(BaseFeaturesExtractor):
    """Draws noise in every prediction, and uses it in training; the annealing of it counts the predictions."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 8)
        self.layer = nn.Linear(3, 8)
        self.register_buffer("n_calls", th.zeros(()))
        self.n_rows = 0

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.get_buffer("n_calls").add_(1)
        self.n_rows += observations.shape[0]
        noise = 0.1 * th.randn(8) + float(0.01 * np.random.randn() + 0.01 * random.random())  # noqa: NPY002, S311
        features: th.Tensor = self.layer(observations)
        if not self.training:
            return features
        return features + noise / (1 + 0.01 * self.get_buffer("n_calls") + 0.001 * self.n_rows)


class _Normalizing(BaseFeaturesExtractor):
    """Keeps running statistics of all that it sees, in evaluation mode too, and normalizes in training by them."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 3)
        self.norm = nn.BatchNorm1d(3)
        self.running_mean, self.history = th.zeros(3), [0.0]

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.running_mean = 0.99 * self.running_mean + 0.01 * observations.detach().mean(dim=0)
        self.history.append(self.history[-1] + 1.0)
        if not self.training:
            return observations
        normalized: th.Tensor = self.norm(observations - self.running_mean / self.history[-1])
        return normalized


def _train(
    algorithm: type[BaseAlgorithm],
    callbacks: list[BaseCallback],
    extractor: type[BaseFeaturesExtractor] | None = None,
) -> dict[str, Any]:
    """Everything that training leaves behind."""
    kwargs: dict[str, Any] = {"policy": "MlpLstmPolicy"} if algorithm is RecurrentPPO else {}
    if extractor is not None:
        kwargs["policy_kwargs"] = {"features_extractor_class": extractor}
    random.seed(0)
    model = make_model(algorithm, **_spaces(algorithm), n_envs=2, normalize=True, stats_window_size=2, **kwargs)
    returns = _Returns()
    model.learn(120, callback=[*callbacks, returns])
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    obs_rms: Any = vec_normalize.obs_rms
    extractor_state: Any = vars(getattr(model.policy, "features_extractor", None) or model.policy)
    return {
        "parameters": model.get_parameters(),  # of every network and every optimizer
        "extractor": [value for value in extractor_state.values() if isinstance(value, (int, float))],
        "torch": th.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        "python": random.getstate(),
        "action space": model.action_space.np_random.bit_generator.state,
        "statistics": (obs_rms.mean.tolist(), vec_normalize.ret_rms.var.tolist()),
        "returns": returns.returns,
        "threads": th.get_num_threads(),
        "training": [module.training for module in model.policy.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.policy.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.policy.parameters()],
    }


def _assert_equal(one: Any, other: Any, path: str = "") -> None:
    if isinstance(one, th.Tensor):
        assert th.equal(one, other), path
    elif isinstance(one, dict):
        assert set(one) == set(other), path
        for key in one:
            _assert_equal(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            _assert_equal(left, right, f"{path}[{index}]")
    else:
        assert one == other, path


@pytest.mark.parametrize(
    ("algorithm", "extractor"),
    [*((algorithm, None) for algorithm in ALGORITHMS), (PPO, _Noisy), (SAC, _Noisy), (PPO, _Normalizing)],
)
def test_nothing_of_a_training_changes(
    algorithm: type[BaseAlgorithm], extractor: type[BaseFeaturesExtractor] | None, tmp_path: Path
) -> None:
    evaluation = MaskableEvalCallback if algorithm is MaskablePPO else EvalCallback
    theirs = _train(
        algorithm,
        [
            evaluation(
                _eval_env(algorithm),
                eval_freq=EVAL_FREQ,
                n_eval_episodes=1,
                best_model_save_path=str(tmp_path / "theirs"),
                verbose=0,
            ),
            CheckpointCallback(SAVE_FREQ, str(tmp_path / "theirs")),
        ],
        extractor,
    )
    callback = OnnxCheckpointCallback(
        tmp_path / "ours",
        eval_env=_eval_env(algorithm),
        eval_freq=EVAL_FREQ,
        n_eval_episodes=1,
        save_freq=SAVE_FREQ,
        on_error="raise",
    )
    ours = _train(algorithm, [callback], extractor)
    assert len(callback.reports) >= 5
    assert len(theirs["returns"]) >= 4
    _assert_equal(theirs, ours)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_nor_by_looking_at_its_rollouts(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, best_of="rollout", eval_freq=5, on_error="raise")
    _assert_equal(_train(algorithm, []), _train(algorithm, [callback]))
    assert callback.reports[0].path.stem == "best_model"


@pytest.mark.parametrize("algorithm", [PPO, SAC, MaskablePPO])
def test_nothing_of_a_training_changes_where_others_are_followed(
    algorithm: type[BaseAlgorithm], tmp_path: Path
) -> None:
    evaluation = MaskableEvalCallback if algorithm is MaskablePPO else EvalCallback
    left = []
    options = ExportOptions(formats=("torchscript",))
    for ours in ([], [OnnxCheckpointCallback(on_error="raise", save_freq=25, options=options)]):
        folder = str(tmp_path / str(len(ours)))
        best = evaluation(
            _eval_env(algorithm), eval_freq=EVAL_FREQ, n_eval_episodes=1, best_model_save_path=folder, verbose=0
        )
        left.append(_train(algorithm, [*ours, best, CheckpointCallback(SAVE_FREQ, folder)], _Noisy))
        left[-1]["best"] = best.best_mean_reward
        assert all(len(callback.reports) >= 5 for callback in ours)
    _assert_equal(left[0], left[1])


def test_the_check_notices_one_draw_from_a_generator(tmp_path: Path) -> None:
    class Draw(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 3:
                th.rand(1)
            return True

    with pytest.raises(AssertionError):
        _assert_equal(_train(PPO, []), _train(PPO, [Draw()]))
