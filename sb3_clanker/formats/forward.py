"""A policy in numpy alone, from its ``.safetensors`` file. Copy this page: it needs numpy, and nothing else.

The file holds the weights by their names in Stable-Baselines3 and, in its header, the graph: the operators of ONNX that
make actions of raw observations, in order. This page runs them, and it is what proves each file::

    policy = NumpyPolicy(Path("policy.safetensors").read_bytes())
    (actions,) = policy.run(["action"], {"obs": observations})

A file is the length of its header in 8 bytes, little-endian; the header, in JSON; and the values that it points to
(https://huggingface.co/docs/safetensors/index#format). What an operator does, and what an attribute is that it does not
name, stands in https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

DTYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"}
LIMIT = 1 << 28
"""Numbers that a run may make: no file, whoever wrote it, takes memory without end."""


class WeightsError(ValueError):
    """A file that is no policy, or is damaged; or inputs that are not those of its graph."""


class NumpyPolicy:
    """A policy, run as by a session of onnxruntime.

    :param data: the bytes of a file
    :raises WeightsError: they are none, or an operator is unknown
    :ivar weights: by their names in Stable-Baselines3, as it has them; behind a slash what ``predict`` does beside the
        networks: normalization, bounds of actions, constants
    :ivar inputs: element type and shape of each input, by name
    :ivar outputs: names of the outputs
    """

    def __init__(self, data: bytes) -> None:
        try:
            end = 8 + int.from_bytes(data[:8], "little")
            header = json.loads(data[8:end])
            graph = json.loads(header.pop("__metadata__")["graph"])
            self.weights = {name: _tensor(memoryview(data)[end:], **entry) for name, entry in header.items()}
            self.inputs = {spec["name"]: (spec["dtype"], [*spec["shape"]]) for spec in graph["inputs"]}
            self.outputs = [spec["name"] for spec in graph["outputs"]]
            self._known = dict(self.weights)
            self._operators = _apply(graph["operators"], self._known)  # what takes weights alone is known from now on
        except Exception as error:  # whatever a damaged file leads to
            raise WeightsError(f"this is no policy, or it is damaged: {error!r:.200}") from error

    def run(self, names: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs of these names, for inputs of one batch.

        :raises WeightsError: an input is missing or not of its type and shape, or the graph cannot be run
        """
        values, batch = dict(self._known), None
        for name, (dtype, shape) in self.inputs.items():
            values[name] = array = np.asarray(inputs.get(name))
            if batch is None and "batch" in shape and array.ndim == len(shape):
                batch = array.shape[shape.index("batch")]
            if array.dtype.name != dtype or [*array.shape] != [batch if dim == "batch" else dim for dim in shape]:
                raise WeightsError(f"{name!r} must be {dtype} {shape}, got {array.dtype} {[*array.shape]}")
        try:
            _apply(self._operators, values)
            return [values[name] for name in names]
        except Exception as error:
            raise WeightsError(f"the graph cannot be run: {error!r:.200}") from error


