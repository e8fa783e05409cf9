"""What a policy is looked at by: each number of its observation with its range, and each number of its action."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.card.wording import short
from sb3_clanker.policy_file.record import QUANTILES, ObservationRange, PolicyMetadata
from sb3_clanker.policy_file.spaces import LeafSpace
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.runtime.encoding import Observation

MOST = 2048
"""How many components of an observation are looked at."""
LARGEST = 1 << 21
"""Numbers in an observation up to which the policy is run for a card."""
_FLOAT32 = 3e38
_LEVELS = (0.0, *QUANTILES, 1.0)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What training saw of a component.

    :ivar quantiles: minimum, the quantiles of the record, maximum
    """

    quantiles: tuple[float, ...]
    mean: float
    deviation: float

    def at(self, level: float) -> float:
        """One of the quantiles of a record."""
        return self.quantiles[_LEVELS.index(level)]


@dataclass(frozen=True, kw_only=True)
class Component:
    """One number of an observation that is no image.

    :ivar key: the key of a Dict space, None for any other
    :ivar index: where it is in its array, in row-major order
    :ivar name: what it is called
    :ivar unit: its unit, empty where none was given
    :ivar low: the lowest value that is looked at, finite; the smallest that training saw, or else its bound
    :ivar high: the highest, likewise
    :ivar typical: the median of what training saw, or else the middle
    :ivar seen: what training saw of it, None where nobody kept it
    :ivar is_whole: whether its values are whole numbers
    :ivar is_known: whether its range is known at all
    """

    key: str | None
    index: int
    name: str
    unit: str
    low: float
    high: float
    typical: float
    seen: Seen | None
    is_whole: bool
    is_known: bool

    @property
    def label(self) -> str:
        """Its name with its unit."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def values(self, n: int) -> NDArray[np.float64]:
        """Values across its range."""
        if not self.is_whole:
            return np.linspace(self.low, self.high, n)
        return np.unique(np.round(np.linspace(self.low, self.high, n)))


@dataclass(frozen=True, kw_only=True)
class ActionPart:
    """One number of an action.

    :ivar name: what it is called
    :ivar unit: its unit, empty where none was given
    :ivar low: its lowest value
    :ivar high: its highest
    :ivar choices: names of the choices that it is the index of; empty for a number
    """

    name: str
    unit: str
    low: float
    high: float
    choices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Its name with its unit."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


def components_of(metadata: PolicyMetadata) -> list[Component]:
    """The components of an observation, :data:`MOST` at most."""
    return list(itertools.islice(_components(metadata), MOST))


def count_components(metadata: PolicyMetadata) -> int:
    """How many components an observation has, those of images aside."""
    return sum(space.n_elements for space, _ in _vectors(metadata))


def action_parts(metadata: PolicyMetadata, most: int = 256) -> list[ActionPart]:
    """The numbers of an action, the first of them."""
    space, spec = metadata.action_space, metadata.outputs[0]
    names, units = spec.names or (), spec.units or ()
    if len(space.choices) == 1 and not space.shape:
        n = space.choices[0]
        labels = tuple(short(names[i], 24) if len(names) == n else str(i) for i in range(min(n, most)))
        return [ActionPart(name="action", unit="", low=0, high=n - 1, choices=labels)]
    low, high = (bound.reshape(-1) for bound in space.bounds())
    only = space.n_elements == 1
    return [
        ActionPart(
            name=short(names[i], 40) if i < len(names) else "action" if only else f"action{_place(i, space.shape)}",
            unit=short(units[i], 16) if i < len(units) else "",
            low=float(low[i]),
            high=float(high[i]),
            choices=tuple(map(str, range(min(space.choices[i], most)))) if i < len(space.choices) else (),
        )
        for i in range(min(space.n_elements, most))
    ]


class TypicalObservations:
    """Observations to try a policy on: typical ones, in which something is changed.

    :param metadata: the record
    :param components: its components
    """

    def __init__(self, metadata: PolicyMetadata, components: list[Component]) -> None:
        self._base = {key: _middle(space) for key, space in metadata.observation_space.leaves().items()}
        for component in components:
            self._base[component.key].reshape(-1)[component.index] = component.typical
        self._dtypes = {key: np.dtype(space.dtype) for key, space in metadata.observation_space.leaves().items()}

    def single(self) -> Observation:
        """The typical one: each component at its median, images grey."""
        return self._as_observation(self._base)

    def many(self, n: int, changed: Mapping[tuple[str | None, int], NDArray[np.float64]]) -> Observation:
        """A batch of typical ones, with other values of some components.

        :param changed: n values each, by key and index
        """
        batch = {key: np.repeat(base[None], n, axis=0) for key, base in self._base.items()}
        for (key, index), values in changed.items():
            batch[key].reshape(n, -1)[:, index] = values
        return self._as_observation(batch)

    def _as_observation(self, leaves: Mapping[str | None, NDArray[Any]]) -> Observation:
        typed = {
            key: leaf if self._dtypes[key].kind == "f" else np.round(leaf).astype(self._dtypes[key])
            for key, leaf in leaves.items()
        }
        return typed[None] if None in typed else {str(key): leaf for key, leaf in typed.items()}


def sees_images(metadata: PolicyMetadata) -> bool:
    """Whether there is an image among what a policy sees."""
    return any(spec.layout is not None for spec in metadata.inputs if spec.role == "observation")


def size_of_observation(metadata: PolicyMetadata) -> int:
    """How many numbers an observation has."""
    return sum(space.n_elements for space in metadata.observation_space.leaves().values())


def _vectors(metadata: PolicyMetadata) -> Iterator[tuple[LeafSpace, TensorSpec]]:
    spaces = metadata.observation_space.leaves()
    for spec in metadata.inputs:
        if spec.role == "observation" and spec.layout is None:
            yield spaces[spec.key], spec


def _components(metadata: PolicyMetadata) -> Iterator[Component]:
    ranges = metadata.observation_ranges.ranges if metadata.observation_ranges else ()
    by_key = {each.key: each for each in ranges}
    for space, spec in _vectors(metadata):
        low, high = (bound.reshape(-1) for bound in space.bounds())
        seen = by_key.get(spec.key)
        whole = np.dtype(space.dtype).kind != "f"
        is_index = bool(space.choices) and not space.shape  # its labels are those of its categories
        names, units = ((), ()) if is_index else (spec.names or (), spec.units or ())
        for i in range(space.n_elements):
            known = _seen(seen, i)
            first, last = (known.quantiles[0], known.quantiles[-1]) if known else (float(low[i]), float(high[i]))
            is_known = math.isfinite(first) and math.isfinite(last) and first <= last
            if not is_known:
                first = last = float(np.clip(0.0, low[i], high[i]))
            first, last = (min(max(value, -_FLOAT32), _FLOAT32) for value in (first, last))
            middle = known.at(0.5) if known else first / 2 + last / 2
            yield Component(
                key=spec.key,
                index=i,
                name=short(names[i], 40) if i < len(names) else _name(spec, space, i),
                unit=short(units[i], 16) if i < len(units) else "",
                low=first,
                high=last,
                typical=round(middle) if whole else min(max(middle, first), last),
                seen=known,
                is_whole=whole,
                is_known=is_known,
            )


def _seen(ranges: ObservationRange | None, index: int) -> Seen | None:
    """What a record says of a component."""
    if ranges is None:
        return None
    quantiles = ranges.minimum[index], *ranges.quantiles[index], ranges.maximum[index]
    return Seen(quantiles=quantiles, mean=ranges.mean[index], deviation=ranges.deviation[index])


def _name(spec: TensorSpec, space: LeafSpace, index: int) -> str:
    of = short("obs" if spec.key is None else spec.key, 32)
    return of if space.n_elements == 1 else f"{of}{_place(index, space.shape)}"


def _place(index: int, shape: tuple[int, ...]) -> str:
    return f"[{', '.join(str(place) for place in np.unravel_index(index, shape))}]"


def _middle(space: LeafSpace) -> NDArray[np.float64]:
    """The middle of finite bounds, else what is nearest to zero."""
    low, high = space.bounds()
    finite = np.isfinite(low) & np.isfinite(high)
    with np.errstate(invalid="ignore", over="ignore"):
        middle = np.where(finite, low / 2 + high / 2, np.clip(0.0, low, high))
    return np.asarray(np.clip(middle, -_FLOAT32, _FLOAT32), dtype=np.float64)
