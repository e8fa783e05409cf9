"""What a space is, as plain data: kinds of spaces, and how each is described and built.

Nothing here needs gymnasium, except the functions that are given a space of it or build one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from sb3_clanker.errors import UnsupportedSpaceError

if TYPE_CHECKING:
    from gymnasium import spaces

Bound: TypeAlias = float | tuple[float | None, ...] | None
"""Bounds of a Box: one number for all, or one for each element in row-major order; None is unbounded."""


class _Space(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag=lambda name: name.removesuffix("Space"),
):
    """Any kind of space; in JSON, ``type`` tells which."""

    @property
    def type(self) -> str:
        """The name of its class in gymnasium."""
        return str(self.__struct_config__.tag)


class BoxSpace(_Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.Box``.

    :ivar type: tells the kinds of spaces apart
    :ivar shape: dimensions of one value
    :ivar dtype: numpy's name of the element type in the environment
    :ivar low: lower bounds: one number for all elements, or one for each in row-major order; None is unbounded
    :ivar high: upper bounds, likewise
    """

    shape: tuple[int, ...]
    dtype: str
    low: Bound
    high: Bound


class DiscreteSpace(_Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.Discrete`` with ``start=0``.

    :ivar type: tells the kinds of spaces apart
    :ivar n: how many values, 0 to n-1
    :ivar shape: empty
    :ivar dtype: numpy's name of the type in the environment
    """

    n: int
    shape: tuple[int, ...] = ()
    dtype: str = "int64"


class MultiDiscreteSpace(_Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.MultiDiscrete`` of one dimension.

    :ivar type: tells the kinds of spaces apart
    :ivar nvec: how many values each element has, 0 to that less 1
    :ivar shape: dimensions of one value
    :ivar dtype: numpy's name of the element type in the environment
    """

    nvec: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str = "int64"


class MultiBinarySpace(_Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.MultiBinary``.

    :ivar type: tells the kinds of spaces apart
    :ivar n: how many elements, or the dimensions of one value
    :ivar shape: dimensions of one value
    :ivar dtype: numpy's name of the element type in the environment
    """

    n: int | tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str = "int8"


LeafSpace: TypeAlias = BoxSpace | DiscreteSpace | MultiDiscreteSpace | MultiBinarySpace


class DictSpace(_Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.Dict`` of leaf spaces.

    :ivar type: tells the kinds of spaces apart
    :ivar spaces: the space of each key
    """

    spaces: dict[str, LeafSpace]


ObservationSpace: TypeAlias = LeafSpace | DictSpace


def action_dim(space: LeafSpace) -> int:
    """Width of the flattened action, as ``stable_baselines3.common.preprocessing.get_action_dim`` has it."""
    return math.prod(space.shape)


def bounds(space: BoxSpace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of a Box, float64 of its shape, infinite where it is unbounded."""
    return _unpack(space.low, space.shape, -np.inf), _unpack(space.high, space.shape, np.inf)


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


def describe_space(space: spaces.Space[object], role: Literal["observation", "action"]) -> ObservationSpace:
    """Describe a gymnasium space as plain data.

    :param space: the space of a Stable-Baselines3 policy
    :param role: what the space is for; actions cannot be a Dict
    :raises UnsupportedSpaceError: for any other kind of space, or a Discrete one with ``start != 0``, for which
        Stable-Baselines3 itself returns 0 to n-1
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict) and role == "observation":
        leaves = {}
        for key, leaf in space.spaces.items():
            description = describe_space(leaf, role)
            if isinstance(description, DictSpace):
                raise UnsupportedSpaceError(role, str(space), f"a Dict within a Dict (key {key!r}) is not supported")
            leaves[key] = description
        return DictSpace(spaces=leaves)
    if isinstance(space, spaces.Box):
        return BoxSpace(
            shape=tuple(space.shape), dtype=str(space.dtype), low=_pack(space.low, role), high=_pack(space.high, role)
        )
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            raise UnsupportedSpaceError(
                role, str(space), f"it starts at {space.start}, and Stable-Baselines3 works with 0 to n-1"
            )
        return DiscreteSpace(n=int(space.n), dtype=str(space.dtype))
    if isinstance(space, spaces.MultiDiscrete):
        if space.nvec.ndim != 1 or np.any(space.start != 0):
            raise UnsupportedSpaceError(role, str(space), "only one dimension, starting at 0, is supported")
        return MultiDiscreteSpace(nvec=tuple(map(int, space.nvec)), shape=tuple(space.shape), dtype=str(space.dtype))
    if isinstance(space, spaces.MultiBinary):
        n = space.n if isinstance(space.n, (int, np.integer)) else tuple(map(int, space.n))
        return MultiBinarySpace(
            n=n if isinstance(n, tuple) else int(n), shape=tuple(space.shape), dtype=str(space.dtype)
        )
    supported = "Box, Discrete, MultiDiscrete, MultiBinary" + (" and Dict" if role == "observation" else "")
    raise UnsupportedSpaceError(role, str(space), f"{type(space).__name__} is not among {supported}")


def to_gymnasium(space: ObservationSpace) -> spaces.Space[object]:
    """Build the gymnasium space that ``space`` describes (needs gymnasium)."""
    from gymnasium import spaces

    built: object
    if isinstance(space, DictSpace):
        built = spaces.Dict({key: to_gymnasium(leaf) for key, leaf in space.spaces.items()})
    elif isinstance(space, BoxSpace):
        low, high = bounds(space)
        dtype = np.dtype(space.dtype).type
        built = spaces.Box(_cast(low, dtype), _cast(high, dtype), space.shape, dtype)
    elif isinstance(space, DiscreteSpace):
        built = spaces.Discrete(space.n, dtype=np.dtype(space.dtype).type)
    elif isinstance(space, MultiDiscreteSpace):
        built = spaces.MultiDiscrete(np.array(space.nvec), dtype=np.dtype(space.dtype).type)
    else:
        built = spaces.MultiBinary(space.n if isinstance(space.n, int) else list(space.n))
    return built


def _pack(bound: NDArray[np.generic], role: str) -> Bound:
    """Bounds as JSON has them. Action bounds stay a list: consumers read them element by element."""
    flat = bound.reshape(-1)
    uniform = role == "observation" and flat.size > 0 and bool((flat == flat[0]).all())
    values = tuple(float(value) if np.isfinite(value) else None for value in (flat[:1] if uniform else flat))
    return values[0] if uniform else values


def _cast(bound: NDArray[np.float64], dtype: type[Any]) -> NDArray[Any]:
    """Bounds in the type of their space; the largest integers of 64 bits are none of float64."""
    if np.dtype(dtype).kind not in "iu":
        return bound.astype(dtype)
    limits = np.iinfo(dtype)
    cast = [min(max(int(max(min(value, 2.0**64), -(2.0**64))), limits.min), limits.max) for value in bound.flat]
    return np.array(cast, dtype=dtype).reshape(bound.shape)


def _unpack(bound: Bound, shape: tuple[int, ...], unbounded: float) -> NDArray[np.float64]:
    if not isinstance(bound, tuple):
        return np.full(shape, unbounded if bound is None else bound)
    return np.array([unbounded if value is None else value for value in bound]).reshape(shape)
