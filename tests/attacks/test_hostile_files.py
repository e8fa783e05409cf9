"""Damaged, foreign and hostile files: each is refused with a typed error, in bounded time and memory, or read."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from gymnasium import spaces
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC

from sb3_clanker import ClankerError, ExportOptions, OnnxPolicy, export_policy, read_metadata
from sb3_clanker.cli.main import main as command_line
from sb3_clanker.errors import (
    InferenceError,
    MetadataError,
    MissingFileError,
    PolicyFileError,
    SchemaVersionError,
    UnreadableFileError,
    UnsafeGraphError,
    VectorsError,
    VectorsMismatchError,
)
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.entries import RECORD_KEY
from sb3_clanker.policy_file.reading import parse, read_file
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.seal import stamp
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.runtime.check_vectors import check_vectors
from tests.attacks.mutants import MEMORY, seal
from tests.policy_file.sealing import resealed
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, UNBOUNDED_OBSERVATION, make_model

ROOT = Path(__file__).parents[2]
N_MUTANTS = 400
N_MUTANTS_IN_FULL = 20_000


@dataclass(frozen=True, kw_only=True)
class File:
    """An exported file, its graph and its metadata; its policy takes ``obs`` of 3 and gives ``action`` of 2."""

    path: Path
    data: bytes
    body: bytes
    entries: dict[str, str]
    metadata: PolicyMetadata

    @property
    def record(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.entries[RECORD_KEY])
        return document

    def seal(self, record: object) -> bytes:
        """The file with another record, and a valid digest."""
        return seal(self.body, json.dumps(record), self.entries)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Policies of several kinds, small enough to be read thousands of times."""
    folder = tmp_path_factory.mktemp("policies")
    image = spaces.Box(0, 255, (2, 8, 8), np.uint8)
    both = spaces.Dict({"arm": BOX_OBSERVATION, "mode": spaces.Discrete(3), "bits": spaces.MultiBinary(2)})
    told = ExportOptions(further_outputs=("distribution",), test_vectors=3)
    models: dict[str, tuple[Any, ExportOptions]] = {
        "box": (make_model(PPO, UNBOUNDED_OBSERVATION, BOX_ACTION, normalize=True), told),
        "discrete": (make_model(PPO, BOX_OBSERVATION, spaces.MultiDiscrete([3, 2])), told),
        "dict": (make_model(PPO, both, BOX_ACTION, policy="MultiInputPolicy"), ExportOptions()),
        "image": (make_model(PPO, image, spaces.Discrete(3)), ExportOptions()),
        "sac": (make_model(SAC, BOX_OBSERVATION, BOX_ACTION), ExportOptions()),
        "godot": (
            make_model(PPO, BOX_OBSERVATION, spaces.MultiDiscrete([3, 2])),
            ExportOptions(target="godot", test_vectors=3),
        ),
        "mask": (make_model(MaskablePPO, BOX_OBSERVATION, spaces.Discrete(3)), told),
        "recurrent": (make_model(RecurrentPPO, policy="MlpLstmPolicy", normalize=True), told),
    }
    for name, (model, options) in models.items():
        export_policy(model, folder / f"{name}.onnx", options=options)
    for path in (ROOT / "tests" / "policy_file").glob("version_*.onnx"):  # their records have most of what there can be
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def box(folder: Path) -> File:
    path = folder / "box.onnx"
    data = path.read_bytes()
    body, entries = split_container(data)
    return File(path=path, data=data, body=b"".join(body), entries=entries, metadata=read_metadata(path))


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """See that onnxruntime is never given the file."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the graph was handed to onnxruntime")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)


# Graphs -------------------------------------------------------------------------------------------------------------
# Each stands in a file with a record that fits it and a valid digest, as anybody can compute one.

WEIGHT = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
MATMUL = helper.make_node("MatMul", ["obs", "w"], ["product"])


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    *tensors: onnx.TensorProto,
    domains: Sequence[str] = (),
    opset_version: int = 18,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model from ``obs`` to ``action``."""
    graph = helper.make_graph(
        list(nodes),
        "policy",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", 2])],
        [WEIGHT, *tensors],
    )
    opsets = [helper.make_opsetid("", opset_version), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)


def then_add(name: str) -> list[onnx.NodeProto]:
    """What makes the action depend on a value."""
    total = helper.make_node("ReduceSum", [name], ["total"], keepdims=0)
    return [total, helper.make_node("Add", ["product", "total"], ["action"])]


