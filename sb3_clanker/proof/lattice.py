"""Points where an operator may be converted wrongly although it agrees everywhere else.

``atan2(0, x)`` has another sign in the graph, ``x // 0.7`` rounds otherwise on whole numbers, ties are broken in
another order. Random numbers are never there; a robot at rest, a counter and an empty grid are.
"""

from __future__ import annotations

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_clanker.actor.normalize import Normalize
from sb3_clanker.sb3.statistics import Statistics

Rows = NDArray[np.float64]

_MAGNITUDES = np.array(
    [
        *(0.0, 1.0, 0.5, 2.0, 1.5, 3.0, 7.0, 100.0, 0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9),
        *(2.5, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.5, 8.0, 8.5, 9.0, 9.5, 10.0),
    ]
)
"""Zero, whole and half numbers, and tenths, which are the steps that people choose; the most revealing first."""
_VALUES = np.stack([_MAGNITUDES, -_MAGNITUDES], axis=1).reshape(-1)


def draw_lattice(low: Rows, high: Rows, center: Rows, deviation: Rows, n: int, generator: np.random.Generator) -> Rows:
    """Constants, single axes, ties of two components, and values of the lattice mixed at random.

    :param low: lower bounds, of the shape of one observation
    :param high: upper bounds
    :param center: around where ties are drawn
    :param deviation: how far from there
    :param n: how many
    :return: float64 of shape (n, *shape), within the bounds
    """
    if n * low.size == 0:
        return np.zeros((n, *low.shape))
    n_constants, n_axes, n_ties = n // 8, n // 4, n // 4
    drawn = generator.normal(center, deviation, size=(n_ties, *low.shape)).reshape(n_ties, low.size)
    kinds = [
        np.tile(np.resize(_VALUES, (n_constants, 1)), low.size),
        _axes(n_axes, low.size, generator),
        _ties(drawn, generator),
        _mixtures(n - n_constants - n_axes - n_ties, low.size, generator),
    ]
    rows: Rows = np.clip(np.concatenate(kinds).reshape(n, *low.shape), low, high)
    return rows


def before_normalization(normalized: Rows, statistics: Statistics, otherwise: Rows) -> Rows:
    """Raw values that VecNormalize brings to given ones, as far as float32 allows.

    Only those that the graph, in float32, normalizes to the very number that VecNormalize, in float64, gives: at a step
    of a policy, two neighbours of float32 are two answers, and both would be right.

    :param normalized: of shape (n, *shape)
    :param otherwise: raw values for the rest, of the same shape
    """
    raw = (statistics.mean + normalized * statistics.deviation).astype(np.float32)
    exact = np.clip((raw - statistics.mean) / statistics.deviation, -statistics.clip_obs, statistics.clip_obs)
    in_graph = Normalize(statistics)(th.as_tensor(raw)).numpy()
    return np.where(in_graph == exact.astype(np.float32), raw, otherwise)


def _axes(n: int, size: int, generator: np.random.Generator) -> Rows:
    """One component at a time, positive and negative; the others are 0, or -0."""
    signs = np.where(np.arange(n) % 2, -1.0, 1.0)
    rows = np.tile(0.0 * signs[:, None], size)
    axes = np.resize(generator.permutation(size), -(-n // 2)).repeat(2)[:n]
    rows[np.arange(n), axes] = signs * generator.choice(_MAGNITUDES[1:8], n)
    return rows


def _ties(rows: Rows, generator: np.random.Generator) -> Rows:
    """Two components of each row are equal, or opposite."""
    size = rows.shape[1]
    if size > 1:
        for index, row in enumerate(rows):
            one, other = generator.choice(size, 2, replace=False)
            row[other] = -row[one] if index % 2 else row[one]
    return rows


def _mixtures(n: int, size: int, generator: np.random.Generator) -> Rows:
    """Each component runs through the values in an order of its own; in every other row, half of them are 0 or -0."""
    rows = generator.permuted(np.tile(np.resize(_VALUES, (n, 1)), size), axis=0)
    rows[::2] *= generator.integers(0, 2, rows[::2].shape)
    return rows
