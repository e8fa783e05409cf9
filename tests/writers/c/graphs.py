"""Small graphs as policies, to be written in C and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sb3_clanker.formats.c import compile_header
from sb3_clanker.policy_file.record import NormalizationRecord, PolicyMetadata, Provenance, TrainingRecord
from sb3_clanker.policy_file.spaces import BoxSpace
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec
from sb3_clanker.writers.c.header import Header

Array = np.ndarray[Any, np.dtype[Any]]


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 18,
    types: Mapping[str, int] | None = None,
) -> bytes:
    """The bytes of a graph whose inputs and outputs are floats, unless ``types`` says otherwise."""
    kinds = types or {}

    def values(shapes: Mapping[str, Sequence[int | str]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), list(shape))
            for name, shape in shapes.items()
        ]

    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    made = helper.make_graph(list(nodes), "policy", values(inputs), values(outputs), initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 20 else 9)
    return bytes(model.SerializeToString())


def describe(data: bytes, roles: Mapping[str, Any] | None = None) -> PolicyMetadata:
    """A record of a graph."""
    model = onnx.load_from_string(data)

    def specs(values: Any, role: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name=value.name,
                dtype=helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                shape=tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
                role=(roles or {}).get(value.name, role),
                meaning="anything",
            )
            for value in values
        )

    inputs, outputs = specs(model.graph.input, "observation"), specs(model.graph.output, "further")
    assert all(BATCH in spec.shape for spec in (*inputs, *outputs))
    space = BoxSpace(shape=(1,), dtype="float32", low=-1.0, high=1.0)
    return PolicyMetadata(
        algorithm="PPO",
        policy_class="none",
        observation_space=space,
        action_space=space,
        inputs=inputs,
        outputs=outputs,
        predict_dtype="float32",
        recurrent=False,
        opset_version=18,
        ir_version=8,
        normalization=NormalizationRecord(status="none"),
        training=TrainingRecord(num_timesteps=0),
        provenance=Provenance(created="2026-01-01T00:00:00+00:00", versions={}),
        digest=f"sha256:{'0' * 64}",
    )


def run_onnx(data: bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What onnxruntime makes of a graph, unchanged, row by row."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    n = len(next(iter(inputs.values())))
    rows = [session.run(names, {name: array[i : i + 1] for name, array in inputs.items()}) for i in range(n)]
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}


def run_c(data: bytes, inputs: Mapping[str, Array], metadata: PolicyMetadata | None = None) -> dict[str, Array]:
    """What C makes of it, row by row."""
    metadata = metadata or describe(data)
    runner = compile_header(Header(data, metadata, "policy").text().encode(), metadata)
    names = [spec.name for spec in metadata.outputs]
    return dict(zip(names, runner.run(names, dict(inputs)), strict=True))