def whole(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def claim(name: str, dims: Sequence[int], raw: bytes | None = b"", element_type: int = TensorProto.FLOAT) -> Any:
    """A tensor that says what it likes of itself."""
    tensor = onnx.TensorProto(name=name, data_type=element_type, dims=dims)
    if raw is not None:
        tensor.raw_data = raw
    return tensor


def elsewhere(location: str, name: str = "v") -> onnx.TensorProto:
    """A tensor whose values are in another file."""
    tensor = onnx.TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=[3, 2], data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in {"location": location, "offset": "0", "length": "24"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def branch(node: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("v", TensorProto.FLOAT, None)])


def nested(depth: int) -> onnx.NodeProto:
    inner = nested(depth - 1) if depth else helper.make_node("Identity", ["product"], ["v"])
    return helper.make_node("If", ["yes"], ["v"], then_branch=branch(inner), else_branch=branch(inner))


def doubled(n: int, operator: str = "Concat", first: str = "n") -> list[onnx.NodeProto]:
    """A chain that doubles what it is given, n times."""
    names = [first, *(f"d{index}" for index in range(n - 1)), "v"]
    attributes: dict[str, Any] = {"axis": 0} if operator == "Concat" else {}
    return [helper.make_node(operator, [given] * 2, [got], **attributes) for given, got in itertools.pairwise(names)]


def sealed(box: File, model: onnx.ModelProto | bytes) -> bytes:
    """A graph of somebody else, with a record that fits it and a valid digest."""
    outputs = box.metadata.outputs[:1]
    metadata = replace(box.metadata, outputs=outputs, sampling=None)
    return stamp(model if isinstance(model, bytes) else model.SerializeToString(), metadata)


def test_a_graph_of_somebody_else_is_loaded_where_nothing_is_wrong_with_it(box: File) -> None:
    model = graph_of([helper.make_node("MatMul", ["obs", "w"], ["action"])])
    action, _ = OnnxPolicy.from_bytes(sealed(box, model)).predict(np.ones(3, np.float32))
    np.testing.assert_array_equal(action, [3.0, 3.0])


def _external() -> dict[str, onnx.ModelProto]:
    use = [MATMUL, *then_add("v")]
    constant = helper.make_node("Constant", [], ["v"], value=elsewhere("secret"))
    condition = helper.make_node("If", ["yes"], ["v"], then_branch=branch(constant), else_branch=branch(constant))
    yes = numpy_helper.from_array(np.array(True), "yes")
    marked = claim("v", [3, 2], None)
    marked.data_location = onnx.TensorProto.EXTERNAL
    unmarked = elsewhere("secret")
    unmarked.data_location = onnx.TensorProto.DEFAULT
    return {
        "in the same folder": graph_of(use, elsewhere("secret")),
        "in the folder above": graph_of(use, elsewhere("../secret")),
        "anywhere": graph_of(use, elsewhere("/proc/self/environ")),
        "in memory": graph_of(use, elsewhere("*/_ORT_MEM_ADDR_/*")),
        "nowhere": graph_of(use, marked),
        "without the mark": graph_of(use, unmarked),
        "of a constant": graph_of([MATMUL, constant, *then_add("v")]),
        "in a branch": graph_of([MATMUL, condition, *then_add("v")], yes),
    }


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("name", _external())
def test_a_graph_with_values_in_another_file_is_refused(box: File, name: str) -> None:
    with pytest.raises(UnsafeGraphError, match=re.escape("are in another file (external data)")) as raised:
        OnnxPolicy.from_bytes(sealed(box, _external()[name]))
    assert isinstance(raised.value, PolicyFileError)


@pytest.mark.parametrize("name", ["in the same folder", "of a constant", "in a branch"])
def test_a_file_that_a_graph_points_to_is_not_opened(box: File, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "secret")  # whoever opens it waits for ever
    (tmp_path / "policy.onnx").write_bytes(sealed(box, _external()[name]))
    script = "from sb3_clanker import OnnxPolicy\nOnnxPolicy('policy.onnx')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "UnsafeGraphError" in done.stderr.splitlines()[-1]


def _unsafe() -> dict[str, tuple[onnx.ModelProto, str]]:
    use = [MATMUL, *then_add("v")]
    own = helper.make_node("f", ["product"], ["action"], domain="own")
    doubling = [
        helper.make_function(
            "own",
            "f" if index == 29 else f"f{index}",
            ["a"],
            ["b"],
            [
                helper.make_node(f"f{index - 1}" if index else "Abs", [x], [y], domain="own" if index else "")
                for x, y in ("ac", "cb")
            ],
            [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
        )
        for index in range(30)
    ]
    without_import = graph_of([MATMUL, own], functions=doubling)
    several = graph_of(use, claim("v", [1], b"0000"))
    sparse = graph_of(use)
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), "v"), whole("i", 5)
    sparse.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40]))
    sparse_constant = helper.make_node("Constant", [], ["v"], sparse_value=sparse.graph.sparse_initializer[0])
    twice = helper.make_node("Constant", [], ["v"], value=claim("v", [1000], bytes(4000)))
    huge_name = "v" * 5000
    shaped = [MATMUL, helper.make_node("ConstantOfShape", ["n"], ["v"]), *then_add("v")]
    counted = [MATMUL, helper.make_node("Shape", ["obs"], ["n"])]
    grown = [helper.make_node("ConstantOfShape", ["v"], ["w2"]), *then_add("w2")]
    ranked = [MATMUL, helper.make_node("Reshape", ["one", "n"], ["v"]), *grown]
    depth = helper.make_node("DepthToSpace", ["obs"], ["v"], blocksize=1 << 33)
    gather = helper.make_node("GatherND", ["obs", "n"], ["v"], batch_dims=-1)
    one_hot = helper.make_node("OneHot", ["n", "nothing", "w"], ["v"])
    nothing = numpy_helper.from_array(np.zeros(0, np.float32), "nothing")
    identities = [helper.make_node("Identity", ["product"], [f"i{index}"]) for index in range(5000)]
    yes = numpy_helper.from_array(np.array(True), "yes")
    named = graph_of(use, claim("v", [1], b"0000"))
    named.graph.value_info.append(helper.make_tensor_value_info(huge_name, TensorProto.FLOAT, [1]))
    model: dict[str, tuple[onnx.ModelProto, str]] = {
        "a function of its own": (graph_of([MATMUL, own], domains=["own"], functions=doubling), "domain 'own'"),
        "a function without its domain": (without_import, "functions of its own"),
        "an operator of nobody": (graph_of([MATMUL, own], domains=["own"]), "operators of the domain 'own'"),
        "an operator of Microsoft": (
            graph_of([MATMUL, helper.make_node("Gelu", ["product"], ["action"], domain="com.microsoft")]),
            "operators of the domain 'com.microsoft', and a policy needs those of ONNX alone",
        ),
        "an operator of machine learning": (graph_of([MATMUL], domains=["ai.onnx.ml"]), "domain 'ai.onnx.ml'"),
        "several graphs": (several, "several graphs"),
        "a sparse tensor": (sparse, "a sparse tensor"),
        "a sparse constant": (graph_of([MATMUL, sparse_constant, *then_add("v")]), "sparse tensors"),
        "a constant given twice": (graph_of([MATMUL, twice, *then_add("v")]), "given twice"),
        "a huge tensor of text": (graph_of(use, claim("v", [1 << 30], None, TensorProto.STRING)), "a tensor of text"),
        "many nodes": (graph_of([MATMUL, *identities, *then_add("i7")]), "more than 4,096 nodes"),
        "branches in branches": (graph_of([MATMUL, nested(8), *then_add("v")], yes), "nested more than 4 deep"),
        "a long declaration": (named, "the declaration of a value takes 5,0"),
        "a long attribute": (
            graph_of([MATMUL, helper.make_node("Transpose", ["w"], ["v"], perm=[0] * 5000), *then_add("v")]),
            "the attribute 'perm' takes",
        ),
        "nodes out of order": (graph_of([*then_add("v"), *use]), "out of order: 'ReduceSum' comes before"),
        "a shape that doubles": (
            graph_of([MATMUL, *doubled(30), *grown], whole("n", 1, 1)),
            "Concat puts 8,192 whole numbers together",
        ),
        "a shape of the batch that doubles": (
            graph_of([*counted, *doubled(30), *grown]),
            "Concat puts 8,192 whole numbers together",
        ),
        "a shape of a million dimensions": (graph_of(shaped, whole("n", *[1] * 1_000_000)), "ConstantOfShape is given"),
        "a shape that nobody knows": (
            graph_of([MATMUL, helper.make_node("Cast", ["obs"], ["n"], to=7), *shaped[1:]]),
            "ConstantOfShape is given a shape",
        ),
        "a shape of a billion dimensions": (graph_of(ranked, whole("one", 1), whole("n", 1 << 30)), "ConstantOfShape"),
        "a split in a billion": (
            graph_of([MATMUL, helper.make_node("Split", ["obs"], ["v"], axis=1, num_outputs=1 << 30), *then_add("v")]),
            "the attribute 'num_outputs' is 1073741824",
        ),
        "blocks that overflow": (graph_of([MATMUL, depth, *then_add("v")]), "the attribute 'blocksize' is 8589934592"),
        "a negative batch": (graph_of([MATMUL, gather, *then_add("v")], whole("n", 1)), "'batch_dims' is -1"),
        "the least of nothing": (
            graph_of([MATMUL, helper.make_node("Min", ["product", ""], ["v"]), *then_add("v")]),
            "Min is given nothing",
        ),
        "no depth": (
            graph_of([MATMUL, one_hot, *then_add("v")], whole("n", 1), nothing),
            "OneHot is not given a depth",
        ),
    }
    for text, dims in {
        "more than it has": [1 << 31],
        "more than there is": [1 << 40, 1 << 40],
        "less than nothing": [-4],
        "too much beside nothing": [0, 1 << 40],
    }.items():
        for kind, tensor in {"no": claim("v", dims, None), "few": claim("v", dims, b"1234")}.items():
            model[f"a tensor of {text}, {kind} bytes"] = (graph_of(use, tensor), "'v' claims the shape")
    model["a tensor of many dimensions"] = (graph_of(use, claim("v", [1] * 65, b"0000")), "more than 64 dimensions")
    return model


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("name", _unsafe())
def test_a_graph_that_is_costly_or_dangerous_to_load_is_refused(box: File, name: str) -> None:
    model, message = _unsafe()[name]
    data = model.SerializeToString()
    if name == "several graphs":
        data += graph_of([]).SerializeToString()
    if name == "a constant given twice":
        first = next(node for node in model.graph.node if node.op_type == "Constant").attribute[0]
        merged = first.SerializeToString() + onnx.AttributeProto(t=first.t).SerializeToString()
        data = _replace_message(data, first.SerializeToString(), merged)
    with pytest.raises(UnsafeGraphError, match=re.escape(message)) as raised:
        OnnxPolicy.from_bytes(sealed(box, data))
    assert str(raised.value).startswith("these bytes: the graph is not loaded, because ")
    assert raised.value.path is None
    assert len(str(raised.value)) < 500


