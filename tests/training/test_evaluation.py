"""The log of evaluations goes on where a training was interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.callbacks import EvalCallback

from sb3_clanker import OnnxCheckpointCallback
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model


def _learn(folder: Path, timesteps: int, n_eval_episodes: int = 2, reset: bool = True) -> EvalCallback:
    model = make_model()
    if not reset:
        model.num_timesteps = 32
    callback = OnnxCheckpointCallback(
        folder,
        eval_env=make_env(BOX_OBSERVATION, BOX_ACTION),
        eval_freq=16,
        n_eval_episodes=n_eval_episodes,
        log_path=folder / "log",
        save_final=False,
    )
    model.learn(timesteps, callback=callback, reset_num_timesteps=reset)
    assert callback.evaluation is not None
    return callback.evaluation


def _logged(folder: Path) -> list[int]:
    timesteps: list[int] = np.load(folder / "log" / "evaluations.npz")["timesteps"].tolist()
    return timesteps


def test_it_goes_on_after_an_interruption(tmp_path: Path) -> None:
    _learn(tmp_path, 48)
    before = np.load(tmp_path / "log" / "evaluations.npz")["results"]
    assert _logged(tmp_path) == [16, 32, 48]
    _learn(tmp_path, 32, reset=False)  # from 32 on: what came after belongs to a training that was given up
    assert _logged(tmp_path) == [16, 32, 48, 64]
    np.testing.assert_array_equal(np.load(tmp_path / "log" / "evaluations.npz")["results"][:2], before[:2])


def test_a_new_training_begins_it_anew(tmp_path: Path) -> None:
    _learn(tmp_path, 48)
    _learn(tmp_path, 16)
    assert _logged(tmp_path) == [16]


def test_evaluations_of_other_lengths_are_not_mixed(tmp_path: Path) -> None:
    _learn(tmp_path, 48)
    _learn(tmp_path, 16, n_eval_episodes=3, reset=False)
    assert _logged(tmp_path) == [48]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\3\4cut off"])
def test_a_damaged_log_is_told_and_begun_anew(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "evaluations.npz").write_bytes(content)
    _learn(tmp_path, 16, reset=False)
    assert _logged(tmp_path) == [48]
    assert "evaluations.npz cannot be continued" in caplog.text
