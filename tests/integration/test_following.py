"""Whole trainings in which the callback follows others: what lies there is of one instant, or says that it is not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback

from sb3_clanker import OnnxCheckpointCallback, load_checkpoint, read_metadata
from sb3_clanker.cli.main import main
from sb3_clanker.errors import UnmatchedFilesError
from sb3_clanker.run_folder.publication import Publication
from tests.checkpoints import checkpoint_files, contents, names
from tests.integration.trainings import assert_alike, assert_whole, make_eval_env, states
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model

BEST = ["best_model.onnx", "best_model.zip", "best_model_vecnormalize.pkl"]
FINAL = ["final_model.onnx", "final_model.zip", "final_model_vecnormalize.pkl"]


def evaluation(folder: Path) -> EvalCallback:
    """Two evaluations in 32 calls, each a new best; it knows nothing of one before."""
    return EvalCallback(make_eval_env(), eval_freq=16, n_eval_episodes=1, best_model_save_path=str(folder), verbose=0)


def learn(callbacks: Any, model: BaseAlgorithm | None = None, **kwargs: Any) -> BaseAlgorithm:
    model = model or make_model(normalize=True)
    model.learn(32, callback=callbacks, **kwargs)
    return model


@pytest.mark.parametrize("is_first", [True, False])
def test_every_file_is_of_one_instant_and_each_zip_is_written_once(is_first: bool, tmp_path: Path) -> None:
    theirs = [CheckpointCallback(10, str(tmp_path), name_prefix="model"), evaluation(tmp_path)]
    ours, saved = OnnxCheckpointCallback(on_error="raise", keep_last=1), list[Any]()
    with pytest.MonkeyPatch.context() as patch:
        save = BaseAlgorithm.save

        def noting_save(self: BaseAlgorithm, path: Any) -> None:
            saved.append(path)
            save(self, path)

        patch.setattr(BaseAlgorithm, "save", noting_save)
        learn([ours, *theirs] if is_first else [*theirs, ours])
    assert len([path for path in saved if isinstance(path, str)]) == 3 + 2
    assert len(saved) == 3 + 2 + 2  # the rehearsal, and the final
    numbered = [name for steps in (10, 20, 30) for name in checkpoint_files(steps, "vecnormalize", prefix="model")]
    assert names(tmp_path) == sorted([*BEST, *FINAL, *numbered])  # keep_last deletes nothing of what is followed
    assert assert_whole(tmp_path) == {"files": 15, "policies": 5, "matched": 5}
    for policy in tmp_path.glob("*.onnx"):
        record = read_metadata(policy)
        assert record.checkpoint is not None
        assert record.checkpoint.followed == (policy.stem != "final_model")
    assert read_metadata(tmp_path / "best_model.onnx").training.mean_reward == theirs[1].best_mean_reward  # type: ignore[attr-defined]


def test_what_a_checkpoint_callback_saves_is_what_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = CheckpointCallback(30, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    model = learn([theirs, OnnxCheckpointCallback(save_final=False)], make_model(SAC, normalize=True))
    assert names(tmp_path) == sorted(checkpoint_files(30, "vecnormalize", "replay_buffer"))
    policy = tmp_path / "rl_model_30_steps.onnx"
    assert set(states(policy).values()) == {"matched"}
    assert_alike(policy, SAC)
    loaded = load_checkpoint(policy, env=make_env(BOX_OBSERVATION, BOX_ACTION))
    assert isinstance(model, SAC)
    assert isinstance(loaded.model, SAC)
    assert isinstance(loaded.model.replay_buffer, ReplayBuffer)
    assert loaded.model.replay_buffer.size() == 29  # as it was when callbacks were called
    assert loaded.vec_normalize is not None
    assert main(["validate", str(policy), "--model", str(policy.with_suffix(".zip"))]) == 0
    assert "VecNormalize statistics" in capsys.readouterr().out


def test_one_that_goes_on_keeps_a_best_that_is_better(tmp_path: Path) -> None:
    def callbacks() -> list[BaseCallback]:
        return [CheckpointCallback(10, str(tmp_path)), evaluation(tmp_path), OnnxCheckpointCallback(on_error="raise")]

    learn(callbacks())
    before = contents(tmp_path)
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    model, _ = load_checkpoint(tmp_path / "final_model", env=env)
    learn(callbacks(), model, reset_num_timesteps=False)  # its evaluations begin with smaller returns
    after = contents(tmp_path)
    assert {name: after[name] for name in BEST} == {name: before[name] for name in BEST}
    assert "previous_1" not in names(tmp_path)
    assert assert_whole(tmp_path)["matched"] == 1 + 6 + 1


def test_a_failed_export_beside_a_new_zip_is_noticed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, stage = OnnxCheckpointCallback(save_final=False), Publication.stage

    def no_space(self: Publication, name: str, write: Any) -> Path:
        if name.startswith("best_model") and len(ours.reports) > 0:
            return stage(self, name, lambda file: Path("/dev/full").write_bytes(b"x" * 10))
        return stage(self, name, write)

    monkeypatch.setattr(Publication, "stage", no_space)
    model = learn([evaluation(tmp_path), ours])
    monkeypatch.undo()
    assert model.num_timesteps == 32
    assert [(failure.name, failure.num_timesteps) for failure in ours.failures] == [("best_model", 32)]
    assert ours.failures[0].unmatched == ("best_model.zip",)
    assert "best_model.onnx is older than best_model.zip beside it" in caplog.text
    with pytest.raises(UnmatchedFilesError, match=r"best_model\.zip beside it"):
        load_checkpoint(tmp_path / "best_model")
    assert main(["validate", str(tmp_path / "best_model.onnx")]) == 1
    assert "best_model.zip" in capsys.readouterr().err
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        learn([evaluation(tmp_path), OnnxCheckpointCallback(save_final=False)])
    assert "best_model.zip is of another instant than best_model.onnx" in caplog.text
    assert names(tmp_path / "previous_1") == BEST
    assert assert_whole(tmp_path)["matched"] == 1
