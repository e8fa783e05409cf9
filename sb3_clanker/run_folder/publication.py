"""Files: what they are called, how they get their names, and how one is told from another.

A generation is the files of one instant of a training: the ``.zip`` of Stable-Baselines3, the VecNormalize statistics
and the ``.onnx``. A file gets its name only when it is complete on disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Self

from sb3_clanker.errors import CheckpointError, PublicationError
from sb3_clanker.policy_file.record import PairedFile

_STEPS = re.compile(r"(?P<prefix>.+)_(?P<steps>\d+)_steps")
_RL_ZOO_RUN = re.compile(r"(?P<env>.+)_\d+(?:_[0-9a-f-]{36})?")
TEMPORARY = ".sb3_clanker-"
"""Beginning of the names of files that are no results."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Names of the files of one instant, without a folder.

    :ivar stem: name of ``.zip`` and ``.onnx`` without their suffix
    :ivar statistics: name of the VecNormalize statistics
    :ivar replay_buffer: name of the replay buffer
    """

    stem: str
    statistics: str
    replay_buffer: str

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that there may be."""
        stem = self.stem
        return f"{stem}.zip", self.statistics, self.replay_buffer, vectors_path(Path(stem)).name, f"{stem}.onnx"

    @classmethod
    def named(cls, stem: str) -> Generation:
        """The files around ``stem``, a checkpoint's as ``CheckpointCallback`` calls them, or any other's."""
        if match := _STEPS.fullmatch(stem):
            prefix, steps = match["prefix"], match["steps"]
            return cls(
                stem=stem,
                statistics=f"{prefix}_vecnormalize_{steps}_steps.pkl",
                replay_buffer=f"{prefix}_replay_buffer_{steps}_steps.pkl",
            )
        return cls(stem=stem, statistics=f"{stem}_vecnormalize.pkl", replay_buffer=f"{stem}_replay_buffer.pkl")

    @classmethod
    def checkpoint(cls, prefix: str, num_timesteps: int) -> Generation:
        """The files of a checkpoint."""
        return cls.named(f"{prefix}_{num_timesteps}_steps")


def vectors_path(path: Path) -> Path:
    """Where the test vectors of a policy file lie."""
    return path.with_name(f"{path.stem}.vectors.json")


BEST = Generation.named("best_model")
FINAL = Generation.named("final_model")


def own_statistics(zip_path: Path) -> Iterator[Path]:
    """Where VecNormalize statistics lie that are those of a ``.zip`` by their name, the surest first.

    Our own and Stable-Baselines3's names beside the ``.zip``, then that of RL Zoo, which writes
    ``logs/ppo/ENV_1/ENV/vecnormalize.pkl`` together with ``logs/ppo/ENV_1/ENV.zip``
    (https://github.com/DLR-RM/rl-baselines3-zoo).
    """
    yield zip_path.parent / Generation.named(zip_path.stem).statistics
    yield from (path for path in _of_rl_zoo(zip_path) if path.parent.name == zip_path.stem)


def other_statistics(zip_path: Path) -> Iterator[Path]:
    """Where VecNormalize statistics often lie that may be of another policy than that of a ``.zip``.

    RL Zoo's are those of the end of a run, and not of its best or of its checkpoints; the other two names are those of
    the documentation of Stable-Baselines3 and of its examples.
    """
    yield from _of_rl_zoo(zip_path)
    yield zip_path.with_name("vecnormalize.pkl")
    yield zip_path.with_name("vec_normalize.pkl")


def _of_rl_zoo(zip_path: Path) -> Iterator[Path]:
    if match := _RL_ZOO_RUN.fullmatch(zip_path.parent.resolve().name):
        yield zip_path.parent / match["env"] / "vecnormalize.pkl"


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
        self.published: list[Path] = []
        self.replaced: list[Path] = []

    def stage(self, name: str, write: Callable[[BufferedWriter], object]) -> Path:
        """Write a file under a temporary name.

        :param name: the name that it will get
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
            if os.path.isdir(self._folder / name):  # noqa: PTH112 - false, not an error, for an impossible name
                raise PublicationError(self._folder / name, "it is a folder")
        for name, temporary in list(self._staged.items()):
            path = self._folder / name
            try:
                is_new = not path.exists()
                temporary.replace(path)
            except OSError as error:
                raise PublicationError(path, str(error)) from error
            del self._staged[name]
            self.published.append(path)
            if not is_new:
                self.replaced.append(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for temporary in self._temporaries:
            with suppress(OSError):  # what cannot be deleted must not hide why it was not committed
                temporary.unlink(missing_ok=True)


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


def pair_with_zip(path: Path, name: str | None = None) -> PairedFile:
    """Identify a ``.zip`` by the names, sizes and CRC-32 of its members, without reading their content again.

    :param path: where it lies
    :param name: the name to record, if it is about to get another
    :raises CheckpointError: it is not a whole zip file
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise CheckpointError(
            path, f"this is not a zip file, or it is damaged ({error})", "Save the model again."
        ) from error
    if min((entry.header_offset for entry in entries), default=0) > 0:  # cut off within a zip that is in the zip
        raise CheckpointError(path, "it is damaged: its end is missing", "Save the model again.")
    members = [(entry.filename, entry.CRC, entry.file_size) for entry in entries]
    return PairedFile(name=name or path.name, digest=f"zip:{hashlib.sha256(repr(members).encode()).hexdigest()}")


def pair_with_file(path: Path, name: str | None = None) -> PairedFile:
    """Identify a file by its SHA-256, however large it is."""
    with path.open("rb") as file:
        return PairedFile(name=name or path.name, digest=f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
