"""Each operator in C against onnxruntime; all of them in one program, as compiling takes the time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sb3_clanker.writers.c.graph import UnsupportedError, read_graph
from sb3_clanker.writers.c.header import Header
from sb3_clanker.writers.c.names import parameters
from sb3_clanker.writers.c.operators.table import OPERATORS
from sb3_clanker.writers.c.views import VIEWS
from tests.writers.c.graphs import describe, graph, run_c, run_onnx

N = 40
RNG = np.random.default_rng(0)


def _weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


class _Graph:
    """A graph that grows: each case is one more output, of what goes in flattened to a row."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {"row": _ints(0, -1), "half": np.array(0.5, np.float32)}
        self.shapes: dict[str, list[int | str]] = {}
        self.operators: set[str] = set()

    def weight(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(values)
        return name

    def node(self, operator: str, inputs: Sequence[str], n_outputs: int = 1, **attributes: Any) -> list[str]:
        outputs = [f"v{len(self.nodes)}_{number}" for number in range(n_outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, **attributes))
        self.operators.add(operator)
        return outputs

    def out(self, name: str, value: str) -> None:
        """Give a value out, as floats in one row."""
        (value,) = self.node("Cast", [value], to=TensorProto.FLOAT)
        assert name not in self.shapes, name
        self.nodes.append(helper.make_node("Reshape", [value, "row"], [name]))
        self.operators.add("Reshape")
        self.shapes[name] = ["batch", "width"]

    def case(self, operator: str, *others: Any, of: str = "x", name: str = "", **attributes: Any) -> None:
        """An operator applied to an input, with weights behind that."""
        inputs = [of, *(other if isinstance(other, str) else self.weight(other) for other in others)]
        (value,) = self.node(operator, inputs, **attributes)
        self.out(name or f"{operator}{len(self.shapes)}", value)


INPUTS: dict[str, tuple[int, ...]] = {
    "x": (12,),
    "z": (12,),
    "image": (2, 7, 9),
    "sound": (3, 11),
    "grid": (3, 4),
    "positive": (5,),
    "h": (6,),
    "c": (6,),
}


def _grow() -> _Graph:
    g = _Graph()
    for operator in (
        "Abs",
        "Ceil",
        "Cos",
        "Erf",
        "Exp",
        "Floor",
        "Neg",
        "Reciprocal",
        "Relu",
        "Round",
        "Sigmoid",
        "Sign",
    ):
        g.case(operator)
    for operator in ("Sin", "Softplus", "Softsign", "Tanh", "Mish", "HardSwish", "Identity", "Dropout"):
        g.case(operator)
    for operator in ("Log", "Sqrt"):
        g.case(operator, of="positive")
    for operator in ("Celu", "Elu", "LeakyRelu", "Selu", "ThresholdedRelu", "HardSigmoid"):
        g.case(operator)
        g.case(operator, alpha=0.3)
    for operator in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        g.case(operator, "z")
        g.case(operator, _weights(12))
        g.case(operator, np.float32(0.7))
        g.case(operator, _weights(4), of="grid")
        g.case(operator, _weights(3, 1), of="grid")
    g.case("Max", "z", _weights(1, 12))
    g.case("Sum", "z", "x")
    g.case("Mean", "z", "x")
    g.case("Pow", np.float32(2.0))
    g.case("Pow", np.float32(1.5), of="positive")
    g.case("Pow", "z", of="x", name="pow")
    g.case("Mod", np.float32(1.5), fmod=1)
    g.case("PRelu", _weights(12))
    g.case("PRelu", _weights(3, 1), of="grid")
    g.case("Clip", np.float32(-0.5), np.float32(0.5))
    g.case("Clip", "", np.float32(0.5))
    g.case("Clip", np.float32(-0.5))
    for operator in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"):
        g.case(operator, "z")
    g.case("IsNaN")
    (less,) = g.node("Less", ["x", "z"])
    (more,) = g.node("Greater", ["x", "half"])
    for operator in ("And", "Or", "Xor"):
        g.case(operator, more, of=less)
    g.case("Not", of=less)
    g.case("Where", "x", "z", of=less)
    g.case("Where", "half", "z", of=less)
    for kind in (TensorProto.INT64, TensorProto.INT32, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.FLOAT):
        g.case("Cast", to=kind)
    g.case("CastLike", _ints(1))
    (whole,) = g.node("Cast", ["x"], to=TensorProto.INT64)
    g.case("Div", _ints(3), of=whole)
    g.case("Max", _ints(-1), of=whole)
    g.case("Abs", of=whole)
    (double,) = g.node("Cast", ["x"], to=TensorProto.DOUBLE)
    g.case("Tanh", of=double)
    g.case("Min", np.float64(0.25), of=double)
    # layers
    g.case("Gemm", _weights(5, 12), _weights(5), transB=1)
    g.case("Gemm", _weights(12, 5), _weights(1), alpha=0.5, beta=2.0)
    g.case("Gemm", _weights(12, 1))
    g.case("MatMul", _weights(12, 5))
    g.case("MatMul", _weights(4, 2), of="grid")
    g.case("MatMul", _weights(4), of="grid")
    (turned,) = g.node("Transpose", ["grid"], perm=[0, 2, 1])
    g.case("MatMul", turned, of="grid")
    kernel: dict[str, Any] = {"kernel_shape": [3, 3]}
    g.case("Conv", _weights(4, 2, 3, 3), _weights(4), of="image", **kernel)
    g.case("Conv", _weights(4, 2, 3, 3), of="image", pads=[1, 0, 2, 1], strides=[2, 1], **kernel)
    g.case("Conv", _weights(4, 1, 3, 3), of="image", group=2, dilations=[2, 1], **kernel)
    g.case("Conv", _weights(1, 2, 1, 1), of="image", pads=[1, 1, 1, 1], kernel_shape=[1, 1])
    g.case("Conv", _weights(2, 3, 4), _weights(2), of="sound", pads=[1, 2], kernel_shape=[4])
    for operator in ("MaxPool", "AveragePool"):
        g.case(operator, of="image", kernel_shape=[2, 3], strides=[2, 2])
        g.case(operator, of="image", kernel_shape=[2, 3], pads=[1, 1, 0, 1])
        g.case(operator, of="image", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
        g.case(operator, of="sound", kernel_shape=[1], pads=[0, 0])
    g.case("AveragePool", of="image", kernel_shape=[2, 3], pads=[1, 1, 0, 1], count_include_pad=1)
    normal = [_weights(2), _weights(2), _weights(2), np.abs(_weights(2))]
    g.case("BatchNormalization", *normal, of="image", epsilon=1e-3)
    g.case("BatchNormalization", *(np.abs(_weights(12)) for _ in range(4)))
    g.case("InstanceNormalization", _weights(2), _weights(2), of="image")
    g.case("LayerNormalization", _weights(12), _weights(12))
    g.case("LayerNormalization", _weights(4), of="grid")
    g.case("LayerNormalization", _weights(3, 4), of="grid", axis=1)
    state = [g.node("Unsqueeze", [name, g.weight(_ints(0))])[0] for name in ("x", "h", "c")]
    gates = [g.weight(_weights(1, 24, 12)), g.weight(_weights(1, 24, 6)), g.weight(_weights(1, 48))]
    for number, value in enumerate(g.node("LSTM", [state[0], *gates, "", *state[1:]], 3, hidden_size=6)):
        g.out(f"LSTM_{number}", value)
    (last,) = g.node("LSTM", [state[1], *gates[1:2] * 2, gates[2], "", *state[1:]], hidden_size=6)
    g.out("LSTM whose state nobody asks for", last)
    # reductions
    for operator in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"):
        g.case(f"Reduce{operator}", _ints(1))
        g.case(f"Reduce{operator}", _ints(2), of="image", keepdims=0)
        g.case(f"Reduce{operator}", _ints(-1, 1), of="image")
    g.case("ReduceLogSum", _ints(1), of="positive")
    for operator in ("Softmax", "LogSoftmax"):
        g.case(operator)
        g.case(operator, of="image", axis=2)
    for operator in ("ArgMax", "ArgMin"):
        g.case(operator, axis=1)
        g.case(operator, of="image", axis=2, keepdims=0)
    # views, and what moves values
    g.case("Flatten", of="image")
    g.case("Transpose", of="image", perm=[0, 3, 1, 2])
    g.case("Transpose", of="image", perm=[0, 2, 1, 3])
    g.case("Expand", _ints(1, 3, 4), of=g.node("ReduceSum", ["grid", g.weight(_ints(2))])[0])
    g.case("Squeeze", _ints(1), of=g.node("Unsqueeze", ["x", g.weight(_ints(1))])[0])
    g.case("Slice", _ints(1, -1), _ints(6, -100), _ints(2, 3), _ints(2, -3), of="image")
    g.case("Slice", _ints(2), _ints(9), _ints(1))
    for number, value in enumerate(g.node("Split", ["x", g.weight(_ints(3, 9))], 2, axis=1)):
        g.case("Tanh", of=value, name=f"split_{number}")
    for number, value in enumerate(g.node("Split", ["image"], 3, axis=3, num_outputs=3)):
        g.case("Tanh", of=value, name=f"split_image_{number}")
    g.case("Concat", "z", axis=1)
    g.case("Concat", _weights(1, 2, 7, 2), "image", of="image", axis=3)
    g.case("Concat", "image", of="image", axis=2)
    g.case("Pad", _ints(0, 1, 0, 2), np.float32(1.5))
    g.case("Pad", _ints(1, 0, 2, 1), "", _ints(2, 3), of="image")
    g.case("Gather", _ints(3, 0, -1), axis=1)
    g.case("Gather", np.array(2), of="image", axis=2)
    g.case("Gather", whole, of=g.weight(_weights(9, 4)), axis=0, name="embedding")
    return g


@pytest.fixture(scope="module")
def answers() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """What onnxruntime answers to each case, and what C does; and the header."""
    g = _grow()
    inputs = {name: RNG.normal(size=(N, *shape)).astype(np.float32) * 2 for name, shape in INPUTS.items()}
    inputs["x"][:, 3:6] = np.clip(np.round(inputs["x"][:, 3:6] * 2) / 2, -4, 4)  # ties, halves, zeros
    inputs["z"][:, 3:5] = inputs["x"][:, 3:5]
    inputs["x"], inputs["positive"] = np.clip(inputs["x"], -8, 8), np.abs(inputs["positive"])
    shapes: dict[str, tuple[int | str, ...]] = {name: ("batch", *shape) for name, shape in INPUTS.items()}
    data = graph(g.nodes, shapes, g.shapes, g.weights, types=None)
    expected = run_onnx(data, inputs)
    data = graph(g.nodes, shapes, {name: ("batch", expected[name].shape[1]) for name in g.shapes}, g.weights)
    assert set(OPERATORS) | set(VIEWS) == g.operators | {"Gelu"}, "an operator is not tried"
    return expected, run_c(data, inputs), Header(data, describe(data), "policy").text()


def test_every_operator_does_what_onnxruntime_does(
    answers: tuple[dict[str, np.ndarray], dict[str, np.ndarray], str],
) -> None:
    expected, got, _ = answers
    for name, array in expected.items():
        assert np.isfinite(array).any(), name
        np.testing.assert_allclose(got[name], array, rtol=2e-5, atol=2e-5, err_msg=name)


def test_no_parameter_has_the_name_of_a_variable_within(
    answers: tuple[dict[str, np.ndarray], dict[str, np.ndarray], str],
) -> None:
    _, body = answers[2].split("static inline void policy_step(")
    variables = set(re.findall(r"\b(?:float|double|bool|u?int\d+_t) (?:\*const )?(\w+)(?: = |\[\d\];)", body))
    assert {"best", "h_next", "lost", "total", "x0"} <= variables
    assert [name for name in variables if parameters([name], "policy")[name] == name] == []


def test_gelu() -> None:
    nodes = [
        helper.make_node("Gelu", ["x"], ["exact"]),
        helper.make_node("Gelu", ["x"], ["tanh"], approximate="tanh"),
    ]
    data = graph(nodes, {"x": ("batch", 9)}, dict.fromkeys(("exact", "tanh"), ("batch", 9)), opset=20)
    inputs = {"x": RNG.normal(size=(N, 9)).astype(np.float32)}
    got = run_c(data, inputs)
    for name, array in run_onnx(data, inputs).items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)


def test_what_is_not_a_number_is_never_swallowed() -> None:
    g = _Graph()
    for operator in ("Abs", "Ceil", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu"):
        g.case(operator)
    for operator in ("Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"):
        g.case(operator)
    for operator in ("Max", "Min", "Mul", "Add"):
        g.case(operator, np.float32(0.0))
        g.case(operator, "ones", of=g.node("Identity", ["x"])[0])
    g.case("Max", "x", of="ones")
    g.case("Min", "x", of="ones")
    g.case("Clip", np.float32(-1.0), np.float32(1.0))
    g.case("Clip", np.float64(-1.0), np.float64(1.0), of=g.node("Cast", ["x"], to=TensorProto.DOUBLE)[0], name="clip")
    g.case("Gemm", np.zeros((4, 3), np.float32))
    for operator in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceLogSumExp", "ReduceL2"):
        g.case(operator, _ints(1))
    g.case("Softmax")
    g.case("LogSoftmax")
    (image,) = g.node("Reshape", ["x", g.weight(_ints(1, 1, 2, 2))])
    g.case("MaxPool", of=image, kernel_shape=[2, 2])
    g.weights["ones"] = np.ones((1, 4), np.float32)
    del g.weights["half"]
    widths = {name: 1 if name.startswith(("ReduceM", "ReduceS", "ReduceL", "MaxP")) else 4 for name in g.shapes}
    widths |= {name: 3 for name in g.shapes if name.startswith("Gemm")}
    data = graph(g.nodes, {"x": ("batch", 4)}, {name: ("batch", width) for name, width in widths.items()}, g.weights)
    for name, array in run_c(data, {"x": np.full((1, 4), np.nan, np.float32)}).items():
        assert np.isnan(array).all(), name


@pytest.mark.parametrize(
    ("nodes", "weights", "problem"),
    [
        ([("Einsum", ["x", "x"], {"equation": "bi,bj->bij"})], {}, "operators that have no form in C here: Einsum"),
        ([("CumSum", ["x", "k"], {}), ("NonZero", [""], {})], {"k": np.array(1)}, "here: CumSum, NonZero"),
        ([("RandomNormalLike", ["x"], {})], {}, "here: RandomNormalLike"),
        ([("Mod", ["n", "k"], {})], {"k": np.array(2)}, "Mod of integers"),
        ([("Div", ["n", "n"], {})], {}, "Div of integers by a number that is computed"),
        ([("ArgMax", ["x"], {"axis": 1, "keepdims": 0}), ("ReduceSum", ["x", ""], {})], {}, "a shape that is computed"),
        ([("Tanh", ["double"], {}), ("Mish", ["double"], {})], {}, "Mish of float64"),
        ([("ReduceSum", ["double"], {})], {}, "ReduceSum of float64"),
        ([("Gemm", ["double", "k"], {})], {"k": np.zeros((4, 2))}, "Gemm of float64"),
        ([("Cast", ["x"], {"to": TensorProto.FLOAT16})], {}, "values of type float16"),
        ([("ArgMax", ["x"], {"select_last_index": 1})], {}, "ArgMax with select_last_index"),
        ([("Pad", ["x", "k"], {"mode": "edge"})], {"k": _ints(0, 1, 0, 1)}, "Pad with mode edge"),
        ([("Pad", ["x", "k"], {})], {"k": _ints(0, -1, 0, 1)}, "Pad that cuts"),
        ([("Unsqueeze", ["x", "k"], {}), ("MaxPool", [""], {"kernel_shape": [2], "auto_pad": "SAME_UPPER"})],
         {"k": _ints(0)}, "MaxPool with auto_pad"),
    ],
)  # fmt: skip
def test_what_has_no_form_in_c_is_named(nodes: Any, weights: dict[str, Any], problem: str) -> None:
    """Each node reads what is named, or the last output where the name is empty; the last output goes out."""
    made = [
        helper.make_node("Cast", ["x"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["ones"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["floats"], ["n"], to=TensorProto.INT64),
    ]
    made.insert(1, helper.make_node("Max", ["x", "one"], ["ones"]))
    last = "x"
    for number, (operator, inputs, attributes) in enumerate(nodes):
        made.append(helper.make_node(operator, [name or last for name in inputs], [f"out{number}"], **attributes))
        last = f"out{number}"
    made.append(helper.make_node("Cast", [last], ["last"], to=TensorProto.FLOAT))
    made.append(helper.make_node("Reshape", ["last", "row"], ["result"]))
    weights = weights | {"one": np.float32(1.0), "row": _ints(1, -1)}
    data = graph(made, {"x": ("batch", 4)}, {"result": ("batch", "width")}, weights)
    with pytest.raises(UnsupportedError, match=problem):
        Header(data, describe(data), "policy")


def test_a_shape_is_constant_and_what_nobody_asks_for_is_left_out() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Tanh", ["x"], ["unused"]),
        helper.make_node("Exp", ["w"], ["e"]),
        helper.make_node("Expand", ["e", "shape"], ["wide"]),
        helper.make_node("Add", ["x", "wide"], ["y"]),
    ]
    data = graph(nodes, {"x": ("batch", 3)}, {"y": ("batch", 3)}, {"w": np.float32(2.0)})
    read = read_graph(data)
    assert [node.operator for node in read.nodes] == ["Add"]
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(run_c(data, {"x": x})["y"], x + np.exp(2.0), rtol=1e-6)
