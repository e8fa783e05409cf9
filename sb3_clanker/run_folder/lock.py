"""Whose a folder is: one training's, until that is over."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from sb3_clanker.errors import FolderInUseError
from sb3_clanker.run_folder.names import TEMPORARY

_logger = logging.getLogger("sb3_clanker")
_LOCK = f"{TEMPORARY}lock"
_LONGEST = 300
"""Bytes that are read of who holds a lock."""


class Owner:
    """Whoever has folders to itself: a training, or without one whoever calls :meth:`end`."""

    def __init__(self) -> None:
        self._at_end = ExitStack()

    def at_end(self, action: Callable[[], object]) -> None:
        """Do something when it ends: the last thing first, as in an ``ExitStack``."""
        self._at_end.callback(action)

    def end(self) -> None:
        """Do what is to be done at the end; a second time there is nothing left."""
        self._at_end.close()

    def gives_way_to(self, other: Owner) -> bool:  # noqa: ARG002 - nothing shows that it was broken off
        """Whether another may have its folders."""
        return False


class FolderLock:
    """A folder that one training has to itself; its callbacks share the lock.

    It is free when the training ends, when the process does, and when nobody remembers the training any more. A
    training that was broken off in this process gives way to the next one here.

    :param folder: an existing folder
    :param training: the training
    :raises FolderInUseError: another training, in this process or in another one, writes there
    :ivar previous: where files of an earlier training were put for this one, None where there were none
    """

    _held: ClassVar[weakref.WeakValueDictionary[str, FolderLock]] = weakref.WeakValueDictionary()
    _guard = threading.RLock()

    def __init__(self, folder: Path, training: Owner) -> None:
        file = folder / _LOCK
        lock: BaseFileLock = FileLock(file, thread_local=False)  # whichever thread it is that ends the training
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise FolderInUseError(folder, *_holder(file)) from error
        except (OSError, NotImplementedError) as error:  # some network file systems have no locks
            _logger.debug("%s cannot be locked: %s", folder, error)
        else:
            if not isinstance(lock, SoftFileLock):  # which writes the same itself
                with suppress(OSError):  # the message of others then names no process
                    file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        self.previous: Path | None = None
        self._training = training
        self._free = weakref.finalize(self, _free, lock, file, _inode(file), os.getpid())
        training.at_end(self.release)

    @classmethod
    def of(cls, folder: Path, training: Owner) -> FolderLock:
        """The lock of a training, which another of its callbacks may have already; errors as above."""
        key = os.path.realpath(folder)
        with cls._guard:
            held = cls._held.get(key)
            if held is not None and held._free.alive:
                if held._training is training:
                    return held
                if not held._training.gives_way_to(training):
                    raise FolderInUseError(folder, os.getpid())
                held._training.end()
            held = cls._held[key] = cls(folder, training)
            return held

    def release(self) -> None:
        """Let another training have the folder."""
        self._free()


@atexit.register  # after filelock's own, so that it runs before: an unlocked file cannot safely be deleted
def _release_all() -> None:
    for held in list(FolderLock._held.values()):
        held.release()


def _free(lock: BaseFileLock, file: Path, inode: tuple[int, int] | None, process_id: int) -> None:
    if os.getpid() != process_id:  # a fork has this object, and not the lock
        return
    if lock.is_locked and _inode(file) == inode:  # the folder may have been made anew, and be another's
        with suppress(OSError):
            file.unlink()
    lock.release()


def _inode(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        return (status := path.stat()).st_dev, status.st_ino
    return None


def _holder(file: Path) -> tuple[int | None, str | None]:
    """The process that holds a lock and its machine, as far as the file says."""
    with suppress(OSError, ValueError):
        with file.open(encoding="utf-8") as lines:
            process_id, host, *_ = lines.read(_LONGEST).splitlines()
        return int(process_id), None if host == socket.gethostname() else host
    return None, None
