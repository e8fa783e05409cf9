"""The log of evaluations goes on where a training was interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_clanker import OnnxCheckpointCallback
from sb3_clanker.errors import PublicationError
from sb3_clanker.training.evaluation import EvaluationLog
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


# A log that cannot be written ---------------------------------------------------------------------------------------


class At(BaseCallback):
    """Does something at one step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        super().__init__()
        self._step, self._action = step, action

    def _on_step(self) -> bool:
        if self.n_calls == self._step:
            self._action()
        return True


def _with_log(folder: Path, on_error: Literal["warn", "raise"] = "warn") -> OnnxCheckpointCallback:
    return OnnxCheckpointCallback(
        folder / "run",
        eval_env=make_env(BOX_OBSERVATION, BOX_ACTION),
        eval_freq=8,
        n_eval_episodes=1,
        log_path=folder / "log",
        on_error=on_error,
    )


def test_a_log_whose_folder_is_deleted_is_made_again(tmp_path: Path) -> None:
    callback = _with_log(tmp_path)
    make_model().learn(16, callback=[At(12, lambda: shutil.rmtree(tmp_path / "log")), callback])
    assert _logged(tmp_path) == [8, 16]
    assert callback.failures == []


def test_a_log_that_cannot_be_written_ends_no_training_and_costs_no_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def obstruct() -> None:
        shutil.rmtree(tmp_path / "log")
        (tmp_path / "log").write_bytes(b"")

    def clear() -> None:
        (tmp_path / "log").unlink()

    callback = _with_log(tmp_path)
    make_model().learn(32, callback=[At(4, obstruct), At(20, clear), callback])
    assert (tmp_path / "run" / "best_model.onnx").exists()
    told = [message for message in caplog.messages if "Training goes on, and the next evaluation" in message]
    assert len(told) == 2
    assert told[0].startswith(f"{tmp_path / 'log'}: cannot be written: ")
    assert _logged(tmp_path) == [8, 16, 24, 32]
    caplog.clear()
    with pytest.raises(PublicationError, match=r"log: cannot be written"):
        make_model().learn(32, callback=[At(4, obstruct), _with_log(tmp_path, "raise")])


def test_a_log_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.npz"
    log = EvaluationLog(path, raises=True)
    for numbers in ([1], [1, 2, 3], [4]):
        np.savez(log, timesteps=numbers)
        assert np.load(path)["timesteps"].tolist() == numbers
    before = path.read_bytes()
    path.unlink()
    path.mkdir()
    with pytest.raises(PublicationError, match="it is a folder"):
        np.savez(log, timesteps=[5])
    path.rmdir()
    path.write_bytes(before)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
