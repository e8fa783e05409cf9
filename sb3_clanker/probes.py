"""The raw observations that a cross-check tries.

Three kinds: those that training really saw, random ones, and the bounds of the space. Random ones come from a
generator of their own, so that nothing in the training advances. Every value is one that float32 carries exactly:
that is what a consumer of the file can say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_clanker.normalization import Statistics

Batch: TypeAlias = NDArray[Any] | dict[str, NDArray[Any]]

N_CORNERS = 3
"""How many of the probes, the last ones, are corners of the space."""

_SEED = 20_260_101
_LARGEST = 1e3
"""Cap of unbounded dimensions: far beyond, float32 sums in the network itself lose the digits that are compared."""


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


def draw_observations(space: spaces.Space[Any], statistics: Mapping[str | None, Statistics], n_samples: int) -> Batch:
    """Random observations, and the corners of a space.

    :param space: space of the raw observations
    :param statistics: what VecNormalize knows: unbounded dimensions are drawn around the mean, as in training
    :param n_samples: how many random ones
    """
    generator = np.random.default_rng(_SEED)

    def batch_of(leaf: spaces.Space[Any], key: str | None) -> NDArray[Any]:
        return _through_float32(np.concatenate(_draw(leaf, statistics.get(key), generator, n_samples)))

    return _by_leaf(space, batch_of)


def gather_probes(drawn: Batch, seen: Batch | None, masked_choices: tuple[int, ...] = ()) -> Probes:
    """Observations to try: those that training saw, then those that were drawn.

    :param drawn: what :func:`draw_observations` gave
    :param seen: a batch of raw observations that training saw, or None
    :param masked_choices: of a maskable policy, how many choices each dimension of the action has
    """
    if seen is None:
        observations = drawn
    elif isinstance(drawn, dict) and isinstance(seen, dict):
        observations = {key: _join(seen[key], rows) for key, rows in drawn.items()}
    else:
        observations = _join(seen, drawn)
    masks = None
    if masked_choices:
        masks = _draw_masks(masked_choices, np.random.default_rng(_SEED), batch_size(observations))
    return Probes(observations=observations, n_seen=0 if seen is None else batch_size(seen), action_masks=masks)


def take(batch: Batch, index: int | slice | NDArray[Any]) -> Batch:
    """Rows of a batch."""
    return {key: rows[index] for key, rows in batch.items()} if isinstance(batch, dict) else batch[index]


def batch_size(batch: Batch) -> int:
    """Number of observations in a batch."""
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch)


def _by_leaf(space: spaces.Space[Any], batch_of: Callable[[spaces.Space[Any], str | None], NDArray[Any]]) -> Batch:
    if isinstance(space, spaces.Dict):
        return {key: batch_of(leaf, key) for key, leaf in space.spaces.items()}
    return batch_of(space, None)


def _draw(
    space: spaces.Space[Any], statistics: Statistics | None, generator: np.random.Generator, n: int
) -> list[NDArray[Any]]:
    """Random observations, and the corners of the space."""
    if isinstance(space, spaces.Discrete):
        return [generator.integers(0, space.n, size=n), np.array([0, space.n - 1, 0])]
    if isinstance(space, spaces.MultiDiscrete):
        nvec = np.asarray(space.nvec)
        return [generator.integers(0, nvec, size=(n, *nvec.shape)), _corners(np.zeros_like(nvec), nvec - 1)]
    if isinstance(space, spaces.MultiBinary):
        zeros = np.zeros(space.shape, dtype=np.int8)
        return [generator.integers(0, 2, size=(n, *zeros.shape), dtype=np.int8), _corners(zeros, zeros + 1)]
    if not isinstance(space, spaces.Box):
        raise TypeError(f"no probes for {type(space).__name__}")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if space.dtype == np.uint8 and statistics is None:  # images: as they are, which is fast
        lowest, highest = _uniform(space.low), _uniform(space.high)  # with one bound for all, this is much quicker
        pixels = generator.integers(lowest, highest, size=(n, *space.shape), dtype=np.uint8, endpoint=True)
        return [pixels, _corners(space.low, space.high)]
    if statistics is None:
        center, deviation, reach = np.clip(0.0, low, high), np.ones_like(low), np.full_like(low, _LARGEST)
    else:  # around what training saw, and beyond what normalization clips
        center, deviation = np.clip(statistics.mean, low, high), statistics.deviation
        reach = deviation * 2 * statistics.clip_obs
    low, high = np.maximum(low, center - reach), np.minimum(high, center + reach)
    drawn = generator.uniform(low, high, size=(n, *low.shape))
    drawn[::2] = np.clip(generator.normal(center, deviation, size=drawn.shape), low, high)[::2]
    corners = _corners(low, high, center)
    if np.issubdtype(space.dtype, np.integer):
        drawn, corners = np.round(drawn), np.round(corners)
    return [drawn.astype(space.dtype), corners.astype(space.dtype)]


def _uniform(bound: NDArray[Any]) -> Any:
    """The only value of a bound, or the bound."""
    return bound.flat[0] if (bound == bound.flat[0]).all() else bound


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
