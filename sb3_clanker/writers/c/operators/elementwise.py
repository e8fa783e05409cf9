"""Operators that compute each element of what they give from one element of each of what they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeAlias

import numpy as np

from sb3_clanker.writers.c.code import Code, c_type, index, literal, row_major, suffix
from sb3_clanker.writers.c.graph import Node, Tensor, UnsupportedError
from sb3_clanker.writers.c.views import View, broadcast

Expression: TypeAlias = Callable[[Node, Code, Sequence[str]], str]
"""What one element is, as C, from those that it is computed from."""


def elementwise(node: Node, code: Code) -> None:
    """Compute all elements, of inputs that are broadcast."""
    output = node.output
    present = [tensor for tensor in node.inputs if tensor is not None]
    sources = [View(tensor, 0, broadcast(tensor.shape, output.shape)) for tensor in present]
    fill(code, output, sources, lambda elements: EXPRESSIONS[node.operator](node, code, _in_order(node, elements)))


def copy(code: Code, view: View, output: Tensor) -> None:
    """Copy what lies elsewhere in another order."""
    fill(code, output, [view], lambda elements: elements[0])


def fill(
    code: Code,
    output: Tensor,
    sources: Sequence[View],
    expression: Callable[[list[str]], str],
    at: View | None = None,
) -> None:
    """Compute each element of a tensor, or of a part of it, from one element of each source.

    :param at: which part, None for all of it
    """
    elements: list[str] = []
    moving: list[View] = []
    for number, view in enumerate(sources):
        if view.source.values is not None and view.source.size == 1:
            elements.append(literal(view.source.values.reshape(()), view.source.dtype))
        else:
            elements.append(f"x{number}[{{{len(moving) + 1}}}]")
            code.read(f"x{number}", view.source)
            moving.append(view)
    code.write("y", output)
    shape = output.shape if at is None else at.source.shape
    strides = [row_major(shape) if at is None else at.strides, *(view.strides for view in moving)]
    offsets = [0 if at is None else at.offset, *(view.offset for view in moving)]
    with ExitStack() as loops:
        rounds = [
            (loops.enter_context(code.loop(f"i{depth}", n)), steps)
            for depth, (n, steps) in enumerate(collapse(shape, strides))
        ]
        indices = [
            index(*((variable, steps[number]) for variable, steps in rounds), offset=offset)
            for number, offset in enumerate(offsets)
        ]
        values = [element.format(*indices) for element in elements]
        code.line(f"y[{indices[0]}] = {expression(values)};")


def collapse(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, tuple[int, ...]]]:
    """As few loops as go through all of several arrays: how many rounds each has, and the stride in each array."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for axis, n in enumerate(shape):
        steps = tuple(stride[axis] for stride in strides)
        if n == 1:
            continue
        if merged and all(outer == inner * n for outer, inner in zip(merged[-1][1], steps, strict=True)):
            merged[-1] = merged[-1][0] * n, steps
        else:
            merged.append((n, steps))
    return merged


def _in_order(node: Node, elements: Sequence[str]) -> list[str]:
    """Elements by the position of their input, empty for one that is left out."""
    present = iter(elements)
    return [next(present) if tensor is not None else "" for tensor in node.inputs]


def _formatted(template: str) -> Expression:
    return lambda node, _, elements: template.format(*elements, f=suffix(node.output.dtype))


def _real(template: str) -> Expression:
    """With functions of ``math.h``, and so for float and double alone."""

    def expression(node: Node, _: Code, elements: Sequence[str]) -> str:
        _refuse_integers(node)
        return template.format(*elements, f=suffix(node.output.dtype), **_numbers(node))

    return expression


def _single(template: str, helper: str) -> Expression:
    """With a small function of our own, of floats."""

    def expression(node: Node, code: Code, elements: Sequence[str]) -> str:
        if node.output.dtype != np.float32:
            raise UnsupportedError(f"{node.operator} of {node.output.dtype}")
        return template.format(*elements, f="f", h=code.helper(helper))

    return expression


