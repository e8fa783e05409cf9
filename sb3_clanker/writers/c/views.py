"""Operators that compute nothing: each element of what they give is one of what they take, as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sb3_clanker.writers.c.code import row_major
from sb3_clanker.writers.c.graph import Node, Tensor, UnsupportedError


@dataclass(frozen=True)
class View:
    """Where in another tensor the elements of a tensor are.

    :ivar source: that other tensor
    :ivar offset: where the first one is
    :ivar strides: how far apart they are along each axis
    """

    source: Tensor
    offset: int
    strides: tuple[int, ...]

    def is_whole(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape lies there in one piece, and need not be copied."""
        apart = zip(shape, self.strides, row_major(shape), strict=True)
        return all(n == 1 or stride == expected for n, stride, expected in apart)


def views(node: Node) -> list[View] | None:
    """What each output of a node is, None where the node is none of these operators."""
    find = VIEWS.get(node.operator)
    return None if find is None else find(node)


def known(node: Node, position: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Whole numbers that go in, such as axes; they have to be constant.

    :raises UnsupportedError: a step computes them
    """
    if not node.has_input(position):
        return default
    values = node.input(position).values
    if values is None:
        raise UnsupportedError(f"{node.operator} with a shape that is computed")
    return tuple(int(value) for value in np.reshape(values, -1))


def _same(node: Node) -> list[View]:
    return [View(node.input(0), 0, row_major(node.output.shape))]


def _transpose(node: Node) -> list[View]:
    source = node.input(0)
    order = node.attributes.get("perm", range(len(source.shape))[::-1])
    strides = row_major(source.shape)
    return [View(source, 0, tuple(strides[axis] for axis in order))]


def _expand(node: Node) -> list[View]:
    return [View(node.input(0), 0, broadcast(node.input(0).shape, node.output.shape))]


def broadcast(shape: tuple[int, ...], to: tuple[int, ...]) -> tuple[int, ...]:
    """How far apart the elements of an array are in one of a larger shape that it is repeated to fill."""
    apart = zip(shape, row_major(shape), strict=True)
    return (0,) * (len(to) - len(shape)) + tuple(0 if n == 1 else stride for n, stride in apart)


def _slice(node: Node) -> list[View]:
    source = node.input(0)
    starts, ends = known(node, 1), known(node, 2)
    axes = known(node, 3, tuple(range(len(starts))))
    steps = known(node, 4, (1,) * len(starts))
    offset, strides = 0, list(row_major(source.shape))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, _, apart = slice(start, end, step).indices(source.shape[axis])
        offset += first * strides[axis]
        strides[axis] *= apart
    return [View(source, offset, tuple(strides))]


def _split(node: Node) -> list[View]:
    source = node.input(0)
    axis = node.attributes.get("axis", 0) % len(source.shape)
    strides = row_major(source.shape)
    widths = known(node, 1)
    if not widths:  # equal parts, but for the last one
        width = math.ceil(source.shape[axis] / len(node.outputs))
        widths = (width,) * len(node.outputs)
    starts = np.cumsum([0, *widths])
    return [View(source, int(start) * strides[axis], strides) for start in starts[: len(node.outputs)]]


def _cast(node: Node) -> list[View] | None:
    return _same(node) if node.input(0).dtype == node.output.dtype else None


VIEWS: dict[str, Callable[[Node], list[View] | None]] = {
    **dict.fromkeys(("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), _same),
    **dict.fromkeys(("Cast", "CastLike"), _cast),
    "Expand": _expand,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}
"""By the name of the operator; none of these is in the way where it is a copy after all."""
