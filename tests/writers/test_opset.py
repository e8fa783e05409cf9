"""Operators that changed in opset 18 are rewritten for 17 by rule, or named."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from sb3_clanker.errors import UnsupportedOpsetError
from sb3_clanker.writers.opset import lower_opset, oldest_ir_version


def _model(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'))


def _lowered(text: str) -> onnx.ModelProto:
    model = _model(text)
    lower_opset(model, 17)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax", "ReduceLogSumExp", "ReduceL2"])
def test_axes_of_a_reduction_become_an_attribute(operator: str) -> None:
    text = f"g (float[b, 4] x) => (float[b, 1] y) <int64[1] axes = {{1}}> {{ y = {operator} <keepdims = 1> (x, axes) }}"
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    expected = onnxruntime.InferenceSession(ir.to_proto(_model(text)).SerializeToString()).run(None, {"x": x})[0]
    lowered = _lowered(text)
    assert list(lowered.graph.node[0].input) == ["x"]
    got = onnxruntime.InferenceSession(lowered.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_array_equal(got, expected)


def test_a_reduction_whose_axes_are_computed_is_named() -> None:
    text = "g (float[b, 4] x, int64[1] axes) => (float[b, 1] y) { y = ReduceMean <keepdims = 1> (x, axes) }"
    with pytest.raises(UnsupportedOpsetError, match="it needs ReduceMean"):
        lower_opset(_model(text), 17)


def test_a_split_into_equal_parts_needs_no_number() -> None:
    proto = _lowered(
        "g (float[b, 4] x) => (float[b, 2] y, float[b, 2] z) { y, z = Split <axis = 1, num_outputs = 2> (x) }"
    )
    assert [attribute.name for attribute in proto.graph.node[0].attribute] == ["axis"]
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]


def test_every_operator_in_the_way_is_named() -> None:
    text = "g (float[b, 4] x, int32[4] i) => (float[b, 4] y, int32[4] j) { y = Mish (x)  j = BitwiseNot (i) }"
    with pytest.raises(UnsupportedOpsetError, match="it needs BitwiseNot, Mish"):
        lower_opset(_model(text), 17)


def test_the_ir_version_is_the_oldest_that_allows_the_opset() -> None:
    for opset_version in range(17, 24):
        ir_version = oldest_ir_version(opset_version)
        releases = [row for row in onnx.helper.VERSION_TABLE if row[2] >= opset_version]
        assert ir_version == min(row[1] for row in releases)
