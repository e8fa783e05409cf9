"""How a policy became what it is: the evaluations of its run, and the checkpoints among them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.errors import ClankerError
from sb3_clanker.paths import is_file
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import EvaluationRecord, PolicyMetadata
from sb3_clanker.run_folder.names import BEST, FINAL, POLICY

LOG = "evaluations.npz"
"""What ``EvalCallback`` calls its log."""
_LARGEST_LOG = 1 << 26
_LARGEST, _LATEST = 1e300, 10**18
_MOST_POINTS = 300
_MOST_CHECKPOINTS, _MOST_BYTES = 60, 1 << 28


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """Evaluations in order.

    :ivar timesteps: when, shape (n,)
    :ivar means: mean returns, shape (n,)
    :ivar deviations: their standard deviations, shape (n,); 0 where nobody knows
    :ivar n_episodes: episodes of each, None where that is not known or not always the same
    :ivar source: where they are from, in words
    """

    timesteps: NDArray[np.float64]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    n_episodes: int | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A checkpoint on a learning curve.

    :ivar timesteps: when it was written
    :ivar label: what it is called, empty for numbered ones
    :ivar is_this: whether it is that of the card
    """

    timesteps: float
    label: str
    is_this: bool = False


def read_log(folder: Path, metadata: PolicyMetadata) -> Evaluations | None:
    """The log of evaluations in a folder, None where there is none that can be read. Nothing in it is run.

    A folder may hold that of another training: one without the evaluation that a record speaks of is not its log.
    """
    path = folder / LOG
    if not is_file(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST_LOG:
                return None
        with np.load(path, allow_pickle=False) as log:
            timesteps = np.asarray(log["timesteps"], dtype=np.float64).reshape(-1)
            results = np.asarray(log["results"], dtype=np.float64).reshape(len(timesteps), -1)
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, NotImplementedError):
        return None
    are_numbers = (np.abs(results) <= _LARGEST).all(axis=1) & (results.shape[1] > 0)
    finite = (timesteps >= 0) & (timesteps <= _LATEST) & are_numbers
    timesteps, results = timesteps[finite], results[finite]
    if not len(timesteps) or not _is_in(metadata.training.evaluation, timesteps, results.mean(axis=1)):
        return None
    order = np.argsort(timesteps, kind="stable")
    some = order[np.unique(np.linspace(0, len(order) - 1, _MOST_POINTS).round().astype(int))]
    return Evaluations(
        timesteps=timesteps[some],
        means=results[some].mean(axis=1),
        deviations=results[some].std(axis=1),
        n_episodes=results.shape[1],
        source=LOG,
    )


def _is_in(evaluation: EvaluationRecord | None, timesteps: NDArray[np.float64], means: NDArray[np.float64]) -> bool:
    """Whether an evaluation is among those of a log; one of which nothing is known may be."""
    if evaluation is None or evaluation.source == "rollout" or evaluation.mean_reward is None:
        return True
    return bool(np.isclose(means[timesteps == _bounded(evaluation.num_timesteps)], evaluation.mean_reward).any())


def of_records(records: list[PolicyMetadata]) -> Evaluations | None:
    """The evaluations that policy files say themselves, None where they say none."""
    found: dict[int, tuple[float, float, int | None]] = {}
    source = "the records of the policy files"
    for record in records:
        evaluation = record.training.evaluation
        if evaluation is not None and evaluation.mean_reward is not None:
            numbers = evaluation.mean_reward, evaluation.std_reward or 0.0
            mean, deviation = (min(max(value, -_LARGEST), _LARGEST) for value in numbers)
            if evaluation.source == "rollout":
                source = "the records of the policy files: of episodes of the training itself"
            found[_bounded(evaluation.num_timesteps)] = mean, deviation, evaluation.n_episodes
    if not found:
        return None
    steps = sorted(found)
    episodes = {found[step][2] for step in steps}
    return Evaluations(
        timesteps=np.array(steps, dtype=np.float64),
        means=np.array([found[step][0] for step in steps]),
        deviations=np.array([found[step][1] for step in steps]),
        n_episodes=episodes.pop() if len(episodes) == 1 else None,
        source=source,
    )


def records_beside(path: Path, metadata: PolicyMetadata) -> dict[str, PolicyMetadata]:
    """The records of the policy files of a folder that are of the same training, by stem; the file itself first."""
    records = {path.stem: metadata}
    try:
        others = sorted(other for other in path.parent.glob(f"*{POLICY.suffix}") if other.name != path.name)
    except OSError:
        return records
    named = [other for other in others if other.stem in (BEST.stem, FINAL.stem)]
    numbered = [other for other in others if other not in named]
    every = -(-len(numbered) // _MOST_CHECKPOINTS) or 1
    left = _MOST_BYTES
    for other in (*named, *numbered[::every]):
        try:
            left -= other.stat().st_size
            if left < 0:
                break
            record = read_metadata(other)
        except (ClankerError, OSError):
            continue
        if _is_alike(record, metadata):
            records[other.stem] = record
    return records


def marks(path: Path, records: dict[str, PolicyMetadata]) -> Iterator[Mark]:
    """The checkpoints of a run, in the order of their time."""
    names = {BEST.stem: "best", FINAL.stem: "final"}
    for stem, record in sorted(records.items(), key=lambda item: item[1].training.num_timesteps):
        is_this = stem == path.stem
        label = names.get(stem, "this policy" if is_this else "")
        yield Mark(timesteps=float(_bounded(record.training.num_timesteps)), label=label, is_this=is_this)


def _bounded(num_timesteps: int) -> int:
    """A number of timesteps that has a place on an axis, whatever a record says."""
    return min(max(num_timesteps, 0), _LATEST)


def _is_alike(record: PolicyMetadata, metadata: PolicyMetadata) -> bool:
    """Whether two files may be of one training: somebody may keep the policies of many in one folder."""
    return (record.algorithm, record.observation_space, record.action_space, record.environment_spec) == (
        metadata.algorithm,
        metadata.observation_space,
        metadata.action_space,
        metadata.environment_spec,
    )