def _replace_message(data: bytes, old: bytes, new: bytes) -> bytes:
    """A model with another first attribute, the lengths around it set right."""
    model = onnx.load_model_from_string(data)
    index = [node.op_type for node in model.graph.node].index("Constant")
    node = model.graph.node[index]
    assert node.attribute[0].SerializeToString() == old
    # protobuf keeps fields that it does not know, and a node is a message of its own: write it by hand
    del node.attribute[:]
    body = node.SerializeToString() + _field(5, new)
    nodes = [body if place == index else item.SerializeToString() for place, item in enumerate(model.graph.node)]
    del model.graph.node[:]
    graph = b"".join(_field(1, item) for item in nodes) + model.graph.SerializeToString()
    model.ClearField("graph")
    rest: bytes = model.SerializeToString()
    return rest + _field(7, graph)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _varint(value >> 7)


def _heavy() -> dict[str, onnx.ModelProto]:
    """Graphs whose load would be costly if onnxruntime computed in advance what depends on constants alone."""
    zeros = numpy_helper.from_array(np.zeros((500, 500), np.float32), "z")
    vector = numpy_helper.from_array(np.ones((1, 30_000), np.float32), "row")
    column = numpy_helper.from_array(np.ones((30_000, 1), np.float32), "column")
    return {
        "products of products": graph_of([MATMUL, *doubled(2000, "MatMul", "z"), *then_add("v")], zeros),
        "doubled weights": graph_of([MATMUL, *doubled(28, "Concat", "w"), *then_add("v")]),
        "a product of vectors": graph_of(
            [MATMUL, helper.make_node("Mul", ["column", "row"], ["v"]), *then_add("v")], vector, column
        ),
        "zeros": graph_of(
            [MATMUL, helper.make_node("ConstantOfShape", ["n"], ["v"]), *then_add("v")], whole("n", 20_000, 20_000)
        ),
        "one value many times": graph_of(
            [MATMUL, helper.make_node("Expand", ["w", "n"], ["v"]), *then_add("v")], whole("n", 100_000_000, 3, 2)
        ),
    }


