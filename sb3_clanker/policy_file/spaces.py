"""The table of space kinds: what each is, how its values go in and come out, how gymnasium's are described and built.

To add a kind, write a class of it here and name it in :data:`LeafSpace`. Nothing needs gymnasium, except the functions
that are given a space of it or build one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, cast, get_args, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from sb3_clanker.dependencies import SPACES, required_for
from sb3_clanker.display import printable
from sb3_clanker.errors import UnsupportedSpaceError
from sb3_clanker.policy_file.bounds import Bound, cast_bound, pack_bound, unpack_bound
from sb3_clanker.policy_file.tensors import LARGEST_BYTE, Sampling

if TYPE_CHECKING:
    from gymnasium import Space, spaces

SpaceRole: TypeAlias = Literal["observation", "action"]

_END_OF_INT64 = 1 << 63
_MOST_COMPONENTS = 1_000
_requires_gymnasium = required_for("A space of gymnasium", SPACES)


class _Space(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag=lambda name: name.removesuffix("Space"),
):
    """Any kind of space; in JSON, ``type`` says which."""

    @property
    def type(self) -> str:
        """The name of its class in gymnasium."""
        return str(self.__struct_config__.tag)


class _Leaf:
    """What any kind of leaf space is, unless it says otherwise; its values are choices.

    :cvar is_continuous: whether an element is a number between bounds, and not one of several choices
    :cvar is_categorical: whether an element is the index of a category, which Stable-Baselines3 encodes one-hot
    :cvar action_meaning: what an action of this kind is
    :ivar observation_meaning: what an observation of this kind is
    """

    __slots__ = ()
    is_continuous: ClassVar[bool] = False
    is_categorical: ClassVar[bool] = False
    if TYPE_CHECKING:
        type: str
        shape: tuple[int, ...]
        dtype: str

    @property
    def choices(self) -> tuple[int, ...]:
        """How many choices each element has; empty where it is none of several."""
        return ()

    @property
    def n_elements(self) -> int:
        """Width of a flattened value, as ``stable_baselines3.common.preprocessing.get_action_dim`` has it."""
        return math.prod(self.shape)

    @property
    def widths(self) -> Mapping[Sampling, int]:
        """Each distribution that actions may be drawn from, with the width of its parameters.

        As ``stable_baselines3.common.distributions`` has them, and ``sb3_contrib.common.maskable.distributions``.
        """
        return {"categorical": sum(self.choices)}

    @property
    def n_labels(self) -> int:
        """How many names describe a value: one for each element."""
        return self.n_elements

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one observation as the input of a graph."""
        return self.shape

    def leaves(self) -> dict[str | None, LeafSpace]:
        """The leaves by key, in order: itself, under None."""
        return {None: cast("LeafSpace", self)}

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest values, float64 of its shape, infinite where it is unbounded."""
        return np.zeros(self.shape), np.reshape(self.choices, self.shape) - 1.0

    @property
    def is_image(self) -> bool:
        """Whether it is an image of bytes, as ``stable_baselines3.common.preprocessing.is_image_space`` has it."""
        return False

    def __str__(self) -> str:
        return f"{self.type} {self.dtype} {list(self.shape)}"


class BoxSpace(_Leaf, _Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.Box``.

    :ivar type: which kind of space it is
    :ivar shape: dimensions of one value
    :ivar dtype: numpy's name of the element type in the environment
    :ivar low: lower bounds: one number for all elements, or one for each in row-major order; None is unbounded
    :ivar high: upper bounds, likewise
    """

    shape: tuple[int, ...]
    dtype: str
    low: Bound
    high: Bound

    is_continuous = True
    action_meaning = "the action, within its bounds, flattened in row-major order"
    observation_meaning = "raw observation"

    @property
    def is_image(self) -> bool:
        return self.dtype == "uint8" and len(self.shape) == 3 and (self.low, self.high) == (0, LARGEST_BYTE)

    @property
    def widths(self) -> Mapping[Sampling, int]:
        return {"gaussian": self.n_elements, "squashed_gaussian": self.n_elements}

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return unpack_bound(self.low, self.shape, -np.inf), unpack_bound(self.high, self.shape, np.inf)

    def contradictions(self) -> Iterator[str]:
        for bound in (self.low, self.high):
            if isinstance(bound, tuple) and len(bound) != self.n_elements:
                yield f"there are {len(bound)} bounds for {self.n_elements} elements"

    @classmethod
    def describe(cls, space: spaces.Box, role: SpaceRole) -> BoxSpace:
        """Describe one; bounds of actions stay lists, as consumers read them element by element."""
        low, high = (pack_bound(bound, as_list=role == "action") for bound in (space.low, space.high))
        return cls(shape=tuple(space.shape), dtype=str(space.dtype), low=low, high=high)

    @_requires_gymnasium
    def to_gymnasium(self) -> spaces.Box:
        from gymnasium import spaces

        dtype = np.dtype(self.dtype).type
        low, high = (cast_bound(bound, dtype) for bound in self.bounds())
        return spaces.Box(low, high, self.shape, dtype)


