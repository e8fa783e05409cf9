"""Whether a graph may be handed to onnxruntime: what loading it costs must not exceed what its file weighs.

onnxruntime computes while it loads: it follows references to other files, inlines functions, infers shapes, and
evaluates what depends on constants alone. A file of a few hundred bytes can so make it read another file, take ten
gigabytes or run for hours. A policy needs none of that. So this module reads the graph as the plain protocol buffer
message that it is, without evaluating anything, and refuses what no exported policy has.

It bounds the load, not the run: what running a hostile graph costs in time and memory is up to the graph.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from sb3_clanker.policy_file.container import read_fields

_MAX_FIELDS = 1 << 18
_MAX_NODES = 1 << 12
_MAX_DEPTH = 4
_MAX_RANK = 64
_MAX_SMALL = 1 << 12
"""Bytes of what is small in every policy: a name, an attribute, the declaration of an input."""
_MAX_SHAPE = 1 << 10
"""Dimensions that a shape has at most, as far as can be known."""
_MAX_COMPUTED = 1 << 12
"""Whole numbers that are put together before the graph runs; they are shapes, of a few dimensions each."""
_MAX_FOLDED = 1 << 24
"""Elements that onnxruntime may compute in advance, all together."""
_MAX_SPREAD = 8
"""Constants that are repeated for every observation; onnxruntime must know how large they may become."""

_SHAPE_INPUT = {"ConstantOfShape": 0}
_SHAPE_INPUT |= dict.fromkeys(["AffineGrid", "Col2Im", "Expand", "Reshape", "Tile", "Unsqueeze"], 1)
_DEFAULT_DOMAIN = ("", "ai.onnx")
_STRING, _INTEGERS = 8, (6, 7)  # of TensorProto.DataType: int32 and int64
_SAME_RANK = {
    "Abs",
    "Cast",
    "Exp",
    "Floor",
    "Identity",
    "Neg",
    "Not",
    "Reciprocal",
    "ReduceProd",
    "Slice",
    "Sqrt",
    "Squeeze",
}
_SAME_SIZE = _SAME_RANK | {"Reshape", "Transpose", "Unsqueeze"}
_BROADCAST = {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Where"}
_ANY_SIZE = 1 << 62
_MAX_ATTRIBUTE = 1 << 20
"""Of whole numbers in attributes: widths, strides and the like; some larger or negative ones crash onnxruntime."""
_VARIADIC = ("Concat", "Einsum", "Max", "Mean", "Min", "Sum")
_MAY_BE_NEGATIVE = (b"axis", b"axes", b"start", b"end")


class _Known(NamedTuple):
    """A value that is known before the graph runs.

    :ivar size: how many elements it has at most
    :ivar is_integer: whether it may be whole numbers, from which onnxruntime infers shapes
    :ivar is_flat: whether it has one dimension at most
    :ivar as_shape: how many elements a tensor has at most that is given it as a shape
    :ivar is_shape: whether it is made of the shapes of other values; these may be known only when the graph runs
    """

    size: int
    is_integer: bool
    is_flat: bool
    as_shape: int = _ANY_SIZE
    is_shape: bool = False


class HostileGraphError(ValueError):
    """A graph that no exported policy has; turned into a typed error where the file's name is known."""


def screen(body: Iterable[memoryview], *, is_limited: bool) -> bool:
    """Refuse a graph whose loading could cost more than its file weighs, or read another file.

    :param body: the stretches of a file that are not metadata
    :param is_limited: whether onnxruntime keeps a limit of its own for each value that it computes in advance
    :return: whether what depends on constants alone may be computed in advance: it is small for certain
    :raises HostileGraphError: for the reason in the message
    :raises MalformedContainerError: the bytes are no protocol buffer message
    """
    found = _Screen()
    found.model(body)
    return found.foldable and found.folded <= _MAX_FOLDED and found.n_spread <= (_MAX_SPREAD if is_limited else 0)


