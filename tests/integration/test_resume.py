"""A training that was interrupted goes on as if it had not been; a new one inherits nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_clanker import (
    ClankerError,
    ExportOptions,
    OnnxCheckpointCallback,
    OnnxPolicy,
    export_policy,
    load_checkpoint,
    read_metadata,
)
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.run_folder.identity import require_matched
from sb3_clanker.runtime.check_vectors import check_vectors
from tests.checkpoints import checkpoint_files, contents, names
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, SpacesEnv, make_env, make_model

BEST = ["best_model.onnx", "best_model.zip", "best_model_vecnormalize.pkl"]
FINAL = ["final_model.onnx", "final_model.zip", "final_model_vecnormalize.pkl"]


class Scored(SpacesEnv):
    """Episodes of one step, whose reward is what a script says of this time of the training."""

    def __init__(self, score: Callable[[], float]) -> None:
        super().__init__(BOX_OBSERVATION, BOX_ACTION)
        self._score = score

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, _, _, info = super().step(action)
        return observation, self._score(), True, False, info


def _eval_env(model: BaseAlgorithm, scores: dict[int, float]) -> VecNormalize:
    env = DummyVecEnv([lambda: Monitor(Scored(lambda: scores[model.num_timesteps]))])
    return VecNormalize(env, training=False, norm_reward=False)


class Interrupt(BaseCallback):
    """Ends a training as a crash would."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self._at = at

    def _on_step(self) -> bool:
        if self.num_timesteps == self._at:
            raise RuntimeError("interrupted")
        return True


def _ppo() -> BaseAlgorithm:
    return make_model(normalize=True, n_steps=10, batch_size=10)


def _evaluated(model: BaseAlgorithm, folder: Path, scores: dict[int, float], **kwargs: Any) -> OnnxCheckpointCallback:
    """A callback that evaluates every 10 steps."""
    return OnnxCheckpointCallback(folder, eval_env=_eval_env(model, scores), eval_freq=10, n_eval_episodes=1, **kwargs)


def _steps(folder: Path, prefix: str = "rl_model") -> list[int]:
    """When the whole checkpoints of a folder were written."""
    steps = []
    for path in folder.glob(f"{prefix}_*_steps.onnx"):
        with suppress(ClankerError):
            metadata = read_metadata(path)
            assert {partner.state for partner in require_matched(path, metadata)} == {"matched"}
            steps.append(metadata.training.num_timesteps)
    return sorted(steps)


def _newest(folder: Path) -> Path:
    return folder / f"rl_model_{_steps(folder)[-1]}_steps.onnx"


def _load(path: Path) -> BaseAlgorithm:
    return load_checkpoint(path, env=make_env(BOX_OBSERVATION, BOX_ACTION)).model


def _learn(model: BaseAlgorithm, until: int, callback: BaseCallback | list[BaseCallback], **kwargs: Any) -> None:
    model.learn(until - model.num_timesteps, callback=callback, **{"reset_num_timesteps": False} | kwargs)


# A training that goes on --------------------------------------------------------------------------------------------

SCORES = {
    10: 1.0,
    20: 5.0,
    30: 2.0,
    40: 3.0,
    50: 4.0,
    60: 7.0,
    70: 3.0,
    80: 6.5,
    90: -8.0,
    100: 9.0,
    110: 8.5,
    120: 0.0,
}


def test_three_interruptions_change_nothing(tmp_path: Path) -> None:
    once, often = tmp_path / "once", tmp_path / "often"
    model = _ppo()
    callback = _evaluated(model, once, SCORES, save_freq=20, keep_last=2)
    model.learn(120, callback=callback)
    assert callback.best_mean_reward == 9.0

    foreign = {
        "notes.txt": b"a user's own",
        "rl_model_12_steps.zip": (once / "final_model.zip").read_bytes(),
        "rl_model_30_steps.onnx": b"a foreign policy",
        "rl_model_vecnormalize_20_steps.pkl.bak": b"a copy",
        "arm_20_steps.onnx": (once / "rl_model_100_steps.onnx").read_bytes(),
        "arm_20_steps.zip": b"of another prefix",
        ".hidden": b"",
    }
    model = _ppo()
    beside: list[BaseCallback] = [OnnxCheckpointCallback(often, save_freq=20, name_prefix="other", save_final=False)]
    for interruption, newest, best in ((50, 40, 5.0), (70, 60, 7.0), (115, 100, 9.0)):
        callback = _evaluated(model, often, SCORES, save_freq=20, keep_last=2)
        with pytest.raises(RuntimeError, match="interrupted"):
            _learn(model, 120, [Interrupt(interruption), *beside, callback])
        beside = []
        for name, content in foreign.items():
            (often / name).write_bytes(content)
        assert _newest(often).name == f"rl_model_{newest}_steps.onnx"
        assert read_metadata(often / "best_model.onnx").training.mean_reward == callback.best_mean_reward == best
        assert _steps(often) == [newest - 20, newest]
        model = _load(_newest(often))
        assert model.num_timesteps == newest
    seen = Interrupt(None)
    callback = _evaluated(model, often, SCORES, save_freq=20, keep_last=2, callback_on_new_best=seen)
    _learn(model, 120, callback)
    assert seen.n_calls == 0  # two evaluations, and none of them a new best
    assert callback.best_mean_reward == 9.0
    assert callback.last_mean_reward == 0.0

    kept = sorted([*checkpoint_files(100, "vecnormalize"), *checkpoint_files(120, "vecnormalize"), *BEST, *FINAL])
    assert names(once) == kept
    others = [name for name in names(often) if name.startswith("other_")]
    assert others == sorted(
        [*checkpoint_files(20, "vecnormalize", prefix="other"), *checkpoint_files(40, "vecnormalize", prefix="other")]
    )
    assert names(often) == sorted([*kept, *foreign, *others])
    assert {name: (often / name).read_bytes() for name in foreign} == foreign
    for folder in (once, often):
        best_record, final = (read_metadata(folder / f"{stem}.onnx").training for stem in ("best_model", "final_model"))
        assert (best_record.num_timesteps, best_record.mean_reward) == (100, 9.0)
        assert final.num_timesteps == 120
    for stem in ("best_model", "final_model", "rl_model_100_steps", "rl_model_120_steps"):
        partners = require_matched(often / f"{stem}.onnx", read_metadata(often / f"{stem}.onnx"))
        assert [partner.state for partner in partners] == ["matched", "matched"]


