"""Observations drawn from what a record says that training saw."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.observations.files import Observations, as_batch
from sb3_clanker.observations.ranges import at_levels
from sb3_clanker.policy_file.bounds import cast_bound
from sb3_clanker.policy_file.record import ObservationRange, ObservationRanges
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace

_MOST_ELEMENTS = 1 << 26
"""Of all that is drawn at once: a record may be of any space."""
_WIDEST = 1e6
"""Bounds that are farther apart say nothing of what lies between them."""


def draw_from_ranges(space: ObservationSpace, ranges: ObservationRanges | None, n: int, *, seed: int) -> Observations:
    """Draw raw observations, the same for a seed.

    Each component of a vector is drawn on its own, from the distribution that its quantiles and extremes tell: such an
    observation need not be one that the environment can give. What has no ranges (choices, images, wide arrays, all of
    an older record) is drawn from its space alone: uniformly, and around zero where that is unbounded.

    :param space: the policy's observation space
    :param ranges: what the record says of it
    :param n: how many, at least 1; fewer come where they would have more than 2**26 elements
    :param seed: of the generator, which is used for nothing else
    :return: in the type of the space
    """
    generator, leaves = np.random.default_rng(seed), space.leaves()
    n = max(min(n, _MOST_ELEMENTS // max(sum(leaf.n_elements for leaf in leaves.values()), 1)), 1)
    of_record = {each.key: each for each in ranges.ranges} if ranges else {}
    return as_batch({key: _draw(leaf, of_record.get(key), n, generator) for key, leaf in leaves.items()})


def _draw(leaf: LeafSpace, ranges: ObservationRange | None, n: int, generator: np.random.Generator) -> NDArray[Any]:
    dtype, shape = np.dtype(leaf.dtype), (n, *leaf.shape)
    if ranges is not None:
        drawn = at_levels(ranges, generator.random((n, leaf.n_elements))).reshape(shape)
        if dtype.kind == "f":
            return np.clip(drawn, np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype)
        return cast_bound(np.rint(drawn), dtype.type)
    if dtype.kind == "f" and leaf.is_continuous:
        return _draw_numbers(*_ordered(leaf), shape, generator).astype(dtype)
    of_type = dtype.type if dtype.kind in "iu" else np.int64
    lowest, highest = (_as_one(cast_bound(bound, of_type)) for bound in _ordered(leaf))
    return generator.integers(lowest, highest, shape, of_type, endpoint=True).astype(dtype)


def _draw_numbers(
    low: NDArray[np.float64], high: NDArray[np.float64], shape: tuple[int, ...], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Uniformly between bounds that are near each other, else around zero."""
    around_zero = np.clip(generator.normal(size=shape), low, high)
    with np.errstate(all="ignore"):
        width = high - low
        return np.where(width <= _WIDEST, low + generator.random(shape) * width, around_zero)


def _ordered(leaf: LeafSpace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Its bounds, even of a record that has them the wrong way round."""
    low, high = leaf.bounds()
    return np.minimum(low, high), np.maximum(low, high)


def _as_one(bound: NDArray[Any]) -> Any:
    """One number where all are the same, which makes it quick to draw an image."""
    return bound.flat[0] if bound.size and (bound == bound.flat[0]).all() else bound
