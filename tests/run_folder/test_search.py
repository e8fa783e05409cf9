"""Files are found in folders whatever lies there, each once, and what cannot be looked at is said."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sb3_clanker.errors import MissingFileError, UnreadableFileError
from sb3_clanker.run_folder.names import POLICY, ZIP
from sb3_clanker.run_folder.search import find_files, holds_algorithm
from tests.worlds import make_model


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _found(*paths: Path) -> list[str]:
    return [str(found.path) for found in find_files(paths, POLICY) if found.problem is None]


def test_a_folder_stands_for_all_that_is_in_it_and_in_its_folders(tmp_path: Path) -> None:
    _touch(tmp_path, "b.onnx", "a.onnx", "a.zip", "runs/2/c.onnx", "runs/1/c.onnx", "runs/previous_1/best_model.onnx")
    _touch(tmp_path, ".sb3_clanker-lock", ".sb3_clanker-previous/d.onnx", ".sb3_clanker-1.onnx", ".hidden/e.onnx")
    expected = [
        "a.onnx",
        "b.onnx",
        ".hidden/e.onnx",
        "runs/1/c.onnx",
        "runs/2/c.onnx",
        "runs/previous_1/best_model.onnx",
    ]
    assert _found(tmp_path) == [str(tmp_path / name) for name in expected]
    assert [found.path.name for found in find_files([tmp_path], ZIP)] == ["a.zip"]


def test_a_file_comes_once_and_as_named_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "runs/a.onnx", "runs/b.onnx")
    monkeypatch.chdir(tmp_path)
    found = find_files([Path("runs"), tmp_path / "runs" / "a.onnx", Path("runs/../runs")], POLICY)
    assert [(each.path.name, each.named) for each in found] == [("a.onnx", True), ("b.onnx", False)]


def test_what_is_named_is_there_or_not_for_its_reader_to_say(tmp_path: Path) -> None:
    names = [Path("missing.onnx"), Path("a\0b"), Path("s3://bucket/a.onnx"), Path("/dev/zero"), Path("\udcff.onnx")]
    found = find_files(names, POLICY)
    assert [each.path for each in found] == names
    assert all(each.named and each.problem is None for each in found)


def test_links_make_no_circle(tmp_path: Path) -> None:
    _touch(tmp_path, "runs/a.onnx", "elsewhere/b.onnx")
    runs = tmp_path / "runs"
    (runs / "circle").symlink_to(runs)
    (runs / "latest.onnx").symlink_to("a.onnx")
    (runs / "broken.onnx").symlink_to("nothing")
    (runs / "self.onnx").symlink_to("self.onnx")
    (runs / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "named").symlink_to(runs)
    inside = ["a.onnx", "broken.onnx", "latest.onnx", "self.onnx"]
    assert _found(runs) == [str(runs / name) for name in inside]
    assert _found(tmp_path / "named") == [str(tmp_path / "named" / name) for name in inside]


def test_a_folder_with_the_name_of_a_file_is_a_folder(tmp_path: Path) -> None:
    _touch(tmp_path, "a.onnx/b.onnx")
    assert _found(tmp_path) == [str(tmp_path / "a.onnx" / "b.onnx")]


def test_a_folder_that_cannot_be_read_is_a_problem_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "a.onnx", "locked/b.onnx", "open/c.onnx")
    scandir = os.scandir

    def scan(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    a, locked, c = find_files([tmp_path], POLICY)
    assert (a.path.name, a.problem, c.path.name, c.problem) == ("a.onnx", None, "c.onnx", None)
    assert isinstance(locked.problem, UnreadableFileError)
    assert str(locked.problem).startswith(f"{tmp_path / 'locked'}: this folder cannot be read: Permission denied.")


def test_a_folder_without_any_is_a_problem(tmp_path: Path) -> None:
    _touch(tmp_path, "full/a.onnx", "empty/a.zip")
    empty, full = find_files([tmp_path / "empty", tmp_path / "full"], POLICY)
    assert isinstance(empty.problem, MissingFileError)
    assert str(empty.problem) == f"{tmp_path / 'empty'}: there is no such folder with .onnx files. Check the path."
    assert full.problem is None


def test_a_zip_of_stable_baselines3_is_known_without_running_it(tmp_path: Path) -> None:
    make_model().save(tmp_path / "model.zip")
    assert holds_algorithm(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("README", "")
    assert not holds_algorithm(tmp_path / "other.zip")
    (tmp_path / "damaged.zip").write_bytes((tmp_path / "model.zip").read_bytes()[:-200])
    (tmp_path / "empty.zip").touch()
    for name in ("damaged.zip", "empty.zip", "missing.zip"):
        assert holds_algorithm(tmp_path / name), "nobody can say that it is of somebody else"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    (found,) = find_files([tmp_path], ZIP)
    assert holds_algorithm(found.path), "it is for its reader to refuse"
