"""A folder is one training's, until that is over."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from stable_baselines3.common.callbacks import BaseCallback

from sb3_clanker import ClankerError, OnnxCheckpointCallback
from sb3_clanker.errors import FolderInUseError
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.training.run import Training
from tests.checkpoints import LOCK, contents, names, train
from tests.worlds import make_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a finished training."""
    train(tmp_path / "runs", 20)
    return tmp_path / "runs"


HOLD = """
import sys
from pathlib import Path
from sb3_clanker.run_folder.folder import TrainingFolder

folder = TrainingFolder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
folder.release()
print("released", flush=True)
sys.stdin.readline()
"""


@contextmanager
def _another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_that_another_process_trains_into_is_refused(tmp_path: Path) -> None:
    with _another_process(tmp_path) as process:
        for path in (tmp_path, tmp_path / ".." / tmp_path.name):
            with pytest.raises(FolderInUseError) as caught:
                TrainingFolder(path)
            assert str(caught.value) == (
                f"{path}: another training (process {process.pid}) writes its files here, and the two would overwrite "
                'each other\'s. Give each training a folder of its own, as save_path="runs/{run}" does.'
            )
            assert (caught.value.path, caught.value.process_id, caught.value.host) == (path, process.pid, None)
            assert isinstance(caught.value, OSError)
            assert isinstance(caught.value, ClankerError)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        TrainingFolder(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_a_training_is_refused_before_its_first_step_and_touches_nothing(folder: Path) -> None:
    (folder / ".sb3_clanker-0123456789abcdef.tmp").write_bytes(b"what the other is just writing")
    before = contents(folder)
    model = make_model()
    with _another_process(folder):
        (folder / ".sb3_clanker-0123456789abcdef.tmp").write_bytes(b"what the other is just writing")
        with pytest.raises(FolderInUseError):
            model.learn(20, callback=OnnxCheckpointCallback(folder))
        assert contents(folder) == before
    assert model.num_timesteps == 0


def test_a_process_that_was_killed_leaves_the_folder_free(tmp_path: Path) -> None:
    with _another_process(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / LOCK).exists()
        TrainingFolder(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def _is_free(path: Path) -> bool:
    """Whether another process could train into a folder."""
    done = subprocess.run(
        [sys.executable, "-c", HOLD, path], input="\n\n", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0 or "FolderInUseError" in done.stderr
    return done.returncode == 0


def test_a_folder_is_shared_within_one_training_and_no_further(tmp_path: Path) -> None:
    training, other = Training(), Training()
    TrainingFolder(tmp_path, training)
    TrainingFolder(tmp_path / ".." / tmp_path.name, training)
    assert not _is_free(tmp_path)
    with pytest.raises(FolderInUseError, match=rf"another training \(process {os.getpid()}\)"):
        TrainingFolder(tmp_path, other)
    training.end()
    training.end()
    assert list(tmp_path.iterdir()) == []
    assert _is_free(tmp_path)
    TrainingFolder(tmp_path, other).release()
    assert _is_free(tmp_path)


def test_two_callbacks_of_one_training_share_a_folder_that_is_free_afterwards(tmp_path: Path) -> None:
    free = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 10:
                free.append(_is_free(tmp_path))
            return True

    callbacks = [
        Look(),
        OnnxCheckpointCallback(tmp_path, save_freq=10, name_prefix="a"),
        OnnxCheckpointCallback(tmp_path, save_freq=10, name_prefix="b", save_final=False),
    ]
    make_model().learn(10, callback=callbacks)
    assert free == [False]
    assert not (tmp_path / LOCK).exists()
    assert _is_free(tmp_path)


def test_a_training_that_never_began_leaves_the_folder_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = OnnxCheckpointCallback(tmp_path)
    model = make_model()
    with monkeypatch.context() as patched:
        patched.setattr("sb3_clanker.training.callback.Exporter", None)
        with pytest.raises(TypeError, match="not callable"):
            model.learn(16, callback=callback)
    assert list(tmp_path.iterdir()) == []
    assert _is_free(tmp_path)


def test_a_training_that_ends_by_a_failed_export_leaves_the_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = OnnxCheckpointCallback(tmp_path, save_freq=10, on_error="raise")

    def fail(*args: object) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(callback, "_write", fail)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        make_model().learn(16, callback=callback)
    assert list(tmp_path.iterdir()) == []
    assert _is_free(tmp_path)


def test_a_training_that_was_interrupted_leaves_the_folder_free_once_it_is_forgotten(tmp_path: Path) -> None:
    class Interrupt(BaseCallback):
        def _on_step(self) -> bool:
            raise KeyboardInterrupt

    callback = OnnxCheckpointCallback(tmp_path)
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        model.learn(16, callback=[Interrupt(), callback])
    assert not _is_free(tmp_path)
    del callback, model
    gc.collect()
    assert _is_free(tmp_path)


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError()])
def test_a_file_system_without_locks_is_trained_into_all_the_same(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def acquire(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with caplog.at_level(logging.DEBUG, "sb3_clanker"):
        make_model().learn(16, callback=OnnxCheckpointCallback(tmp_path))
    assert names(tmp_path) == ["final_model.onnx", "final_model.zip"]
    assert f"{tmp_path} cannot be locked: {error}" in caplog.messages
