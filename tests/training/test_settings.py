"""What would fail in hours, or never write anything, shows before the first step."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_clanker import OnnxCheckpointCallback
from sb3_clanker.errors import OptionError
from sb3_clanker.training.settings import require_alike
from tests.checkpoints import NoExporter
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model

IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_clanker.training.callback.Exporter", NoExporter)


def _env(observation: spaces.Space[Any] = BOX_OBSERVATION, action: spaces.Space[Any] = BOX_ACTION) -> VecEnv:
    return make_env(observation, action)


def _normalized(env: VecEnv) -> VecNormalize:
    return VecNormalize(env, training=False)


# Environments for evaluations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "eval_env", "match"),
    [
        (_normalized(_env()), _env(), "wrapped in VecNormalize, as that of the training is"),
        (_env(), _normalized(_env()), "wrapped in no VecNormalize, as that of the training is"),
        (_normalized(VecFrameStack(_env(), 2)), VecFrameStack(_normalized(_env()), 2), "expected the wrappers of the"),
        (_env(), _env(spaces.Box(-1, 1, (4,))), "expected the observation_space of the training"),
        (_env(), _env(spaces.Discrete(3)), "expected the observation_space of the training"),
        (_env(), _env(action=spaces.Discrete(2)), "expected the action_space of the training"),
        (_env(action=spaces.Discrete(3)), _env(action=spaces.Discrete(2)), "expected the action_space of the training"),
        (_env(spaces.Dict(a=BOX_OBSERVATION)), _env(spaces.Dict(b=BOX_OBSERVATION)), "expected the observation_space"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(env: VecEnv, eval_env: VecEnv, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        require_alike(env, eval_env)


def test_an_environment_that_fits_is_not() -> None:
    require_alike(_env(), _env(spaces.Box(-9, 9, (3,))))
    require_alike(VecTransposeImage(_env(IMAGE)), _env(IMAGE))
    require_alike(_normalized(_env(spaces.Dict(a=BOX_OBSERVATION))), _normalized(_env(spaces.Dict(a=BOX_OBSERVATION))))
    require_alike(_env(spaces.MultiDiscrete([2, 3])), _env(spaces.MultiDiscrete([2, 3])))


def test_it_is_refused_before_the_first_step(tmp_path: Path) -> None:
    model = make_model(normalize=True)
    with pytest.raises(OptionError, match="eval_env="):
        model.learn(64, callback=OnnxCheckpointCallback(tmp_path, eval_env=_env()))
    assert model.num_timesteps == 0
    assert list(tmp_path.iterdir()) == []


# Frequencies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "save_freq", "calls"),
    [
        ({}, 33, 32),
        ({"n_envs": 2}, 17, 16),
        ({"algorithm": SAC, "train_freq": 8}, 25, 24),
        ({"algorithm": DQN, "action_space": spaces.Discrete(2), "n_envs": 2, "train_freq": 1}, 11, 10),
    ],
)
def test_a_frequency_that_is_never_reached_is_refused(model: Any, save_freq: int, calls: int, tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, save_freq=save_freq, save_final=False)
    algorithm = make_model(**model)
    with pytest.raises(OptionError, match=f"save_freq={save_freq} cannot be used: expected at most {calls}, the calls"):
        algorithm.learn(20, callback=callback)
    assert algorithm.num_timesteps == 0
    callback = OnnxCheckpointCallback(tmp_path, save_freq=calls, save_final=False)
    algorithm.learn(20, callback=callback)
    assert len(callback.failures) == 1  # so it is no more calls than it said


def test_evaluations_that_are_never_reached_are_refused(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, eval_env=_env(), save_final=False)
    with pytest.raises(OptionError, match="eval_freq=10000 cannot be used: expected at most 16"):
        make_model().learn(16, callback=callback)


@pytest.mark.parametrize("reset", [False, True])
def test_where_something_is_written_the_rest_is_a_warning(
    reset: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = OnnxCheckpointCallback(tmp_path, save_freq=20, eval_env=_env(), save_final=reset)
    with caplog.at_level(logging.WARNING, "sb3_clanker"):
        make_model().learn(16, callback=callback, reset_num_timesteps=reset)
    assert caplog.messages[:2] == [
        "save_freq=20 is beyond this training, which makes 16 calls (of 1 steps each): no numbered checkpoint will "
        "be written.",
        "eval_freq=10000 is beyond this training, which makes 16 calls (of 1 steps each): no best policy will be "
        "written.",
    ]


def test_many_short_trainings_reach_it_together(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, save_freq=20, save_final=False)
    model = make_model()
    for _ in range(2):
        model.learn(16, callback=callback, reset_num_timesteps=False)
    assert [failure.name for failure in callback.failures] == ["rl_model_20_steps"]


def test_nothing_is_told_or_refused_in_a_loop_of_ones_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = OnnxCheckpointCallback(tmp_path, save_freq=2, save_final=False)
    model = make_model()
    model.learn(16)
    callback.init_callback(model)
    callback.on_training_start({}, {})
    for _ in range(2):
        assert callback.on_step()
    callback.on_training_end()
    assert [failure.name for failure in callback.failures] == ["rl_model_16_steps"]
    assert "beyond" not in caplog.text


def test_what_goes_on_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = OnnxCheckpointCallback(tmp_path, eval_env=_env(), save_freq=40, save_final=False)
    model = make_model()
    with caplog.at_level(logging.WARNING, "sb3_clanker"):
        for _ in range(4):
            model.learn(16, callback=callback, reset_num_timesteps=False)
    assert [message.partition(" is")[0] for message in caplog.messages if "beyond" in message] == [
        "save_freq=40",
        "eval_freq=10000",
    ]


# Names --------------------------------------------------------------------------------------------------------------


def test_a_prefix_that_makes_names_too_long_is_refused(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(OptionError, match=r"name_prefix='n+' cannot be used: expected one with which files in .* can"):
        model.learn(16, callback=OnnxCheckpointCallback(tmp_path, name_prefix="n" * 240))
    assert model.num_timesteps == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name_prefix": "a\0b"}, r"name_prefix='a\\x00b' cannot be used: expected the beginning of a file name"),
        ({"save_path": "a\0b"}, r"save_path='a\\x00b' cannot be used: expected a path that a folder can have"),
        ({"log_path": "a\0b"}, r"log_path='a\\x00b' cannot be used: expected a path that a folder can have"),
    ],
)
def test_names_that_no_file_can_have_are_refused_when_it_is_made(arguments: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=match):
        OnnxCheckpointCallback(**{"save_path": tmp_path, "eval_env": _env()} | arguments)


@pytest.mark.parametrize("name", ["n" * 256, "\ud800"])
def test_a_log_path_that_no_folder_can_have_raises_before_the_first_step(name: str, tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(OSError, match="cannot be written"):
        model.learn(16, callback=OnnxCheckpointCallback(tmp_path, eval_env=_env(), log_path=tmp_path / name))
    assert model.num_timesteps == 0


def test_a_relative_log_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    class Go(BaseCallback):
        def _on_step(self) -> bool:
            os.chdir(tmp_path / "elsewhere")
            return True

    callback = OnnxCheckpointCallback("run", eval_env=_env(), eval_freq=10, n_eval_episodes=1, log_path="log")
    make_model(PPO).learn(16, callback=[Go(), callback])
    assert np.load(tmp_path / "log" / "evaluations.npz")["timesteps"].tolist() == [10]
    assert list((tmp_path / "elsewhere").iterdir()) == []
