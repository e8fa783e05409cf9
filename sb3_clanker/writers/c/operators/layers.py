"""Layers of networks: products of matrices, convolutions, pooling, normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from sb3_clanker.writers.c.code import Code, index, literal, row_major
from sb3_clanker.writers.c.graph import Node, Tensor, UnsupportedError
from sb3_clanker.writers.c.views import broadcast


def gemm(node: Node, code: Code) -> None:
    """``alpha * A B + beta * C``."""
    a, b, output = node.input(0), node.input(1), node.output
    _refuse_all_but_floats(node)
    rows, columns = output.shape
    depth = a.shape[0 if node.attributes.get("transA", 0) else 1]
    a_strides = _maybe_transposed(a, node.attributes.get("transA", 0))
    b_strides = _maybe_transposed(b, node.attributes.get("transB", 0))
    scale = _factor(node.attributes.get("alpha", 1.0), output)
    _pointers(code, output, a=a, b=b)
    beta = _factor(node.attributes.get("beta", 1.0), output)
    bias: Tensor | None = None
    if node.has_input(2) and node.attributes.get("beta", 1.0) != 0:
        bias = node.input(2)
        code.read("bias", bias)
    with code.loop("i", rows) as i, code.loop("j", columns) as j:
        added = "" if bias is None else beta + _at("bias", bias, output.shape, (i, j))
        code.line(f"float total = {'0.0f' if scale or not added else added};")
        with code.loop("k", depth) as k:
            left = index((i, a_strides[0]), (k, a_strides[1]))
            right = index((k, b_strides[0]), (j, b_strides[1]))
            code.line(f"total += a[{left}] * b[{right}];")
        code.line(f"y[{index((i, columns), (j, 1))}] = {scale}total{f' + {added}' if scale and added else ''};")


def _maybe_transposed(tensor: Tensor, transposed: int) -> tuple[int, int]:
    rows, columns = row_major(tensor.shape)
    return (columns, rows) if transposed else (rows, columns)


def _factor(value: float, output: Tensor) -> str:
    """A factor, and nothing where it is one."""
    return "" if value == 1.0 else f"{literal(value, output.dtype)} * "


def _at(name: str, tensor: Tensor, shape: tuple[int, ...], variables: Sequence[str]) -> str:
    """An element of a tensor that is broadcast."""
    return f"{name}[{index(*zip(variables, broadcast(tensor.shape, shape), strict=True))}]"


def matmul(node: Node, code: Code) -> None:
    """A product of matrices, or of many of them."""
    a, b, output = node.input(0), node.input(1), node.output
    _refuse_all_but_floats(node)
    depth = a.shape[-1]
    a_shape = a.shape if len(a.shape) > 1 else (1, depth)
    b_shape = b.shape if len(b.shape) > 1 else (depth, 1)
    many = output.shape[: len(output.shape) - (len(a.shape) > 1) - (len(b.shape) > 1)]
    rows, columns = a_shape[-2], b_shape[-1]
    a_strides, b_strides = broadcast(a_shape[:-2], many), broadcast(b_shape[:-2], many)
    _pointers(code, output, a=a, b=b)
    with ExitStack() as loops:
        outer = [loops.enter_context(code.loop(f"n{axis}", n)) for axis, n in enumerate(many)]
        i, j = (loops.enter_context(code.loop(name, n)) for name, n in (("i", rows), ("j", columns)))
        code.line("float total = 0.0f;")
        with code.loop("k", depth) as k:
            left = index(*zip(outer, (s * rows * depth for s in a_strides), strict=True), (i, depth), (k, 1))
            right = index(*zip(outer, (s * depth * columns for s in b_strides), strict=True), (k, columns), (j, 1))
            code.line(f"total += a[{left}] * b[{right}];")
        strides = row_major((*many, rows, columns))
        code.line(f"y[{index(*zip((*outer, i, j), strides, strict=True))}] = total;")


def conv(node: Node, code: Code) -> None:
    """A convolution of any number of dimensions, with padding, strides, dilations and groups."""
    x, weight, output = node.input(0), node.input(1), node.output
    _refuse_all_but_floats(node)
    groups = node.attributes.get("group", 1)
    n_out, n_in, *kernel = weight.shape
    window = _Window(node, x.shape[2:], kernel)
    _pointers(code, output, x=x, w=weight)
    bias = node.input(2) if node.has_input(2) else None
    if bias is not None:
        code.read("bias", bias)
    x_strides, w_strides, y_strides = (row_major(tensor.shape) for tensor in (x, weight, output))
    with ExitStack() as loops:
        channel = loops.enter_context(code.loop("c", n_out))
        at = window.positions(code, loops, output.shape[2:])
        code.line(f"float total = {'0.0f' if bias is None else f'bias[{index((channel, 1))}]'};")
        with code.loop("d", n_in) as depth:
            code.line("float part = 0.0f;")  # a sum of sums is rounded less than one long sum
            with ExitStack() as within:
                taps, inside = window.taps(code, within)
                first = index((f"({channel} / {n_out // groups})", n_in * x_strides[1])) if groups > 1 else "0"
                source = index((first, 1), (depth, x_strides[1]), *zip(inside, x_strides[2:], strict=True))
                factor = index((channel, w_strides[0]), (depth, w_strides[1]), *zip(taps, w_strides[2:], strict=True))
                code.line(f"part += x[{source}] * w[{factor}];")
            code.line("total += part;")
        code.line(f"y[{index((channel, y_strides[1]), *zip(at, y_strides[2:], strict=True))}] = total;")


def pool(node: Node, code: Code) -> None:
    """The largest, or the mean, of what a window shows."""
    x, output = node.input(0), node.output
    _refuse_all_but_floats(node)
    if len(node.outputs) > 1 and node.outputs[1] is not None:
        raise UnsupportedError(f"{node.operator} with indices")
    window = _Window(node, x.shape[2:], node.attributes["kernel_shape"])
    _pointers(code, output, x=x)
    x_strides, y_strides = row_major(x.shape), row_major(output.shape)
    mean = node.operator == "AveragePool"
    with_padding = bool(node.attributes.get("count_include_pad", 0))
    if mean and with_padding and node.attributes.get("ceil_mode", 0):
        raise UnsupportedError("AveragePool with ceil_mode and count_include_pad")
    with ExitStack() as loops:
        channel = loops.enter_context(code.loop("c", x.shape[1]))
        at = window.positions(code, loops, output.shape[2:])
        code.line(f"float total = {'0.0f' if mean else '-INFINITY'};")
        counts = mean and not with_padding
        if counts:
            code.line("int32_t count = 0;")
        with ExitStack() as within:
            _, inside = window.taps(code, within)
            source = f"x[{index((channel, x_strides[1]), *zip(inside, x_strides[2:], strict=True))}]"
            code.line(f"total += {source};" if mean else f"total = {code.helper('larger')}(total, {source});")
            if counts:
                code.line("count++;")
        divided = " / (float)count" if counts else f" / {math.prod(window.kernel)}.0f" if mean else ""
        code.line(f"y[{index((channel, y_strides[1]), *zip(at, y_strides[2:], strict=True))}] = total{divided};")


class _Window:
    """A window that moves over an input, and what of it lies inside.

    :ivar kernel: how large it is
    """

    def __init__(self, node: Node, size: Sequence[int], kernel: Sequence[int]) -> None:
        if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise UnsupportedError(f"{node.operator} with auto_pad")
        ones = [1] * len(kernel)
        self._size, self.kernel = size, kernel
        self._strides = node.attributes.get("strides", ones)
        self._dilations = node.attributes.get("dilations", ones)
        self._pads = node.attributes.get("pads", [0] * 2 * len(kernel))
        self._padded = [any(self._pads[axis :: len(kernel)]) for axis in range(len(kernel))]
        if node.attributes.get("ceil_mode", 0):
            self._padded = [True] * len(kernel)

    def positions(self, code: Code, loops: ExitStack, shape: Sequence[int]) -> list[str]:
        """Loops over all places of the window."""
        self._at = [loops.enter_context(code.loop(f"p{axis}", n)) for axis, n in enumerate(shape)]
        return self._at

    def taps(self, code: Code, loops: ExitStack) -> tuple[list[str], list[str]]:
        """Loops over what the window shows: where in the window, and where in the input, which is checked."""
        taps, inside = [], []
        for axis, n in enumerate(self.kernel):
            tap = loops.enter_context(code.loop(f"q{axis}", n, always=self._padded[axis]))
            where = index((self._at[axis], self._strides[axis]), (tap, self._dilations[axis]))
            pad = self._pads[axis]
            code.line(f"const int32_t s{axis} = {where}{f' - {pad}' if pad else ''};")
            if self._padded[axis]:
                code.line(f"if (s{axis} < 0 || s{axis} >= {self._size[axis]}) {{ continue; }}")
            taps.append(tap)
            inside.append(f"s{axis}")
        return taps, inside


def batch_normalization(node: Node, code: Code) -> None:
    """Each channel normalized by its running statistics."""
    if node.attributes.get("training_mode", 0):
        raise UnsupportedError("BatchNormalization in training")
    x, output = node.input(0), node.output
    _refuse_all_but_floats(node)
    _pointers(code, output, x=x)
    for name, position in (("scale", 1), ("bias", 2), ("mean", 3), ("variance", 4)):
        code.read(name, node.input(position))
    n = math.prod(x.shape[2:])
    with code.loop("c", x.shape[1]) as c:
        epsilon = literal(node.attributes.get("epsilon", 1e-5), output.dtype)
        code.line(f"const float factor = scale[{c}] / sqrtf(variance[{c}] + {epsilon});")
        with code.loop("i", n) as i:
            at = index((c, n), (i, 1))
            code.line(f"y[{at}] = (x[{at}] - mean[{c}]) * factor + bias[{c}];")


def layer_normalization(node: Node, code: Code) -> None:
    """Each row, or each channel of an image, normalized by its own mean and variance."""
    x, output = node.input(0), node.output
    _refuse_all_but_floats(node)
    if any(tensor is not None for tensor in node.outputs[1:]):
        raise UnsupportedError(f"{node.operator} with its statistics")
    by_channel = node.operator == "InstanceNormalization"
    axis = 2 if by_channel else node.attributes.get("axis", -1) % len(x.shape)
    n_rows, n = math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
    scale = node.input(1)
    bias = node.input(2) if node.has_input(2) else None
    _pointers(code, output, x=x, scale=scale, **({} if bias is None else {"bias": bias}))
    with code.loop("r", n_rows) as r:
        code.line("float mean = 0.0f;")
        code.line("float variance = 0.0f;")
        at = index((r, n), ("i", 1)) if n > 1 else index((r, n))
        with code.loop("i", n):
            code.line(f"mean += x[{at}] / {n}.0f;")
        with code.loop("i", n):
            code.line(f"variance += (x[{at}] - mean) * (x[{at}] - mean) / {n}.0f;")
        epsilon = literal(node.attributes.get("epsilon", 1e-5), output.dtype)
        code.line(f"const float factor = 1.0f / sqrtf(variance + {epsilon});")
        with code.loop("i", n) as i:
            element = r if by_channel else _within(scale, x.shape[axis:], i)
            added = "" if bias is None else f" + bias[{r if by_channel else _within(bias, x.shape[axis:], i)}]"
            code.line(f"y[{at}] = (x[{at}] - mean) * factor * scale[{element}]{added};")


def _within(tensor: Tensor, shape: tuple[int, ...], i: str) -> str:
    if tensor.size not in (1, math.prod(shape)):
        raise UnsupportedError("LayerNormalization with a scale that is broadcast")
    return index((i, int(tensor.size > 1)))


def lstm(node: Node, code: Code) -> None:
    """An LSTM forward in time, its gates in ONNX's order: input, output, forget, cell."""
    attributes, x = node.attributes, node.input(0)
    plain = {"direction": "forward", "layout": 0, "input_forget": 0, "clip": 0.0}
    for name, expected in plain.items():
        if attributes.get(name, expected) != expected:
            raise UnsupportedError(f"LSTM with {name} {attributes[name]}")
    if "activations" in attributes or node.has_input(4) or node.has_input(7):
        raise UnsupportedError("LSTM with activations, lengths or peepholes")
    if not (node.has_input(5) and node.has_input(6)):
        raise UnsupportedError("LSTM without a state that goes in")
    if x.shape[0] != 1:
        raise UnsupportedError("LSTM over several steps")
    _, four_widths, depth = node.input(1).shape
    width = four_widths // 4
    code.read("x", x)
    code.read("w", node.input(1))
    code.read("u", node.input(2))
    bias = node.input(3) if node.has_input(3) else None
    if bias is not None:
        code.read("bias", bias)
    code.read("h", node.input(5))
    code.read("c", node.input(6))
    values = {"y": "hidden", "h_next": "hidden", "c_next": "cell"}
    wanted = {name: tensor for name, tensor in zip(values, node.outputs, strict=False) if tensor is not None}
    for name, tensor in wanted.items():
        code.write(name, tensor)
    with code.loop("j", width) as j:
        code.line("float gate[4];")
        with code.block("for (int32_t g = 0; g < 4; g++)"):
            row = index(("g", width), (j, 1))
            start = "0.0f" if bias is None else f"bias[{row}] + bias[{row} + {four_widths}]"
            code.line(f"float total = {start};")
            with code.loop("k", depth) as k:
                code.line(f"total += x[{k}] * w[{_of_row(row, depth, k)}];")
            with code.loop("k", width) as k:
                code.line(f"total += h[{k}] * u[{_of_row(row, width, k)}];")
            code.line("gate[g] = total;")
        sigmoid = code.helper("sigmoid")
        code.line(f"const float cell = {sigmoid}(gate[2]) * c[{j}] + {sigmoid}(gate[0]) * tanhf(gate[3]);")
        code.line(f"const float hidden = {sigmoid}(gate[1]) * tanhf(cell);")
        for name in wanted:
            code.line(f"{name}[{j}] = {values[name]};")


def _of_row(row: str, width: int, column: str) -> str:
    return index((f"({row})", width), (column, 1))


def _pointers(code: Code, output: Tensor, **read: Tensor) -> None:
    for name, tensor in read.items():
        code.read(name, tensor)
    code.write("y", output)


def _refuse_all_but_floats(node: Node) -> None:
    others: set[np.dtype[Any]] = {tensor.dtype for tensor in node.inputs if tensor is not None} - {np.dtype(np.float32)}
    if others:
        raise UnsupportedError(f"{node.operator} of {min(map(str, others))}")
