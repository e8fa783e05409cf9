"""Two policies beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.comparison.actions import ActionDifferences, ComponentDifference, compare_actions
from sb3_clanker.comparison.records import record_differences
from sb3_clanker.display import Shown, printable, short
from sb3_clanker.errors import IncomparablePoliciesError, ObservationError, OptionError, UnfitEnvironmentError
from sb3_clanker.observations.drawn import draw_from_ranges
from sb3_clanker.observations.files import Observations, read_observations
from sb3_clanker.play.environment import Playable, specification
from sb3_clanker.play.episodes import play_episodes
from sb3_clanker.policy_file.reading import PolicyFile, read_policy_file
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.public import public
from sb3_clanker.report import RecordDifference
from sb3_clanker.runtime.policy import OnnxPolicy

Policy: TypeAlias = str | Path | OnnxPolicy
Array: TypeAlias = NDArray[Any]

_MOST = 100_000
"""Observations that are drawn, and episodes that are played."""
_N_COMPONENTS, _N_SEEDS, _N_FIELDS = 8, 10, 12
"""How many of each show themselves; all of them are in the attributes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReturnDifferences:
    """What two policies earn in episodes on the same seeds.

    :ivar environment: where they were played
    :ivar seeds: the seed of each episode
    :ivar first: the returns of the first, float64 of shape (n_episodes,)
    :ivar second: those of the second
    """

    environment: str
    seeds: tuple[int, ...]
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    @property
    def differences(self) -> NDArray[np.float64]:
        """For each seed, how much more the second earns than the first."""
        return self.second - self.first

    @property
    def are_equal(self) -> bool:
        """Whether no episode differs by more than rounding makes."""
        return bool(np.allclose(self.first, self.second, rtol=1e-5, atol=1e-5, equal_nan=True))


@public
@dataclass(frozen=True, kw_only=True, repr=False)
class PolicyComparison(Shown):
    """What :func:`compare_policies` found.

    :ivar first: what the first policy is called: its path, or ``first``
    :ivar second: likewise
    :ivar same_digest: whether graph and weights are the same, byte for byte
    :ivar actions: how far their actions are apart
    :ivar returns: what they earn in episodes on the same seeds, None where none were played
    :ivar differences: the fields of the record that differ
    """

    _in_short = ("verdict", "actions", "second less first")

    first: str
    second: str
    same_digest: bool
    actions: ActionDifferences
    returns: ReturnDifferences | None
    differences: tuple[RecordDifference, ...]

    @property
    def act_the_same(self) -> bool:
        """Whether no action differed by more than rounding makes, and no return."""
        return self.actions.n_differing == 0 and (self.returns is None or self.returns.are_equal)

    def facts(self) -> Iterator[tuple[str, str]]:
        yield "verdict", "they act the same" if self.act_the_same else "they do not act the same"
        yield "first", self.first
        yield "second", self.second
        yield "graph and weights", "the same bytes" if self.same_digest else "different"
        yield "actions", str(self.actions)
        yield "compared on", self.actions.source
        components = sorted(self.actions.components, key=_weight, reverse=True)
        yield from ((f"  {short(component.name, 60)}", str(component)) for component in components[:_N_COMPONENTS])
        if len(components) > _N_COMPONENTS:
            yield "  ...", f"{len(components) - _N_COMPONENTS:,} more components, which differ less"
        if self.returns is not None:
            yield from _return_facts(self.returns)
        yield from difference_facts(self.differences)


def difference_facts(differences: tuple[RecordDifference, ...]) -> Iterator[tuple[str, str]]:
    """The differences of two records, the first of them one by one."""
    n_fields = f"{len(differences):,} field{'s differ' if len(differences) > 1 else ' differs'}"
    yield "record", n_fields if differences else "no field differs"
    yield from ((f"  {difference.path}", str(difference)) for difference in differences[:_N_FIELDS])
    if len(differences) > _N_FIELDS:
        yield "  ...", f"{len(differences) - _N_FIELDS:,} more fields"


