"""A training may be killed at any moment: what has a name is whole, and the next training tidies up."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, load_checkpoint, read_metadata
from sb3_clanker.cli.main import main
from sb3_clanker.errors import ClankerError
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.run_folder.publication import Publication
from sb3_clanker.writers.formats import FURTHER_FORMATS
from tests.integration.trainings import (
    assert_alike,
    assert_whole,
    make_eval_env,
    processes,
    results,
    states,
    states_of_formats,
    temporaries,
    train,
)
from tests.worlds import make_model

_PATIENCE = 60.0
"""Seconds that a training may take to get somewhere."""


# At random moments ---------------------------------------------------------------------------------------------------


def _train_until_killed(pipe: Connection, folder: Path) -> None:
    """Publish all the time, and tell when a publication begins, when its files get their names, and when it is over."""
    th.set_num_threads(1)
    write, commit = OnnxCheckpointCallback._write, Publication.commit

    def telling_write(self: OnnxCheckpointCallback, *args: Any) -> None:
        pipe.send("write")
        write(self, *args)

    def telling_commit(self: Publication) -> None:
        pipe.send("commit")
        commit(self)
        pipe.send("over")

    OnnxCheckpointCallback._write = telling_write  # type: ignore[method-assign, assignment]
    Publication.commit = telling_commit  # type: ignore[method-assign]
    callback = OnnxCheckpointCallback(
        folder,
        eval_env=make_eval_env(),
        eval_freq=2,
        n_eval_episodes=1,
        save_freq=3,
        keep_last=4,
        options=ExportOptions(formats=tuple(FURTHER_FORMATS)),
    )
    train([callback], steps=1_000_000, n_steps=8, batch_size=8, n_epochs=1)


@dataclass(frozen=True)
class _Moment:
    """When to kill: after how many publications, in which part of one, and how far into it, from 0 to 1."""

    publications: int
    part: str
    share: float


def _kill_at(moment: _Moment, folder: Path) -> None:
    """Start a training, and kill it."""
    context = processes()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train_until_killed, args=(theirs, folder))
    process.start()
    theirs.close()
    try:
        started, took = 0.0, 0.0
        publications = 0
        while True:
            assert ours.poll(_PATIENCE), "the training does not publish"
            event = ours.recv()
            if event == moment.part:
                if publications > moment.publications:
                    break
                started = time.perf_counter()
            elif event == "over":
                publications += 1
                took = time.perf_counter() - started
        select.select([], [], [], moment.share * took)
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(_PATIENCE)
        ours.close()
    assert process.exitcode == -signal.SIGKILL


def _kill_often(count: int, seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """Kill so many trainings, look at what they left, and let the next one in."""
    generator = random.Random(seed)  # noqa: S311
    figures: Counter[str] = Counter()
    for number in range(count):
        part = "write" if number % 2 else "commit"
        moment = _Moment(generator.randrange(1, 8), part, generator.uniform(0.0, 1.2))
        folder = tmp_path / str(number)
        _kill_at(moment, folder)
        _look(folder, moment, figures, caplog)
        shutil.rmtree(folder)
    return figures


def _look(folder: Path, moment: _Moment, figures: Counter[str], caplog: pytest.LogCaptureFixture) -> None:
    figures["kills"] += 1
    found = assert_whole(folder)
    assert found["policies"] > 0, moment
    figures.update(found)
    left = temporaries(folder)
    dying = [path for path in folder.glob("*.onnx") if "missing" in states(path).values()]
    assert len(dying) <= 1, f"{moment}: more is being deleted than the oldest checkpoint"
    torn = [path for path in folder.glob("*.onnx") if "other" in states(path).values()]
    torn += [path for path in folder.glob("*.zip") if not path.with_suffix(".onnx").exists()]
    figures["killed while writing"] += bool(left)
    figures["killed between two names"] += bool(torn)
    figures["killed between two deletions"] += bool(dying)
    assert not torn or left, f"{moment}: files do not belong together, and nothing is left to finish them with"

    caplog.clear()
    TrainingFolder(folder).release()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    now = assert_whole(folder)
    assert now["matched"] + len(dying) == now["policies"], f"{moment}: {caplog.text}"
    assert all(path.with_suffix(".onnx").exists() for path in folder.glob("*.zip")), moment
    for policy in folder.glob("*.onnx"):
        assert policy in dying or set(states_of_formats(policy).values()) == {"matched"}, moment
    for path in folder.glob("*_torchscript"):
        assert path.with_name(f"{path.name.removesuffix('_torchscript')}.onnx").exists(), moment
    finished = "finished the publication" in caplog.text
    assert finished == bool(torn), moment
    figures["finished by the next training"] += finished


def _tell(figures: Counter[str]) -> None:
    print("\n" + ", ".join(f"{name}: {count}" for name, count in figures.items()))  # noqa: T201


def test_a_kill_at_any_moment_leaves_whole_files_that_the_next_training_tidies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figures = _kill_often(6, 1, tmp_path, caplog)
    _tell(figures)
    assert figures["kills"] == 6


@pytest.mark.slow
def test_two_hundred_kills_leave_whole_files_that_the_next_training_tidies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figures = _kill_often(200, 2, tmp_path, caplog)
    _tell(figures)
    assert figures["kills"] == 200
    assert figures["killed while writing"] > 20
    assert figures["killed between two names"] > 0


# Between any two names -----------------------------------------------------------------------------------------------

_STEPS = 24
_NAMES = [
    "best_model.zip",
    "best_model_vecnormalize.pkl",
    "best_model.vectors.json",
    "best_model_torchscript/policy.pt",
    "best_model_torchscript/metadata.json",
    "best_model.onnx",
    "rl_model_24_steps.zip",
    "rl_model_vecnormalize_24_steps.pkl",
    "rl_model_replay_buffer_24_steps.pkl",
    "rl_model_24_steps.vectors.json",
    "rl_model_24_steps_torchscript/policy.pt",
    "rl_model_24_steps_torchscript/metadata.json",
    "rl_model_24_steps.onnx",
]
"""What a training writes at its 24th step, in the order in which the names appear."""


def _train_sac(folder: Path, seed: int) -> OnnxCheckpointCallback:
    """Train, and write one best and one checkpoint, with everything that there is."""
    callback = OnnxCheckpointCallback(
        folder,
        eval_env=make_eval_env(),
        eval_freq=_STEPS,
        n_eval_episodes=1,
        save_freq=_STEPS,
        save_replay_buffer=True,
        save_final=False,
        overwrite=True,
        options=ExportOptions(test_vectors=3, formats=tuple(FURTHER_FORMATS)),
    )
    model = make_model(SAC, normalize=True)
    model.set_random_seed(seed)
    model.learn(_STEPS, callback=callback)
    return callback


def _kill_itself_before(name: str, folder: Path, seed: int) -> None:
    """Train, and die when a file is about to get its name."""
    th.set_num_threads(1)
    replace = Path.replace

    def deadly(self: Path, target: Path) -> Path:
        if target == folder / name:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = deadly  # type: ignore[assignment, method-assign]
    _train_sac(folder, seed)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another training, whose files have the same names."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    assert len(_train_sac(folder, seed=1).reports) == 2
    assert results(folder) == sorted(_NAMES)
    return folder


_QUICK = {0, 4, 5, 7, 8, 10}
"""Which of them the default suite tries; the long tests try every one, over another training and in an empty folder."""


@pytest.mark.parametrize(
    ("name", "fresh"),
    [
        pytest.param(name, fresh, marks=() if index in _QUICK and not fresh else pytest.mark.slow)
        for fresh in (False, True)
        for index, name in enumerate(_NAMES)
    ],
)
def test_a_kill_between_two_names_is_finished_or_cleaned_by_the_next_training(
    name: str, fresh: bool, earlier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    if fresh:
        folder.mkdir()
    else:
        shutil.copytree(earlier, folder)
    before = _content(folder)
    process = processes().Process(target=_kill_itself_before, args=(name, folder, 2))
    process.start()
    process.join(_PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    assert temporaries(folder) != []
    assert_whole(folder, SAC)
    killed = _content(folder)
    n_named = _NAMES.index(name)
    assert [each for each in _NAMES if killed.get(each) != before.get(each)] == _NAMES[:n_named]

    TrainingFolder(folder).release()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert_whole(folder, SAC)
    stem = "best_model" if n_named < _NAMES.index("rl_model_24_steps.zip") else "rl_model_24_steps"
    if name == f"{stem}.zip":
        assert _content(folder) == killed  # nothing of it had got its name: it is as if it had not begun
    elif n_named <= _NAMES.index("rl_model_replay_buffer_24_steps.pkl") and stem != "best_model":
        assert _content(folder) == killed  # no digest tells whose a replay buffer is, so nothing is finished
        assert "rl_model_24_steps.zip was interrupted before its replay buffer had its name" in caplog.text
        with pytest.raises(ClankerError):
            load_checkpoint(folder / stem)
    else:
        assert f"finished the publication of {stem}.onnx, which had been interrupted" in caplog.text
        _assert_complete(folder, stem, before)


# Between the .zip of another callback and our files -------------------------------------------------------------------


def _follow_until(name: str, folder: Path) -> None:
    """Complete one best; at the next, die when a file of it is about to be staged, or to get its name."""
    th.set_num_threads(1)
    replace, stage = Path.replace, Publication.stage
    ours = OnnxCheckpointCallback(on_error="raise")

    def die_at(each: str) -> None:
        if each == name and ours.reports:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly_replace(self: Path, target: Path) -> Path:
        die_at(Path(target).name)
        return replace(self, target)

    def deadly_stage(self: Publication, name: str, write: Any) -> Path:
        die_at(f"staged {name}")
        return stage(self, name, write)

    Path.replace, Publication.stage = deadly_replace, deadly_stage  # type: ignore[assignment, method-assign]
    best = EvalCallback(make_eval_env(), eval_freq=16, n_eval_episodes=1, best_model_save_path=str(folder), verbose=0)
    train([best, ours], steps=32)


@pytest.mark.parametrize(
    "name",
    ["staged best_model_vecnormalize.pkl", "staged best_model.onnx", "best_model_vecnormalize.pkl", "best_model.onnx"],
)
def test_a_kill_between_the_zip_of_another_and_our_files_is_noticed_or_finished(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    process = processes().Process(target=_follow_until, args=(name, tmp_path))
    process.start()
    process.join(_PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    best = tmp_path / "best_model.onnx"
    assert PPO.load(best.with_suffix(".zip"), device="cpu").num_timesteps == 32
    assert read_metadata(best).training.num_timesteps == 16
    assert states(best)["best_model.zip"] == "other"
    assert main(["validate", str(best)]) == 1
    assert "best_model.zip" in capsys.readouterr().err
    TrainingFolder(tmp_path).release()
    assert temporaries(tmp_path) == []
    if name.startswith("staged"):
        assert "best_model.zip is of another instant than best_model.onnx" in caplog.text
        assert read_metadata(best).training.num_timesteps == 16
    else:
        assert "finished the publication of best_model.onnx, which had been interrupted" in caplog.text
        assert set(states(best).values()) == {"matched"}
        assert_alike(best)


def _content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in results(folder)}


def _assert_complete(folder: Path, stem: str, before: dict[str, bytes]) -> None:
    """All files of a checkpoint are there, new, and of one instant."""
    policy, names = folder / f"{stem}.onnx", [name for name in _NAMES if stem[:4] == name[:4]]
    assert [name for name in names if (folder / name).read_bytes() == before.get(name)] == []
    assert set(states(policy).values()) == {"matched"}
    assert set(states_of_formats(policy).values()) == {"matched"}
    assert_alike(policy, SAC)
    assert read_vectors(policy.with_suffix(".vectors.json")).digest == read_metadata(policy).digest
    replay_buffer = load_checkpoint(policy).model.replay_buffer  # type: ignore[attr-defined]
    assert isinstance(replay_buffer, ReplayBuffer) or stem == "best_model"
