"""Faults in the middle of a training: it goes on as if nothing had happened, loudly, and what was good stays good."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, chdir, contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import onnx.checker
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, EveryNTimesteps

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, read_metadata
from sb3_clanker.errors import FolderInUseError, MissingDependencyError, NonFiniteWeightsError, PublicationError
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.run_folder.publication import Publication
from tests.integration.trainings import (
    NaNOnceEnv,
    assert_whole,
    make_eval_env,
    processes,
    remains,
    results,
    states,
    temporaries,
    train,
)
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model

BEGIN, END = 25, 45
"""The calls between which there is a fault."""
PUBLICATIONS = [
    ("best_model", 10),
    ("best_model", 20),
    ("rl_model_20_steps", 20),
    ("best_model", 30),
    ("best_model", 40),
    ("rl_model_40_steps", 40),
    ("best_model", 50),
    ("best_model", 60),
    ("rl_model_60_steps", 60),
    ("final_model", 64),
]
"""What an undisturbed training writes, and when."""
DISTURBED = [each for each in PUBLICATIONS if BEGIN <= each[1] < END]
Fault = Callable[[], AbstractContextManager[Any]]


class _During(BaseCallback):
    """A fault from one call to another; what it left of the folder is kept to be looked at."""

    def __init__(self, fault: Fault, folder: Path, kept: Path) -> None:
        super().__init__()
        self._fault, self._folder, self._kept = fault, folder, kept
        self._active = ExitStack()

    def _on_step(self) -> bool:
        if self.n_calls == BEGIN:
            self._active.enter_context(self._fault())
        elif self.n_calls == END:
            self._active.close()
            if self._folder.is_dir():
                shutil.copytree(self._folder, self._kept)
        return True


def _callback(folder: Path, **kwargs: Any) -> OnnxCheckpointCallback:
    return OnnxCheckpointCallback(
        folder, eval_env=make_eval_env(), eval_freq=10, n_eval_episodes=1, save_freq=20, **kwargs
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is left of a training with Stable-Baselines3's own callbacks."""
    folder = tmp_path_factory.mktemp("theirs")
    evaluation = EvalCallback(
        make_eval_env(), eval_freq=10, n_eval_episodes=1, best_model_save_path=str(folder), verbose=0
    )
    return remains(train([evaluation, CheckpointCallback(20, str(folder))]))


def _disturb(
    callback: OnnxCheckpointCallback,
    fault: Fault,
    undisturbed: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
    kept: Path,
    disturbed: Sequence[tuple[str, int]] = DISTURBED,
) -> None:
    """Train with a fault in the middle, which must fail these exports and no others, be told, and change nothing.

    :param kept: gets a copy of the folder as it was when the fault ended
    """
    folder = callback.save_path
    assert folder is not None
    with caplog.at_level(logging.ERROR, "sb3_clanker"):
        model = train([_During(fault, folder, kept), callback])
    left = remains(model)
    assert [name for name in undisturbed if left[name] != undisturbed[name]] == []
    assert [(failure.name, failure.num_timesteps) for failure in callback.failures] == list(disturbed)
    written = [(report.path.stem, report.metadata.training.num_timesteps) for report in callback.reports]
    assert written == [each for each in PUBLICATIONS if each not in disturbed]
    for name, steps in disturbed:
        assert f"The export of {name}.onnx at {steps} timesteps failed; training goes on." in caplog.text
    n_failures = len(disturbed)
    if disturbed:
        name, steps = disturbed[-1]
        summary = f"{n_failures} of {len(PUBLICATIONS)} exports failed; the last was {name}.onnx at {steps} timesteps"
        assert caplog.messages[-1].startswith(summary)
    else:
        assert caplog.messages == []
    assert model.logger.name_to_value["onnx/failures"] == n_failures
    assert model.logger.name_to_value["onnx/exports"] == len(PUBLICATIONS) - n_failures
    assert [name for name in os.listdir(folder) if name.startswith(".")] == []  # noqa: PTH208
    found = assert_whole(folder)
    assert found["matched"] == found["policies"] >= 3


