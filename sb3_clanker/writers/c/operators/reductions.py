"""Operators that make one number of many: sums, means, extremes, and the choice of the largest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from sb3_clanker.writers.c.code import Code, index, row_major
from sb3_clanker.writers.c.graph import Node, UnsupportedError
from sb3_clanker.writers.c.operators.elementwise import collapse
from sb3_clanker.writers.c.views import known

LOST = "lost"
"""The variable that says whether a choice was made among what is not a number."""


@dataclass(frozen=True)
class _Sum:
    """How many numbers become one.

    :ivar first: what there is without any
    :ivar step: what one number makes of it
    :ivar last: what comes of all
    """

    first: str
    step: str
    last: str = "total"
    helper: str = ""


_SUMS: Mapping[str, _Sum] = {
    "ReduceL1": _Sum("0.0f", "total + fabsf({0})"),
    "ReduceL2": _Sum("0.0f", "total + {0} * {0}", "sqrtf(total)"),
    "ReduceLogSum": _Sum("0.0f", "total + {0}", "logf(total)"),
    "ReduceMax": _Sum("-INFINITY", "{h}(total, {0})", helper="larger"),
    "ReduceMean": _Sum("0.0f", "total + {0}", "total / {n}.0f"),
    "ReduceMin": _Sum("INFINITY", "{h}(total, {0})", helper="smaller"),
    "ReduceProd": _Sum("1.0f", "total * {0}"),
    "ReduceSum": _Sum("0.0f", "total + {0}"),
    "ReduceSumSquare": _Sum("0.0f", "total + {0} * {0}"),
}


def reduce(node: Node, code: Code) -> None:
    """One number of all along some axes."""
    _refuse_all_but_floats(node)
    axes = _axes(node)
    n = math.prod(node.input(0).shape[axis] for axis in axes)
    if node.operator == "ReduceLogSumExp":
        _log_sum_exp(node, code, axes)
        return
    rule = _SUMS[node.operator]
    helper = code.helper(rule.helper) if rule.helper else ""
    code.read("x", node.input(0))
    code.write("y", node.output)
    with _outer(node, code, axes) as (source, target):
        code.line(f"float total = {rule.first};")
        with _inner(node, code, axes, source) as at:
            code.line(f"total = {rule.step.format(f'x[{at}]', h=helper)};")
        code.line(f"y[{target}] = {rule.last.format(n=n)};")


def _log_sum_exp(node: Node, code: Code, axes: tuple[int, ...]) -> None:
    """With the largest taken out, so that no exponential overflows."""
    code.read("x", node.input(0))
    code.write("y", node.output)
    larger = code.helper("larger")
    with _outer(node, code, axes) as (source, target):
        code.line("float largest = -INFINITY;")
        with _inner(node, code, axes, source) as at:
            code.line(f"largest = {larger}(largest, x[{at}]);")
        code.line("const float top = largest - largest == 0.0f ? largest : 0.0f;")
        code.line("float total = 0.0f;")
        with _inner(node, code, axes, source) as at:
            code.line(f"total += expf(x[{at}] - top);")
        code.line(f"y[{target}] = largest != largest ? largest : logf(total) + top;")


def softmax(node: Node, code: Code) -> None:
    """Exponentials that sum to one, along an axis; or their logarithms."""
    _refuse_all_but_floats(node)
    axes = (node.attributes.get("axis", -1) % len(node.input(0).shape),)
    code.read("x", node.input(0))
    code.write("y", node.output)
    larger = code.helper("larger")
    with _outer(node, code, axes) as (source, _):
        code.line("float largest = -INFINITY;")
        with _inner(node, code, axes, source) as at:
            code.line(f"largest = {larger}(largest, x[{at}]);")
        code.line("float total = 0.0f;")
        with _inner(node, code, axes, source) as at:
            if node.operator == "Softmax":
                code.line(f"y[{at}] = expf(x[{at}] - largest);")
                code.line(f"total += y[{at}];")
            else:
                code.line(f"total += expf(x[{at}] - largest);")
        with _inner(node, code, axes, source) as at:
            if node.operator == "Softmax":
                code.line(f"y[{at}] = y[{at}] / total;")
            else:
                code.line(f"y[{at}] = x[{at}] - largest - logf(total);")


def argmax(node: Node, code: Code) -> None:
    """Where the largest is, the first of several; or the smallest.

    Where one is not a number there is no such place: :data:`LOST` says so.
    """
    if node.attributes.get("select_last_index", 0):
        raise UnsupportedError(f"{node.operator} with select_last_index")
    x = node.input(0)
    axis = node.attributes.get("axis", 0) % len(x.shape)
    n, stride = x.shape[axis], row_major(x.shape)[axis]
    code.read("x", x)
    code.write("y", node.output)
    with _outer(node, code, (axis,)) as (source, target):
        code.line("int32_t best = 0;")
        with code.loop("k", n) as k:
            at, best = (index((source, 1), (name, stride)) for name in (k, "best"))
            code.line(f"{LOST} = {LOST} || x[{at}] != x[{at}];")
            if k != "0":
                code.line(f"best = x[{at}] {'>' if node.operator == 'ArgMax' else '<'} x[{best}] ? k : best;")
        code.line(f"y[{target}] = best;")


def _axes(node: Node) -> tuple[int, ...]:
    x = node.input(0)
    given = known(node, 1, tuple(node.attributes.get("axes", ())))
    if not given and node.attributes.get("noop_with_empty_axes", 0):
        raise UnsupportedError(f"{node.operator} along no axis")
    return tuple(sorted(axis % len(x.shape) for axis in given)) or tuple(range(len(x.shape)))


@contextmanager
def _outer(node: Node, code: Code, axes: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Loops over the other axes: where what is made one number begins, and where that goes."""
    shape, strides = node.input(0).shape, row_major(node.input(0).shape)
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    targets = row_major([shape[axis] for axis in kept])
    rounds = collapse([shape[axis] for axis in kept], [[strides[axis] for axis in kept], targets])
    with ExitStack() as loops:
        variables = [loops.enter_context(code.loop(f"i{depth}", n)) for depth, (n, _) in enumerate(rounds)]
        steps = [step for _, step in rounds]
        source, target = (index(*zip(variables, (step[which] for step in steps), strict=True)) for which in (0, 1))
        yield source, target


@contextmanager
def _inner(node: Node, code: Code, axes: tuple[int, ...], source: str) -> Iterator[str]:
    """Loops over these axes: where each number is."""
    shape, strides = node.input(0).shape, row_major(node.input(0).shape)
    rounds = collapse([shape[axis] for axis in axes], [[strides[axis] for axis in axes]])
    with ExitStack() as loops:
        variables = [loops.enter_context(code.loop(f"k{depth}", n)) for depth, (n, _) in enumerate(rounds)]
        yield index((source, 1), *((name, steps[0]) for name, (_, steps) in zip(variables, rounds, strict=True)))


def _refuse_all_but_floats(node: Node) -> None:
    if node.input(0).dtype != np.float32:
        raise UnsupportedError(f"{node.operator} of {node.input(0).dtype}")
