"""Paths that a caller names: of this machine's file system, and nothing else."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sb3_clanker.errors import OptionError, RemotePathError

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # pathlib makes s3:/ of s3://; one letter is a Windows drive


def is_file(path: Path) -> bool:
    """Whether there is such a file: no error for a name that no file can have, as ``Path.is_file`` gives."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether there is such a folder: no error for a name that nothing can have, as ``Path.is_dir`` gives."""
    return os.path.isdir(path)  # noqa: PTH112


def is_device(path: Path) -> bool:
    """Whether there is something that is no file and no folder, such as a pipe or ``/dev/null``; as above."""
    return os.path.exists(path) and not is_file(path) and not is_folder(path)  # noqa: PTH110


def local_path(path: object, option: str = "path") -> Path:
    """A path as the caller gave it, refused before anything is made that is called like a URL.

    :param path: what the caller gave
    :param option: what the parameter is called
    :raises OptionError: it is no path
    :raises RemotePathError: it is a URL
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise OptionError(option, path, "a path: a string, or a pathlib.Path")
    if _URL.match(text):
        raise RemotePathError(text if "://" in text else text.replace(":/", "://", 1))
    return Path(text)
