"""The graph of a policy file at a batch of one, as plain data: what is computed at each step, and what is constant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from sb3_clanker.runtime.session import one_line

Array: TypeAlias = NDArray[Any]

_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


class UnsupportedError(Exception):
    """What has no form in C here; the message says what."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tensor:
    """A value of the graph.

    :ivar name: its name in the graph
    :ivar dtype: type of its elements
    :ivar shape: its shape for one observation
    :ivar values: what it is, None where a step computes it
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    values: Array | None = None

    @property
    def size(self) -> int:
        """How many elements it has."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """An operator where it is applied.

    :ivar operator: its name in ONNX
    :ivar inputs: None for one that is left out
    :ivar outputs: None for one that nobody asks for
    :ivar attributes: as ONNX has them; texts as ``str``
    """

    operator: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    attributes: dict[str, Any]

    def input(self, index: int) -> Tensor:
        """An input that the operator cannot do without."""
        tensor = self.inputs[index]
        if tensor is None:
            raise ValueError(f"{self.operator} has no input {index}")
        return tensor

    def has_input(self, index: int) -> bool:
        """Whether an input is there that may be left out."""
        return index < len(self.inputs) and self.inputs[index] is not None

    @property
    def output(self) -> Tensor:
        """Its first output."""
        tensor = self.outputs[0]
        if tensor is None:
            raise ValueError(f"nobody asks for the first output of {self.operator}")
        return tensor


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph: what goes in, what is done in order, and what comes out.

    :ivar nodes: those alone whose outputs somebody asks for, and that compute anything
    """

    inputs: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Tensor, ...]


def read_graph(data: bytes) -> Graph:
    """The graph of a file that was proven.

    It is run once, on zeros: that shows the shape of each value, and what a value is that depends on no input.

    :param data: the bytes of the ``.onnx``
    """
    model = onnx.load_from_string(data)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    inputs = {value.name: _zeros(value) for value in model.graph.input}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {**inputs, **constants, **_run_once(model, inputs)}
    fixed = set(constants)
    for node in model.graph.node:
        if _is_constant(node, fixed):
            fixed.update(node.output)
    tensors = {
        name: Tensor(name=name, dtype=array.dtype, shape=array.shape, values=array if name in fixed else None)
        for name, array in found.items()
    }
    outputs = [value.name for value in model.graph.output]
    return Graph(
        inputs=tuple(tensors[name] for name in inputs),
        nodes=tuple(_nodes(model.graph, fixed, set(outputs), tensors)),
        outputs=tuple(tensors[name] for name in outputs),
    )


def _zeros(value: onnx.ValueInfoProto) -> Array:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    return np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def _run_once(model: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """Every value within the graph, where its inputs are these."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    names = [name for node in probe.graph.node for name in node.output if name]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, inputs), strict=True))
    except Exception as error:  # onnxruntime has no root of its own errors
        raise UnsupportedError(f"a graph that cannot be run on zeros: {one_line(error)}") from error


def _is_constant(node: onnx.NodeProto, fixed: set[str]) -> bool:
    """Whether what a node gives is the same at each step. A shape is: the batch is one."""
    if node.op_type in _RANDOM:
        return False
    return node.op_type in ("Shape", "Size") or all(name in fixed for name in node.input if name)


def _nodes(graph: onnx.GraphProto, fixed: set[str], wanted: set[str], tensors: dict[str, Tensor]) -> Iterator[Node]:
    """What somebody asks for, and no constant knows, in order."""
    live = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output) and not fixed.issuperset(filter(None, node.output)):
            wanted.update(node.input)
            live.append(node)
    for node in reversed(live):
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        yield Node(
            operator=node.op_type,
            inputs=tuple(tensors[name] if name else None for name in node.input),
            outputs=tuple(tensors[name] if name in wanted else None for name in node.output),
            attributes={
                name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()
            },
        )