def _refuse_integers(node: Node) -> None:
    if node.output.dtype.kind != "f":
        raise UnsupportedError(f"{node.operator} of {node.output.dtype}")


_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "Celu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
    "LeakyRelu": {"alpha": 0.01},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "ThresholdedRelu": {"alpha": 1.0},
}
"""Attributes that an expression takes, and what they are where a graph does not say."""


def _numbers(node: Node) -> dict[str, str]:
    defaults = _DEFAULTS.get(node.operator, {})
    dtype = node.output.dtype
    return {name: literal(node.attributes.get(name, value), dtype) for name, value in defaults.items()}


def _extreme(word: str) -> Callable[[Node, Code, str, str], str]:
    """The larger, or the smaller, of two numbers; what is not a number, where one is not."""

    def expression(node: Node, code: Code, left: str, right: str) -> str:
        dtype = node.output.dtype
        if dtype.kind in "iu":
            return f"({left} {'>' if word == 'larger' else '<'} {right} ? {left} : {right})"
        return f"{code.helper(word if dtype == np.float32 else f'{word}_double')}({left}, {right})"

    return expression


_larger, _smaller = _extreme("larger"), _extreme("smaller")


def _max(node: Node, code: Code, elements: Sequence[str]) -> str:
    first, *others = elements
    for other in others:
        first = (_larger if node.operator == "Max" else _smaller)(node, code, first, other)
    return first


def _clip(node: Node, code: Code, elements: Sequence[str]) -> str:
    value, low, high = [*elements, "", ""][:3]
    value = _larger(node, code, value, low) if low else value
    return _smaller(node, code, value, high) if high else value


def _hard_sigmoid(node: Node, code: Code, elements: Sequence[str]) -> str:
    _refuse_integers(node)
    dtype = node.output.dtype
    alpha, beta = (1 / 6, 0.5) if node.operator == "HardSwish" else (0.2, 0.5)
    slope = literal(node.attributes.get("alpha", alpha), dtype)
    middle = literal(node.attributes.get("beta", beta), dtype)
    zero, one = literal(0, dtype), literal(1, dtype)
    within = _smaller(node, code, _larger(node, code, f"{slope} * {elements[0]} + {middle}", zero), one)
    return f"{elements[0]} * {within}" if node.operator == "HardSwish" else within


def _gelu(node: Node, code: Code, elements: Sequence[str]) -> str:
    exact = "0.5{f} * {0} * (1.0{f} + erf{f}({0} * 0.70710678118654752{f}))"
    tanh = "0.5{f} * {0} * (1.0{f} + tanh{f}(0.79788456080286536{f} * ({0} + 0.044715{f} * {0} * {0} * {0})))"
    return _real(tanh if node.attributes.get("approximate") == "tanh" else exact)(node, code, elements)


def _cast(node: Node, code: Code, elements: Sequence[str]) -> str:
    """A number of another type; what no integer is becomes the least of them, as on most processors."""
    source, target = node.input(0).dtype, node.output.dtype
    if target.kind == "b":
        return f"{elements[0]} != 0"
    if source.kind == "f" and target.kind in "iu":
        return f"({c_type(target)}){code.helper('integer')}((double){elements[0]})"
    return f"({c_type(target)}){elements[0]}"


def _abs(node: Node, code: Code, elements: Sequence[str]) -> str:
    if node.output.dtype.kind == "f":
        return _real("fabs{f}({0})")(node, code, elements)
    return f"({elements[0]} < 0 ? -{elements[0]} : {elements[0]})"


def _modulo(node: Node, _: Code, elements: Sequence[str]) -> str:
    if node.attributes.get("fmod", 0):
        _refuse_integers(node)
        return f"fmod{suffix(node.output.dtype)}({elements[0]}, {elements[1]})"
    raise UnsupportedError("Mod of integers")


