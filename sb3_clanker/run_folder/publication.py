"""How files get their names: only when they are complete on disk, and all that belong together in one burst."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import final

from sb3_clanker.errors import PublicationError
from sb3_clanker.paths import is_device, is_folder
from sb3_clanker.run_folder.names import TEMPORARY

Write = Callable[[BufferedWriter], object]
"""Writes the content of a file to it, open and binary."""


@final
class Publication:
    """Files that appear complete, and as nearly together as a file system allows.

    Each is staged under a temporary name in its folder; ``commit`` renames all of them in a burst. What was not
    committed is deleted at the end.

    >>> with Publication(Path("runs"), durable=True) as publication:  # doctest: +SKIP
    ...     publication.stage("policy.onnx", lambda file: file.write(b"..."))
    ...     publication.commit()

    :param folder: an existing folder
    :ivar published: the files that got their names, in order
    :ivar replaced: those of them in whose place there was a file before
    :param durable: whether to wait until the disk has them, so that they outlast a power cut from that moment on. The
        operating system writes them within seconds anyway; waiting takes longer than all the rest of an export.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder, self._durable = folder, durable
        self._temporaries: list[Path] = []
        self._staged: dict[str, Path] = {}
        self._subfolders: list[Path] = []
        self.published: list[Path] = []
        self.replaced: list[Path] = []

    def stage(self, name: str, write: Write) -> Path:
        """Write a file under a temporary name.

        :param name: the name that it will get; with a slash, in a folder that is made for it
        :param write: writes the content to an open binary file
        :return: the temporary path
        :raises PublicationError: the file cannot be written
        """
        temporary = self._folder / f"{TEMPORARY}{secrets.token_hex(8)}.tmp"
        self._temporaries.append(temporary)
        try:
            with temporary.open("xb") as file:
                write(file)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise PublicationError(self._folder / name, str(error)) from error
        self._staged[name] = temporary  # only now: half a file never gets a name
        return temporary

    def commit(self) -> None:
        """Give every file that was staged in full its name; :attr:`published` lists those that have it.

        :raises PublicationError: a file cannot be renamed
        """
        for name in self._staged:
            if is_folder(self._folder / name):
                raise PublicationError(self._folder / name, "it is a folder")
            if is_device(self._folder / name):
                raise PublicationError(self._folder / name, "it is a device, and no file")
            check_subfolder(self._folder / name, self._folder)
        for name, temporary in list(self._staged.items()):
            path = self._folder / name
            try:
                if path.parent != self._folder:
                    self._subfolders.append(path.parent)
                    path.parent.mkdir(exist_ok=True)
                is_new = not path.exists()
                temporary.replace(path)
            except OSError as error:
                raise PublicationError(path, str(error)) from error
            del self._staged[name]
            self.published.append(path)
            if not is_new:
                self.replaced.append(path)

    def __enter__(self) -> Publication:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for temporary in self._temporaries:
            with suppress(OSError):  # what cannot be deleted must not hide why it was not committed
                temporary.unlink(missing_ok=True)
        for subfolder in self._subfolders:
            with suppress(OSError):  # there is something in it
                subfolder.rmdir()


def check_subfolder(path: Path, folder: Path) -> None:
    """See that what is to hold a file is a folder, where there is anything: no file, and no link to elsewhere.

    :param path: the file, in the folder or in one within
    :raises PublicationError: it is none
    """
    within = path.parent
    if within != folder and os.path.lexists(within) and (within.is_symlink() or not within.is_dir()):
        raise PublicationError(path, f"{within.name} is no folder")


def ensure_folder(folder: Path) -> None:
    """Make a folder if need be, and see that files can be written in it.

    :raises PublicationError: it cannot be made or written in
    """
    probe = folder / f"{TEMPORARY}{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
        raise PublicationError(folder, str(error)) from error