class DiscreteSpace(_Leaf, _Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.Discrete`` with ``start=0``.

    :ivar type: which kind of space it is
    :ivar n: how many values, 0 to n-1
    :ivar shape: empty
    :ivar dtype: numpy's name of the type in the environment
    """

    n: int
    shape: tuple[int, ...] = ()
    dtype: str = "int64"

    is_categorical = True
    action_meaning = "index of the action, a whole number"
    input_shape = (1,)

    @property
    def choices(self) -> tuple[int, ...]:
        return (self.n,)

    @property
    def n_labels(self) -> int:
        """One for each choice."""
        return self.n

    @property
    def observation_meaning(self) -> str:
        return f"index of the category, a whole number from 0 to {self.n - 1}"

    def contradictions(self) -> Iterator[str]:
        if not 1 <= self.n < _END_OF_INT64 or self.shape:
            yield f"n is {self.n} and the shape {list(self.shape)}, expected n of at least 1 and no shape"

    @classmethod
    def describe(cls, space: spaces.Discrete, role: SpaceRole) -> DiscreteSpace:
        if space.start != 0:
            raise UnsupportedSpaceError(
                role, str(space), f"it starts at {space.start}, and Stable-Baselines3 works with 0 to n-1"
            )
        return cls(n=int(space.n), dtype=str(space.dtype))

    @_requires_gymnasium
    def to_gymnasium(self) -> spaces.Discrete:
        from gymnasium import spaces

        return spaces.Discrete(self.n, dtype=np.dtype(self.dtype).type)


class MultiDiscreteSpace(_Leaf, _Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.MultiDiscrete`` of one dimension.

    :ivar type: which kind of space it is
    :ivar nvec: how many values each element has, 0 to that less 1
    :ivar shape: dimensions of one value
    :ivar dtype: numpy's name of the element type in the environment
    """

    nvec: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str = "int64"

    is_categorical = True
    action_meaning = "index of each action, whole numbers"
    observation_meaning = "index of each category, whole numbers"

    @property
    def choices(self) -> tuple[int, ...]:
        return self.nvec

    def contradictions(self) -> Iterator[str]:
        if (len(self.nvec),) != self.shape or any(not 1 <= n < _END_OF_INT64 for n in self.nvec):
            yield f"nvec does not fit the shape {list(self.shape)}"

    @classmethod
    def describe(cls, space: spaces.MultiDiscrete, role: SpaceRole) -> MultiDiscreteSpace:
        if space.nvec.ndim != 1 or np.any(space.start != 0):
            raise UnsupportedSpaceError(role, str(space), "only one dimension, starting at 0, is supported")
        return cls(nvec=tuple(map(int, space.nvec)), shape=tuple(space.shape), dtype=str(space.dtype))

    @_requires_gymnasium
    def to_gymnasium(self) -> spaces.MultiDiscrete:
        from gymnasium import spaces

        return spaces.MultiDiscrete(np.array(self.nvec), dtype=np.dtype(self.dtype).type)


class MultiBinarySpace(_Leaf, _Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.MultiBinary``.

    :ivar type: which kind of space it is
    :ivar n: how many elements, or the dimensions of one value
    :ivar shape: dimensions of one value
    :ivar dtype: numpy's name of the element type in the environment
    """

    n: int | tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str = "int8"

    action_meaning = observation_meaning = "0 or 1 for each element"

    @property
    def choices(self) -> tuple[int, ...]:
        return (2,) * self.n_elements

    @property
    def widths(self) -> Mapping[Sampling, int]:
        """One of log-odds, or, where there are masks, a pair of logits for each element."""
        return {"bernoulli": self.n_elements, "categorical": 2 * self.n_elements}

    def contradictions(self) -> Iterator[str]:
        if (self.n if isinstance(self.n, tuple) else (self.n,)) != self.shape:
            yield f"n does not fit the shape {list(self.shape)}"

    @classmethod
    def describe(cls, space: spaces.MultiBinary, _: SpaceRole) -> MultiBinarySpace:
        shape = tuple(space.shape)
        return cls(n=shape if np.ndim(space.n) else shape[0], shape=shape, dtype=str(space.dtype))

    @_requires_gymnasium
    def to_gymnasium(self) -> spaces.MultiBinary:
        from gymnasium import spaces

        return spaces.MultiBinary(self.n if isinstance(self.n, int) else list(self.n))


LeafSpace: TypeAlias = BoxSpace | DiscreteSpace | MultiDiscreteSpace | MultiBinarySpace


class DictSpace(_Space, frozen=True, kw_only=True):
    """``gymnasium.spaces.Dict`` of leaf spaces.

    :ivar type: which kind of space it is
    :ivar spaces: the space of each key
    """

    spaces: dict[str, LeafSpace]

    def leaves(self) -> dict[str | None, LeafSpace]:
        """The leaves by key, in order."""
        return dict(self.spaces.items())

    @_requires_gymnasium
    def to_gymnasium(self) -> Space[Any]:
        from gymnasium import spaces

        return spaces.Dict({key: leaf.to_gymnasium() for key, leaf in self.spaces.items()})

    def __str__(self) -> str:
        return printable(f"Dict({', '.join(f'{key}: {leaf}' for key, leaf in self.spaces.items())})")


ObservationSpace: TypeAlias = LeafSpace | DictSpace


def vectors(space: ObservationSpace) -> dict[str | None, LeafSpace]:
    """The leaves by key that may have ranges, in order: Boxes that are no images, up to 1,000 components in all."""
    found: dict[str | None, LeafSpace] = {}
    left = _MOST_COMPONENTS
    for key, leaf in space.leaves().items():
        if leaf.is_continuous and not leaf.is_image and 0 < leaf.n_elements <= left:
            found[key], left = leaf, left - leaf.n_elements
    return found


KINDS: Mapping[str, type[LeafSpace]] = {cls.__name__.removesuffix("Space"): cls for cls in get_args(LeafSpace)}
"""The table: every kind of leaf space, by its name in gymnasium."""


@overload
def describe_space(space: spaces.Space[Any], role: Literal["action"]) -> LeafSpace: ...
@overload
def describe_space(space: spaces.Space[Any], role: Literal["observation"]) -> ObservationSpace: ...
def describe_space(space: spaces.Space[Any], role: SpaceRole) -> ObservationSpace:
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
    for kind, cls in KINDS.items():
        if isinstance(space, getattr(spaces, kind)):
            return cls.describe(cast("Any", space), role)
    supported = ", ".join(KINDS) + (" and Dict" if role == "observation" else "")
    raise UnsupportedSpaceError(role, str(space), f"{type(space).__name__} is not among {supported}")