@public
def compare_policies(
    first: str | Path | OnnxPolicy,
    second: str | Path | OnnxPolicy,
    *,
    observations: str | Path | NDArray[Any] | Mapping[str, NDArray[Any]] | None = None,
    env: str | Playable | None = None,
    n_episodes: int = 0,
    n_observations: int = 1000,
    seed: int = 0,
) -> PolicyComparison:
    """Say what differs between two policies: in their records, in how they act, and in what they earn.

    :param first: a file, or a policy that is loaded already
    :param second: likewise, of the same spaces
    :param observations: raw observations to act on: a file of numpy (``.npy``; ``.npz`` for a Dict space), or a batch
        of them, or a mapping of such by key; None draws them from what training saw, by the record of the first
        policy or else that of the second, and from the observation space where neither says
    :param env: where episodes are played: an id of gymnasium, or a ``gymnasium.Env`` of the caller's own, which is
        taken as it is and not closed; None makes the environment that both records name. One that is not that of the
        training, by its spaces or by the wrappers in the record, is refused.
    :param n_episodes: how many episodes each policy plays, on the seeds ``seed``, ``seed + 1``, ...; 0 (the default)
        plays none, and needs no gymnasium
    :param n_observations: how many observations to draw, where none are given
    :param seed: of all that is random
    :return: what differs; ``act_the_same`` is the verdict
    :raises IncomparablePoliciesError: they observe or do different things; the differences of their records are on it
    :raises OptionError: an argument is out of its range
    :raises MissingFileError: there is no such file
    :raises UnreadableFileError: it cannot be read
    :raises PolicyFileError: not a policy of this package, or damaged, or not runnable
    :raises ObservationFileError: the file holds no observations of these policies
    :raises ObservationError: the observations are not of these policies
    :raises UnfitEnvironmentError: they are not played in this environment
    :raises MissingDependencyError: gymnasium is not installed, and episodes are asked for

    >>> compare_policies("best_model.onnx", "final_model.onnx").act_the_same  # doctest: +SKIP
    False
    """
    for option, value, least in (("n_episodes", n_episodes, 0), ("n_observations", n_observations, 1)):
        if type(value) is not int or not least <= value <= _MOST:
            raise OptionError(option, value, f"a whole number from {least} to {_MOST:,}")
    if type(seed) is not int or not 0 <= seed < 1 << 31:
        raise OptionError("seed", seed, "a whole number from 0 to 2**31 - 1")
    if env is not None and n_episodes == 0:
        raise OptionError("n_episodes", n_episodes, "at least 1 where an environment is given")
    loaded = [_read(policy) for policy in (first, second)]
    one, other = (source.metadata for source in loaded)
    differences = tuple(record_differences(one, other))
    _check_spaces(one, other, differences)
    if n_episodes and (env is None or isinstance(env, str)):
        _check_environments(one, other, env)
    policies = [source if isinstance(source, OnnxPolicy) else OnnxPolicy.from_file(source) for source in loaded]
    batch, source = _observations(observations, one, other, n_observations, seed)
    actions = compare_actions(policies[0], policies[1], batch, source, seed)
    returns = None
    if n_episodes:
        seeds = range(seed, seed + n_episodes)
        played = [play_episodes(policy, env, seeds) for policy in policies]
        earned = [episodes.returns for episodes in played]
        returns = ReturnDifferences(
            environment=played[0].environment, seeds=tuple(seeds), first=earned[0], second=earned[1]
        )
    return PolicyComparison(
        first=_called(first, "first"),
        second=_called(second, "second"),
        same_digest=one.digest == other.digest,
        actions=actions,
        returns=returns,
        differences=differences,
    )


def _read(policy: Policy) -> PolicyFile | OnnxPolicy:
    return policy if isinstance(policy, OnnxPolicy) else read_policy_file(policy)


def _called(policy: Policy, otherwise: str) -> str:
    return otherwise if isinstance(policy, OnnxPolicy) else printable(str(policy))


def _check_spaces(first: PolicyMetadata, second: PolicyMetadata, differences: tuple[RecordDifference, ...]) -> None:
    """Refuse policies that cannot act on the same observations, or whose actions mean different things.

    Bounds of observations may differ: they say what may come, and it is the same for both.
    """
    one, other = first.observation_space.leaves(), second.observation_space.leaves()
    kinds = [{key: (leaf.type, leaf.shape, leaf.dtype) for key, leaf in leaves.items()} for leaves in (one, other)]
    choices = [{key: leaf.choices for key, leaf in leaves.items()} for leaves in (one, other)]
    if kinds[0] != kinds[1] or choices[0] != choices[1]:
        problem = f"is {short(first.observation_space)}, and that of the second {short(second.observation_space)}"
        raise IncomparablePoliciesError("observation", problem, differences)
    action, its = first.action_space, second.action_space
    if (action.type, action.shape, action.dtype) != (its.type, its.shape, its.dtype):
        raise IncomparablePoliciesError("action", f"is {action}, and that of the second {its}", differences)
    if action.choices != its.choices:
        problem = f"has {short(list(action.choices))} choices, and that of the second {short(list(its.choices))}"
        raise IncomparablePoliciesError("action", problem, differences)
    if not all(np.allclose(a, b) for a, b in zip(action.bounds(), its.bounds(), strict=True)):
        raise IncomparablePoliciesError("action", f"{action} has other bounds than that of the second", differences)


