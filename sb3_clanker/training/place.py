"""The folders that a run writes to, each with what lies there from before, and with what decides on its best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stable_baselines3.common.callbacks import EvalCallback

from sb3_clanker.policy_file.record import ObservationRanges
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.run_folder.names import BEST, FINAL, Checkpoint
from sb3_clanker.training import settings
from sb3_clanker.training.evaluation import Judge, continue_best
from sb3_clanker.training.follow import Followed
from sb3_clanker.training.run import Training


@dataclass(kw_only=True)
class Place:
    """A folder that a run writes to.

    :param path: the folder
    :param training: the run, which has the folder to itself; it is made if need be
    :ivar named: checkpoints there that are not numbered
    :ivar name_prefixes: how the names of numbered ones begin there
    :ivar judges: what decides on the best there
    :ivar folder: the folder, once it is this run's
    """

    path: Path
    named: list[Checkpoint] = field(default_factory=list)
    name_prefixes: set[str] = field(default_factory=set)
    judges: list[Judge] = field(default_factory=list)
    folder: TrainingFolder = field(init=False)

    def open(self, training: Training) -> None:
        """Take the folder for a run; made if need be.

        :raises PublicationError: it cannot be made or written in
        :raises FolderInUseError: another training writes there
        :raises OptionError: a file of these names could not be written there
        """
        self.folder = TrainingFolder(self.path, training)
        for name_prefix in self.name_prefixes:
            settings.require_names(self.path, name_prefix)

    def look_back(self, num_timesteps: int, *, is_own: bool, overwrite: bool, log: Path | None) -> float:
        """Go on where an earlier training was interrupted; move what is another's, or lies further on.

        :param num_timesteps: where the run stands
        :param is_own: whether it trained here before, with this algorithm
        :param overwrite: whether what is another's is overwritten in place of being moved
        :param log: a log of evaluations that would be overwritten
        :return: the best score so far, minus infinity where there is none
        """
        if not overwrite:  # a best that its evaluation remembers is its own, of a learn() before
            has_best = any(self._has_best(judge, is_own=is_own) for judge in self.judges)
            self.folder.make_room(
                self.named, self.name_prefixes, num_timesteps, is_own=is_own, has_best=has_best, log=log
            )
        return continue_best(self.judges, self.folder.best(), num_timesteps)

    def _has_best(self, judge: Judge, *, is_own: bool) -> bool:
        """Whether the best here is one that is remembered: by who writes it itself, in whichever training."""
        writes_here = isinstance(judge, EvalCallback) and Followed(judge).folder == self.path
        return judge.best_mean_reward > float("-inf") and (is_own or writes_here)


def ranges_before(places: Iterable[Place], num_timesteps: int) -> ObservationRanges | None:
    """What was seen before, by the newest policy that a run goes on from; None at its beginning.

    :param num_timesteps: where the run stands
    """
    found = (place.folder.newest(place.name_prefixes, num_timesteps) for place in places if num_timesteps > 0)
    newest = max(filter(None, found), key=lambda record: record.training.num_timesteps, default=None)
    return newest.observation_ranges if newest else None


def places_of(path: Path, name_prefix: str, followed: Sequence[Followed], training: Training) -> dict[Path, Place]:
    """The folders of a run by their path, its own first, taken for it; errors as in :meth:`Place.open`.

    :param path: its own
    :param name_prefix: how the names of its own numbered checkpoints begin
    :param followed: the callbacks whose checkpoints it completes
    :param training: the run
    """
    places = {path: Place(path=path, named=[BEST, FINAL], name_prefixes={name_prefix})}
    for each in followed:
        folder = each.folder or path
        place = places.setdefault(folder, Place(path=folder))
        place.name_prefixes |= each.name_prefixes
        place.judges += each.evaluations
        if each.evaluations and BEST not in place.named:
            place.named.append(BEST)
    for place in places.values():
        place.open(training)
    return places