def test_a_replay_buffer_goes_on_too(tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"save_freq": 20, "keep_last": 1, "save_replay_buffer": True}
    kwargs["options"] = ExportOptions(test_vectors=2)
    model = make_model(SAC, normalize=True)
    with pytest.raises(RuntimeError, match="interrupted"):
        model.learn(60, callback=[Interrupt(55), OnnxCheckpointCallback(tmp_path, **kwargs)])
    assert isinstance(model, SAC)
    assert model.replay_buffer is not None
    observations = model.replay_buffer.observations.copy()
    every = ("vecnormalize", "replay_buffer", "vectors")
    assert names(tmp_path) == sorted(checkpoint_files(40, *every))

    loaded = _load(_newest(tmp_path))
    assert isinstance(loaded, SAC)
    assert loaded.replay_buffer is not None
    assert loaded.replay_buffer.size() == 39  # a checkpoint is written before its own step is stored
    np.testing.assert_array_equal(loaded.replay_buffer.observations[:39], observations[:39])
    _learn(loaded, 65, OnnxCheckpointCallback(tmp_path, **kwargs))
    assert loaded.replay_buffer.size() == 39 + 25
    np.testing.assert_array_equal(loaded.replay_buffer.observations[:39], observations[:39])
    vectors = "final_model.vectors.json"
    assert names(tmp_path) == sorted([*checkpoint_files(60, *every), *FINAL, vectors])
    for stem in ("rl_model_60_steps", "final_model"):
        check_vectors(OnnxPolicy(tmp_path / f"{stem}.onnx"), read_vectors(tmp_path / f"{stem}.vectors.json"))


def _as_it_is(callback: BaseCallback) -> BaseCallback:
    return callback


def _in_a_list(callback: BaseCallback) -> BaseCallback:
    return CallbackList([callback])


@pytest.mark.parametrize("wrap", [_as_it_is, _in_a_list])
def test_the_best_score_of_a_users_own_evaluation_goes_on(
    wrap: Callable[[BaseCallback], BaseCallback], tmp_path: Path
) -> None:
    def evaluation(model: BaseAlgorithm, scores: dict[int, float]) -> EvalCallback:
        best = OnnxCheckpointCallback(tmp_path)
        env = _eval_env(model, scores)
        return EvalCallback(env, callback_on_new_best=wrap(best), eval_freq=10, n_eval_episodes=1, verbose=0)

    model = _ppo()
    checkpoints = OnnxCheckpointCallback(tmp_path, save_freq=20, save_final=False)
    with pytest.raises(RuntimeError, match="interrupted"):
        model.learn(60, callback=[Interrupt(45), evaluation(model, SCORES), checkpoints])
    best = contents(tmp_path)
    model = _load(_newest(tmp_path))
    scores = SCORES | {50: 4.0, 60: 4.5}
    callback = evaluation(model, scores)
    _learn(model, 60, callback)
    assert (callback.best_mean_reward, callback.last_mean_reward) == (5.0, 4.5)
    assert contents(tmp_path) == best

    model = _load(_newest(tmp_path))
    callback = evaluation(model, scores | {60: 6.0, 70: 5.5})
    _learn(model, 70, callback)
    assert callback.best_mean_reward == 6.0
    training = read_metadata(tmp_path / "best_model.onnx").training
    assert (training.num_timesteps, training.mean_reward) == (60, 6.0)


# A training that begins anew, or further back -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of 80 steps with a checkpoint each 20, whose best was at 60."""
    folder = tmp_path_factory.mktemp("old")
    model = _ppo()
    model.learn(80, callback=_evaluated(model, folder, SCORES, save_freq=20))
    return folder


@pytest.fixture
def folder(old: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(old, tmp_path / "runs"))


