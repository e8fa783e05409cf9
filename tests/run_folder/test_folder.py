"""A training's folder: what lies in it, what an interruption left in it, and what may be deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stable_baselines3 import SAC

from sb3_clanker import ExportOptions, OnnxPolicy, read_metadata
from sb3_clanker.policy_file.record import PairedFile
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.run_folder.identity import pair_with_file, pair_with_zip, require_matched
from sb3_clanker.run_folder.retention import OwnFile, WrittenCheckpoint, keep_newest
from sb3_clanker.runtime.check_vectors import check_vectors
from tests.checkpoints import checkpoint_files, contents, flip, names, restamp, train
from tests.worlds import make_model

ALL = ("vecnormalize", "replay_buffer", "vectors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints at 20, 40 and 60 steps with everything that there can be, and the final model."""
    folder = tmp_path_factory.mktemp("trained")
    model = make_model(SAC, normalize=True)
    train(folder, 60, model, save_replay_buffer=True, options=ExportOptions(test_vectors=2))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@contextmanager
def _opened(path: Path) -> Iterator[TrainingFolder]:
    folder = TrainingFolder(path)
    yield folder
    folder.release()


def _checkpoints(path: Path, prefix: str = "rl_model", num_timesteps: int = 1000) -> dict[int, list[str]]:
    with _opened(path) as folder:
        found = folder.numbered(prefix, num_timesteps)
    assert all(file.path.parent == path for checkpoint in found for file in checkpoint.files)
    return {each.num_timesteps: [file.path.name for file in each.files] for each in found if each.whole}


# What lies there ----------------------------------------------------------------------------------------------------


def test_checkpoints_from_before_are_found_with_all_their_files(folder: Path) -> None:
    found = _checkpoints(folder)
    assert list(found) == [20, 40, 60]
    for steps, files in found.items():
        assert sorted(files) == sorted(checkpoint_files(steps, *ALL))
        assert files[-1] == f"rl_model_{steps}_steps.onnx"  # deleted last: it is what tells whose the others are


def test_checkpoints_that_are_newer_are_not_found(folder: Path) -> None:
    for num_timesteps, expected in {19: [], 20: [20], 59: [20, 40], 60: [20, 40, 60]}.items():
        assert list(_checkpoints(folder, num_timesteps=num_timesteps)) == expected


def test_checkpoints_are_found_in_the_order_of_training_and_not_of_names(folder: Path) -> None:
    train(folder, 20, name_prefix="x", save_freq=9, save_final=False)
    assert list(_checkpoints(folder, "x")) == [9, 18, 27]


@pytest.mark.parametrize("prefix", ["rl", "model", "rl_model_20", "RL_MODEL", "*", "rl_model_20_steps"])
def test_checkpoints_of_another_prefix_are_not_found(prefix: str, folder: Path) -> None:
    assert _checkpoints(folder, prefix) == {}


def test_a_renamed_checkpoint_is_nobodys(folder: Path) -> None:
    shutil.copy(folder / "rl_model_20_steps.onnx", folder / "rl_model_30_steps.onnx")
    shutil.copy(folder / "rl_model_20_steps.onnx", folder / "rl_model_020_steps.onnx")
    assert list(_checkpoints(folder)) == [20, 40, 60]


@pytest.mark.parametrize("content", [b"", b"a foreign policy", b"\x08\x08"])
def test_a_foreign_policy_that_is_called_like_a_checkpoint_is_nobodys(content: bytes, folder: Path) -> None:
    (folder / "rl_model_30_steps.onnx").write_bytes(content)
    (folder / "rl_model_50_steps.onnx").mkdir()
    assert list(_checkpoints(folder)) == [20, 40, 60]


def test_a_damaged_checkpoint_is_nobodys(folder: Path) -> None:
    flip(folder / "rl_model_40_steps.onnx")
    assert list(_checkpoints(folder)) == [20, 60]


