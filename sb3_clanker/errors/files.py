"""Files and folders: what is not there, cannot be read or written, or does not belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sb3_clanker.errors.root import ClankerError

_NAMED = 3
"""How many files a message names before it counts the rest."""


class MissingFileError(ClankerError, FileNotFoundError):
    """A file that was named is not there.

    :ivar path: the file
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        super().__init__(f"{path}: there is no such {what}. Check the path.")


class RemotePathError(ClankerError, ValueError):
    """A URL was given in place of a path.

    :ivar url: what was given
    """

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(
            f"{url}: this is a URL, and files are read and written by paths of this machine alone. Use a local folder "
            "and copy from or to the storage, or mount the storage and name the folder where it is mounted."
        )


class UnreadableFileError(ClankerError, OSError):
    """A file that was named is there, and cannot be read.

    :ivar path: the file
    """

    def __init__(self, path: Path, what: str, problem: str) -> None:
        self.path = path
        super().__init__(f"{path}: this {what} cannot be read: {problem}. Check what it is and who may read it.")


class AlgorithmFileError(ClankerError, ValueError):
    """A Stable-Baselines3 ``.zip`` that cannot be loaded.

    :ivar path: the file
    """

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path = path
        super().__init__(f"{path}: {problem}. {remedy}")


class UnmatchedFilesError(ClankerError, ValueError):
    """Files beside a policy file that its record names, and that are of another instant or damaged.

    :ivar path: the policy file
    :ivar others: names of the files that do not belong to it
    """

    def __init__(
        self,
        path: Path,
        others: Sequence[str],
        remedy: str = "Export the policy again, or take all files from the same instant.",
    ) -> None:
        self.path = path
        self.others = tuple(others)
        super().__init__(
            f"{path}: {' and '.join(others)} beside it: of another instant of training, or damaged, by the digest in "
            f"its record. {remedy}"
        )


class PublicationError(ClankerError, OSError):
    """A file could not be written.

    :ivar path: the file
    """

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(
            f"{path}: cannot be written: {problem}. Check that the folder exists, is writable and not full."
        )


class UnsavableTrainingError(ClankerError, TypeError):
    """Something of a training cannot be pickled, so that no checkpoint of it could ever be whole.

    :ivar what: the part that cannot
    """

    def __init__(self, what: str, problem: str) -> None:
        self.what = what
        super().__init__(
            f"{what} cannot be saved: {problem}. Remove what cannot be pickled, or leave it out in __getstate__."
        )


class FolderInUseError(ClankerError, OSError):
    """Another training writes to the folder.

    :ivar path: the folder
    :ivar process_id: the process that trains there, None where that is unknown
    :ivar host: the machine of that process, None where it is this one
    """

    def __init__(self, path: Path, process_id: int | None = None, host: str | None = None) -> None:
        self.path = path
        self.process_id = process_id
        self.host = host
        process = "" if process_id is None else f" (process {process_id}{f' on {host}' if host else ''})"
        super().__init__(
            f"{path}: another training{process} writes its files here, and the two would overwrite each other's. "
            'Give each training a folder of its own, as save_path="runs/{run}" does.'
        )


class FileInTheWayError(ClankerError, FileExistsError):
    """A file lies where another would be written, and is not certainly an earlier one of the same.

    :ivar path: the file
    """

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(f"{path}: this file is there already, {why}. Move it away, or overwrite it (--force).")


class FilesFailedError(ClankerError, ValueError):
    """Of several files that were worked on, these failed, each with an error of its own.

    :ivar failed: the files
    """

    def __init__(self, failed: Sequence[str], n_files: int) -> None:
        self.failed = tuple(failed)
        named = ", ".join(failed[:_NAMED]) + (f" and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else "")
        super().__init__(f"{len(failed):,} of {n_files:,} failed: {named}.")


class WorkerError(ClankerError, ChildProcessError):
    """The process that worked on a file came to no end of it.

    :ivar path: the file
    """

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"{path}: the process that worked on it {problem}. Try this file alone.")


class MissingCompilerError(ClankerError, FileNotFoundError):
    """A header in C cannot be run: there is no C compiler."""

    def __init__(self) -> None:
        super().__init__(
            "There is no C compiler to run a header with. Install one, such as gcc or clang, or name it in the "
            "environment variable CC."
        )