def _assert_best(folder: Path, *, policy: int, algorithm: int) -> None:
    """The best policy and the best ``.zip`` are of these timesteps; everything is whole, what is older is as it was."""
    assert_whole(folder)
    assert temporaries(folder) == []
    assert read_metadata(folder / "best_model.onnx").training.num_timesteps == policy
    assert PPO.load(folder / "best_model.zip", device="cpu").num_timesteps == algorithm
    assert states(folder / "best_model.onnx")["best_model.zip"] == ("matched" if policy == algorithm else "other")
    assert set(states(folder / "rl_model_20_steps.onnx").values()) == {"matched"}


# The disk ------------------------------------------------------------------------------------------------------------


@contextmanager
def _no_file_over(n_bytes: int) -> Iterator[None]:
    """Every write beyond so many bytes of a file fails, after the bytes before it were written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "suffix",
    [".zip", ".onnx", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".pkl", ".vectors.json"))],
)
def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_the_file_before_it(
    suffix: str,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Publication.stage

    def cramped(self: Publication, name: str, write: Any) -> Path:
        with _no_file_over(1000) if name.endswith(suffix) else _no_file_over(1 << 30):
            return stage(self, name, write)

    @contextmanager
    def full() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Publication, "stage", cramped)
            yield

    callback, kept = _callback(tmp_path / "run", options=ExportOptions(test_vectors=20)), tmp_path / "kept"
    _disturb(callback, full, undisturbed, caplog, kept)
    assert all(isinstance(failure.error, PublicationError) for failure in callback.failures)
    assert "Check that the folder exists, is writable and not full." in caplog.text
    zip_is_written = suffix != ".zip"  # it is staged first, and kept whatever becomes of the rest
    _assert_best(kept, policy=20, algorithm=40 if zip_is_written else 20)
    assert (kept / "rl_model_40_steps.zip").exists() == zip_is_written
    assert not (kept / "rl_model_40_steps.onnx").exists()
    assert all(("best_model.zip" in failure.unmatched) == zip_is_written for failure in callback.failures[:2])


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """No room for more than a few bytes beside what is there, until the end."""
    filler = folder.parent / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))
    os.truncate(filler, max(0, filler.stat().st_size - 8192))
    yield
    filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of a megabyte, where this machine lets us have one."""
    disk, mount, umount = tmp_path / "disk", shutil.which("mount"), shutil.which("umount")
    disk.mkdir()
    command = [mount or "", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not mount or not umount or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    yield disk
    subprocess.run([umount, str(disk)], check=True)


def test_a_disk_that_is_full_leaves_the_files_before(
    small_disk: Path | None, undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = (small_disk or tmp_path) / "run"
    callback, kept = _callback(folder), tmp_path / "kept"
    fault = (lambda: _full_disk(folder)) if small_disk else (lambda: _no_file_over(1000))
    _disturb(callback, fault, undisturbed, caplog, kept)
    _assert_best(kept, policy=20, algorithm=20)
    expected = "No space left on device" if small_disk else "File too large"
    assert all(expected in str(failure.error) for failure in callback.failures)


# The folder ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A temporary folder that every user may read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def _unwritable(folder: Path) -> Iterator[None]:
    """The folder may be read and no more; even root is held to that, as another user for the file system."""
    libc = ctypes.CDLL(None)
    folder.chmod(0o555)
    if os.geteuid() == 0:
        libc.setfsuid(65534)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())
        folder.chmod(0o755)


def test_a_folder_that_becomes_unwritable_keeps_what_is_in_it(
    undisturbed: dict[str, bytes], open_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, kept = open_path / "run", tmp_path / "kept"
    callback = _callback(folder)
    _disturb(callback, lambda: _unwritable(folder), undisturbed, caplog, kept)
    _assert_best(kept, policy=20, algorithm=20)
    assert all(isinstance(failure.error, PublicationError) for failure in callback.failures)
    assert "Permission denied" in caplog.text


def test_a_folder_that_is_deleted_is_made_again(
    undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, kept = tmp_path / "run", tmp_path / "kept"

    def delete() -> AbstractContextManager[None]:
        shutil.rmtree(folder)
        return nullcontext()

    _disturb(_callback(folder), delete, undisturbed, caplog, kept, disturbed=())
    assert results(kept) == [
        "best_model.onnx",
        "best_model.zip",
        "best_model_vecnormalize.pkl",
        "rl_model_40_steps.onnx",
        "rl_model_40_steps.zip",
        "rl_model_vecnormalize_40_steps.pkl",
    ]


@contextmanager
def _replaced_by_a_file(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder)
    folder.write_text("not yours")
    yield
    assert folder.read_text() == "not yours"
    folder.unlink()


def test_a_file_in_the_place_of_the_folder_is_left_alone(
    undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    callback = _callback(folder)
    _disturb(callback, lambda: _replaced_by_a_file(folder), undisturbed, caplog, tmp_path / "kept")
    assert all(isinstance(failure.error, PublicationError) for failure in callback.failures)


@contextmanager
def _in_the_way(path: Path) -> Iterator[None]:
    path.mkdir()
    (path / "kept").write_text("not yours")
    yield
    assert (path / "kept").read_text() == "not yours"
    shutil.rmtree(path)


def test_a_folder_in_the_place_of_a_file_is_left_alone(
    undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    callback = _callback(folder)
    disturbed = [("rl_model_40_steps", 40)]
    way = folder / "rl_model_40_steps.onnx"
    _disturb(callback, lambda: _in_the_way(way), undisturbed, caplog, tmp_path / "kept", disturbed)
    assert "rl_model_40_steps.onnx: cannot be written: it is a folder" in caplog.text
    assert "rl_model_40_steps.zip" not in results(folder)


def test_read_only_files_of_before_are_replaced(
    undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"

    def protect() -> AbstractContextManager[None]:
        for path in folder.iterdir():
            path.chmod(0o444)
        return nullcontext()

    _disturb(_callback(folder), protect, undisturbed, caplog, tmp_path / "kept", disturbed=())
    _assert_best(tmp_path / "kept", policy=40, algorithm=40)


@pytest.mark.parametrize(
    "name",
    [f"my runs/é 日本 🤖/{'n' * 255}", "/".join(["n" * 250] * 8)],
    ids=["of any characters", "of any length"],
)
def test_any_name_of_a_folder_will_do(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name / "run"
    callback = OnnxCheckpointCallback(folder, save_freq=10, name_prefix="modèle 🤖")
    train([callback], steps=16)
    assert callback.failures == []
    assert results(folder) == [
        "final_model.onnx",
        "final_model.zip",
        "final_model_vecnormalize.pkl",
        "modèle 🤖_10_steps.onnx",
        "modèle 🤖_10_steps.zip",
        "modèle 🤖_vecnormalize_10_steps.pkl",
    ]
    assert assert_whole(folder)["matched"] == 2


def test_a_name_that_no_folder_can_have_raises_before_the_first_step(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(PublicationError, match="too long"):
        model.learn(16, callback=OnnxCheckpointCallback(tmp_path / ("n" * 256)))
    assert model.num_timesteps == 0


def test_a_relative_folder_stays_where_it_was_when_the_training_goes_elsewhere(
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    callback = _callback(Path("run"))
    _disturb(callback, lambda: chdir(elsewhere), undisturbed, caplog, tmp_path / "kept", disturbed=())
    assert callback.save_path == here / "run"
    assert os.listdir(elsewhere) == []  # noqa: PTH208
    assert len(results(here / "run")) == 15


# The exporter, and what it stands on ---------------------------------------------------------------------------------


class _BareError(Exception):
    """With nothing to say."""


def test_whatever_an_export_raises_the_zip_is_written_and_training_goes_on(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[tuple[Any, str, Exception]] = [
        (Exporter, "_export", MemoryError()),
        (onnx.checker, "check_model", RecursionError("too deep")),
        (onnxruntime, "InferenceSession", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")),
    ]
    assert len(errors) == len(DISTURBED)
    remaining = iter(errors)
    export = Exporter.export

    def failing(self: Exporter, **kwargs: Any) -> Any:
        where, name, error = next(remaining)

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(where, name, fail)
            return export(self, **kwargs)

    @contextmanager
    def fault() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Exporter, "export", failing)
            yield

    callback, kept = _callback(tmp_path / "run"), tmp_path / "kept"
    _disturb(callback, fault, undisturbed, caplog, kept)
    _assert_best(kept, policy=20, algorithm=40)
    assert set(states(kept / "best_model.onnx").values()) == {"other"}
    assert "best_model.onnx is older than best_model.zip and best_model_vecnormalize.pkl beside it." in caplog.text
    assert (kept / "rl_model_40_steps.zip").exists()
    for (_, _, error), failure in zip(errors, callback.failures, strict=True):
        assert error in _chain(failure.error)


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and what it came from."""
    return [] if error is None else [error, *_chain(error.__cause__)]


def test_whatever_saving_raises_training_goes_on_and_nothing_is_torn(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [MemoryError(), ValueError("I/O operation on closed file"), _BareError()]
    remaining = iter(errors)

    def fail(self: PPO, file: Any) -> None:
        file.write(b"half of it")
        raise next(remaining)

    @contextmanager
    def fault() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(PPO, "save", fail)
            yield

    callback, kept = _callback(tmp_path / "run"), tmp_path / "kept"
    _disturb(callback, fault, undisturbed, caplog, kept)
    _assert_best(kept, policy=20, algorithm=20)
    assert [failure.error for failure in callback.failures] == errors


def test_a_missing_package_is_told_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = spaces.Discrete(3)
    model = make_model(MaskablePPO, BOX_OBSERVATION, choices)
    callback = OnnxCheckpointCallback(
        tmp_path, eval_env=make_eval_env(action_space=choices, normalize=False), eval_freq=10
    )
    monkeypatch.setitem(sys.modules, "sb3_contrib.common.maskable.callbacks", None)
    with pytest.raises(MissingDependencyError, match=r"sb3-contrib, which is not installed\. Install it: pip install"):
        model.learn(32, callback=callback)
    assert model.num_timesteps == 0
    assert os.listdir(tmp_path) == []  # noqa: PTH208


# The policy, and its evaluation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "parameter"), [(math.nan, "value_net.weight"), (math.inf, "mlp_extractor.value_net.0.bias")]
)
def test_a_policy_that_diverged_takes_no_place_of_a_good_one(
    value: float,
    parameter: str,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    callback, kept = _callback(tmp_path / "run"), tmp_path / "kept"
    on_step = callback._on_step

    def diverged() -> bool:
        weights = dict(callback.model.policy.named_parameters())[parameter].data
        good = weights.clone()
        weights[0] = value
        try:
            return on_step()
        finally:
            weights.copy_(good)

    @contextmanager
    def fault() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(callback, "_on_step", diverged)
            yield

    _disturb(callback, fault, undisturbed, caplog, kept)
    _assert_best(kept, policy=20, algorithm=20)
    assert all(isinstance(failure.error, NonFiniteWeightsError) for failure in callback.failures)
    assert f"{parameter} holds values that are infinite or not a number: training has diverged." in caplog.text
    checkpoint = PPO.load(kept / "rl_model_40_steps.zip", device="cpu")
    assert not dict(checkpoint.policy.named_parameters())[parameter].isfinite().all()
    assert not (kept / "rl_model_40_steps.onnx").exists()


def test_an_evaluation_that_is_no_number_is_no_best(
    undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = OnnxCheckpointCallback(
        tmp_path, eval_env=make_eval_env(NaNOnceEnv), eval_freq=10, n_eval_episodes=1, save_freq=20
    )
    with caplog.at_level(logging.ERROR, "sb3_clanker"):
        left = remains(train([callback]))
    assert left == undisturbed
    assert caplog.messages == ["The evaluation at 20 timesteps gave no number: rewards are NaN."]
    written = [(report.path.stem, report.metadata.training.num_timesteps) for report in callback.reports]
    assert written == [each for each in PUBLICATIONS if each != ("best_model", 20)]
    assert callback.failures == []


# Whoever else is there -----------------------------------------------------------------------------------------------


class _Interrupt(BaseCallback):
    """Ends the training with an error of its own."""

    def _on_step(self) -> bool:
        if self.n_calls == 25:
            raise KeyError("interrupted")
        return True


def test_an_interrupt_in_the_middle_of_an_export_leaves_a_zip_and_says_so_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check_model = onnx.checker.check_model
    calls = 0

    def interrupted(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # before the first step, and the best ones of 10 and 20 steps
            raise KeyboardInterrupt
        check_model(*args, **kwargs)

    monkeypatch.setattr(onnx.checker, "check_model", interrupted)
    evaluations: dict[str, Any] = {"eval_freq": 10, "n_eval_episodes": 1}
    with pytest.raises(KeyboardInterrupt):
        train([OnnxCheckpointCallback(tmp_path, eval_env=make_eval_env(), **evaluations)])
    _assert_partners(tmp_path, "other")
    assert PPO.load(tmp_path / "best_model.zip", device="cpu").num_timesteps == 30
    assert read_metadata(tmp_path / "best_model.onnx").training.num_timesteps == 20

    resumed = PPO.load(tmp_path / "best_model.zip", env=make_env(BOX_OBSERVATION, BOX_ACTION, normalize=True))
    callback = OnnxCheckpointCallback(tmp_path, eval_env=make_eval_env(), **evaluations)
    resumed.learn(64, callback=callback, reset_num_timesteps=False)
    assert "best_model.zip and best_model_vecnormalize.pkl is of another instant than best_model.onnx" in caplog.text
    assert callback.failures == []
    _assert_partners(tmp_path, "matched")


def _assert_partners(folder: Path, state: str) -> None:
    assert temporaries(folder) == []
    assert_whole(folder)
    assert set(states(folder / "best_model.onnx").values()) == {state}


def test_a_training_that_was_interrupted_can_be_started_again_in_the_same_process(tmp_path: Path) -> None:
    callback = _callback(tmp_path)
    with pytest.raises(KeyError, match="interrupted"):
        train([callback, _Interrupt()])
    for again in (callback, _callback(tmp_path)):
        train([again])
        assert again.failures == []
        found = assert_whole(tmp_path)
        assert found["matched"] == found["policies"] >= 5


def _train_and_wait(pipe: Connection, folder: Path) -> None:
    """Train, stop in the middle until told to go on, and end."""

    class Wait(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 25:
                pipe.send("in the middle")
                pipe.recv()
            return True

    th.set_num_threads(1)
    train([_callback(folder), Wait()])


def test_a_second_process_is_kept_out_until_the_first_has_ended(tmp_path: Path) -> None:
    context = processes()
    ours, theirs = context.Pipe()
    process = context.Process(target=_train_and_wait, args=(theirs, tmp_path))
    process.start()
    assert ours.poll(60), "the first training does not get anywhere"
    before = {name: (tmp_path / name).read_bytes() for name in results(tmp_path)}
    model = make_model(normalize=True)
    with pytest.raises(FolderInUseError, match=rf"another training \(process {process.pid}\) writes its files here"):
        model.learn(64, callback=_callback(tmp_path))
    assert model.num_timesteps == 0
    assert {name: (tmp_path / name).read_bytes() for name in results(tmp_path)} == before != {}
    ours.send("go on")
    process.join(60)
    assert process.exitcode == 0
    assert assert_whole(tmp_path)["matched"] == 5
    callback = _callback(tmp_path)
    train([callback])
    assert callback.failures == []


def test_two_callbacks_of_one_training_share_a_folder(tmp_path: Path) -> None:
    best = OnnxCheckpointCallback(tmp_path)
    checkpoints = OnnxCheckpointCallback(tmp_path, name_prefix="a")
    more = OnnxCheckpointCallback(tmp_path, name_prefix="b", save_freq=20)
    evaluation = EvalCallback(make_eval_env(), callback_on_new_best=best, eval_freq=10, n_eval_episodes=1, verbose=0)
    train([evaluation, EveryNTimesteps(32, checkpoints), more])
    assert best.failures == checkpoints.failures == more.failures == []
    stems = ["a_32_steps", "a_64_steps", "b_20_steps", "b_40_steps", "b_60_steps", "best_model", "final_model"]
    assert sorted(path.stem for path in tmp_path.glob("*.onnx")) == stems
    assert assert_whole(tmp_path)["matched"] == len(stems)
