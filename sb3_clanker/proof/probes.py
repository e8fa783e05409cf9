"""The raw observations that a cross-check tries.

Four kinds: those that training really saw, random ones, where a graph is new those of a lattice, and the bounds of the
space. Random ones come from a generator of their own, so that nothing in the training advances. Every value is one that
float32 carries exactly: that is what a consumer of the file can say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_clanker.policy_file.bounds import round_inward
from sb3_clanker.policy_file.spaces import LeafSpace, describe_space
from sb3_clanker.proof.lattice import Rows, before_normalization, draw_lattice
from sb3_clanker.sb3.statistics import Statistics

Batch: TypeAlias = NDArray[Any] | dict[str, NDArray[Any]]

N_CORNERS = 3
"""How many of the probes, the last ones, are corners of the space."""

_SEED = 20_260_101
_LARGEST = 1e3
"""Cap of unbounded dimensions: far beyond, float32 sums in the network itself lose the digits that are compared."""
_N_LATTICE = 192
"""Probes of a lattice; fewer where an observation is so large that they would have more elements than these."""
_LATTICE_ELEMENTS = 1 << 19


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Raw observations, as one batch.

    :ivar observations: batch of raw observations, as an environment gives them
    :ivar n_seen: how many of them, the first ones, training really saw
    :ivar action_masks: of a maskable policy, bool of shape (n, n_choices), true for what is allowed
    """

    observations: Batch
    n_seen: int
    action_masks: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return batch_size(self.observations)


