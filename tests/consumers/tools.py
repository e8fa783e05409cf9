"""Tools that a test of a consumer needs: skipped without them on a desk, never in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def require_tool(name: str, remedy: str) -> str:
    """The path of a program; without it the test is skipped, or fails in CI.

    :param name: name of the program, as on a command line
    :param remedy: what to run to get it
    """
    path = shutil.which(name)
    if path is None:
        _missing(f"there is no {name}", remedy)
    return path


def require_path(path: Path, remedy: str) -> Path:
    """A file or folder that somebody installs; without it the test is skipped, or fails in CI.

    :param path: where it has to be
    :param remedy: what to run to get it
    """
    if not path.exists():
        _missing(f"there is no {path.name}", remedy)
    return path


def require_module(name: str, remedy: str) -> None:
    """A Python package; without it the test is skipped, or fails in CI.

    :param name: name of the package, as in an import
    :param remedy: what to run to get it
    """
    if importlib.util.find_spec(name) is None:
        _missing(f"there is no Python package {name}", remedy)


def _missing(what: str, remedy: str) -> NoReturn:
    message = f"{what}; to get it: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
