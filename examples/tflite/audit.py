"""How much of a ``.tflite`` an Edge TPU would take, by the rules that its maker documents.

    python audit.py final_model.edge.int8.tflite

Its compiler maps operators from the beginning to the first that it does not support; that one and all after it run on
the processor. The compiler itself was not run: this shows what stands in the way, and proves nothing.
https://coral.ai/docs/edgetpu/models-intro/#supported-operations
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

SUPPORTED = {
    *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS", "FULLY_CONNECTED"),
    *("L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MUL", "PACK", "PAD", "PRELU"),
    *("QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR"),
    *("RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUEEZE"),
    *("SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV"),
}
_QUANTIZED = (np.int8, np.uint8)


@dataclass(frozen=True)
class Audit:
    """What an Edge TPU would take.

    :ivar n_operators: how many there are
    :ivar n_mapped: how many come before the first that does not map
    :ivar blocker: that one, and why
    :ivar is_static: whether every shape is known
    """

    n_operators: int
    n_mapped: int
    blocker: str
    is_static: bool

    def __str__(self) -> str:
        shapes = "static shapes" if self.is_static else "SHAPES THAT ARE NOT STATIC"
        return f"{self.n_mapped} of {self.n_operators} operators map; then {self.blocker}; {shapes}"


def audit(path: Path) -> Audit:
    """Look through the operators of a file."""
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    tensors = {details["index"]: details for details in interpreter.get_tensor_details()}
    operators: list[Any] = interpreter._get_ops_details()
    problems = [_problem(operator, tensors) for operator in operators]
    n_mapped = next((index for index, problem in enumerate(problems) if problem), len(problems))
    return Audit(
        n_operators=len(operators),
        n_mapped=n_mapped,
        blocker=problems[n_mapped] if n_mapped < len(problems) else "nothing",
        is_static=all((details["shape_signature"] >= 0).all() for details in tensors.values()),
    )


def _problem(operator: dict[str, Any], tensors: dict[int, Any]) -> str:
    """Why an operator does not map; empty where it does."""
    name = operator["op_name"]
    if name not in SUPPORTED:
        return f"{name}, which it does not support"
    for index in (operator["inputs"][0], operator["outputs"][0]):
        details = tensors[index]
        if details["dtype"] not in _QUANTIZED:
            return f"{name} of {details['dtype'].__name__}"
        if sum(size > 1 for size in details["shape"][:-3]):
            return f"{name} of the shape {details['shape'].tolist()}"
    if name == "TRANSPOSE" and len(tensors[operator["inputs"][0]]["shape"]) > 3:
        return f"{name} of four dimensions"
    return ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("policy", type=Path)
    print(audit(parser.parse_args().policy))
