"""How two policies act on the same observations."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.display import short
from sb3_clanker.errors import InferenceError
from sb3_clanker.observations.files import Observations
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import LeafSpace
from sb3_clanker.runtime.policy import OnnxPolicy

Array: TypeAlias = NDArray[Any]

_TOLERANCE = 1e-5
"""Of half the range: what floating point may make of one policy in two files, as in their proofs."""
_N_STEPS = 50
"""Of a recurrent policy: from one reset to the next, at most."""
_RESETS = 0.05
_ROWS = 256
"""At once: observations may be images."""
_N_CHANGES = 3
_LONGEST = 30
"""Characters of a name or a unit that is shown."""


@dataclass(frozen=True, kw_only=True)
class ComponentDifference:
    """How far two policies are apart in one component of the action.

    :ivar name: its name, or its place
    :ivar unit: its unit, empty where the file names none
    :ivar share: the part of the observations on which it differs; of a number, by more than 1e-5 of half its range
    :ivar mean: mean absolute difference, in its own unit; None for a choice
    :ivar largest: largest absolute difference, in its own unit; None for a choice
    :ivar half_range: half the distance of its bounds; None for a choice
    :ivar changes: of a choice, what most often becomes what: that of the first, that of the second, and how often
    """

    name: str
    unit: str = ""
    share: float
    mean: float | None = None
    largest: float | None = None
    half_range: float | None = None
    changes: tuple[tuple[str, str, int], ...] = ()

    def __str__(self) -> str:
        if self.share == 0 and not self.largest:
            return "never differs"
        text = f"differs on {percent(self.share)}"
        if self.mean is not None and self.largest is not None and self.half_range is not None:
            unit = f" {short(self.unit, _LONGEST)}" if self.unit else ""
            parts = " and ".join(percent(value / self.half_range) for value in (self.mean, self.largest))
            text = f"{text}; mean {self.mean:.3g}{unit}, largest {self.largest:.3g}{unit}"
            return f"{text} ({parts} of half its range)"
        changes = ((short(one, _LONGEST), short(other, _LONGEST), n) for one, other, n in self.changes)
        return "; ".join([text, ", ".join(f"{one} -> {other} ({n:,})" for one, other, n in changes)])


@dataclass(frozen=True, kw_only=True)
class ActionDifferences:
    """How far the actions of two policies are apart.

    :ivar source: which observations they acted on, in words
    :ivar n_observations: how many times they acted
    :ivar n_differing: how many times a component of the action differed
    :ivar components: each component of the action, flattened in row-major order
    """

    source: str
    n_observations: int
    n_differing: int
    components: tuple[ComponentDifference, ...]

    def __str__(self) -> str:
        if self.n_differing == 0:
            return f"none of {self.n_observations:,} differ"
        share = percent(self.n_differing / self.n_observations)
        return f"{share} differ ({self.n_differing:,} of {self.n_observations:,})"


def compare_actions(
    first: OnnxPolicy, second: OnnxPolicy, observations: Observations, source: str, seed: int
) -> ActionDifferences:
    """Let both act on the same observations.

    Recurrent policies go through them in order, in sequences of 50 steps: each begins with a reset, others come by
    chance, and each policy carries its own state. Where both take masks, they act on every observation twice: with
    everything allowed, and with a random mask.

    :param observations: a batch of raw ones
    :param source: where they come from, in words
    :param seed: of what is random
    """
    rng = np.random.default_rng(seed)
    masks: Array | None = None
    if _takes_masks(first.metadata) and _takes_masks(second.metadata):
        choices, n = first.metadata.action_space.choices, n_rows(observations)
        masks = np.concatenate([np.ones((n, sum(choices)), bool), _random_masks(choices, n, rng)])
        observations = _of_each(observations, lambda rows: np.concatenate([rows, rows]))
        source = f"{source}, with everything allowed and with random masks"
    if first.metadata.recurrent or second.metadata.recurrent:
        rounds = list(_sequences(n_rows(observations), rng))
        source = f"{source}, in sequences of {len(rounds)} steps with resets"
    else:
        rounds = list(_batches(n_rows(observations)))
    one, other = (_act(policy, observations, masks, rounds) for policy in (first, second))
    return _differences(one, other, first.metadata, source)


def percent(share: float) -> str:
    """A share in three digits."""
    return f"{100.0 * share:.3g} %"


def n_rows(observations: Observations) -> int:
    """How many observations there are in a batch."""
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def _of_each(observations: Observations, change: Callable[[Array], Array]) -> Observations:
    if isinstance(observations, dict):
        return {key: change(rows) for key, rows in observations.items()}
    return change(observations)


@dataclass(frozen=True)
class _Round:
    """Observations that a policy acts on at once.

    :ivar rows: which
    :ivar starts: where the state is reset
    :ivar counts: which of them count
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.bool_]
    counts: NDArray[np.bool_]


