"""The files of an earlier training: out of the way of the next one, together, and none of them lost."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sb3_clanker.errors import PublicationError
from sb3_clanker.run_folder.names import TEMPORARY

_logger = logging.getLogger("sb3_clanker")
_MOVING = f"{TEMPORARY}previous"


def set_aside(folder: Path, names: Sequence[str], previous: Path | None = None) -> Path | None:
    """Move files of a folder into ``previous_1`` in it, or the next number that is free.

    All of them come to lie there in one instant. What is interrupted before is undone by :func:`put_back`.

    :param folder: the folder
    :param names: names of the files; with none of them, nothing is done
    :param previous: the folder that files of the same training were moved into before
    :return: the folder that they lie in now, None where there is none
    :raises PublicationError: they cannot be moved; then all lie where they lay
    """
    if not names:
        return previous
    put_back(folder)
    moving = folder / _MOVING
    try:
        if previous is None:
            moving.mkdir()
            previous = _next(folder)
        else:
            previous.rename(moving)
        for name in names:
            (folder / name).rename(moving / name)
        moving.rename(previous)
    except BaseException as error:
        put_back(folder)
        if isinstance(error, OSError):
            raise PublicationError(folder, f"the files of an earlier training cannot be moved ({error})") from error
        raise
    _logger.warning(
        "%s held files of an earlier training: %d of them lie in %s now, out of the way of this one. "
        "(overwrite=True overwrites them instead.)",
        folder,
        len(names),
        previous,
    )
    return previous


def put_back(folder: Path) -> None:
    """Undo what was interrupted while files were set aside; what there is a new one of is not overwritten."""
    moving = folder / _MOVING
    with suppress(OSError):  # there is nothing to undo; or what cannot be put back lies there still
        for path in list(moving.iterdir()):
            if not (folder / path.name).exists():
                path.rename(folder / path.name)
        if any(moving.iterdir()):
            moving.rename(_next(folder))
        else:
            moving.rmdir()


def _next(folder: Path) -> Path:
    numbered = (folder / f"previous_{number}" for number in itertools.count(1))
    return next(path for path in numbered if not path.exists())
