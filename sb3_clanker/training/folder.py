"""The folder that a training writes to: what lies in it from before, and what an interruption left."""

from __future__ import annotations

import logging
import pickle
import re
from contextlib import suppress
from pathlib import Path

from sb3_clanker.errors import ClankerError
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.run_folder.identity import find_partners, identify
from sb3_clanker.run_folder.previous import put_back, set_aside
from sb3_clanker.run_folder.publication import BEST, FINAL, TEMPORARY, Generation, ensure_folder, vectors_path
from sb3_clanker.run_folder.retention import Checkpoint, OwnFile
from sb3_clanker.training.lock import FolderLock
from sb3_clanker.training.run import Training

_logger = logging.getLogger("sb3_clanker")


class TrainingFolder:
    """A folder that one training writes to.

    :param path: the folder; made if need be
    :param training: the training; None is one that lasts until :meth:`release`
    :raises PublicationError: it cannot be made or written in
    :raises FolderInUseError: another training writes there
    """

    def __init__(self, path: Path, training: Training | None = None) -> None:
        ensure_folder(path)
        self._path = path
        self._lock = FolderLock.of(path, training or Training())
        self._repair()

    def release(self) -> None:
        """Let another training have the folder."""
        self._lock.release()

    def make_room(
        self, name_prefix: str, num_timesteps: int, *, is_own: bool, has_best: bool, log: Path | None
    ) -> None:
        """Move files that a training would overwrite, and that are not of its own past, out of its way.

        :param name_prefix: beginning of the names of its checkpoints
        :param num_timesteps: where it stands: at 0 all is another's; later on, what lies further on is
        :param is_own: whether it trained here before, with this algorithm: what has no record of its time or its score
            is then its own
        :param has_best: whether its evaluation remembers a best, which stays if it trained here before
        :param log: a log of evaluations that it would overwrite, here or elsewhere
        :raises PublicationError: they cannot be moved
        """
        generations = [each for each in (BEST, FINAL) if self._is_further_on(each, num_timesteps, is_own)]
        names = [name for each in generations if each != BEST or not (is_own and has_best) for name in each.files]
        numbered = re.compile(rf"{re.escape(name_prefix)}_(?:vecnormalize_|replay_buffer_)?(\d+)_steps\.")
        for path in self._path.glob("*_steps.*"):
            match = numbered.match(path.name)
            if match and (num_timesteps == 0 or int(match[1]) > num_timesteps):
                names += [path.name] * (path.name in Generation.checkpoint(name_prefix, int(match[1])).files)
        if log is not None and log.parent == self._path:
            names.append(log.name)
        elif log is not None:
            set_aside(log.parent, [log.name])
        there = [name for name in names if (self._path / name).is_file()]
        self._lock.previous = set_aside(self._path, there, self._lock.previous)

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
            if record is None or record.checkpoint is None or not record.checkpoint.together:
                continue
            if record.training.num_timesteps > num_timesteps:
                continue
            if generation == Generation.checkpoint(name_prefix, record.training.num_timesteps):
                found.append(self._checkpoint(generation, record))
        return sorted(found, key=lambda checkpoint: checkpoint.num_timesteps)

    def _is_further_on(self, generation: Generation, num_timesteps: int, is_own: bool) -> bool:
        if num_timesteps == 0:
            return True
        record = self._record(generation)
        if record is None or (generation == BEST and record.training.mean_reward is None):
            return not is_own  # nothing tells of when it was written, or how good it is
        return record.training.num_timesteps > num_timesteps

    def _checkpoint(self, generation: Generation, record: PolicyMetadata) -> Checkpoint:
        path = self._path / f"{generation.stem}.onnx"
        names = [f"{generation.stem}.zip", generation.statistics]
        partners = find_partners(path, record)
        files = [partner.path for partner in partners if partner.state == "matched" and partner.path.name in names]
        whole = len(files) == len(partners)
        own = [OwnFile.at(file) for file in files]
        policy = OwnFile.at(path)
        buffer = self._path / generation.replay_buffer
        if record.checkpoint and record.checkpoint.replay_buffer and own and buffer.is_file():
            staged = OwnFile.at(buffer)  # no digest tells whose it is; but it is written between the others
            own += [staged] * (own[0].time <= staged.time <= policy.time)
        with suppress(ClankerError, OSError):
            if read_vectors(vectors_path(path)).digest == record.digest:
                own.append(OwnFile.at(vectors_path(path)))
        return Checkpoint(num_timesteps=record.training.num_timesteps, files=(*own, policy), whole=whole)

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
        put_back(self._path)
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
        if record.checkpoint is None or record.checkpoint.algorithm_file is None:
            return
        zip_file, statistics = record.checkpoint.algorithm_file, record.checkpoint.statistics_file
        generation = Generation.named(Path(zip_file.name).stem)
        if zip_file.name != f"{generation.stem}.zip" or not identify(self._path / zip_file.name, zip_file):
            return  # not even its first part had been published
        if record.checkpoint.replay_buffer and not self._has_replay_buffer(generation, staged):
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