def _tensor(values: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> Array:
    array = np.frombuffer(values[slice(*data_offsets)], np.dtype(DTYPES[dtype]).newbyteorder("<"))
    if array.size != math.prod(shape):
        raise WeightsError("a tensor is not as large as its shape says")
    return array.reshape(shape)


def _apply(operators: list[dict[str, Any]], values: dict[str, Array]) -> list[dict[str, Any]]:
    """Run operators on values, which grow by what they give; return those that take what is not there."""
    size, others = _count(values.values()), []
    with np.errstate(all="ignore"):  # what is infinite or no number comes out as that
        for node in operators:
            operator = OPERATORS[node["op"]]
            if any(name and name not in values for name in node["inputs"]):
                others.append(node)
                continue
            arguments = [values[name] if name else None for name in node["inputs"]]
            result = operator(*arguments, **node["attributes"])
            results = result if isinstance(result, (list, tuple)) else [result]
            values.update(zip(node["outputs"], results, strict=False))
            size += _count(results)
            _fit(size)
    return others


def _count(arrays: Iterable[Array]) -> int:
    sizes = [array.size for array in arrays]
    if 0 in sizes:
        raise WeightsError("there is an empty array")
    return sum(sizes)


def _fit(size: int) -> None:
    """Refuse what takes too much memory; beforehand, where an operator gives more than it takes."""
    if size > LIMIT:
        raise WeightsError(f"it makes more than {LIMIT:,} numbers; give it fewer observations at once")


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """For each element of arrays that are broadcast against each other."""

    def apply(*arrays: Array) -> Any:
        _fit(np.broadcast(*arrays).size)
        return function(*arrays)

    return apply


def _over(function: Callable[..., Any]) -> Callable[..., Any]:
    """Over axes, all of them where none are given."""

    def apply(x: Array, axes: Any = (), *, keepdims: int = 1) -> Any:
        return function(x, axis=tuple(int(axis) for axis in axes) or None, keepdims=bool(keepdims))

    return apply


def _log_sum_exp(x: Array, axis: Any, keepdims: bool) -> Any:
    largest = np.nan_to_num(x.max(axis=axis, keepdims=True), nan=0.0, posinf=0.0, neginf=0.0)
    total = np.log(np.exp(x - largest).sum(axis=axis, keepdims=True)) + largest
    return total if keepdims else total.squeeze(axis)


def _softmax(x: Array, axis: int = -1) -> Any:
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def _layer_norm(x: Array, scale: Any, bias: Any = 0.0, *, axis: int = -1, epsilon: float = 1e-5) -> Any:
    axes = tuple(range(axis % x.ndim, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + epsilon) * scale + bias


def _matmul(a: Array, b: Array) -> Any:
    _fit(math.prod(a.shape[:-1]) * math.prod(b.shape[:-2]) * b.shape[-1])
    return a @ b


def _gemm(a: Array, b: Array, c: Any = 0.0, *, transA: int = 0, transB: int = 0) -> Any:  # noqa: N803 - as in ONNX
    return _matmul(a.T if transA else a, b.T if transB else b) + c


def _lstm(x: Array, w: Array, r: Array, b: Array, _: None, h: Array, c: Array, *, hidden_size: int) -> Any:
    """One step of one layer; the order of its gates is ONNX's: input, output, forget, cell."""
    (x,), (w,), (r,), (b,), (h,), (c,) = x, w, r, b, h, c
    gates = _matmul(x, w.T) + _matmul(h, r.T) + b[: 4 * hidden_size] + b[4 * hidden_size :]
    i, o, f, g = np.split(gates, 4, axis=1)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    h = _sigmoid(o) * np.tanh(c)
    return h[None, None], h[None], c[None]


def _sigmoid(x: Array) -> Any:
    return 1 / (1 + np.exp(-x))


def _conv(
    x: Array, w: Array, b: Any = None, *, strides: Any = (), pads: Any = (), dilations: Any = (), group: int = 1
) -> Any:
    n, kernel = w.ndim - 2, w.shape[2:]
    around = [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)] if pads else [(0, 0)] * x.ndim
    _fit(math.prod(size + before + after for size, (before, after) in zip(x.shape, around, strict=True)))
    steps, gaps = strides or [1] * n, dilations or [1] * n
    reach = [(size - 1) * gap + 1 for size, gap in zip(kernel, gaps, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(np.pad(x, around), reach, axis=tuple(range(2, 2 + n)))
    taken: Any = (..., *(slice(None, None, step) for step in (*steps, *gaps)))
    windows = seen[taken]  # batch, channels, positions, kernel
    _fit(max(windows[:1].size, len(x) * len(w) * math.prod(windows.shape[2 : 2 + n])))
    axes = range(1, n + 2), (0, *range(n + 1, 2 * n + 1))  # channels and kernel
    groups = zip(np.split(w, group), np.split(windows, group, axis=1), strict=True)
    parts = [np.stack([np.tensordot(f, image, axes) for image in images]) for f, images in groups]
    return np.concatenate(parts, axis=1) + (0 if b is None else b.reshape(-1, *[1] * n))


def _slice(x: Array, starts: Array, ends: Array, axes: Any = None, steps: Any = None) -> Any:
    n, taken = len(starts), [slice(None)] * x.ndim
    axes, steps = range(n) if axes is None else axes, [1] * n if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        taken[axis] = slice(int(start), int(end), int(step))
    return x[tuple(taken)]


def _split(x: Array, sizes: Any = None, *, axis: int = 0, num_outputs: int = 1) -> Any:
    each = -(-x.shape[axis] // num_outputs)
    return np.split(x, range(each, x.shape[axis], each) if sizes is None else np.cumsum(sizes)[:-1], axis)


def _reshape(x: Array, shape: Array, *, allowzero: int = 0) -> Any:
    return x.reshape([size or (0 if allowzero else x.shape[dim]) for dim, size in enumerate(shape.tolist())])


def _gather(x: Array, indices: Array, *, axis: int = 0) -> Any:
    _fit(x.size // x.shape[axis] * indices.size)
    return np.take(x, indices, axis)


def _concat(*arrays: Array, axis: int) -> Any:
    _fit(_count(arrays))
    return np.concatenate(arrays, axis)


# fmt: off
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Abs": np.abs, "Add": np.add, "And": np.logical_and, "Clip": np.clip, "Equal": np.equal, "Exp": np.exp,
    "Div": lambda a, b: np.divide(a, b) if a.dtype.kind == "f" else a // b,
    "Erf": np.vectorize(math.erf, otypes=["float32"]), "Floor": np.floor, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "Identity": np.asarray, "IsNaN": np.isnan, "Less": np.less,
    "LessOrEqual": np.less_equal, "Log": np.log, "Max": lambda *xs: reduce(np.maximum, xs),
    "Min": lambda *xs: reduce(np.minimum, xs), "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "Mul": np.multiply, "Neg": np.negative, "Not": np.logical_not, "Or": np.logical_or, "Pow": np.power,
    "PRelu": lambda x, slope: np.where(x > 0, x, slope * x), "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0), "Round": np.rint, "Sigmoid": _sigmoid, "Sign": np.sign,
    "Softplus": lambda x: np.logaddexp(x, 0), "Sqrt": np.sqrt, "Sub": np.subtract,
    "Tanh": np.tanh, "Where": np.where,
}
OPERATORS: dict[str, Callable[..., Any]] = {name: _each(function) for name, function in ELEMENTWISE.items()} | {
    "ArgMax": lambda x, axis=0, keepdims=1: np.argmax(x, axis, keepdims=bool(keepdims)),
    "Cast": lambda x, to: x.astype({dtype: dtype for dtype in DTYPES.values()}[to]),
    "Concat": _concat, "Conv": _conv, "Gather": _gather, "Gemm": _gemm, "LSTM": _lstm,
    "LayerNormalization": _layer_norm, "MatMul": _matmul, "Reshape": _reshape, "Slice": _slice, "Softmax": _softmax,
    "Split": _split,
    "Elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(x)),
    "Expand": lambda x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist()))),
    "Flatten": lambda x, axis=1: x.reshape(math.prod(x.shape[:axis]), -1),
    "LeakyRelu": lambda x, alpha=0.01: np.where(x > 0, x, alpha * x),
    "ReduceLogSumExp": _over(_log_sum_exp), "ReduceMax": _over(np.max), "ReduceMean": _over(np.mean),
    "ReduceMin": _over(np.min), "ReduceSum": _over(np.sum),
    "Shape": lambda x, start=0, end=None: np.array(x.shape[start:end]),
    "Squeeze": lambda x, axes=None: x.squeeze(None if axes is None else tuple(axes.tolist())),
    "Transpose": lambda x, perm=None: x.transpose(perm),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes.tolist())),
}