LOAD = """
import resource, sys, time
from sb3_clanker import OnnxPolicy

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
OnnxPolicy(sys.argv[1])
seconds = time.process_time() - start
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("name", _heavy())
def test_nothing_large_is_computed_while_a_graph_is_loaded(box: File, tmp_path: Path, name: str) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(sealed(box, _heavy()[name]))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, path], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 10
    assert megabytes < 150


def test_a_file_in_the_format_of_onnxruntime_is_read_as_onnx_all_the_same(box: File) -> None:
    model = graph_of([helper.make_node("MatMul", ["obs", "w"], ["action"])]).SerializeToString()
    disguised = b"\x32\x06\0\0ORTM" + model  # a doc_string that puts the mark where onnxruntime looks for it
    assert disguised[4:8] == b"ORTM"
    action, _ = OnnxPolicy.from_bytes(sealed(box, disguised)).predict(np.ones(3, np.float32))
    np.testing.assert_array_equal(action, [3.0, 3.0])


def test_a_name_that_is_not_utf_8_is_refused(box: File) -> None:
    plain = graph_of([helper.make_node("MatMul", ["obs", "w"], ["action"])]).SerializeToString()
    for old, new in ((b"obs", b"\xff\xfe\xfd"), (b"MatMul", b"Mat\xff\xfe\xfd"), (b"action", b"act\xff\xfe\xfd")):
        with pytest.raises(PolicyFileError, match=r"UTF-8|utf-8|the record says"):
            OnnxPolicy.from_bytes(sealed(box, plain.replace(old, new)))


def test_an_operator_that_onnxruntime_does_not_know_is_named(box: File) -> None:
    with pytest.raises(PolicyFileError, match=r"onnxruntime cannot load it: .*Gaga") as raised:
        OnnxPolicy.from_bytes(sealed(box, graph_of([helper.make_node("Gaga", ["obs"], ["action"])])))
    assert "\n" not in str(raised.value)


def test_a_graph_that_fails_while_it_runs_is_a_typed_error(box: File) -> None:
    nodes = [
        MATMUL,
        helper.make_node("Shape", ["product"], ["shape"]),
        helper.make_node("Add", ["shape", "n"], ["one more"]),
        helper.make_node("Reshape", ["product", "one more"], ["action"]),
    ]
    policy = OnnxPolicy.from_bytes(sealed(box, graph_of(nodes, whole("n", 1, 0))))
    with pytest.raises(InferenceError, match=r"The graph failed while it ran: .*Reshape") as raised:
        policy.predict(np.zeros(3, np.float32))
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, RuntimeError)
    with pytest.raises(InferenceError, match="Reshape"):
        policy.outputs(np.zeros(3, np.float32))


def test_a_graph_that_gives_no_action_is_a_typed_error(box: File) -> None:
    nodes = [MATMUL, helper.make_node("Concat", ["product", "product"], ["action"], axis=0)]
    policy = OnnxPolicy.from_bytes(sealed(box, graph_of(nodes)))
    with pytest.raises(InferenceError, match=r"cannot reshape array of size 4 into shape \(2,\)"):
        policy.predict(np.zeros(3, np.float32))


def test_what_a_policy_carries_is_computed_in_advance(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    session = onnxruntime.InferenceSession

    def note(*arguments: Any, disabled_optimizers: object, **further: Any) -> Any:
        asked[name] = disabled_optimizers
        return session(*arguments, disabled_optimizers=disabled_optimizers, **further)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    for name in ("dict", "discrete", "image", "sac", "mask", "recurrent"):
        OnnxPolicy(folder / f"{name}.onnx")
    assert not any(asked.values()), asked


# Records ------------------------------------------------------------------------------------------------------------


def changed(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**record, **changes}


def _evaluated(mean_reward: float) -> dict[str, Any]:
    """A training that was evaluated."""
    unknown = dict.fromkeys(("std_reward", "n_episodes", "deterministic"))
    evaluation = {"role": "best", "source": "evaluation", "num_timesteps": 1, "mean_reward": mean_reward, **unknown}
    return {"num_timesteps": 1, "evaluation": evaluation}


def _ranges(n_observations: int, width: int, value: float = 0.0) -> dict[str, Any]:
    """Ranges of one vector."""
    lists = dict.fromkeys(("minimum", "maximum", "mean", "deviation"), [value] * width)
    of_one = {"key": None, **lists, "quantiles": [[value] * 7] * width}
    return {"n_observations": n_observations, "margin": None, "ranges": [of_one]}


_RECORDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an action that fills the memory": lambda record: changed(
        record, action_space={"type": "Box", "shape": [1 << 26], "dtype": "float32", "low": 0.0, "high": 1.0}
    ),
    "dimensions of thousands of digits": lambda record: changed(
        record, observation_space={**record["observation_space"], "shape": [10**4000] * 1000}
    ),
    "a long key before a long list": lambda record: changed(
        record,
        observation_space={
            "type": "Dict",
            "spaces": {"k" * 4_000_000: {"type": "Box", "shape": ["x"] * 300_000, "dtype": "float32"}},
        },
    ),
    "many unknown fields": lambda record: {**record, **{f"field {index}": 0 for index in range(100_000)}},
    "a number larger than any": lambda record: changed(record, training=_evaluated(10**400)),
    "an earlier version without a training": lambda record: changed(record, schema_version=1, training=None),
    "an earlier version of another type": lambda record: changed(
        record, schema_version=1, training={"num_timesteps": [], "mean_reward": 1.0}
    ),
    "keyword arguments in one another": lambda record: changed(
        record, environment_spec={"id": "x", "kwargs": {"a": json.loads("[" * 900 + "]" * 900)}, "omitted": []}
    ),
    "ranges of none": lambda record: changed(record, observation_ranges=_ranges(0, 0)),
    "ranges of a hundred thousand components": lambda record: changed(record, observation_ranges=_ranges(9, 100_000)),
    "ranges of a thousand vectors": lambda record: changed(
        record, observation_ranges=_ranges(9, 3) | {"ranges": _ranges(9, 3)["ranges"] * 1_000}
    ),
    "ranges of numbers that are none": lambda record: changed(record, observation_ranges=_ranges(9, 3, 10**400)),
    "ranges of more observations than there are": lambda record: changed(
        record, observation_ranges=_ranges(10**4000, 3)
    ),
    "ranges in one another": lambda record: changed(
        record, observation_ranges=json.loads('{"ranges":[' * 300 + "]}" * 300)
    ),
    "a state that fills the memory": lambda record: changed(record, recurrent=True),
    "no record": lambda record: [],
    "no fields": lambda record: {},
    "a version of a thousand lists": lambda record: changed(record, schema_version=json.loads("[" * 900 + "]" * 900)),
    "a version of the future": lambda record: changed(record, schema_version=10**4000),
}


@pytest.mark.parametrize("name", _RECORDS)
def test_a_hostile_record_is_refused(box: File, name: str) -> None:
    data = box.seal(_RECORDS[name](box.record))
    with pytest.raises((MetadataError, SchemaVersionError)) as raised:
        parse(data)
    assert len(str(raised.value)) < 50_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"num_timesteps": 1e999, "x": ', "num_timesteps: expected `int`, got `float`"),
        ('"algorithm": 1, ', "the key 'algorithm' stands twice in an object"),
        ('"a": NaN, ', "NaN is not a JSON number"),
        ('"a": ' + "[" * 100_000, "it is nested too deeply"),
        ('"a": ' + "9" * 5000 + ", ", "Exceeds the limit"),
    ],
    ids=["infinity", "a key twice", "NaN", "nested", "digits"],
)
def test_a_record_that_is_not_quite_json_is_refused(box: File, text: str, problem: str) -> None:
    record = box.entries[RECORD_KEY]
    record = record.replace('"num_timesteps": ', text) if "num_timesteps" in text else "{" + text + record[1:]
    with pytest.raises(MetadataError, match=re.escape(problem)):
        parse(resealed(box.body, {**box.entries, RECORD_KEY: record}))


def test_a_number_with_too_large_an_exponent_is_no_infinity(box: File) -> None:
    spec = {"id": "x", "kwargs": {"a": 0.25, "b": [1, 0.25], "c": {"d": 0.25}}, "omitted": []}
    document = changed(box.record, training=_evaluated(0.25), environment_spec=spec)
    assert parse(box.seal(document)).metadata.environment_spec is not None
    before, *texts = re.split(r"\b0\.25\b", json.dumps(document))
    assert len(texts) >= 4
    for index in range(len(texts)):
        numbers = ["1e999" if other == index else "0.25" for other in range(len(texts))]
        record = before + "".join(number + text for number, text in zip(numbers, texts, strict=True))
        with pytest.raises(MetadataError, match=r"[\w.]+: number out of range"):
            parse(resealed(box.body, {**box.entries, RECORD_KEY: record}))


def test_a_record_of_a_hundred_megabytes_is_refused(box: File, tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(resealed(box.body, {**box.entries, RECORD_KEY: "[" + "[]," * 33_000_000 + "[]]"}))
    with pytest.raises(MetadataError, match="record: expected at most 16777216 characters"):
        read_metadata(path)


def test_a_file_of_a_million_fields_is_refused(box: File) -> None:
    for many in (b"\x08\x08" * 1_000_000, _field(14, _field(1, b"k") * 1_000_000)):
        with pytest.raises(PolicyFileError, match="damaged"):
            parse(box.data + many)


def test_a_field_number_that_parsers_read_differently_is_refused(box: File) -> None:
    for tag in (
        b"\xba\x80\x80\x80\x10",
        b"\xba\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    ):  # field 7, for a parser of 32 bits
        with pytest.raises(PolicyFileError, match="damaged"):
            parse(box.data + tag + b"\0")


def test_a_terminal_is_not_steered_by_a_file(box: File, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.onnx"
    entries = {**box.entries, "\x1b[2J": "\x1b]0;title\x07\nsecond line", "wide" * 1000: "v"}
    record = changed(box.record, algorithm="\ud800\x1b[31m")
    path.write_bytes(seal(box.body, json.dumps(record), entries))
    assert command_line(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert all(line.isprintable() for line in out.splitlines())
    assert r"\ud800\x1b[31m" in out
    assert r"\x1b]0;title\x07\nsecond line" in out
    assert max(map(len, out.splitlines())) < 5000


@pytest.mark.parametrize(
    "change",
    [
        {"unknown \x1b[31m": 1},
        {"observation_space": {"type": "\x1b[31m"}},
        {"provenance": {"created": "now", "versions": {"\x1b[31m": 1}}},
        {"normalization": {"status": "\x1b[31m", "keys": [], "clip_obs": None, "epsilon": None}},
    ],
    ids=lambda change: next(iter(change)).split()[0],
)
def test_an_error_steers_no_terminal(box: File, change: dict[str, Any]) -> None:
    with pytest.raises(MetadataError) as caught:
        parse(box.seal({**box.record, **change}))
    assert all(line.isprintable() for line in str(caught.value).splitlines())


def test_an_error_of_onnxruntime_steers_no_terminal(box: File) -> None:
    values = numpy_helper.from_array(np.ones((4, 2), np.float32), "v")
    model = graph_of([helper.make_node("MatMul", ["obs", "v"], ["action"], name="\x1b[31m")], values)
    with pytest.raises(PolicyFileError, match=r"onnxruntime cannot load it: .*\\x1b\[31m"):
        OnnxPolicy.from_bytes(sealed(box, model))


def test_what_a_record_names_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stretches, entries = split_container((ROOT / "tests" / "policy_file" / "version_2.onnx").read_bytes())
    body, record = b"".join(stretches), json.loads(entries[RECORD_KEY])
    space = record["observation_space"]["spaces"]
    space["\x1b[31m"] = space.pop("arm")
    record["inputs"][0]["key"] = "\x1b[31m"
    record["environment_spec"]["id"] = "\x1b[31m"
    record["environment_spec"]["kwargs"] = {"\x1b[31m": 1}
    record["frame_stacks"] = [{"key": "\x1b[31m", "n_stack": 2, "axis": -1, "padding": 0.0, "padding_error": 0.0}]
    path = tmp_path / "policy.onnx"
    path.write_bytes(seal(body, json.dumps(record), entries))
    metadata = read_metadata(path)
    assert f"{metadata.observation_space}{metadata.environment_spec}".isprintable()
    assert command_line(["inspect", str(path), "--target", "tract"]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("place", "changes", "problem"),
    [
        ("inputs", {"name": "\x1b[31m"}, r"is no name"),
        ("outputs", {"role": "further"}, "the first is not the action"),
        ("outputs", {"role": "unused"}, "the first is not the action"),
    ],
)
def test_a_name_or_a_role_that_is_none(box: File, place: str, changes: dict[str, Any], problem: str) -> None:
    record = box.record
    record[place][0] |= changes
    with pytest.raises(MetadataError, match=problem):
        parse(box.seal(record))


def test_a_second_action_is_none(box: File) -> None:
    record = box.record
    record["outputs"][1]["role"] = "action"
    with pytest.raises(MetadataError, match="outputs: the first is not the action"):
        parse(box.seal(record))


# Files --------------------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], object]] = {
    "read_metadata": read_metadata,
    "OnnxPolicy": OnnxPolicy,
    "read_vectors": read_vectors,
}


def _foreign(tmp_path: Path) -> dict[str, bytes]:
    model = graph_of([helper.make_node("MatMul", ["obs", "w"], ["action"])])
    return {
        "empty": b"",
        "text": b"not a policy\n" * 100,
        "JSON": b'{"json": [true]}',
        "zip": b"PK\x03\x04" + bytes(100) + b"PK\x05\x06" + bytes(18),
        "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100),
        "pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
        "zeros": bytes(100_000),
        "ONNX of somebody else": model.SerializeToString(),
        "UTF-16": "policy".encode("utf-16"),
    }


@pytest.mark.parametrize("name", _foreign(Path()))
@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, reader: str) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(_foreign(tmp_path)[name])
    with pytest.raises((PolicyFileError, VectorsError)) as raised:
        READERS[reader](path)
    assert str(path) in str(raised.value)


def test_a_policy_of_another_program_is_refused(tmp_path: Path) -> None:
    scaler = helper.make_node("Scaler", ["obs"], ["action"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0])
    onnx.save(graph_of([scaler], domains=["ai.onnx.ml"]), tmp_path / "sklearn.onnx")
    with pytest.raises(PolicyFileError, match="not a policy of this package"):
        OnnxPolicy(tmp_path / "sklearn.onnx")


def _paths(tmp_path: Path) -> dict[str, str]:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "to nothing").symlink_to(tmp_path / "nothing")
    (tmp_path / "to zeros").symlink_to("/dev/zero")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    listening.close()
    return {
        "folder": str(tmp_path),
        "pipe": str(tmp_path / "pipe"),
        "socket": str(tmp_path / "s"),
        "device": "/dev/zero",
        "link to a device": str(tmp_path / "to zeros"),
        "link to itself": str(tmp_path / "loop"),
        "link to nothing": str(tmp_path / "to nothing"),
        "NUL": str(tmp_path / "a\0b"),
        "too long": str(tmp_path / ("x" * 5000)),
        "not UTF-8": str(tmp_path / os.fsdecode(b"\xff\xfe")),
        "surrogate": str(tmp_path / "\ud83d"),
        "below a file": "/dev/null/policy.onnx",
    }


@pytest.mark.parametrize("reader", READERS)
def test_a_path_to_what_is_no_file_is_refused_without_waiting(tmp_path: Path, reader: str) -> None:
    for path in _paths(tmp_path).values():
        with pytest.raises(MissingFileError, match="there is no such"):
            READERS[reader](Path(path))


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_may_not_be_read_is_a_typed_error(box: File, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreadableFileError, match="cannot be read: Permission denied") as raised:
        READERS[reader](box.path)
    assert raised.value.path == box.path
    assert isinstance(raised.value, OSError)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_larger_than_any_policy_is_not_read(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "policy.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on disk
    with pytest.raises(UnreadableFileError, match="it has 1,099,511,627,776 bytes, and"):
        READERS[reader](path)


def test_a_file_of_the_kernel_that_says_it_is_empty_is_read_as_empty() -> None:
    path = Path("/proc/self/environ")
    if not path.exists():
        pytest.skip("no /proc")
    assert read_file(path) == b""


# Test vectors -------------------------------------------------------------------------------------------------------


def _vectors(box: File) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(box.path.with_suffix(".vectors.json").read_bytes())
    return document


_VECTORS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a shape that overflows": lambda v: {**v, "inputs": [{**v["inputs"][0], "shape": [1 << 40, 1 << 40]}]},
    "a negative shape": lambda v: {**v, "inputs": [{**v["inputs"][0], "shape": [-1, -3]}]},
    "dimensions of thousands of digits": lambda v: {**v, "inputs": [{**v["inputs"][0], "shape": [10**4000] * 1000}]},
    "many dimensions": lambda v: {**v, "inputs": [{**v["inputs"][0], "shape": [1] * 100 + [3]}]},
    "many empty cases": lambda v: {**v, "cases": [{"inputs": {}, "outputs": {}}] * 50_000},
    "many lists in place of numbers": lambda v: {
        **v,
        "cases": [{"inputs": {"obs": [[]] * 200_000}, "outputs": {}}],
    },
    "no cases": lambda v: {**v, "cases": []},
    "a version of a thousand lists": lambda v: {**v, "format_version": json.loads("[" * 900 + "]" * 900)},
    "lists of lists": lambda v: json.loads("[" * 900 + "]" * 900),
}


@pytest.mark.parametrize("name", _VECTORS)
def test_hostile_test_vectors_are_refused(box: File, tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.vectors.json"
    path.write_text(json.dumps(_VECTORS[name](_vectors(box))))
    with pytest.raises(VectorsError) as raised:
        read_vectors(path)
    assert len(str(raised.value)) < 10_000


def test_test_vectors_of_hundreds_of_megabytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.vectors.json"
    with path.open("wb") as file:
        file.truncate(400 << 20)
    with pytest.raises(UnreadableFileError, match="67,108,864 are the most"):
        read_vectors(path)


def test_a_tolerance_of_any_size_is_no_warning(box: File, tmp_path: Path) -> None:
    document = _vectors(box)
    for output in document["outputs"]:
        output["rtol"] = 1e308
    for case in document["cases"]:
        case["outputs"] = {name: [1e38] * len(values) for name, values in case["outputs"].items()}
    path = tmp_path / "tolerant.vectors.json"
    path.write_text(json.dumps(document))
    assert check_vectors(OnnxPolicy(box.path), read_vectors(path)).n_cases == 3


def test_a_graph_that_gives_more_than_the_test_vectors_say_disagrees(box: File, tmp_path: Path) -> None:
    nodes = [MATMUL, helper.make_node("Concat", ["product", "product"], ["action"], axis=0)]
    policy = OnnxPolicy.from_bytes(sealed(box, graph_of(nodes)))
    document = _vectors(box)
    document |= {"digest": policy.metadata.digest, "outputs": document["outputs"][:1]}
    for case in document["cases"]:
        case["outputs"] = {"action": case["outputs"]["action"]}
    path = tmp_path / "other.vectors.json"
    path.write_text(json.dumps(document))
    with pytest.raises(VectorsMismatchError, match="in case 0, action has 4 elements"):
        check_vectors(policy, read_vectors(path))


# Nothing of a file is run -------------------------------------------------------------------------------------------

AUDIT = """
import sys
import numpy, onnxruntime
import sb3_clanker.cli.main
from sb3_clanker import OnnxPolicy, read_metadata
from sb3_clanker.cli.main import main
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.runtime.check_vectors import check_vectors