class _Screen:
    """One pass over a graph, counting.

    :ivar defined: every value so far
    :ivar known: those of them that are known before the graph runs
    """

    def __init__(self) -> None:
        self.defined: set[bytes] = set()
        self.known: dict[bytes, _Known] = {}
        self.foldable = True
        self.folded = self.n_fields = self.n_nodes = self.n_spread = 0

    def model(self, body: Iterable[memoryview]) -> None:
        graphs = []
        for stretch in body:
            for number, value in self._read(stretch):
                if number == 7:
                    graphs.append(value)
                elif number == 8:
                    for domain in self._pick(value, 1):
                        _require_default_domain(domain)
                elif number in (20, 25):
                    _refuse("it holds functions of its own, or a graph for training")
        for graph in graphs:
            self._graph(graph, 0)
        if len(graphs) > 1:
            _refuse("it holds several graphs")

    def _graph(self, view: memoryview, depth: int) -> None:
        if depth > _MAX_DEPTH:
            _refuse(f"graphs are nested more than {_MAX_DEPTH} deep")
        if depth:
            self.foldable = False
        fields = self._read(view)
        for number, value in fields:
            if number == 5:
                name, known = self._tensor(value)
                self._learn([name], known)
            elif number == 15:
                _refuse("it holds a sparse tensor")
            elif number in (11, 12, 13):
                if len(value) > _MAX_SMALL:
                    _refuse(f"the declaration of a value takes {len(value):,} bytes")
                if number == 11:
                    self.defined.update(self._pick(value, 1))
        for number, value in fields:
            if number == 1:
                self._node(value, depth)

    def _node(self, view: memoryview, depth: int) -> None:
        self.n_nodes += 1
        if self.n_nodes > _MAX_NODES:
            _refuse(f"it has more than {_MAX_NODES:,} nodes")
        inputs: list[bytes] = []
        outputs: list[bytes] = []
        operator = b""
        attributes = []
        for number, value in self._read(view):
            if number == 1:
                inputs.append(bytes(value))
            elif number == 2:
                outputs.append(bytes(value))
            elif number == 4:
                operator = bytes(value)
            elif number == 5:
                attributes.append(value)
            elif number == 7:
                _require_default_domain(bytes(value))
        constants = [self._attribute(attribute, depth, len(inputs) + len(outputs)) for attribute in attributes]
        constant = max(constants, default=None)
        if not self.defined.issuperset(name for name in inputs if name):
            _refuse(f"its nodes are out of order: {_show(operator)} comes before what it takes")
        self._follow(operator.decode(errors="replace"), inputs, outputs, constant)
        self.defined.update(outputs)

    def _attribute(self, view: memoryview, depth: int, n_ends: int) -> _Known:
        """Check an attribute, and describe the tensor or the numbers in it."""
        tensor: _Known | None = None
        small = n_tensors = n_graphs = 0
        name = b""
        integers: list[int] = []
        for number, value in self._read(view):
            if number == 5:
                n_tensors += 1
                _, tensor = self._tensor(value)
            elif number == 6:
                n_graphs += 1
                self._graph(value, depth + 1)
            elif number in (10, 11, 22, 23):
                _refuse("an attribute holds sparse tensors, or several tensors or graphs")
            else:
                small += len(value) + 1
                if number == 1:
                    name = bytes(value)
                elif number in (3, 8):
                    integers += _varints(value)
        if small > _MAX_SMALL:
            _refuse(f"the attribute {_show(name)} takes {small:,} bytes")
        if n_tensors > 1 or n_graphs > 1:
            _refuse(f"the attribute {_show(name)} is given twice")
        lowest = -_MAX_ATTRIBUTE if name in _MAY_BE_NEGATIVE else 0
        highest = n_ends if name in (b"num_outputs", b"num_scan_inputs") else _MAX_ATTRIBUTE
        for integer in integers:
            if not lowest <= integer <= highest and not name.startswith(b"value"):  # those of a Constant
                _refuse(f"the attribute {_show(name)} is {integer}")
        return tensor or _Known(small, is_integer=True, is_flat=True)

    def _tensor(self, view: memoryview) -> tuple[bytes, _Known]:
        """Check a tensor; return its name, and what is known of it."""
        name, values, element_type = b"", memoryview(b""), 0
        dims: list[int] = []
        for number, value in self._read(view):
            if number == 1:
                dims += _varints(value)
            elif number == 2:
                element_type = _unsigned(value)
            elif number == 8:
                name = bytes(value)
            elif number == 9:
                values = value
            elif number == 13 or (number == 14 and _unsigned(value)):
                _refuse(f"the values of {_show(name)} are in another file (external data)")
            if len(dims) > _MAX_RANK:
                _refuse(f"a tensor has more than {_MAX_RANK} dimensions")
        if element_type == _STRING:
            _refuse(f"{_show(name)} is a tensor of text")
        if min(dims, default=0) < 0 or math.prod(dim or 1 for dim in dims) > max(4 * len(view), 1):
            _refuse(f"{_show(name)} claims the shape {dims[:8]}, and {len(view):,} bytes hold it")
        size, is_integer = math.prod(dims), element_type in _INTEGERS
        as_shape = _size_of_shape(values) if is_integer and len(values) == 8 * size <= 8 * _MAX_RANK else _ANY_SIZE
        return name, _Known(size, is_integer, len(dims) <= 1, as_shape)

    def _learn(self, names: Iterable[bytes], known: _Known) -> None:
        for name in names:
            other = self.known.get(name, known)  # branches may use a name again
            self.defined.add(name)
            self.known[name] = _Known(
                max(known.size, other.size),
                known.is_integer or other.is_integer,
                known.is_flat and other.is_flat,
                max(known.as_shape, other.as_shape),
                known.is_shape and other.is_shape,
            )

    def _follow(self, operator: str, inputs: list[bytes], outputs: list[bytes], constant: _Known | None) -> None:
        """Learn what a node computes before the graph runs, and refuse what may grow without end."""
        if operator in ("Shape", "Size"):
            self._learn(outputs, _Known(_MAX_RANK, is_integer=True, is_flat=True, is_shape=True))
            return
        if operator == "Constant":
            self._learn(outputs, constant or _Known(0, is_integer=True, is_flat=True))
            return
        self._check_inputs(operator, inputs)
        given = [self.known.get(name) for name in inputs if name]
        known = [value for value in given if value is not None]
        if len(known) < len(given):
            return
        is_flat = all(value.is_flat for value in known)
        is_integer = all(value.is_integer for value in known)
        size = _folded_size(operator, [value.size for value in known], is_flat)
        if operator == "Reshape" and size is not None:
            size = max(size, known[-1].as_shape)  # where they contradict each other, onnxruntime believes the shape
        is_shape = any(value.is_shape for value in known)
        if is_shape and (operator in ("ConstantOfShape", "Expand") or (size is not None and size >= _ANY_SIZE)):
            self.n_spread += 1
        elif size is None:
            self.foldable = False
        else:
            self.folded += size
        size = _ANY_SIZE if size is None else size
        if operator in ("Concat", "Gather") and is_integer and _MAX_COMPUTED < size < _ANY_SIZE:
            _refuse(f"{operator} puts {size:,} whole numbers together before the graph runs")
        keeps_rank = operator in _SAME_RANK or operator in _BROADCAST or operator in ("Concat", "Gather")
        self._learn(outputs, _Known(size, is_integer or operator == "Cast", is_flat and keeps_rank, is_shape=is_shape))

    def _check_inputs(self, operator: str, inputs: list[bytes]) -> None:
        """Refuse what crashes onnxruntime, and a shape of which it is not sure that it has few dimensions."""
        if operator in _VARIADIC and b"" in inputs:
            _refuse(f"{operator} is given nothing")  # which crashes onnxruntime when it runs
        position = _SHAPE_INPUT.get(operator, len(inputs))
        if position < len(inputs) and inputs[position]:
            shape = self.known.get(inputs[position])
            if shape is None or shape.size > _MAX_SHAPE:
                _refuse(f"{operator} is given a shape of which it is not known how many dimensions it has, or of many")
        if operator == "OneHot" and (len(inputs) < 2 or inputs[1] not in self.known or not self.known[inputs[1]].size):
            _refuse("OneHot is not given a depth")  # which crashes onnxruntime

    def _pick(self, view: memoryview, wanted: int) -> list[bytes]:
        """Every value of one field."""
        return [bytes(value) for number, value in self._read(view) if number == wanted]

    def _read(self, view: memoryview) -> list[tuple[int, memoryview]]:
        fields = [(number, view[payload:end]) for number, _, payload, end in read_fields(view)]
        self.n_fields += len(fields)
        if self.n_fields > _MAX_FIELDS:
            _refuse(f"it has more than {_MAX_FIELDS:,} parts")
        return fields


