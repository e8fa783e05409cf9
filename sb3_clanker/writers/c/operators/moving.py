"""Operators that put what they take together in another way."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from sb3_clanker.writers.c.code import Code, index, literal, row_major
from sb3_clanker.writers.c.graph import Node, Tensor, UnsupportedError
from sb3_clanker.writers.c.operators.elementwise import fill
from sb3_clanker.writers.c.operators.reductions import LOST
from sb3_clanker.writers.c.views import View, known


def concat(node: Node, code: Code) -> None:
    """One input after another, along an axis."""
    output = node.output
    axis = node.attributes["axis"] % len(output.shape)
    strides, start = row_major(output.shape), 0
    for number in range(len(node.inputs)):
        source = node.input(number)
        with code.block():
            part = View(source, start * strides[axis], strides)
            fill(code, output, [View(source, 0, row_major(source.shape))], lambda elements: elements[0], at=part)
        start += source.shape[axis]


def pad(node: Node, code: Code) -> None:
    """The input with constants around it."""
    if node.attributes.get("mode", "constant") != "constant":
        raise UnsupportedError(f"Pad with mode {node.attributes['mode']}")
    source, output = node.input(0), node.output
    rank = len(source.shape)
    pads, axes = known(node, 1), known(node, 3, tuple(range(rank)))
    starts = dict(zip((axis % rank for axis in axes), pads[: len(axes)], strict=True))
    if min(pads, default=0) < 0:
        raise UnsupportedError("Pad that cuts")
    value = node.input(2).values if node.has_input(2) else np.zeros((), output.dtype)
    if value is None:
        raise UnsupportedError("Pad with a value that is computed")
    strides = row_major(output.shape)
    offset = sum(start * strides[axis] for axis, start in starts.items())
    with code.block():
        fill(code, output, [], lambda _: literal(value.reshape(()), output.dtype))
    with code.block():
        whole = View(source, 0, row_major(source.shape))
        fill(code, output, [whole], lambda elements: elements[0], at=View(source, offset, strides))


def gather(node: Node, code: Code) -> None:
    """Elements, or rows, that are chosen by their indices; an index beyond the ends is lost, and reads the first."""
    source, chosen, output = node.input(0), node.input(1), node.output
    axis = node.attributes.get("axis", 0) % len(source.shape)
    n, inner = source.shape[axis], row_major(source.shape)[axis]
    outer = source.size // (n * inner)
    code.read("x", source)
    _read_indices(code, chosen)
    code.write("y", output)
    with ExitStack() as loops:
        i = loops.enter_context(code.loop("i", outer))
        j = loops.enter_context(code.loop("j", chosen.size))
        code.line(f"int32_t row = z[{j}] < 0 ? (int32_t)(z[{j}] + {n}) : (int32_t)z[{j}];")
        with code.block(f"if (z[{j}] < -{n} || z[{j}] >= {n})"):
            code.line("row = 0;")
            code.line(f"{LOST} = true;")
        k = loops.enter_context(code.loop("k", inner))
        target = index((i, chosen.size * inner), (j, inner), (k, 1))
        code.line(f"y[{target}] = x[{index((i, n * inner), ('row', inner), (k, 1))}];")


def _read_indices(code: Code, chosen: Tensor) -> None:
    code.read("z", chosen)