def test_a_policy_that_was_exported_alone_is_no_checkpoint(folder: Path) -> None:
    restamp(folder / "rl_model_40_steps.onnx", together=False)
    with _opened(folder) as opened:
        assert [checkpoint.num_timesteps for checkpoint in opened.numbered("rl_model", 60)] == [20, 60]


@pytest.mark.parametrize("name", ["rl_model_40_steps.zip", "rl_model_vecnormalize_40_steps.pkl"])
def test_a_checkpoint_whose_files_are_gone_or_others_is_not_whole_and_owns_no_others(name: str, folder: Path) -> None:
    for change in (lambda: (folder / name).write_bytes(b"the user's own"), (folder / name).unlink):
        change()
        assert list(_checkpoints(folder)) == [20, 60]
        with _opened(folder) as opened:
            (checkpoint,) = [each for each in opened.numbered("rl_model", 60) if not each.whole]
        assert checkpoint.num_timesteps == 40
        assert {file.path.name for file in checkpoint.files} == set(checkpoint_files(40, *ALL)) - {name}


def test_vectors_of_another_policy_are_not_the_checkpoints(folder: Path) -> None:
    shutil.copy(folder / "rl_model_20_steps.vectors.json", folder / "rl_model_40_steps.vectors.json")
    (folder / "rl_model_60_steps.vectors.json").write_bytes(b"{")
    found = _checkpoints(folder)
    assert [sum(name.endswith(".json") for name in files) for files in found.values()] == [1, 0, 0]


@pytest.mark.parametrize("name", ["../x.zip", "/x.zip", "best_model.zip", "final_model.zip", "../runs/best_model.zip"])
def test_a_hostile_checkpoint_owns_nothing_but_its_own_names(name: str, folder: Path) -> None:
    outside = folder.parent / "x.zip"
    for copy in (outside, folder / "best_model.zip"):
        shutil.copy(folder / "final_model.zip", copy)
    statistics = folder / "final_model_vecnormalize.pkl"
    restamp(
        folder / "rl_model_40_steps.onnx",
        algorithm_file=PairedFile(name=name.replace("/x", f"{outside.parent}/x"), digest=pair_with_zip(outside).digest),
        statistics_file=PairedFile(name=f"../runs/{statistics.name}", digest=pair_with_file(statistics).digest),
    )
    with _opened(folder) as opened:
        found = opened.numbered("rl_model", 60)
    assert [each.num_timesteps for each in found if each.whole] == [20, 60]
    before = names(folder)
    keep_newest([*found, WrittenCheckpoint(num_timesteps=1000, files=())], 1)
    deleted = [*checkpoint_files(20, *ALL), *checkpoint_files(60, *ALL)]
    deleted += [f"rl_model_{name}" for name in ("40_steps.onnx", "40_steps.vectors.json")]
    assert names(folder) == sorted(set(before) - set(deleted))
    assert outside.exists()


def test_the_best_so_far_is_told_by_its_record(folder: Path) -> None:
    with _opened(folder) as opened:
        assert opened.best() is None
        shutil.copy(folder / "rl_model_20_steps.onnx", folder / "best_model.onnx")
        best = opened.best()
        assert best is not None
        assert best.training.num_timesteps == 20
        flip(folder / "best_model.onnx")
        assert opened.best() is None


# What may go --------------------------------------------------------------------------------------------------------


def _pretend(folder: Path, *steps: int, failed: tuple[int, ...] = ()) -> list[WrittenCheckpoint]:
    checkpoints = []
    for number in steps:
        paths = [folder / f"{number}.{suffix}" for suffix in ("zip", "onnx")[: 1 if number in failed else 2]]
        for path in paths:
            path.write_bytes(b"")
        files = tuple(map(OwnFile.at, paths))
        checkpoints.append(WrittenCheckpoint(num_timesteps=number, files=files, whole=number not in failed))
    return checkpoints


