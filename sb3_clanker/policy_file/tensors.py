"""The inputs and outputs of a graph, as plain data."""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal[
    "observation", "action", "action_masks", "hidden_state", "cell_state", "episode_start", "unused", "further"
]

Sampling = Literal["gaussian", "squashed_gaussian", "categorical", "bernoulli"]
"""How an action is drawn from a file that outputs the parameters of its distribution."""

Layout = Literal["channels_first", "channels_last"]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of the ONNX graph.

    :ivar name: name in the graph
    :ivar dtype: numpy's name of the element type
    :ivar shape: its dimensions, ``"batch"`` for the dynamic one
    :ivar role: what the tensor is for
    :ivar key: the key of a Dict observation space that it carries, None otherwise
    :ivar layout: order of the dimensions of an image, None for anything else
    :ivar divisor: what each value of the environment is divided by, in float32, before it goes in; None for nothing
    :ivar meaning: what a consumer must know to fill or read it
    :ivar names: the caller's names of its components, None where none were given
    :ivar units: the caller's units of its components, None where none were given
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    role: Role
    key: str | None = None
    layout: Layout | None = None
    divisor: float | None = None
    meaning: str
    names: tuple[str, ...] | None = None
    units: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


BATCH = "batch"
"""Name of the dynamic dimension."""

OUTSIDE = "outside"
"""Name of the output that tells which components of an observation are outside of what training saw."""

LARGEST_BYTE = 255.0
"""What the bytes of an image are divided by where they go in as floats from 0 to 1."""