def _folded_size(operator: str, sizes: list[int], is_flat: bool) -> int | None:
    """The most elements that a node on constants can give; None where that is not known."""
    if not sizes:
        return None
    if operator in _SAME_SIZE:
        return sizes[0]
    if operator == "Concat":
        return min(sum(sizes), _ANY_SIZE)
    if operator == "Gather":
        return sizes[-1] if is_flat else min(math.prod(sizes[:2]), _ANY_SIZE)
    if operator in _BROADCAST:
        return max(sizes) if is_flat else min(math.prod(sizes[:_MAX_RANK]), _ANY_SIZE)
    return None


def _require_default_domain(domain: bytes) -> None:
    if domain.decode(errors="replace") not in _DEFAULT_DOMAIN:
        _refuse(f"it uses operators of the domain {_show(domain)}, and a policy needs those of ONNX alone")


def _varints(view: memoryview) -> list[int]:
    """One whole number, or several packed."""
    numbers, value, shift = [], 0, 0
    if len(view) > _MAX_SMALL:
        _refuse(f"a list of whole numbers takes {len(view):,} bytes")
    for byte in view:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value - (1 << 64) if value >> 63 else value)
            value = shift = 0
    return numbers


def _size_of_shape(values: memoryview) -> int:
    """How many elements a shape of 64-bit whole numbers stands for; -1 and 0 stand for what fits."""
    dims = (int.from_bytes(values[first : first + 8], "little", signed=True) for first in range(0, len(values), 8))
    return math.prod(abs(dim) or 1 for dim in dims)


def _unsigned(view: memoryview) -> int:
    return sum((byte & 0x7F) << (7 * index) for index, byte in enumerate(view[:10]))


def _show(name: bytes) -> str:
    return repr(name[:60].decode(errors="replace"))


def _refuse(reason: str) -> NoReturn:
    raise HostileGraphError(reason)