def _kept(checkpoints: list[WrittenCheckpoint]) -> list[int]:
    return [checkpoint.num_timesteps for checkpoint in checkpoints]


@pytest.mark.parametrize(("count", "kept"), [(1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (4, [1, 2, 3])])
def test_the_newest_are_kept_and_the_others_deleted(count: int, kept: list[int], tmp_path: Path) -> None:
    assert _kept(keep_newest(_pretend(tmp_path, 1, 2, 3), count)) == kept
    assert names(tmp_path) == [f"{steps}.{suffix}" for steps in kept for suffix in ("onnx", "zip")]


def test_nothing_to_keep_is_nothing_to_delete() -> None:
    assert keep_newest([], 1) == []


def test_failures_push_out_no_whole_checkpoint(tmp_path: Path) -> None:
    checkpoints = _pretend(tmp_path, 1, 2, 3, 4, 5, failed=(3, 4, 5))
    assert _kept(keep_newest(checkpoints, 2)) == [1, 2, 3, 4, 5]
    assert len(names(tmp_path)) == 7


def test_what_failed_goes_with_the_checkpoints_around_it(tmp_path: Path) -> None:
    checkpoints = _pretend(tmp_path, 1, 2, 3, 4, 5, failed=(1, 3))
    assert _kept(keep_newest(checkpoints, 2)) == [4, 5]
    assert names(tmp_path) == ["4.onnx", "4.zip", "5.onnx", "5.zip"]
    checkpoints = _pretend(tmp_path, 1, 2, 3, 4, failed=(1, 3))
    assert _kept(keep_newest(checkpoints, 2)) == [2, 3, 4]
    assert _kept(keep_newest(checkpoints, 3)) == [1, 2, 3, 4]


def test_a_file_that_is_gone_or_cannot_be_deleted_is_no_obstacle(tmp_path: Path) -> None:
    checkpoints = _pretend(tmp_path, 1, 2)
    (tmp_path / "1.zip").unlink()
    (tmp_path / "1.onnx").unlink()
    (tmp_path / "1.zip").mkdir()
    assert _kept(keep_newest(checkpoints, 1)) == [2]
    assert names(tmp_path) == ["1.zip", "2.onnx", "2.zip"]


def test_a_policy_is_the_last_of_its_checkpoint_to_be_deleted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _opened(folder) as opened:
        found = opened.numbered("rl_model", 60)
    deleted: list[str] = []
    unlink = Path.unlink

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        if len(deleted) == 3:
            raise KeyboardInterrupt
        deleted.append(path.name)
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            keep_newest(found, 2)
    assert (folder / "rl_model_20_steps.onnx").exists()
    with _opened(folder) as opened:  # so that the rest goes the next time
        again = opened.numbered("rl_model", 60)
    assert [(each.num_timesteps, each.whole) for each in again] == [(20, False), (40, True), (60, True)]
    keep_newest([*again, WrittenCheckpoint(num_timesteps=80, files=())], 2)
    assert {name for name in names(folder) if "_20_" in name or "_40_" in name} == set()


# What an interruption left ------------------------------------------------------------------------------------------

STEM = "rl_model_40_steps"


def _interrupt(folder: Path, *interrupted: str) -> None:
    """Give files of a checkpoint temporary names again, as if the renaming had not come so far."""
    for number, name in enumerate(interrupted):
        (folder / name).rename(folder / f".sb3_clanker-{number:016x}.tmp")


def _repair(folder: Path) -> None:
    with _opened(folder):
        pass


def test_a_publication_that_missed_only_the_policy_is_finished(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = contents(folder)
    _interrupt(folder, f"{STEM}.onnx")
    _repair(folder)
    assert contents(folder) == before
    assert caplog.messages == [
        f"{folder}: finished the publication of {STEM}.onnx, which had been interrupted.",
    ]


def test_a_publication_that_missed_all_but_the_zip_is_finished(folder: Path) -> None:
    restamp(folder / f"{STEM}.onnx", replay_buffer=False)
    for name in ("rl_model_replay_buffer_40_steps.pkl", f"{STEM}.vectors.json"):
        (folder / name).unlink()
    before = contents(folder)
    _interrupt(folder, "rl_model_vecnormalize_40_steps.pkl", f"{STEM}.onnx")
    _repair(folder)
    assert contents(folder) == before
    require_matched(folder / f"{STEM}.onnx", read_metadata(folder / f"{STEM}.onnx"))


def test_test_vectors_are_finished_with_their_policy(folder: Path) -> None:
    before = contents(folder)
    _interrupt(folder, f"{STEM}.vectors.json", f"{STEM}.onnx")
    _repair(folder)
    assert contents(folder) == before
    policy = OnnxPolicy(folder / f"{STEM}.onnx")
    check_vectors(policy, read_vectors(folder / f"{STEM}.vectors.json"))


def test_a_best_policy_is_finished_in_place_of_an_older_one(folder: Path) -> None:
    for steps in (20, 40):  # the older is there, the newer came as far as its .zip
        shutil.copy(folder / f"rl_model_{steps}_steps.zip", folder / "best_model.zip")
        shutil.copy(folder / f"rl_model_vecnormalize_{steps}_steps.pkl", folder / f"{steps}.pkl")
        restamp(
            folder / f"rl_model_{steps}_steps.onnx",
            folder / f"{steps}.onnx",
            algorithm_file=pair_with_zip(folder / "best_model.zip"),
            statistics_file=pair_with_file(folder / f"{steps}.pkl", "best_model_vecnormalize.pkl"),
            replay_buffer=False,
        )
    newer = (folder / "40.onnx").read_bytes()
    (folder / "20.pkl").rename(folder / "best_model_vecnormalize.pkl")
    (folder / "20.onnx").rename(folder / "best_model.onnx")
    _interrupt(folder, "40.pkl", "40.onnx")
    _repair(folder)
    assert (folder / "best_model.onnx").read_bytes() == newer
    partners = require_matched(folder / "best_model.onnx", read_metadata(folder / "best_model.onnx"))
    assert [partner.state for partner in partners] == ["matched", "matched"]
    assert not list(folder.glob("*.tmp"))


def test_a_publication_that_had_not_begun_to_appear_is_deleted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = contents(folder)
    _interrupt(folder, *checkpoint_files(40, *ALL))
    _repair(folder)
    assert contents(folder) == {name: data for name, data in before.items() if name not in checkpoint_files(40, *ALL)}
    assert caplog.messages == []


def test_a_publication_whose_statistics_are_lost_is_deleted(folder: Path) -> None:
    _interrupt(folder, f"{STEM}.onnx")
    (folder / "rl_model_vecnormalize_40_steps.pkl").write_bytes(b"of another instant")
    _repair(folder)
    assert not (folder / f"{STEM}.onnx").exists()
    assert not list(folder.glob("*.tmp"))


def test_a_publication_whose_replay_buffer_had_not_appeared_is_deleted(folder: Path) -> None:
    buffer = "rl_model_replay_buffer_40_steps.pkl"
    for older in (False, True):  # nothing tells one replay buffer from another
        before = (folder / f"{STEM}.onnx").read_bytes()
        data = (folder / buffer).read_bytes()
        _interrupt(folder, buffer, f"{STEM}.onnx")
        if older:
            (folder / buffer).write_bytes(b"of another instant")
        _repair(folder)
        assert not (folder / f"{STEM}.onnx").exists()
        assert not list(folder.glob("*.tmp"))
        (folder / buffer).write_bytes(data)
        (folder / f"{STEM}.onnx").write_bytes(before)


@pytest.mark.parametrize("content", [b"", b"half of someth", b"\x80\x04half a pickle", b"PK\x03\x04half a zip", b"{"])
def test_what_was_half_written_is_deleted(content: bytes, folder: Path) -> None:
    before = contents(folder)
    (folder / ".sb3_clanker-0123456789abcdef.tmp").write_bytes(content)
    _repair(folder)
    assert contents(folder) == before


def test_a_policy_that_was_half_written_is_deleted(folder: Path) -> None:
    before = contents(folder)
    data = (folder / f"{STEM}.onnx").read_bytes()
    (folder / ".sb3_clanker-0123456789abcdef.tmp").write_bytes(data[: len(data) // 2])
    _repair(folder)
    assert contents(folder) == before


def test_hidden_files_of_others_are_left_alone(folder: Path) -> None:
    others = [".hidden", ".sb3_clanker", ".sb3_clanker-notes", ".tmp", "x.tmp", ".other-0123456789abcdef.tmp"]
    for name in others:
        (folder / name).write_bytes(b"a user's own")
    (folder / ".sb3_clanker-folder.tmp").mkdir()
    before = contents(folder)
    _repair(folder)
    assert contents(folder) == before
    assert (folder / ".sb3_clanker-folder.tmp").is_dir()


@pytest.mark.parametrize("name", ["..", "", "a\0b", 300 * "x", "\ud800", "../x.zip", "../x", "/x.zip", "../runs/y.zip"])
def test_a_record_from_a_stranger_is_not_finished_and_writes_nothing_outside(name: str, folder: Path) -> None:
    outside = folder.parent / "x.zip"
    for copy in (outside, folder / "y.zip"):
        shutil.copy(folder / f"{STEM}.zip", copy)
    staged = folder / ".sb3_clanker-0123456789abcdef.tmp"
    statistics = folder / ".sb3_clanker-0123456789abcdee.tmp"
    statistics.write_bytes(b"statistics")
    zip_file = PairedFile(name=name, digest=pair_with_zip(outside).digest)
    own_zip = PairedFile(name="y.zip", digest=zip_file.digest)
    before = contents(folder.parent), contents(folder)
    for algorithm_file in (zip_file, own_zip):
        statistics.write_bytes(b"statistics")
        restamp(
            folder / f"{STEM}.onnx",
            staged,
            algorithm_file=algorithm_file,
            statistics_file=pair_with_file(statistics, name),
            replay_buffer=False,
        )
        _repair(folder)
        assert not staged.exists()
        for own in ("y.onnx", "y_vecnormalize.pkl"):  # under names of its own, in the folder, it may be finished
            if algorithm_file == own_zip:
                (folder / own).unlink()
        assert contents(folder.parent) == before[0]
        assert contents(folder) == {name: data for name, data in before[1].items() if name != statistics.name}


@pytest.mark.parametrize("stem", ["best_model", "final_model"])
def test_what_does_not_match_is_reported_by_name(stem: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for suffix in (".zip", "_vecnormalize.pkl", ".onnx"):
        if stem != "final_model":
            shutil.copy(folder / f"final_model{suffix}", folder / f"{stem}{suffix}")
    restamp(
        folder / f"{stem}.onnx",
        algorithm_file=pair_with_zip(folder / f"{stem}.zip"),
        statistics_file=pair_with_file(folder / f"{stem}_vecnormalize.pkl"),
    )
    _repair(folder)
    assert caplog.messages == []
    shutil.copy(folder / "rl_model_20_steps.zip", folder / f"{stem}.zip")
    before = contents(folder)
    _repair(folder)
    assert caplog.messages == [
        f"{folder}: {stem}.zip is of another instant than {stem}.onnx: an export failed or was interrupted."
    ]
    flip(folder / f"{stem}_vecnormalize.pkl")
    _repair(folder)
    assert f"{stem}.zip and {stem}_vecnormalize.pkl is of another instant" in caplog.messages[-1]
    flip(folder / f"{stem}_vecnormalize.pkl")
    assert contents(folder) == before
