"""The folder that a training writes to, and what lies in it from before."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from sb3_clanker.errors import ClankerError
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import PairedFile, PolicyMetadata
from sb3_clanker.run_folder.identity import find_partners, recorded, state_of
from sb3_clanker.run_folder.lock import FolderLock, Owner
from sb3_clanker.run_folder.names import BEST, FINAL, POLICY, Checkpoint, numbered_timesteps
from sb3_clanker.run_folder.previous import put_back, set_aside
from sb3_clanker.run_folder.publication import ensure_folder
from sb3_clanker.run_folder.recovery import recover
from sb3_clanker.run_folder.retention import OwnFile, WrittenCheckpoint

_logger = logging.getLogger("sb3_clanker")


class TrainingFolder:
    """A folder that one training writes to; what an interruption left in it is finished or deleted at once.

    :param path: the folder; made if need be
    :param training: the training; None is one that lasts until :meth:`release`
    :raises PublicationError: it cannot be made or written in
    :raises FolderInUseError: another training writes there
    """

    def __init__(self, path: Path, training: Owner | None = None) -> None:
        ensure_folder(path)
        self._path = path
        self._lock = FolderLock.of(path, training or Owner())
        put_back(path)
        recover(path)
        for checkpoint in (BEST, FINAL):
            if others := self.unmatched(checkpoint):
                _logger.warning(
                    "%s: %s is of another instant than %s: an export failed or was interrupted.",
                    path,
                    " and ".join(others),
                    checkpoint.files[POLICY],
                )

    def release(self) -> None:
        """Let another training have the folder."""
        self._lock.release()

    def make_room(
        self,
        named: Sequence[Checkpoint],
        name_prefixes: Iterable[str],
        num_timesteps: int,
        *,
        is_own: bool,
        has_best: bool,
        log: Path | None,
    ) -> None:
        """Move files that a training would overwrite, and that are not of its own past, out of its way.

        :param named: its checkpoints that are not numbered
        :param name_prefixes: how the names of its numbered checkpoints begin
        :param num_timesteps: where it stands: at 0 all is another's; later on, what lies further on is
        :param is_own: whether it trained here before, with this algorithm: what has no record of its time or its score
            is then its own
        :param has_best: whether its evaluation remembers the best that lies here, which stays
        :param log: a log of evaluations that it would overwrite, here or elsewhere
        :raises PublicationError: they cannot be moved
        """
        named = [each for each in named if self._is_further_on(each, num_timesteps, is_own)]
        entries = {
            name: files for each in named if each != BEST or not has_best for name, files in each.entries.items()
        }
        for path in self._path.glob("*_steps[._]*"):
            for name_prefix in name_prefixes:
                written = numbered_timesteps(path.name, name_prefix)
                if written is not None and (num_timesteps == 0 or written > num_timesteps):
                    entries[path.name] = Checkpoint.numbered(name_prefix, written).entries[path.name]
        if log is not None and log.parent == self._path:
            entries[log.name] = [log.name]
        elif log is not None:
            set_aside(log.parent, [log.name])
        there = [name for name, files in entries.items() if any((self._path / file).is_file() for file in files)]
        self._lock.previous = set_aside(self._path, there, self._lock.previous)

    def best(self) -> PolicyMetadata | None:
        """The record of the best policy so far, None where there is none, or none that can be read."""
        return self._record(BEST)

    def newest(self, name_prefixes: Iterable[str], num_timesteps: int) -> PolicyMetadata | None:
        """The record of the newest policy up to a number of timesteps, None where there is none that can be read.

        :param name_prefixes: how the names of numbered checkpoints begin
        """
        names = [path.name for path in self._path.glob(f"*_steps{POLICY.suffix}")]
        written = {
            steps: Checkpoint.numbered(prefix, steps)
            for prefix in name_prefixes
            for steps in (numbered_timesteps(name, prefix) for name in names)
            if steps is not None and steps <= num_timesteps
        }
        last = [written[max(written)]] if written else []
        records = [record for each in (BEST, FINAL, *last) if (record := self._record(each)) is not None]
        past = [record for record in records if record.training.num_timesteps <= num_timesteps]
        return max(past, key=lambda record: record.training.num_timesteps, default=None)

    def numbered(self, name_prefix: str, num_timesteps: int) -> list[WrittenCheckpoint]:
        """Numbered checkpoints from before, oldest first, up to a number of timesteps.

        Only what their own records prove to be written by this package: whatever else is called so is not ours.
        """
        found = []
        for path in self._path.glob(f"*_steps{POLICY.suffix}"):
            record = self._record(Checkpoint(path.stem))
            if (
                record is None
                or record.checkpoint is None
                or not record.checkpoint.together
                or record.checkpoint.followed
            ):
                continue
            written = record.training.num_timesteps
            if written <= num_timesteps and path.stem == Checkpoint.numbered(name_prefix, written).stem:
                found.append(self._written(path, record))
        return sorted(found, key=lambda checkpoint: checkpoint.num_timesteps)

    def _is_further_on(self, checkpoint: Checkpoint, num_timesteps: int, is_own: bool) -> bool:
        if num_timesteps == 0:
            return True
        record = self._record(checkpoint)
        if record is None or (checkpoint == BEST and record.training.mean_reward is None):
            return not is_own  # nothing says when it was written, or how good it is
        return record.training.num_timesteps > num_timesteps

    def _written(self, path: Path, record: PolicyMetadata) -> WrittenCheckpoint:
        """What of a checkpoint this package wrote, by the record of its policy file."""
        policy, own, whole = OwnFile.at(path), list[OwnFile](), True
        for kind, name in Checkpoint(path.stem).files.items():
            file = self._path / name
            state = state_of(file, kind, record)
            if state == "matched":
                own.append(OwnFile.at(file))
            elif state == "unknown" and own and file.is_file():
                staged = OwnFile.at(file)  # no digest shows whose it is; but it is written between the others
                own += [staged] * (own[0].time <= staged.time <= policy.time)
            elif isinstance(recorded(kind, record), PairedFile):
                whole = False
        return WrittenCheckpoint(num_timesteps=record.training.num_timesteps, files=(*own, policy), whole=whole)

    def unmatched(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Names of files of a checkpoint that are of another instant than its policy file."""
        record = self._record(checkpoint)
        partners = find_partners(self._path / checkpoint.files[POLICY], record) if record else ()
        return tuple(partner.path.name for partner in partners if partner.state == "other")

    def _record(self, checkpoint: Checkpoint) -> PolicyMetadata | None:
        try:
            return read_metadata(self._path / checkpoint.files[POLICY])
        except (ClankerError, OSError):
            return None
