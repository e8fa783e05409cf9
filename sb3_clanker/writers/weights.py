"""Weights: the values of a proven graph by Stable-Baselines3's own names, and the graph as a list of operators."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import numpy_helper

from sb3_clanker.errors import FormatError
from sb3_clanker.formats import weights
from sb3_clanker.formats.forward import DTYPES, OPERATORS
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.run_folder.names import WEIGHTS, FileKind
from sb3_clanker.writers.further import FurtherWriter, Original

_POLICY, _OBSERVATION = "policy", "observation"
"""How names of an actor's tensors begin."""
_SAY_NOTHING = {"pads": 0, "dilations": 1, "strides": 1}
"""Attributes that need not be written where all their numbers are this."""
_TOO_MUCH = "Use the .onnx, or make the policy of simpler operators."


class WeightsWriter(FurtherWriter):
    """Weights, in a file of the format of safetensors."""

    format = "weights"

    def write(self, original: Original) -> dict[FileKind, bytes]:
        model, record = onnx.load_from_string(original.data), original.metadata
        names = {tensor.name: _name(tensor.name, record.inputs) for tensor in model.graph.initializer}
        values = [*(spec.name for spec in record.inputs), *(name for node in model.graph.node for name in node.output)]
        if len({*names.values(), *values}) < len(names) + len(values):
            twice = sorted({*names.values()}.intersection(values)) or [*names.values()]
            raise FormatError("weights", f"two values in it are called {twice[0]!r}", "Rename the observation's keys.")
        operators = [_operator(node, names, record.opset_version) for node in model.graph.node]
        graph = {"inputs": _specs(record.inputs), "outputs": _specs(record.outputs), "operators": operators}
        tensors = {names[tensor.name]: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for name, array in tensors.items():
            if array.dtype not in DTYPES.values():
                raise FormatError(
                    "weights", f"the forward pass takes no {array.dtype}, the type of {name!r}", _TOO_MUCH
                )
        entries = {weights.GRAPH: json.dumps(graph, allow_nan=False), weights.RECORD: encode(record)}
        return {WEIGHTS: weights.join(tensors, entries)}


def _name(name: str, inputs: Sequence[TensorSpec]) -> str:
    """The name of a tensor: Stable-Baselines3's own, or, of what ``predict`` does beside it, one with a slash."""
    owner, _, rest = name.partition(".")
    if owner == _POLICY:
        return rest
    if owner == _OBSERVATION:
        index, _, rest = rest.partition(".")
        return f"/{inputs[int(index)].name}.{rest}"
    return name if name.startswith("/") else f"/{name}"


def _specs(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "dtype": spec.dtype, "shape": spec.shape} for spec in specs]


def _operator(node: onnx.NodeProto, names: dict[str, str], opset_version: int) -> dict[str, Any]:
    """An operator as plain data; what the forward pass does not know is refused.

    :raises FormatError: it, or one of its attributes, is unknown
    """
    op = node.op_type
    if op not in OPERATORS:
        raise FormatError("weights", f"the forward pass has no operator {op}", _TOO_MUCH)
    inputs = [names.get(name, name) for name in node.input]
    attributes = dict(_attributes(node, opset_version))
    try:
        inspect.signature(OPERATORS[op]).bind(*inputs, **attributes)
    except TypeError as error:
        raise FormatError("weights", f"the forward pass has not all of {op}: {error}", _TOO_MUCH) from error
    return {"op": op, "inputs": inputs, "outputs": [*node.output], "attributes": attributes}


def _attributes(node: onnx.NodeProto, opset_version: int) -> Iterator[tuple[str, Any]]:
    """The attributes that are not at their defaults, as JSON has them."""
    defaults = onnx.defs.get_schema(node.op_type, opset_version, "").attributes
    for attribute in node.attribute:
        name, value = attribute.name, onnx.helper.get_attribute_value(attribute)
        default = defaults[name].default_value
        if default.type and value == onnx.helper.get_attribute_value(default):
            continue
        if name in _SAY_NOTHING and {*value} == {_SAY_NOTHING[name]}:
            continue
        if (node.op_type, name) == ("Conv", "kernel_shape"):  # the weights have it
            continue
        if (node.op_type, name) == ("Cast", "to"):
            value = onnx.helper.tensor_dtype_to_np_dtype(value).name
            if value not in DTYPES.values():
                raise FormatError("weights", f"the forward pass cannot cast to {value}", _TOO_MUCH)
        if not isinstance(value, (int, float, list, str)):
            raise FormatError("weights", f"the forward pass has not the attribute {name} of {node.op_type}", _TOO_MUCH)
        yield name, value
    if node.op_type == "Split" and len(node.input) == 1:
        yield "num_outputs", len(node.output)
