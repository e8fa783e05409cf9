"""What every file promises, checked against the graph itself.

The promise is the clanker policy contract: nine flat metadata keys, the names, types and shapes of inputs and outputs,
one self-contained file without a trace of the machine it was made on.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx.external_data_helper import uses_external_data

from sb3_clanker.policy_file.dialects import dialect_of
from sb3_clanker.policy_file.entries import contract_entries
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec

_INPUT_TYPES = {
    "observation": ("float32", "uint8"),
    "action_masks": ("bool",),
    "hidden_state": ("float32",),
    "cell_state": ("float32",),
    "episode_start": ("float32",),
    "unused": ("float32",),
}


def contract_problems(model: onnx.ModelProto, metadata: PolicyMetadata) -> list[str]:
    """Every promise that a file breaks, one line each; empty for a good file.

    :param model: the file, parsed
    :param metadata: what the file says of itself
    """
    return [
        *_flat_keys(model, metadata),
        *_versions(model, metadata),
        *_values("input", model.graph.input, metadata.inputs),
        *_values("output", model.graph.output, metadata.outputs),
        *_roles(metadata),
        *_self_contained(model.graph),
        *_anonymous(model),
    ]


def _flat_keys(model: onnx.ModelProto, metadata: PolicyMetadata) -> Iterator[str]:
    entries = {entry.key: entry.value for entry in model.metadata_props}
    for key, expected in contract_entries(metadata).items():
        if entries.get(key) != expected:
            yield f"metadata key {key!r} is {entries.get(key)!r}, expected {expected!r}"


def _versions(model: onnx.ModelProto, metadata: PolicyMetadata) -> Iterator[str]:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": metadata.opset_version}:
        yield f"operator sets are {opsets}, expected the default one at {metadata.opset_version} alone"
    if model.ir_version != metadata.ir_version:
        yield f"IR version is {model.ir_version}, expected {metadata.ir_version}"


def _values(kind: str, values: list[onnx.ValueInfoProto], specs: tuple[TensorSpec, ...]) -> Iterator[str]:
    found = [_signature(value) for value in values]
    expected = [(spec.name, spec.dtype, spec.shape) for spec in specs]
    if found != expected:
        yield f"{kind}s are {found}, expected {expected}"


def _signature(value: onnx.ValueInfoProto) -> tuple[str, str, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else "undefined"
    return value.name, dtype, tuple(dim.dim_value or dim.dim_param for dim in tensor.shape.dim)


def _roles(metadata: PolicyMetadata) -> Iterator[str]:
    first, dialect = metadata.outputs[0], dialect_of(metadata.outputs)
    name, expected = dialect.action, (BATCH, dialect.action_width(metadata.action_space))
    if (first.name, first.dtype, first.shape) != (name, "float32", expected):
        yield f"the first output is {first.name} {first.dtype} {first.shape}, expected {name} float32 {expected}"
    for spec in metadata.inputs:
        if spec.dtype not in _INPUT_TYPES.get(spec.role, ()):
            yield f"input {spec.name!r} of role {spec.role!r} is {spec.dtype}, expected {_INPUT_TYPES.get(spec.role)}"


def _self_contained(graph: onnx.GraphProto) -> Iterator[str]:
    for tensor in graph.initializer:
        if uses_external_data(tensor):
            yield f"weight {tensor.name!r} lies in another file"


def _anonymous(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    if model.functions:
        yield "it holds local functions, which some runtimes lack"
    if graph.value_info:
        yield "it holds value_info, which some consumers take for more than a hint"
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        if part.doc_string or (part is not model and part.metadata_props):
            name = part.name if part is not model else "model"
            yield f"{type(part).__name__} {name!r} carries notes of the exporter"
