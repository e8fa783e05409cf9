"""Bounds of a Box: as JSON has them, as arrays, and in the float32 of a graph."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bound: TypeAlias = float | tuple[float | None, ...] | None
"""Bounds of a Box: one number for all, or one for each element in row-major order; None is unbounded."""


def pack_bound(bound: NDArray[np.generic], *, as_list: bool) -> Bound:
    """Lower or upper bounds as JSON has them: one number where all are equal, unless a list is wanted."""
    flat = bound.reshape(-1)
    uniform = not as_list and flat.size > 0 and bool((flat == flat[0]).all())
    numbers = (flat[:1] if uniform else flat).astype(np.float64).tolist()
    values = tuple(number if math.isfinite(number) else None for number in numbers)
    return values[0] if uniform else values


def unpack_bound(bound: Bound, shape: tuple[int, ...], unbounded: float) -> NDArray[np.float64]:
    """Lower or upper bounds as an array of a shape."""
    if not isinstance(bound, tuple):
        return np.full(shape, unbounded if bound is None else bound)
    return np.array([unbounded if value is None else value for value in bound]).reshape(shape)


def cast_bound(bound: NDArray[np.float64], dtype: type[Any]) -> NDArray[Any]:
    """Bounds in the type of their space; the largest integers of 64 bits are none of float64."""
    if np.dtype(dtype).kind not in "iu":
        return bound.astype(dtype)
    limits = np.iinfo(dtype)
    if limits.bits < 64:
        return np.clip(bound, limits.min, limits.max).astype(dtype)
    cast = [min(max(int(max(min(value, 2.0**64), -(2.0**64))), limits.min), limits.max) for value in bound.flat]
    return np.array(cast, dtype=dtype).reshape(bound.shape)


def round_inward(bound: NDArray[np.generic], inside: float) -> NDArray[np.float32]:
    """A bound in float32, rounded to the inside: nothing leaves a space whose bounds float32 cannot carry.

    :param bound: lower or upper bounds
    :param inside: infinity of the sign that points from the bound into the space
    """
    exact = bound.astype(np.float64)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and so outside
        rounded = exact.astype(np.float32)
    outside = rounded < exact if inside > 0 else rounded > exact
    return np.where(outside, np.nextafter(rounded, np.float32(inside)), rounded)


def round_outward(bound: NDArray[np.generic], outside: float) -> NDArray[np.float32]:
    """A bound in float32, rounded to the outside: what lies within it is within it in float32 too.

    :param bound: lower or upper bounds
    :param outside: infinity of the sign that points from the inside beyond the bound
    """
    return round_inward(bound, outside)