def draw_observations(
    space: spaces.Space[Any], statistics: Mapping[str | None, Statistics], n_samples: int, *, lattice: bool = False
) -> Batch:
    """Random observations, points of a lattice, and the corners of a space.

    :param space: the policy's observation space
    :param statistics: what VecNormalize knows: unbounded dimensions are drawn around the mean, as in training
    :param n_samples: how many random ones
    :param lattice: whether to try the points where operators are converted wrongly: what is right there once stays so,
        whatever the weights
    """
    generator = np.random.default_rng(_SEED)
    leaves = describe_space(space, "observation").leaves()
    n_elements = sum(leaf.n_elements for leaf in leaves.values())
    n_lattice = int(np.clip(_LATTICE_ELEMENTS // max(n_elements, 1), 8, _N_LATTICE)) if lattice else 0
    drawn = {
        key: _through_float32(np.concatenate(_draw(leaf, statistics.get(key), generator, n_samples, n_lattice)))
        for key, leaf in leaves.items()
    }
    return as_batch(drawn)


def gather_probes(drawn: Batch, seen: Batch | None, masked_choices: tuple[int, ...] = ()) -> Probes:
    """Observations to try: those that training saw, then those that were drawn.

    :param drawn: what :func:`draw_observations` gave
    :param seen: a batch of raw observations that training saw, or None
    :param masked_choices: of a maskable policy, how many choices each dimension of the action has
    """
    observations = drawn
    if seen is not None:
        observations = as_batch({key: _join(by_key(seen)[key], rows) for key, rows in by_key(drawn).items()})
    n = batch_size(observations)
    masks = _draw_masks(masked_choices, np.random.default_rng(_SEED), n) if masked_choices else None
    return Probes(observations=observations, n_seen=0 if seen is None else batch_size(seen), action_masks=masks)


def by_key(batch: Batch) -> dict[Any, NDArray[Any]]:
    """The arrays of a batch by key of a Dict space, or under None."""
    return batch if isinstance(batch, dict) else {None: batch}


def as_batch(arrays: dict[Any, NDArray[Any]]) -> Batch:
    """A batch of arrays by key, or of the one under None."""
    return arrays.get(None, arrays)


def take(batch: Batch, index: int | slice | NDArray[Any]) -> Batch:
    """Rows of a batch."""
    return as_batch({key: rows[index] for key, rows in by_key(batch).items()})


def batch_size(batch: Batch) -> int:
    """Number of observations in a batch."""
    return len(next(iter(by_key(batch).values())))


def _draw(
    space: LeafSpace, statistics: Statistics | None, generator: np.random.Generator, n: int, n_lattice: int
) -> list[NDArray[Any]]:
    """Random observations, points of a lattice, and the corners of the space."""
    dtype, (low, high) = np.dtype(space.dtype), space.bounds()
    if not space.is_continuous:
        return [_draw_integers(low, high, dtype, n + n_lattice, generator), _corners(low, high).astype(dtype)]
    if dtype == np.uint8 and statistics is None:  # images: as they are, which is fast
        pixels = _draw_integers(low, high, dtype, n, generator)
        return [pixels, _draw_pixels(low, high, n_lattice, generator), _corners(low, high).astype(dtype)]
    parts = _draw_box(low, high, statistics, generator, n, n_lattice)
    return [(np.round(part) if np.issubdtype(dtype, np.integer) else part).astype(dtype) for part in parts]


def _draw_integers(
    low: Rows, high: Rows, dtype: np.dtype[Any], n: int, generator: np.random.Generator
) -> NDArray[np.integer[Any]]:
    """Random whole numbers; with one bound for all elements, this is much quicker."""
    lowest, highest = (
        bound.flat[0] if (bound == bound.flat[0]).all() else bound for bound in (low.astype(dtype), high.astype(dtype))
    )
    drawn: NDArray[np.integer[Any]] = generator.integers(lowest, highest, (n, *low.shape), dtype.type, endpoint=True)
    return drawn


def _draw_box(
    low: Rows, high: Rows, statistics: Statistics | None, generator: np.random.Generator, n: int, n_lattice: int
) -> list[Rows]:
    lowest, highest = (bound.astype(np.float64) for bound in (round_inward(low, np.inf), round_inward(high, -np.inf)))
    if statistics is None:
        center, deviation = np.clip(0.0, lowest, highest), np.ones_like(lowest)
        reach = np.full_like(lowest, _LARGEST)
    else:  # around what training saw, and beyond what normalization clips
        if _is_normalized_image(low, high, statistics):
            lowest, highest = np.zeros_like(lowest), np.full_like(highest, 255.0)
        center, deviation = np.clip(statistics.mean, lowest, highest), statistics.deviation
        reach = deviation * 2 * statistics.clip_obs
    low, high = np.maximum(lowest, center - reach), np.minimum(highest, center + reach)
    drawn = generator.uniform(low, high, size=(n, *low.shape))
    drawn[::2] = np.clip(generator.normal(center, deviation, size=drawn.shape), low, high)[::2]
    lattice = draw_lattice(lowest, highest, center, deviation, n_lattice, generator)
    if statistics is not None:  # every other one on the lattice after normalization
        between = generator.uniform(low, high, size=lattice[::2].shape)
        lattice[::2] = np.clip(before_normalization(lattice[::2], statistics, between), lowest, highest)
    return [drawn, lattice, _corners(low, high, center)]


def _draw_pixels(low: Rows, high: Rows, n: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Points of a lattice of bytes: the ends of their range, its middle, and whole images of one of them."""
    middle = np.full_like(low, 127.0)
    lattice = draw_lattice(low, high, middle, middle, n, generator)
    lattice[1::2] = 255.0 - lattice[1::2]
    return np.clip(np.round(lattice), low, high).astype(np.uint8)


def _is_normalized_image(low: Rows, high: Rows, statistics: Statistics) -> bool:
    """Whether a space stands for images of bytes that VecNormalize normalizes: it gives them bounds of its own."""
    clip_obs = np.float32(statistics.clip_obs)
    return low.ndim == 3 and bool((low == -clip_obs).all() and (high == clip_obs).all())


def _draw_masks(choices: tuple[int, ...], generator: np.random.Generator, n: int) -> NDArray[np.bool_]:
    """Random masks that allow at least one choice of each dimension."""
    parts = []
    for n_choices in choices:
        allowed = generator.random((n, n_choices)) < 0.5
        allowed[np.arange(n), generator.integers(0, n_choices, n)] = True
        parts.append(allowed)
    return np.concatenate(parts, axis=1)


def _corners(low: NDArray[Any], high: NDArray[Any], center: NDArray[Any] | None = None) -> NDArray[Any]:
    """The bounds, and one between them; as many for every kind of space, so that they form one batch in a Dict."""
    return np.stack([low, high, low if center is None else center])


def _join(seen: Any, drawn: Any) -> NDArray[Any]:
    return np.concatenate([_through_float32(np.asarray(seen, dtype=drawn.dtype)), drawn])


def _through_float32(values: NDArray[Any]) -> NDArray[Any]:
    if np.can_cast(values.dtype, np.float32):
        return values
    rounded = values.astype(np.float32)
    if np.issubdtype(values.dtype, np.integer):  # the largest of a type may be rounded to what it cannot hold
        rounded = np.minimum(rounded, np.nextafter(np.float32(np.iinfo(values.dtype).max), np.float32(0)))
    return rounded.astype(values.dtype)
