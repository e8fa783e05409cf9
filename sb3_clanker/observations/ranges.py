"""What a training sees of the components of its observations, kept while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.policy_file.record import QUANTILES, ObservationRange, ObservationRanges
from sb3_clanker.policy_file.spaces import ObservationSpace, vectors

_SEED = 20_261_121
_LARGEST = float(np.finfo(np.float32).max)
"""Beyond it a value is infinite to a file, whose inputs are float32."""
_N_SAMPLED = 4_096
_SAMPLED_ELEMENTS = 1 << 18
"""Elements of the sample: of wide observations fewer rows are kept, as each checkpoint sorts them."""
_BUFFERED_ELEMENTS, _FEWEST_BUFFERED = 1 << 12, 64
"""Elements and rows of the buffer: so few that to fold them in does not show in a checkpoint."""


class Ranges:
    """Running figures of the vectors of an observation: the smallest, the largest, mean, deviation, and a sample.

    The sample is a reservoir of 4,096 observations (of more than 64 components fewer), drawn with a generator of its
    own. An observation in which anything is not finite in float32, the type of a file's inputs, is left out.

    :param space: the observation space
    :ivar keys: of its vectors, or None alone; empty where there is none, and so nothing to keep
    """

    def __init__(self, space: ObservationSpace) -> None:
        leaves = vectors(space)
        ends = np.cumsum([0, *(leaf.n_elements for leaf in leaves.values())]).tolist()
        self.keys, width = tuple(leaves), ends[-1]
        self._columns = dict(zip(leaves, map(slice, ends, ends[1:]), strict=False))
        capacity = max(_BUFFERED_ELEMENTS // max(width, 1), _FEWEST_BUFFERED)
        self._count = self._n_buffered = 0
        self._minimum, self._maximum = np.full(width, np.inf), np.full(width, -np.inf)
        self._mean, self._squares = np.zeros(width), np.zeros(width)
        self._buffer = np.empty((capacity, width))
        views = [self._buffer[:, column] for column in self._columns.values()]
        self._views = [
            (key, view.reshape(capacity, *leaf.shape)) for (key, leaf), view in zip(leaves.items(), views, strict=True)
        ]
        self._sample = np.empty((width, min(_SAMPLED_ELEMENTS // max(width, 1), _N_SAMPLED)))
        self._generator = np.random.default_rng(_SEED)

    @classmethod
    def from_record(cls, space: ObservationSpace, record: ObservationRanges) -> Ranges:
        """Ranges that go on from a record.

        Count, extremes, mean and deviation go on as if nothing had come between. The sample is made anew along straight
        lines between the quantiles and the extremes of the record, and keeps its weight against what comes later. So a
        quantile that is asked for at once is that of the record, to a part in a thousand of the levels; later ones are
        as good as these seven levels describe what was seen before.

        :param space: the observation space
        :param record: of a policy that observes it
        :raises ValueError: of one that observes something else
        """
        ranges, of_record = cls(space), {each.key: each for each in record.ranges}
        if of_record.keys() != ranges._columns.keys():
            raise ValueError(f"expected the ranges of {list(ranges.keys)}, got those of {list(of_record)}")
        ranges._count = record.n_observations
        n_sampled = min(ranges._count, ranges._sample.shape[1])
        for key, column in ranges._columns.items():
            each, width = of_record[key], column.stop - column.start
            if len(each.minimum) != width:
                raise ValueError(f"expected ranges of {width} components, got {len(each.minimum)}")
            ranges._minimum[column], ranges._maximum[column] = each.minimum, each.maximum
            ranges._mean[column], ranges._squares[column] = each.mean, ranges._count * np.square(each.deviation)
            ranges._sample[column, :n_sampled] = at_levels(each, np.linspace(0.0, 1.0, n_sampled)).T
        return ranges

    def add(self, observations: Mapping[Any, NDArray[Any]]) -> None:
        """Take note of raw observations. They lie in a buffer until that is full, as folding them in has its price.

        :param observations: by key or under None, each of shape (n, *shape)
        """
        if not self._columns:
            return
        n, start = len(observations[self.keys[0]]), self._n_buffered
        if start + n > len(self._buffer):
            self._fold()
            start = 0
        if n > len(self._buffer):
            for first in range(0, n, len(self._buffer)):
                self.add({key: observations[key][first : first + len(self._buffer)] for key in self.keys})
            return
        stop = start + n
        for key, view in self._views:
            view[start:stop] = observations[key]
        self._n_buffered = stop

    def record(self) -> ObservationRanges | None:
        """The figures as they are now, None where nothing was seen."""
        self._fold()
        if self._count == 0:
            return None
        quantiles = _quantiles(self._sample[:, : self._count])
        deviation = np.sqrt(self._squares / self._count)
        return ObservationRanges(
            n_observations=self._count,
            ranges=tuple(
                ObservationRange(
                    key=key,
                    minimum=tuple(self._minimum[column].tolist()),
                    maximum=tuple(self._maximum[column].tolist()),
                    mean=tuple(self._mean[column].tolist()),
                    deviation=tuple(deviation[column].tolist()),
                    quantiles=tuple(map(tuple, quantiles[column].tolist())),
                )
                for key, column in self._columns.items()
            ),
        )

    def _fold(self) -> None:
        """Fold the buffer into the figures; mean and squares of deviations as Chan, Golub and LeVeque combine them."""
        rows, self._n_buffered = np.asfortranarray(self._buffer[: self._n_buffered]), 0
        if not np.abs(rows).max(initial=0.0) <= _LARGEST:
            rows = rows[(np.abs(rows) <= _LARGEST).all(axis=1)]
        if not (n := len(rows)):
            return
        before, self._count = self._count, self._count + n
        np.minimum(self._minimum, rows.min(axis=0), out=self._minimum)
        np.maximum(self._maximum, rows.max(axis=0), out=self._maximum)
        from_first = rows - rows[0]  # so that a constant has no deviation at all
        mean = from_first.mean(axis=0)
        shift = rows[0] + mean - self._mean
        self._squares += np.square(from_first - mean).sum(axis=0) + np.square(shift) * before * n / self._count
        self._mean = np.clip(self._mean + shift * n / self._count, self._minimum, self._maximum)
        self._draw(rows, before)

    def _draw(self, rows: NDArray[np.float64], before: int) -> None:
        """Algorithm R: the row number i replaces one of the k of the sample, with a probability of k in i."""
        capacity, numbers = self._sample.shape[1], np.arange(before, before + len(rows))
        slots = (self._generator.random(len(rows)) * (numbers + 1)).astype(np.int64)
        slots[numbers < capacity] = numbers[numbers < capacity]
        drawn = slots < capacity
        self._sample[:, slots[drawn]] = rows[drawn].T


def at_levels(ranges: ObservationRange, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of the components at levels from 0 to 1, along straight lines between quantiles and extremes.

    :param levels: of shape (n,), for all components, or (n, components)
    :return: of shape (n, components)
    """
    known = np.array([0.0, *QUANTILES, 1.0])
    points = np.column_stack([ranges.minimum, ranges.quantiles, ranges.maximum])
    of_each = np.broadcast_to(levels.reshape(len(levels), -1), (len(levels), len(points))).T
    values = np.stack([np.interp(each, known, row) for each, row in zip(of_each, points, strict=True)], axis=1)
    return np.asarray(np.clip(values, points[:, 0], points[:, -1]))  # rounding may lead a little beyond


def _quantiles(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of each row, of shape (rows, levels), interpolated as ``numpy.quantile`` does."""
    ordered = np.sort(sample, axis=1)
    position = np.array(QUANTILES) * (sample.shape[1] - 1)
    below = position.astype(np.int64)
    low, high = ordered[:, below], ordered[:, np.minimum(below + 1, sample.shape[1] - 1)]
    return np.asarray(np.clip(low + (high - low) * (position - below), low, high))
