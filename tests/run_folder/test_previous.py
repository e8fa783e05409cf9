"""Files of an earlier training: none is overwritten, none is lost, and they stay together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_clanker import OnnxCheckpointCallback, load_checkpoint, validate_policy
from sb3_clanker.errors import PublicationError
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.run_folder.previous import set_aside
from tests.checkpoints import NoExporter, contents, names, train
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files."""
    for name in "abcd":
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without exports."""
    monkeypatch.setattr("sb3_clanker.training.callback.Exporter", NoExporter)


def _evaluated(folder: Path, **kwargs: Any) -> OnnxCheckpointCallback:
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    return OnnxCheckpointCallback(folder, eval_env=env, eval_freq=10, n_eval_episodes=1, **kwargs)


def test_each_training_has_a_folder_of_its_own(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert set_aside(folder, ["a", "b"]) == folder / "previous_1"
    assert set_aside(folder, ["c"]) == folder / "previous_2"
    assert set_aside(folder, ["d"], folder / "previous_1") == folder / "previous_1"
    assert set_aside(folder, []) is None
    assert names(folder / "previous_1") == ["a", "b", "d"]
    assert names(folder / "previous_2") == ["c"]
    assert names(folder) == ["previous_1", "previous_2"]
    assert caplog.messages[0] == (
        f"{folder} held files of an earlier training: 2 of them lie in {folder / 'previous_1'} now, out of the way of "
        "this one. (overwrite=True overwrites them instead.)"
    )


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("error", [OSError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("killed", [False, True])
def test_what_is_interrupted_is_undone(
    at: int, error: BaseException, killed: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename, calls = contents(folder), Path.rename, 0

    def failing(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise error
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        if killed:
            patched.setattr("sb3_clanker.run_folder.previous.put_back", lambda folder: None)
        with pytest.raises((PublicationError, KeyboardInterrupt)):
            set_aside(folder, ["a", "b", "c", "d"])
    TrainingFolder(folder).release()
    assert contents(folder) == before
    assert names(folder) == ["a", "b", "c", "d"]


def test_what_cannot_be_put_back_gets_a_number(folder: Path) -> None:
    moving = folder / ".sb3_clanker-previous"
    moving.mkdir()
    for name in ("a", "e"):
        (moving / name).write_text("of before")
    set_aside(folder, ["b"])
    assert (folder / "previous_1" / "a").read_text() == "of before"
    assert (folder / "a").read_text() == "a"
    assert (folder / "e").read_text() == "of before"
    assert names(folder / "previous_2") == ["b"]
    assert names(folder) == ["a", "c", "d", "e", "previous_1", "previous_2"]


def test_a_second_training_loses_no_byte_of_the_first(tmp_path: Path) -> None:
    train(tmp_path, 40, save_freq=20)
    first = contents(tmp_path)
    train(tmp_path, 40, save_freq=20)
    assert contents(tmp_path / "previous_1") == first
    assert names(tmp_path) == sorted([*first, "previous_1"])
    assert contents(tmp_path).keys() == first.keys()
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    for path in sorted((tmp_path / "previous_1").glob("*.onnx")):
        loaded = load_checkpoint(path, env=env)
        assert validate_policy(path, loaded.model, vec_normalize=loaded.vec_normalize).passed
    assert load_checkpoint(path, env=env).model.num_timesteps == 40


@pytest.mark.usefixtures("quick")
def test_foreign_files_of_the_same_names_are_kept_too(tmp_path: Path) -> None:
    foreign = ("best_model.zip", "final_model.onnx", "rl_model_10_steps.zip", "rl_model_replay_buffer_10_steps.pkl")
    others = ("notes.txt", "other_10_steps.zip", "rl_model_10_steps.zip.bak", "rl_model_010_steps.zip")
    for name in foreign + others:
        (tmp_path / name).write_text(name)
    _train_on(tmp_path, save_freq=10)
    assert names(tmp_path / "previous_1") == sorted(foreign)
    assert [name for name in others if (tmp_path / name).read_text() != name] == []


def _train_on(folder: Path, **kwargs: Any) -> OnnxCheckpointCallback:
    callback = OnnxCheckpointCallback(folder, **kwargs)
    make_model().learn(16, callback=callback)
    return callback


@pytest.mark.usefixtures("quick")
def test_who_asks_for_it_overwrites(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _train_on(tmp_path)
    before = contents(tmp_path)
    with caplog.at_level(logging.WARNING, "sb3_clanker"):
        _train_on(tmp_path, overwrite=True)
    assert names(tmp_path) == list(before)
    assert contents(tmp_path) != before
    assert "previous" not in caplog.text


@pytest.mark.usefixtures("quick")
def test_all_callbacks_of_a_training_move_files_to_one_place(tmp_path: Path) -> None:
    for _ in range(2):
        callbacks: list[BaseCallback] = [
            OnnxCheckpointCallback(tmp_path, save_freq=10, name_prefix="a"),
            OnnxCheckpointCallback(tmp_path, save_freq=10, name_prefix="b", save_final=False),
        ]
        make_model().learn(16, callback=callbacks)
    assert names(tmp_path / "previous_1") == [f"{stem}.zip" for stem in ("a_10_steps", "b_10_steps", "final_model")]
    assert not (tmp_path / "previous_2").exists()


@pytest.mark.usefixtures("quick")
def test_the_same_callback_keeps_its_best(tmp_path: Path) -> None:
    callback = _evaluated(tmp_path)
    model = make_model()
    model.learn(16, callback=callback)
    best = (tmp_path / "best_model.zip").read_bytes()
    assert callback.evaluation is not None
    callback.evaluation.best_mean_reward = 1e9
    model.learn(16, callback=callback)
    assert (tmp_path / "best_model.zip").read_bytes() == best
    assert names(tmp_path / "previous_1") == ["final_model.zip"]


@pytest.mark.usefixtures("quick")
def test_the_same_callback_begins_anew_with_another_algorithm(tmp_path: Path) -> None:
    callback = _evaluated(tmp_path)
    make_model().learn(16, callback=callback)
    before = contents(tmp_path)
    first = callback.evaluation
    assert first is not None
    first.best_mean_reward = 1e9
    make_model().learn(16, callback=callback)
    assert contents(tmp_path / "previous_1") == before
    assert contents(tmp_path).keys() == before.keys()
    assert callback.best_mean_reward < 1e9


@pytest.mark.usefixtures("quick")
def test_the_same_callback_begins_anew_in_another_folder(tmp_path: Path) -> None:
    callback = _evaluated(tmp_path / "{run}")
    model = make_model()
    for run in ("1", "2"):
        model.learn(16, callback=callback)
        assert callback.evaluation is not None
        callback.evaluation.best_mean_reward = 1e9
        assert names(tmp_path / run) == ["best_model.zip", "final_model.zip"]


@pytest.mark.usefixtures("quick")
def test_what_tells_nothing_of_its_time_is_not_overwritten_by_a_training_that_goes_on(tmp_path: Path) -> None:
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    plain = EvalCallback(env, best_model_save_path=str(tmp_path), eval_freq=10, n_eval_episodes=1, verbose=0)
    make_model().learn(16, callback=plain)
    before = contents(tmp_path)
    model = PPO.load(tmp_path / "best_model.zip", env=env, device="cpu")
    callback = _evaluated(tmp_path)
    for _ in range(2):  # the second time, it is its own
        model.learn(16, callback=callback, reset_num_timesteps=False)
    assert contents(tmp_path / "previous_1") == before
    assert names(tmp_path) == ["best_model.zip", "final_model.zip", "previous_1"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("log", ["run", "log"])
def test_a_log_of_evaluations_is_kept(log: str, tmp_path: Path) -> None:
    logs = tmp_path / log
    make_model().learn(16, callback=_evaluated(tmp_path / "run", log_path=logs))
    before = (logs / "evaluations.npz").read_bytes()
    model = PPO.load(tmp_path / "run" / "best_model.zip", env=make_env(BOX_OBSERVATION, BOX_ACTION))
    make_model().learn(16, callback=_evaluated(tmp_path / "run", log_path=logs))
    assert (logs / "previous_1" / "evaluations.npz").read_bytes() == before
    model.num_timesteps = 5  # goes on from before the evaluation that is there
    model.learn(16, callback=_evaluated(tmp_path / "run", log_path=logs), reset_num_timesteps=False)
    assert np.load(logs / "previous_2" / "evaluations.npz")["timesteps"].tolist() == [10]
    assert np.load(logs / "evaluations.npz")["timesteps"].tolist() == [15]
