"""The log of evaluations goes on where a training was interrupted; what the record says of them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_clanker import OnnxCheckpointCallback, read_metadata
from sb3_clanker.errors import PublicationError
from sb3_clanker.policy_file.record import EvaluationRecord
from sb3_clanker.training.evaluation import EvaluationLog
from tests.integration.trainings import NaNOnceEnv, make_eval_env
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


# What the record says of an evaluation ------------------------------------------------------------------------------


def _recorded(path: Path) -> EvaluationRecord:
    evaluation = read_metadata(path).training.evaluation
    assert evaluation is not None
    return evaluation


def _facts(evaluation: EvaluationRecord) -> tuple[object, ...]:
    return evaluation.role, evaluation.num_timesteps, evaluation.n_episodes, evaluation.deterministic


def test_each_file_says_how_good_the_policy_was(tmp_path: Path) -> None:
    model = make_model()
    env = make_eval_env(normalize=False)
    callback = OnnxCheckpointCallback(
        tmp_path, eval_env=env, eval_freq=16, n_eval_episodes=3, save_freq=24, log_path=tmp_path, deterministic=False
    )
    model.learn(56, callback=callback)  # in 64 steps
    log = np.load(tmp_path / "evaluations.npz")
    best, last = _recorded(tmp_path / "best_model.onnx"), _recorded(tmp_path / "final_model.onnx")
    earlier = _recorded(tmp_path / "rl_model_24_steps.onnx")
    assert (_facts(best), _facts(last)) == (("best", 64, 3, False), ("last", 64, 3, False))
    assert _facts(earlier) == ("last", 16, 3, False)
    for evaluation, rewards in ((earlier, log["results"][0]), (best, log["results"][3]), (last, log["results"][3])):
        assert (evaluation.mean_reward, evaluation.std_reward) == (rewards.mean(), rewards.std())
    model.learn(8, callback=callback, reset_num_timesteps=False)  # in 16 steps; evaluated at the last
    assert _recorded(tmp_path / "final_model.onnx").num_timesteps == 80
    model.learn(8, callback=callback)  # a new training: nothing is known of it before its first evaluation
    assert _recorded(tmp_path / "final_model.onnx").num_timesteps == 16


@pytest.mark.parametrize("how", ["followed", "parent", "after each"])
def test_an_evaluation_of_another_callback_is_recorded_in_full(how: str, tmp_path: Path) -> None:
    ours = OnnxCheckpointCallback(None if how == "followed" else tmp_path, on_error="raise")
    evaluation = EvalCallback(
        make_eval_env(normalize=False),
        callback_on_new_best=ours if how == "parent" else None,
        callback_after_eval=ours if how == "after each" else None,
        best_model_save_path=str(tmp_path) if how == "followed" else None,
        log_path=str(tmp_path),
        eval_freq=16,
        n_eval_episodes=2,
        verbose=0,
    )
    make_model().learn(32, callback=[evaluation, ours] if how == "followed" else evaluation)
    role, name = ("last", "rl_model_32_steps") if how == "after each" else ("best", "best_model")
    record, rewards = _recorded(tmp_path / f"{name}.onnx"), np.load(tmp_path / "evaluations.npz")["results"][-1]
    assert _facts(record) == (role, 32, 2, True)
    assert (record.mean_reward, record.std_reward) == (rewards.mean(), rewards.std())
    assert "_log_success_callback" not in vars(evaluation)


class _OfItsOwn(EvalCallback):
    """Makes up what it finds."""

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            self.best_mean_reward = self.last_mean_reward = float(self.n_calls)
            self.model.save(Path(str(self.best_model_save_path)) / "best_model")
        return True


def test_of_an_evaluation_in_a_way_of_its_own_the_mean_is_known(tmp_path: Path) -> None:
    evaluation = _OfItsOwn(make_eval_env(normalize=False), best_model_save_path=str(tmp_path), eval_freq=16)
    make_model().learn(16, callback=[evaluation, OnnxCheckpointCallback(on_error="raise")])
    assert _recorded(tmp_path / "best_model.onnx") == EvaluationRecord(role="best", num_timesteps=16, mean_reward=16.0)
    assert read_metadata(tmp_path / "final_model.onnx").training.evaluation is None


def test_an_evaluation_that_is_not_over_is_not_the_last(tmp_path: Path) -> None:
    model = make_model()
    callback = OnnxCheckpointCallback(tmp_path, eval_env=make_eval_env(normalize=False), eval_freq=8, n_eval_episodes=2)
    model.learn(16, callback=callback)
    assert callback.evaluation is not None
    rewards: list[float] = []
    last, evaluation = callback._last, callback.evaluation
    before, evaluation.num_timesteps = last.record, 99
    for reward, expected in ((1.0, before), (3.0, 2.0)):
        last._note(evaluation, functools.partial(lambda *_: None, {"episode_rewards": rewards}, {}))
        rewards.append(reward)
        record = last.record
        assert record == expected or (record is not None and record.mean_reward == expected)


def test_an_evaluation_without_a_number_is_recorded_as_none(tmp_path: Path) -> None:
    env = make_eval_env(NaNOnceEnv, normalize=False)
    make_model().learn(
        16, callback=OnnxCheckpointCallback(tmp_path, eval_env=env, eval_freq=16, n_eval_episodes=3, on_error="raise")
    )
    record = _recorded(tmp_path / "final_model.onnx")
    assert (record.mean_reward, record.std_reward, record.n_episodes) == (None, None, 3)