_, policy_file, vectors_file = sys.argv
assert main(["inspect", policy_file]) == 0  # what is imported or looked up late is now
read_vectors(vectors_file)
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, str(arguments[:1]))))
read_metadata(policy_file)
policy = OnnxPolicy(policy_file)
policy.predict(numpy.zeros(3, numpy.float32))
check_vectors(policy, read_vectors(vectors_file))
assert main(["inspect", policy_file]) == 0
opened = {arguments for event, arguments in seen if event == "open"}
assert opened == {str((policy_file,)), str((vectors_file,))}, opened
never = ("pickle", "marshal", "exec", "compile", "ctypes", "subprocess", "socket", "os", "shutil", "code", "import")
bad = [item for item in seen if item[0].split(".")[0] in never]
assert not bad, bad
import pickle
seen.clear()
pickle.loads(pickle.dumps(numpy.float32))
assert any(event == "pickle.find_class" for event, _ in seen), "the hook sees a pickle"
"""


def test_reading_loads_no_pickle_opens_no_other_file_and_runs_no_code(box: File) -> None:
    vectors = box.path.with_suffix(".vectors.json")
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, box.path, vectors], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


# Mutants ------------------------------------------------------------------------------------------------------------


def read_mutants(folder: Path, first: int, count: int) -> tuple[Counter[str], tuple[float, int]]:
    """Read mutants of the files in a folder, in a process of their own; fail where one is not read or refused."""
    command = [sys.executable, "-m", "tests.attacks.mutants", str(folder), str(first), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"mutant {lines[-1:]} ended the process with {done.returncode}: {done.stderr[-3000:]}"
    report = json.loads(lines[-1])
    assert not report["failures"], "\n".join(report["failures"][:5])
    return Counter(report["outcomes"]), tuple(report["longest"])


def check_mutants(folder: Path, first: int, count: int) -> None:
    outcomes, (seconds, number) = read_mutants(folder, first, count)
    sys.stdout.write(
        f"{count:,} mutants within {MEMORY >> 30} GiB: {dict(outcomes.most_common())}; "
        f"the longest took {seconds:.3f} s: mutant {number}\n"
    )
    assert outcomes.total() == count
    assert outcomes["accepted"] > count / 100
    assert {"PolicyFileError", "MetadataError", "UnsafeGraphError", "VectorsError"} <= set(outcomes)


def test_mutants_are_read_or_refused_and_nothing_else(folder: Path) -> None:
    check_mutants(folder, 0, N_MUTANTS)


@pytest.mark.slow
def test_thousands_of_mutants_are_read_or_refused_and_nothing_else(folder: Path) -> None:
    check_mutants(folder, 1_000_000, N_MUTANTS_IN_FULL)


@pytest.mark.parametrize("name", ["box", "discrete", "dict", "image", "sac", "mask", "recurrent"])
def test_a_flipped_bit_is_found_by_the_digest_when_a_policy_is_loaded(folder: Path, name: str) -> None:
    data = (folder / f"{name}.onnx").read_bytes()
    rng = np.random.default_rng(0)
    for flip in rng.choice(len(data) * 8, 300, replace=False):
        damaged = bytearray(data)
        damaged[flip // 8] ^= 1 << flip % 8
        with pytest.raises(PolicyFileError):
            OnnxPolicy.from_bytes(bytes(damaged))
