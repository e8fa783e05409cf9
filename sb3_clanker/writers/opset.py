"""A graph written in the opset that was asked for, exactly, or an error that names the operator in the way.

torch's exporter writes opset 18 and later natively. Opset 17 differs from 18 in a few operators; those that policies
use are rewritten here, each by its rule in the operator's changelog
(https://github.com/onnx/onnx/blob/main/docs/Changelog.md#version-18-of-the-default-onnx-operator-set).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from sb3_clanker.errors import UnsupportedOpsetError
from sb3_clanker.options import SUPPORTED_OPSETS

NATIVE_OPSET = 18

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def oldest_ir_version(opset_version: int) -> int:
    """The oldest IR version that allows an opset, at least 8, by onnx's own table of releases."""
    return max(8, min(row[1] for row in onnx.helper.VERSION_TABLE if row[2] >= opset_version))


def lower_opset(model: ir.Model, opset_version: int) -> None:
    """Rewrite a graph of opset 18 in an older one, in place.

    :raises UnsupportedOpsetError: an operator has no form in the older opset; it is named
    """
    unknown = sorted({node.op_type for node in model.graph if not _lower(node, opset_version)})
    if unknown:
        raise UnsupportedOpsetError(opset_version, SUPPORTED_OPSETS, unknown)
    model.opset_imports[""] = opset_version


def _lower(node: ir.Node, opset_version: int) -> bool:
    """Rewrite one node; False where there is no rule for it."""
    if node.domain or onnx.defs.get_schema(node.op_type, NATIVE_OPSET).since_version <= opset_version:
        return not node.domain
    rule = _RULES.get(node.op_type)
    return rule is not None and rule(node)


def _lower_reduction(node: ir.Node) -> bool:
    """The axes were an attribute before they became an input."""
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is not None:
        if axes.const_value is None:
            return False
        node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in axes.const_value.numpy()])
        node.resize_inputs(1)
    noop = node.attributes.pop("noop_with_empty_axes", None)
    return axes is not None or noop is None or noop.value == 0


def _lower_split(node: ir.Node) -> bool:
    """Equal parts were what a missing ``split`` meant; the number of outputs said how many."""
    node.attributes.pop("num_outputs", None)
    return True


def _lower_pad(node: ir.Node) -> bool:
    """The axes are a later addition."""
    return len(node.inputs) <= 3


_RULES: dict[str, Callable[[ir.Node], bool]] = {
    **{f"Reduce{kind}": _lower_reduction for kind in _REDUCTIONS},
    "Split": _lower_split,
    "Pad": _lower_pad,
}