def _power(node: Node, code: Code, elements: Sequence[str]) -> str:
    exponent = node.input(1).values
    if exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2.0:
        return f"{elements[0]} * {elements[0]}"
    return _real("pow{f}({0}, {1})")(node, code, elements)


def _sum(node: Node, _: Code, elements: Sequence[str]) -> str:
    return f"({' + '.join(elements)}){f' / {len(elements)}' if node.operator == 'Mean' else ''}"


def _divide(node: Node, _: Code, elements: Sequence[str]) -> str:
    if node.output.dtype.kind != "f":
        divisor = node.input(1).values
        if divisor is None or not np.all(divisor > 0):  # a division by zero would end the program
            raise UnsupportedError("Div of integers by a number that is computed")
    return f"{elements[0]} / {elements[1]}"


EXPRESSIONS: Mapping[str, Expression] = {
    "Abs": _abs,
    "Add": _formatted("{0} + {1}"),
    "And": _formatted("{0} && {1}"),
    "Cast": _cast,
    "CastLike": _cast,
    "Ceil": _real("ceil{f}({0})"),
    "Celu": _real("{0} < 0.0{f} ? {alpha} * expm1{f}({0} / {alpha}) : {0}"),
    "Clip": _clip,
    "Cos": _real("cos{f}({0})"),
    "Div": _divide,
    "Elu": _real("{0} < 0.0{f} ? {alpha} * expm1{f}({0}) : {0}"),
    "Equal": _formatted("{0} == {1}"),
    "Erf": _real("erf{f}({0})"),
    "Exp": _real("exp{f}({0})"),
    "Floor": _real("floor{f}({0})"),
    "Gelu": _gelu,
    "Greater": _formatted("{0} > {1}"),
    "GreaterOrEqual": _formatted("{0} >= {1}"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_sigmoid,
    "IsNaN": _formatted("{0} != {0}"),
    "LeakyRelu": _real("{0} < 0.0{f} ? {alpha} * {0} : {0}"),
    "Less": _formatted("{0} < {1}"),
    "LessOrEqual": _formatted("{0} <= {1}"),
    "Log": _real("log{f}({0})"),
    "Max": _max,
    "Mean": _sum,
    "Min": _max,
    "Mish": _single("{0} * tanhf({h}({0}))", "softplus"),
    "Mod": _modulo,
    "Mul": _formatted("{0} * {1}"),
    "Neg": _formatted("-{0}"),
    "Not": _formatted("!{0}"),
    "Or": _formatted("{0} || {1}"),
    "Pow": _power,
    "PRelu": _real("{0} < 0.0{f} ? {1} * {0} : {0}"),
    "Reciprocal": _real("1.0{f} / {0}"),
    "Relu": _formatted("{0} < 0 ? 0 : {0}"),
    "Round": _real("rint{f}({0})"),
    "Selu": _real("{gamma} * ({0} < 0.0{f} ? {alpha} * expm1{f}({0}) : {0})"),
    "Sigmoid": _single("{h}({0})", "sigmoid"),
    "Sign": _real("{0} > 0.0{f} ? 1.0{f} : {0} < 0.0{f} ? -1.0{f} : {0}"),
    "Sin": _real("sin{f}({0})"),
    "Softplus": _single("{h}({0})", "softplus"),
    "Softsign": _real("{0} / (1.0{f} + fabs{f}({0}))"),
    "Sqrt": _real("sqrt{f}({0})"),
    "Sub": _formatted("{0} - {1}"),
    "Sum": _sum,
    "Tanh": _real("tanh{f}({0})"),
    "ThresholdedRelu": _real("{0} <= {alpha} ? 0.0{f} : {0}"),
    "Where": _formatted("{0} ? {1} : {2}"),
    "Xor": _formatted("{0} != {1}"),
}
"""By the name of the operator."""
