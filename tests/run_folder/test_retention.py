"""Only what this package is proven to have written is deleted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback

from sb3_clanker import OnnxCheckpointCallback
from sb3_clanker.errors import PublicationError
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.run_folder.publication import Publication, Write
from sb3_clanker.run_folder.retention import OwnFile, keep_newest
from tests.checkpoints import checkpoint_files, names, train
from tests.worlds import make_model


@pytest.mark.parametrize("ours_first", [False, True])
def test_files_of_checkpoint_callback_of_the_same_names_stay(ours_first: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    theirs = CheckpointCallback(10, str(folder), save_replay_buffer=True, save_vecnormalize=True)
    ours = OnnxCheckpointCallback(folder, save_freq=10, keep_last=1, save_replay_buffer=True, save_final=False)
    callbacks: list[BaseCallback] = [ours, theirs] if ours_first else [theirs, ours]
    make_model(SAC, normalize=True).learn(30, callback=callbacks)
    alone = CheckpointCallback(10, str(tmp_path / "alone"), save_replay_buffer=True, save_vecnormalize=True)
    make_model(SAC, normalize=True).learn(30, callback=alone)
    kept = [name for name in names(folder) if not name.endswith(".onnx")]
    assert kept == names(tmp_path / "alone")
    assert [name for name in names(folder) if name.endswith(".onnx")] == ["rl_model_30_steps.onnx"]


@pytest.mark.parametrize("change", ["rewrite", "replace", "touch"])
def test_a_file_that_somebody_wrote_since_stays(change: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1234")
    own = OwnFile.at(path)
    if change == "rewrite":
        path.write_bytes(b"12345")
    elif change == "replace":
        (tmp_path / "y").write_bytes(b"1234")
        os.utime(tmp_path / "y", ns=(0, own.time))
        (tmp_path / "y").replace(path)
    else:
        os.utime(path, ns=(0, own.time + 1))
    own.delete()
    assert path.exists()
    OwnFile.at(path).delete()
    assert not path.exists()


def test_after_a_resume_a_replay_buffer_that_another_wrote_stays(tmp_path: Path) -> None:
    train(tmp_path, 40, make_model(SAC, normalize=True), save_replay_buffer=True)
    foreign = tmp_path / "rl_model_replay_buffer_20_steps.pkl"
    foreign.write_bytes(b"written later than the policy beside it")
    folder = TrainingFolder(tmp_path)
    found: Any = folder.numbered("rl_model", 40)
    folder.release()
    assert keep_newest(found, 1) == found[1:]
    left = checkpoint_files(40, "vecnormalize", "replay_buffer")
    assert [name for name in names(tmp_path) if name.startswith("rl")] == sorted([*left, foreign.name])


def test_a_checkpoint_of_which_nothing_could_be_written_spoils_none_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Publication.stage

    def refuse(publication: Publication, name: str, write: Write) -> Path:
        if name == "rl_model_10_steps.zip":
            raise PublicationError(tmp_path / name, "disk full")
        return stage(publication, name, write)

    monkeypatch.setattr(Publication, "stage", refuse)
    callback = OnnxCheckpointCallback(tmp_path, save_freq=10, keep_last=1, save_final=False)
    make_model(SAC).learn(40, callback=callback)
    assert [failure.num_timesteps for failure in callback.failures] == [10]
    assert names(tmp_path) == ["rl_model_40_steps.onnx", "rl_model_40_steps.zip"]
