"""The folder that a training writes to: whose it is, what lies in it from before, and what may go."""

from __future__ import annotations

import logging
import pickle
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sb3_clanker.artifact import BEST, FINAL, TEMPORARY, Generation, ensure_folder, vectors_path
from sb3_clanker.errors import ClankerError, FolderInUseError
from sb3_clanker.generation import find_partners, identify
from sb3_clanker.metadata import PolicyMetadata, read_metadata
from sb3_clanker.vectors import read_vectors

_logger = logging.getLogger("sb3_clanker")
_LOCK = f"{TEMPORARY}lock"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The files of a checkpoint, all of them written by this package.

    :ivar num_timesteps: when it was written
    :ivar files: its files, the policy last
    :ivar whole: whether all of them are there; the policy is not where its export failed
    """

    num_timesteps: int
    files: tuple[Path, ...]
    whole: bool = True


class TrainingFolder:
    """A folder that one training writes to.

    :param path: the folder; made if need be
    :raises PublicationError: it cannot be made or written in
    :raises FolderInUseError: another process trains into it
    """

    def __init__(self, path: Path) -> None:
        ensure_folder(path)
        self._path = path
        self._lock = FileLock(path / _LOCK, is_singleton=True)  # callbacks of one process may share a folder
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise FolderInUseError(path) from error
        except (OSError, NotImplementedError) as error:  # some network file systems have no locks
            _logger.debug("%s cannot be locked: %s", path, error)
        self._repair()

    def release(self) -> None:
        """Let another training have the folder."""
        if self._lock.lock_counter == 1:
            with suppress(OSError):
                (self._path / _LOCK).unlink()
        self._lock.release()

    def best(self) -> PolicyMetadata | None:
        """The record of the best policy so far, None where there is none, or none that can be read."""
        return self._record(BEST)

    def checkpoints(self, name_prefix: str, num_timesteps: int) -> list[Checkpoint]:
        """Checkpoints from before, oldest first, up to a number of timesteps.

        Only what their own records prove to be written by this package: whatever else is called so is not ours.
        """
        found = []
        for path in self._path.glob("*_steps.onnx"):
            generation = Generation.named(path.stem)
            record = self._record(generation)
            if record is None or not record.provenance.together:
                continue
            if record.training.num_timesteps > num_timesteps:
                continue
            if generation == Generation.checkpoint(name_prefix, record.training.num_timesteps):
                found.append(self._checkpoint(generation, record))
        return sorted(found, key=lambda checkpoint: checkpoint.num_timesteps)

    def count_policies(self, name_prefix: str) -> int:
        """How many files there are that are called as the policies of checkpoints are."""
        pattern = re.compile(rf"{re.escape(name_prefix)}_\d+_steps")
        return sum(pattern.fullmatch(path.stem) is not None for path in self._path.glob("*_steps.onnx"))

    def _checkpoint(self, generation: Generation, record: PolicyMetadata) -> Checkpoint:
        path = self._path / f"{generation.stem}.onnx"
        names = [f"{generation.stem}.zip", generation.statistics]
        partners = find_partners(path, record)
        files = [partner.path for partner in partners if partner.state == "matched" and partner.path.name in names]
        whole = len(files) == len(partners)
        if record.provenance.replay_buffer:
            files.append(self._path / generation.replay_buffer)
        with suppress(ClankerError, OSError):
            if read_vectors(vectors_path(path)).digest == record.digest:
                files.append(vectors_path(path))
        return Checkpoint(num_timesteps=record.training.num_timesteps, files=(*files, path), whole=whole)

    def unmatched(self, generation: Generation) -> tuple[str, ...]:
        """Names of files of a generation that are of another instant than its policy file."""
        record = self._record(generation)
        partners = find_partners(self._path / f"{generation.stem}.onnx", record) if record else ()
        return tuple(partner.path.name for partner in partners if partner.state == "other")

    def _record(self, generation: Generation) -> PolicyMetadata | None:
        try:
            return read_metadata(self._path / f"{generation.stem}.onnx")
        except (ClankerError, OSError):
            return None

    def _repair(self) -> None:
        """Finish a publication that was interrupted, where its parts are all there; delete what is left of others."""
        staged = [path for path in self._path.glob(f"{TEMPORARY}*.tmp") if path.is_file()]
        for path in staged:
            with suppress(ClankerError, OSError, ValueError):  # ValueError: a record of names that no file can have
                if not _is_pickle(path):
                    self._finish(path, read_metadata(path), staged)
        for path in staged:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for generation in (BEST, FINAL):
            if others := self.unmatched(generation):
                _logger.warning(
                    "%s: %s is of another instant than %s.onnx: an export failed or was interrupted.",
                    self._path,
                    " and ".join(others),
                    generation.stem,
                )

    def _finish(self, policy: Path, record: PolicyMetadata, staged: list[Path]) -> None:
        zip_file, statistics = record.provenance.algorithm_file, record.provenance.statistics_file
        if zip_file is None:
            return
        generation = Generation.named(Path(zip_file.name).stem)
        if zip_file.name != f"{generation.stem}.zip" or not identify(self._path / zip_file.name, zip_file):
            return  # not even its first part had been published
        if record.provenance.replay_buffer and not self._has_replay_buffer(generation, staged):
            _logger.warning(
                "%s: the publication of %s was interrupted before its replay buffer had its name: go on from another.",
                self._path,
                zip_file.name,
            )
            return
        target = self._path / f"{generation.stem}.onnx"
        if statistics is not None and not identify(self._path / generation.statistics, statistics):
            source = next((path for path in staged if identify(path, statistics)), None)
            if source is None:
                return
            source.replace(self._path / generation.statistics)
        for path in staged:
            with suppress(ClankerError, OSError):
                if read_vectors(path).digest == record.digest:
                    path.replace(vectors_path(target))
        policy.replace(target)
        _logger.warning("%s: finished the publication of %s, which had been interrupted.", self._path, target.name)

    def _has_replay_buffer(self, generation: Generation, staged: list[Path]) -> bool:
        """Whether the replay buffer has got its name: it is the last pickle of a generation that does."""
        return (self._path / generation.replay_buffer).is_file() and not any(map(_is_pickle, staged))


def _is_pickle(path: Path) -> bool:
    """Whether a file is a pickle: a replay buffer, it may be, of more bytes than there is memory."""
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def keep_newest(checkpoints: list[Checkpoint], count: int) -> list[Checkpoint]:
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
            for path in checkpoint.files:
                with suppress(OSError):  # what cannot be deleted stays
                    path.unlink(missing_ok=True)
    return [checkpoint for checkpoint in checkpoints if checkpoint.num_timesteps >= whole[-count]]
