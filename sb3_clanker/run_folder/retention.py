"""What may go: numbered checkpoints that are old, and what is of a policy that has been overwritten.

Of their files, it is only what this package is known to have written.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sb3_clanker.errors import ClankerError
from sb3_clanker.paths import is_file
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.run_folder.names import Checkpoint
from sb3_clanker.run_folder.publication import Publication, check_subfolder


@dataclass(frozen=True, kw_only=True)
class OwnFile:
    """A file that was written here, as it was left.

    :ivar path: where
    :ivar written: what shows that nobody wrote it since, without reading it: device, inode, size, time in nanoseconds
    """

    path: Path
    written: tuple[int, int, int, int]

    @classmethod
    def at(cls, path: Path) -> OwnFile:
        """The file that is there now.

        :raises OSError: there is none
        """
        status = path.lstat()
        return cls(path=path, written=(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))

    @property
    def time(self) -> int:
        """When it was written, in nanoseconds."""
        return self.written[-1]

    def delete(self) -> None:
        """Delete it, if it is still that file."""
        with suppress(OSError):  # what is gone, or cannot be deleted, is no obstacle
            if self.at(self.path) == self:
                self.path.unlink()


@dataclass(frozen=True, kw_only=True)
class WrittenCheckpoint:
    """The files of a numbered checkpoint, all of them written by this package.

    :ivar num_timesteps: when it was written
    :ivar files: its files, the policy last
    :ivar whole: whether all of them are there; the policy is not where its export failed
    """

    num_timesteps: int
    files: tuple[OwnFile, ...]
    whole: bool = True

    def delete(self) -> None:
        """Delete its files, and a folder with the last that it held."""
        parents = {file.path.parent for file in self.files}  # none where not even the first could be written
        folder = min(parents, key=lambda parent: len(parent.parts), default=None)
        for file in self.files:
            file.delete()
            if file.path.parent != folder:
                with suppress(OSError):  # there is something else in it
                    file.path.parent.rmdir()


class Retention:
    """The numbered checkpoints of a training, of which the newest are kept.

    :param count: how many whole ones to keep; None keeps all
    :param checkpoints: those from before, oldest first
    :param overwrite: whether files of others in the place of a new one are to be overwritten. If not, those names are
        not its own: another callback, such as ``CheckpointCallback``, writes them too
    """

    def __init__(self, count: int | None, checkpoints: list[WrittenCheckpoint], *, overwrite: bool) -> None:
        self._count, self._checkpoints, self._overwrite = count, checkpoints, overwrite

    def add(self, num_timesteps: int, publication: Publication, whole: bool) -> None:
        """Count a checkpoint that has just been published, and delete what is too much."""
        if self._count is None:
            return
        own = {file.path for checkpoint in self._checkpoints for file in checkpoint.files}
        shared = set() if self._overwrite else set(publication.replaced) - own
        files = tuple(OwnFile.at(path) for path in publication.published if path not in shared)
        others = [other for other in self._checkpoints if other.num_timesteps != num_timesteps]
        checkpoint = WrittenCheckpoint(num_timesteps=num_timesteps, files=files, whole=whole)
        self._checkpoints = keep_newest([*others, checkpoint], self._count)


def keep_newest(checkpoints: list[WrittenCheckpoint], count: int) -> list[WrittenCheckpoint]:
    """Delete the files of all but the newest whole checkpoints, and of what failed before the oldest of these.

    :param checkpoints: oldest first
    :param count: how many whole ones to keep
    :return: what was kept
    """
    whole = [checkpoint.num_timesteps for checkpoint in checkpoints if checkpoint.whole]
    if len(whole) < count:
        return checkpoints
    for checkpoint in checkpoints:
        if checkpoint.num_timesteps < whole[-count]:
            checkpoint.delete()
    return [checkpoint for checkpoint in checkpoints if checkpoint.num_timesteps >= whole[-count]]


def delete_stale(folder: Path, checkpoint: Checkpoint, metadata: PolicyMetadata) -> None:
    """Delete files of a checkpoint that say that they are of another policy: of the one that had its name before.

    Whoever runs one of them would take it for the policy that has the name now.

    :param metadata: the record of the policy file that has just got its name
    """
    for kind, name in checkpoint.files.items():
        path = folder / name
        if kind.policy_digest is None or not is_file(path):
            continue
        with suppress(ClankerError, OSError, ValueError):  # it is somebody else's, damaged, or cannot be deleted
            check_subfolder(path, folder)
            if kind.policy_digest(path) != metadata.digest:
                path.unlink()
                if path.parent != folder and not any(path.parent.iterdir()):
                    path.parent.rmdir()
