"""The operators that have a form in C. To add one, write it beside its like, and enter it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from sb3_clanker.writers.c.code import Code
from sb3_clanker.writers.c.graph import Graph, Node
from sb3_clanker.writers.c.operators.elementwise import EXPRESSIONS, elementwise
from sb3_clanker.writers.c.operators.layers import (
    batch_normalization,
    conv,
    gemm,
    layer_normalization,
    lstm,
    matmul,
    pool,
)
from sb3_clanker.writers.c.operators.moving import concat, gather, pad
from sb3_clanker.writers.c.operators.reductions import argmax, reduce, softmax
from sb3_clanker.writers.c.views import VIEWS

Write: TypeAlias = Callable[[Node, Code], None]
"""Writes what a node does."""

OPERATORS: Mapping[str, Write] = {
    **dict.fromkeys(EXPRESSIONS, elementwise),
    **dict.fromkeys(("ArgMax", "ArgMin"), argmax),
    **dict.fromkeys(("AveragePool", "MaxPool"), pool),
    "BatchNormalization": batch_normalization,
    "Concat": concat,
    "Conv": conv,
    "Gather": gather,
    "Gemm": gemm,
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization"), layer_normalization),
    "LSTM": lstm,
    **dict.fromkeys(("LogSoftmax", "Softmax"), softmax),
    "MatMul": matmul,
    "Pad": pad,
    **dict.fromkeys(
        (
            *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
            *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        ),
        reduce,
    ),
}
"""By the name of the operator in ONNX; beside these there are :data:`sb3_clanker.writers.c.views.VIEWS`."""

IN_PLACE = frozenset(EXPRESSIONS)
"""Those that have read all that an element needs when they write it."""


def unknown_operators(graph: Graph) -> list[str]:
    """The operators of a graph that have no form in C, sorted."""
    return sorted({node.operator for node in graph.nodes} - set(OPERATORS) - set(VIEWS))