def _check_environments(first: PolicyMetadata, second: PolicyMetadata, env_id: str | None) -> None:
    """Refuse policies for which different environments would be made."""
    one, other = (specification(metadata, env_id) for metadata in (first, second))
    if (one.id, one.kwargs) != (other.id, other.kwargs):
        raise UnfitEnvironmentError(
            short(one), f"the second was trained in {short(other)}", "Make one for both yourself, and pass it as env."
        )


def _observations(
    given: Any, first: PolicyMetadata, second: PolicyMetadata, n_observations: int, seed: int
) -> tuple[Observations, str]:
    """The observations that both act on, and where they come from."""
    space = first.observation_space
    if given is None:
        of_whom = next((metadata for metadata in (first, second) if metadata.observation_ranges), None)
        ranges = None if of_whom is None else of_whom.observation_ranges
        batch = draw_from_ranges(space, ranges, n_observations, seed=seed)
        whose = "the first" if of_whom is first else "the second"
        which = "the observation space" if of_whom is None else f"what training of {whose} saw"
        return batch, f"observations drawn from {which}"
    if isinstance(given, (str, Path)):
        return read_observations(given, space), f"observations of {printable(str(given))}"
    batch = _to_arrays(given)
    _check_batch(batch, first)
    return batch, "observations that were given"


def _to_arrays(given: Any) -> Observations:
    try:
        if isinstance(given, Mapping):
            return {key: np.asarray(rows) for key, rows in given.items()}
        return np.asarray(given)
    except ValueError as error:
        raise ObservationError(f"The observations are not arrays: {error}") from error


def _check_batch(batch: Observations, metadata: PolicyMetadata) -> None:
    """Refuse what is no batch; the rest is for the policies to refuse."""
    leaves = metadata.observation_space.leaves()
    by_key: dict[str | None, Array] = dict(batch.items()) if isinstance(batch, dict) else {None: batch}
    if by_key.keys() != leaves.keys():
        keys, expected = (short(", ".join(map(str, known))) for known in (by_key, leaves))
        raise ObservationError(f"The observations have the keys {keys}, expected {expected}.")
    for key, leaf in leaves.items():
        shape = by_key[key].shape
        if len(shape) != len(leaf.shape) + 1 or shape[0] == 0:
            what = "observations" if key is None else f"observations {short(key)}"
            raise ObservationError(f"The {what} must be a batch of at least one, (n, *{leaf.shape}), got {shape}.")
    if len(counts := {len(rows) for rows in by_key.values()}) > 1:
        raise ObservationError(f"The observations of all keys must be equally many, got {sorted(counts)}.")


def _weight(component: ComponentDifference) -> tuple[float, float]:
    """By which components are sorted: the one that differs most comes last."""
    return component.share, (component.largest or 0.0) / (component.half_range or 1.0)


def _return_facts(returns: ReturnDifferences) -> Iterator[tuple[str, str]]:
    seeds, differences = returns.seeds, returns.differences
    n_episodes = f"{len(seeds):,} episode{'s' if len(seeds) > 1 else ''}"
    yield "played in", f"{returns.environment}, {n_episodes} each, from seed {seeds[0]} on"
    yield "return of the first", _spread(returns.first)
    yield "return of the second", _spread(returns.second)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    yield "second less first", f"{_spread(differences)}; more on {better:,}, less on {worse:,}"
    rows = list(zip(seeds, returns.first, returns.second, differences, strict=True))
    yield from (
        (f"  seed {seed}", f"{one:12,.2f} {other:12,.2f} {apart:+12,.2f}")
        for seed, one, other, apart in rows[:_N_SEEDS]
    )
    if len(rows) > _N_SEEDS:
        yield "  ...", f"{len(rows) - _N_SEEDS:,} more seeds"


def _spread(values: NDArray[np.float64]) -> str:
    return f"mean {values.mean():,.2f}, standard deviation {values.std():,.2f}"
