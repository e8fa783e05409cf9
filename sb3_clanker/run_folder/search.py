"""The files of one kind in folders that a caller names, whatever lies there, and whoever changes it meanwhile."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sb3_clanker.errors import AlgorithmFileError, ClankerError, MissingFileError, UnreadableFileError
from sb3_clanker.paths import is_file, is_folder
from sb3_clanker.run_folder.identity import pair_with_zip
from sb3_clanker.run_folder.names import TEMPORARY, FileKind

_OF_STABLE_BASELINES3 = {"data", "policy.pth"}
"""What ``model.save()`` puts into every ``.zip``."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file to work on.

    :ivar path: where it lies
    :ivar named: whether the caller named it; else it lies in a folder that the caller named
    :ivar problem: why it cannot even be looked at
    """

    path: Path
    named: bool = True
    problem: ClankerError | None = None


def find_files(paths: Iterable[Path], kind: FileKind) -> tuple[Found, ...]:
    """What paths stand for: a file for itself, a folder for the files of a kind in it and in its folders.

    A file comes once, however often it is named. A link to a folder within a folder is not followed, so that there is
    no circle; one to a file is. Temporary files of this package are left out. A folder that cannot be read, or that
    holds none of these files, comes with its problem.

    :param paths: files and folders, there or not
    :param kind: what to look for in folders
    """
    found: dict[str, Found] = {}
    for path in paths:
        for each in _files_of(path, kind) if is_folder(path) else (Found(path=path),):
            known = found.setdefault(os.path.abspath(each.path), each)  # noqa: PTH100 - Path resolves no ".."
            if each.named and not known.named:
                found[os.path.abspath(each.path)] = each  # noqa: PTH100
    return tuple(found.values())


def holds_algorithm(path: Path) -> bool:
    """Whether a ``.zip`` is one of Stable-Baselines3, or such that nobody can say. Nothing in it is run."""
    if not is_file(path):  # whoever opens a pipe may wait for ever
        return True
    try:
        pair_with_zip(path)  # refuses what is not whole
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist()) >= _OF_STABLE_BASELINES3
    except (AlgorithmFileError, OSError):
        return True


def _files_of(folder: Path, kind: FileKind) -> Iterator[Found]:
    n_found, waiting = 0, [folder]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as entries:
                inside = sorted((entry for entry in entries if not entry.name.startswith(TEMPORARY)), key=_by_name)
        except OSError as error:
            problem = UnreadableFileError(path, "folder", error.strerror or str(error))
            yield Found(path=path, named=False, problem=problem)
            n_found += 1
            continue
        for entry in inside:
            if entry.name.endswith(kind.suffix) and not is_folder(path / entry.name):
                yield Found(path=path / entry.name, named=False)
                n_found += 1
        waiting += [path / entry.name for entry in reversed(inside) if entry.is_dir(follow_symlinks=False)]
    if not n_found:
        yield Found(path=folder, problem=MissingFileError(folder, f"folder with {kind.suffix} files"))


def _by_name(entry: os.DirEntry[str]) -> str:
    return entry.name
