"""Training with the callback is the training without it, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_clanker import OnnxCheckpointCallback
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model

ALGORITHMS: list[type[BaseAlgorithm]] = [PPO, A2C, SAC, TD3, DQN, TQC, RecurrentPPO, MaskablePPO]
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


def _train(algorithm: type[BaseAlgorithm], callbacks: list[BaseCallback]) -> dict[str, Any]:
    """Everything that training leaves behind."""
    kwargs: dict[str, Any] = {"policy": "MlpLstmPolicy"} if algorithm is RecurrentPPO else {}
    random.seed(0)
    model = make_model(algorithm, **_spaces(algorithm), n_envs=2, normalize=True, **kwargs)
    returns = _Returns()
    model.learn(120, callback=[*callbacks, returns])
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    obs_rms: Any = vec_normalize.obs_rms
    return {
        "parameters": model.get_parameters(),  # of every network and every optimizer
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_of_a_training_changes(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
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
    )
    callback = OnnxCheckpointCallback(
        tmp_path / "ours",
        eval_env=_eval_env(algorithm),
        eval_freq=EVAL_FREQ,
        n_eval_episodes=1,
        save_freq=SAVE_FREQ,
        on_error="raise",
    )
    ours = _train(algorithm, [callback])
    assert len(callback.reports) >= 5
    assert len(theirs["returns"]) >= 4
    _assert_equal(theirs, ours)


def test_the_check_notices_one_draw_from_a_generator(tmp_path: Path) -> None:
    class Draw(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 3:
                th.rand(1)
            return True

    with pytest.raises(AssertionError):
        _assert_equal(_train(PPO, []), _train(PPO, [Draw()]))