def _batches(n: int) -> Iterator[_Round]:
    for first in range(0, n, _ROWS):
        rows = np.arange(first, min(first + _ROWS, n))
        yield _Round(rows, np.ones(len(rows), bool), np.ones(len(rows), bool))


def _sequences(n: int, rng: np.random.Generator) -> Iterator[_Round]:
    """Step by step through sequences side by side; the last begins again with the first observations at its end."""
    n_steps = min(_N_STEPS, n)
    rows = np.arange(-(-n // n_steps) * n_steps).reshape(-1, n_steps)
    for step in range(n_steps):
        column = rows[:, step]
        yield _Round(column % n, (rng.random(len(column)) < _RESETS) | (step == 0), column < n)


def _act(
    policy: OnnxPolicy, observations: Observations, masks: Array | None, rounds: list[_Round]
) -> NDArray[np.float64]:
    """The actions of a policy, float64 of shape (n, action_dim)."""
    width = policy.metadata.action_space.n_elements
    actions = np.empty((n_rows(observations), width))
    state = None
    for each in rounds:
        rows, counts = each.rows, each.counts
        seen = _of_each(observations, operator.itemgetter(rows))
        action, state = policy.predict(seen, state, each.starts, action_masks=None if masks is None else masks[rows])
        if len(action) != len(rows):
            raise InferenceError(f"{len(action)} actions for {len(rows)} observations")
        actions[rows[counts]] = action.reshape(-1, width)[counts]
    return actions


def _differences(
    one: NDArray[np.float64], other: NDArray[np.float64], metadata: PolicyMetadata, source: str
) -> ActionDifferences:
    space = metadata.action_space
    with np.errstate(invalid="ignore"):
        apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
    apart = np.where(np.isnan(apart), np.inf, apart)
    if space.is_continuous:
        half = _half_range(space)
        differs = apart > _TOLERANCE * np.maximum(half, np.abs(np.nan_to_num(one)))
        components = _numbers(apart, differs, half, metadata)
    else:
        differs = apart > 0
        components = _choices(one, other, differs, metadata)
    return ActionDifferences(
        source=source,
        n_observations=len(one),
        n_differing=int(differs.any(axis=1).sum()),
        components=tuple(components),
    )


def _half_range(space: LeafSpace) -> NDArray[np.float64]:
    """Half the distance of the bounds of each component; 1 where a record has none that are of use."""
    low, high = (bound.reshape(-1) for bound in space.bounds())
    with np.errstate(all="ignore"):
        half = high / 2.0 - low / 2.0
    return np.where(np.isfinite(half) & (half > 0), half, 1.0)


def _numbers(
    apart: NDArray[np.float64], differs: NDArray[np.bool_], half: NDArray[np.float64], metadata: PolicyMetadata
) -> Iterator[ComponentDifference]:
    units = metadata.outputs[0].units or ()
    for place, name in enumerate(_component_names(metadata)):
        yield ComponentDifference(
            name=name,
            unit=units[place] if len(units) == apart.shape[1] else "",
            share=float(differs[:, place].mean()),
            mean=float(apart[:, place].mean()),
            largest=float(apart[:, place].max()),
            half_range=float(half[place]),
        )


def _choices(
    one: NDArray[np.float64], other: NDArray[np.float64], differs: NDArray[np.bool_], metadata: PolicyMetadata
) -> Iterator[ComponentDifference]:
    for place, name in enumerate(_component_names(metadata)):
        rows = differs[:, place]
        changes = Counter(zip(one[rows, place].tolist(), other[rows, place].tolist(), strict=True))
        yield ComponentDifference(
            name=name,
            share=float(rows.mean()),
            changes=tuple(
                (_choice(before, metadata), _choice(after, metadata), n)
                for (before, after), n in sorted(changes.items(), key=lambda item: (-item[1], item[0]))[:_N_CHANGES]
            ),
        )


def _component_names(metadata: PolicyMetadata) -> list[str]:
    """The caller's names of the components, or else their places."""
    names, width = metadata.outputs[0].names or (), metadata.action_space.n_elements
    if metadata.action_space.n_labels == width == len(names):
        return list(names)
    return ["action"] if width == 1 else [f"action[{place}]" for place in range(width)]


def _choice(value: float, metadata: PolicyMetadata) -> str:
    """The caller's name of a choice, or else its number."""
    names, n_labels = metadata.outputs[0].names or (), metadata.action_space.n_labels
    is_named = n_labels != metadata.action_space.n_elements and n_labels == len(names) and 0 <= value < n_labels
    return names[int(value)] if is_named else f"{value:g}"


def _takes_masks(metadata: PolicyMetadata) -> bool:
    return any(spec.role == "action_masks" for spec in metadata.inputs)


def _random_masks(choices: tuple[int, ...], n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Each choice is allowed by chance, and in each dimension at least one."""
    parts = []
    for n_choices in choices:
        part = rng.random((n, n_choices)) < 0.5
        part[np.arange(n), rng.integers(0, n_choices, n)] = True
        parts.append(part)
    return np.concatenate(parts, axis=1)