@pytest.mark.parametrize("loaded", [False, True])
def test_a_new_training_inherits_nothing_and_keeps_what_it_finds(
    loaded: bool, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = _load(folder / "rl_model_60_steps.zip") if loaded else _ppo()
    before = contents(folder)
    worse = {10: -5.0, 20: -6.0, 30: -7.0, 40: -8.0, 50: -9.0}
    callback = _evaluated(model, folder, worse, save_freq=15, keep_last=1, save_final=False)
    with caplog.at_level(logging.WARNING, "sb3_clanker"):
        model.learn(50, callback=callback)
    previous = folder / "previous_1"
    assert caplog.messages == [
        f"{folder} held files of an earlier training: {len(before)} of them lie in {previous} now, out of the way of "
        "this one. (overwrite=True overwrites them instead.)"
    ]
    assert callback.best_mean_reward == -5.0
    training = read_metadata(folder / "best_model.onnx").training
    assert (training.num_timesteps, training.mean_reward) == (10, -5.0)
    assert _steps(folder) == [45]
    assert contents(previous) == before
    assert _steps(previous) == [20, 40, 60, 80]
    assert _load(previous / "rl_model_60_steps.zip").num_timesteps == 60


def test_a_best_without_its_score_is_moved(folder: Path) -> None:
    export_policy(_load(folder / "best_model.zip"), folder / "best_model.onnx")  # as the command line does
    before = (folder / "best_model.zip").read_bytes()
    model = _load(folder / "rl_model_80_steps.zip")
    callback = _evaluated(model, folder, SCORES | {90: -8.0}, save_final=False)
    _learn(model, 90, callback)
    assert callback.best_mean_reward == -8.0
    assert (folder / "previous_1" / "best_model.zip").read_bytes() == before


def test_an_older_checkpoint_moves_what_came_after_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = contents(folder)
    model = _load(folder / "rl_model_40_steps.zip")
    callback = _evaluated(model, folder, SCORES | {50: -1.0}, save_freq=5, keep_last=1, save_final=False)
    with caplog.at_level(logging.WARNING, "sb3_clanker"), pytest.raises(RuntimeError, match="interrupted"):
        _learn(model, 60, [Interrupt(57), callback])
    assert [f"12 of them lie in {folder / 'previous_1'} now" in message for message in caplog.messages] == [True]
    assert callback.best_mean_reward == -1.0
    assert read_metadata(folder / "best_model.onnx").training.num_timesteps == 50
    assert _steps(folder) == [55]
    newer = sorted([*checkpoint_files(60, "vecnormalize"), *checkpoint_files(80, "vecnormalize"), *BEST, *FINAL])
    assert contents(folder / "previous_1") == {name: before[name] for name in newer}


# Retention where exports fail ---------------------------------------------------------------------------------------


def test_failures_push_out_no_whole_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = Exporter.export
    failing: set[int] = set()

    def failing_export(exporter: Exporter, **kwargs: Any) -> Any:
        if exporter._subject.model.num_timesteps in failing:
            raise RuntimeError("the runtime is gone")
        return export(exporter, **kwargs)

    monkeypatch.setattr(Exporter, "export", failing_export)
    failing |= {30, 40, 50}
    model = _ppo()
    callback = OnnxCheckpointCallback(tmp_path, save_freq=10, keep_last=2, save_final=False)
    with pytest.raises(RuntimeError, match="interrupted"):
        model.learn(60, callback=[callback, Interrupt(50)])
    assert _steps(tmp_path) == [10, 20]
    zips = [f"rl_model_{steps}_steps.zip" for steps in (10, 20, 30, 40, 50)]
    assert [name for name in names(tmp_path) if name.endswith(".zip")] == zips

    failing |= {70, 80}
    model = _load(_newest(tmp_path))
    callback = OnnxCheckpointCallback(tmp_path, save_freq=10, keep_last=2, save_final=False)
    _learn(model, 90, callback)
    assert [failure.num_timesteps for failure in callback.failures] == [30, 40, 50, 70, 80]
    assert _steps(tmp_path) == [60, 90]
    assert [name for name in names(tmp_path) if name.endswith(".zip")] == [
        f"rl_model_{steps}_steps.zip" for steps in (60, 70, 80, 90)
    ]


def test_a_checkpoint_that_was_interrupted_while_it_was_deleted_goes_with_the_next(tmp_path: Path) -> None:
    model = _ppo()
    with pytest.raises(RuntimeError, match="interrupted"):
        model.learn(48, callback=[Interrupt(45), OnnxCheckpointCallback(tmp_path, save_freq=10, keep_last=3)])
    assert _steps(tmp_path) == [20, 30, 40]
    (tmp_path / "rl_model_20_steps.zip").unlink()
    model = _load(tmp_path / "rl_model_40_steps.zip")
    _learn(model, 50, OnnxCheckpointCallback(tmp_path, save_freq=10, keep_last=3, save_final=False))
    assert names(tmp_path) == sorted(name for steps in (30, 40, 50) for name in checkpoint_files(steps, "vecnormalize"))
