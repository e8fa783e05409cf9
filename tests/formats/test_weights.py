"""Weights: right in numpy alone, readable as safetensors, and safe to open from a stranger."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from gymnasium import spaces
from msgspec.structs import replace
from onnx import numpy_helper
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import ExportOptions, OnnxPolicy, export_policy, read_metadata
from sb3_clanker.errors import FormatError, InferenceError, PolicyFileError, ValidationError
from sb3_clanker.formats import forward
from sb3_clanker.formats.forward import LIMIT, NumpyPolicy, WeightsError
from sb3_clanker.formats.weights import GRAPH, RECORD, join, open_policy, policy_digest, read_record
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.run_folder.names import WEIGHTS
from sb3_clanker.writers import weights as writer
from sb3_clanker.writers.further import Original
from tests.worlds import BOX_OBSERVATION, draw, make_model

IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "joints": BOX_OBSERVATION, "gear": spaces.Discrete(4)})
MASKED = spaces.MultiDiscrete([3, 4])
KINDS: Mapping[str, tuple[spaces.Space[Any], Callable[[], BaseAlgorithm]]] = {
    "box": (BOX_OBSERVATION, lambda: make_model(PPO, normalize=True)),
    "image": (IMAGE, lambda: make_model(DQN, IMAGE, spaces.Discrete(4), policy="CnnPolicy")),
    "dict": (DICT, lambda: make_model(SAC, DICT, policy="MultiInputPolicy")),
    "recurrent": (BOX_OBSERVATION, lambda: make_model(RecurrentPPO, policy="MlpLstmPolicy")),
    "masked": (BOX_OBSERVATION, lambda: make_model(MaskablePPO, action_space=MASKED)),
}
"""By name: what the environment gives, and what makes the algorithm."""
N = 1_000
ALONE = """
import sys
for name in ("torch", "onnx", "onnxruntime", "safetensors", "stable_baselines3", "gymnasium", "msgspec", "sb3_clanker"):
    sys.modules[name] = None  # an import of it fails
import numpy as np
from pathlib import Path
from forward import NumpyPolicy
for path in map(Path, sys.argv[1:]):
    policy, tried = NumpyPolicy(path.read_bytes()), np.load(path.with_suffix(".npz"))
    for n in (1, 7, len(tried["expected"])):
        inputs = {name: tried[name][:, :n] if name in ("h_in", "c_in") else tried[name][:n] for name in policy.inputs}
        (action,) = policy.run(["action"], inputs)
        assert action.dtype == np.float32
        assert (abs(action - tried["expected"][:n]) <= tried["tolerance"]).all(), (path, n)
    print(path.name)
"""


def _context(model: BaseAlgorithm, rng: np.random.Generator) -> dict[str, Any]:
    policy: Any = model.policy
    if isinstance(model, RecurrentPPO):
        n_layers, _, width = policy.lstm_hidden_state_shape
        state = tuple(rng.normal(size=(n_layers, N, width)).astype(np.float32) for _ in range(2))
        return {"state": state, "episode_start": rng.random(N) < 0.5}
    if isinstance(model, MaskablePPO):
        masks = rng.random((N, 7)) < 0.5
        masks[:, [0, 3]] = True
        return {"action_masks": masks}
    return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each kind, with what Stable-Baselines3 itself does on 1,000 observations, and its parameters."""
    folder, rng = tmp_path_factory.mktemp("policies"), np.random.default_rng(0)
    for kind, (space, make) in KINDS.items():
        model, path = make(), folder / f"{kind}.onnx"
        export_policy(model, path, options=ExportOptions(formats=["weights"], metadata={"robot": "arm"}))
        raw, context = draw(space, rng, N), _context(model, rng)
        vec_normalize = model.get_vec_normalize_env()
        normalized: Any = raw if vec_normalize is None else vec_normalize.normalize_obs(raw)
        expected = np.asarray(model.predict(normalized, deterministic=True, **context)[0]).reshape(N, -1)
        box = model.action_space
        tolerance = 1e-5 * (box.high - box.low) if isinstance(box, spaces.Box) else 0.0
        inputs: dict[str, Any] = OnnxPolicy(path).inputs(raw, **context)
        np.savez(path.with_suffix(".npz"), expected=expected, tolerance=tolerance, **inputs)
        parameters = {f"/{name}": tensor.numpy() for name, tensor in model.policy.state_dict().items()}
        np.savez(folder / f"{kind}.parameters.npz", **parameters)
    return folder


@pytest.fixture
def box(folder: Path) -> bytes:
    return (folder / "box.safetensors").read_bytes()


def test_the_page_alone_does_what_stable_baselines3_does(folder: Path, tmp_path: Path) -> None:
    shutil.copy(Path(forward.__file__), tmp_path)
    files = [str(folder / f"{kind}.safetensors") for kind in KINDS]
    command = [sys.executable, "-W", "error", "-c", ALONE, *files]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": ""}, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.split()) == ("", [f"{kind}.safetensors" for kind in KINDS])


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_values_are_those_of_stable_baselines3(folder: Path, kind: str) -> None:
    data = (folder / f"{kind}.safetensors").read_bytes()
    tensors = safetensors.numpy.load(data)  # the library itself opens it
    parameters = np.load(folder / f"{kind}.parameters.npz")
    own = [name for name in tensors if not name.startswith("/")]
    assert sum(tensors[name].size for name in own) > 100
    for name in own:
        np.testing.assert_array_equal(tensors[name], parameters[f"/{name}"], strict=True)
    assert all(np.array_equal(tensors[name], array) for name, array in NumpyPolicy(data).weights.items())


def test_what_predict_does_beside_the_networks_has_a_name(box: bytes) -> None:
    names = {name for name in NumpyPolicy(box).weights if name.startswith("/") and "constant" not in name}
    normalization = {f"/obs.normalize.{part}" for part in ("mean_high", "mean_low", "deviation", "clip_obs")}
    assert names == {"/action_low", "/action_high", *normalization}


def test_the_record_is_that_of_the_policy_file(folder: Path) -> None:
    metadata = read_metadata(folder / "box.onnx")
    assert policy_digest(folder / "box.safetensors") == metadata.digest
    assert read_record((folder / "box.safetensors").read_bytes()) == metadata
    assert metadata.entries == {"robot": "arm"}


def test_a_damaged_file_is_named(box: bytes, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    no_text: Any = 5
    for data in (box + b"!", join({}, {GRAPH: "{}", RECORD: no_text})):
        path.write_bytes(data)
        with pytest.raises(PolicyFileError, match=r"policy\.safetensors: the file was changed or damaged after it was"):
            policy_digest(path)


def test_the_same_content_has_the_same_bytes() -> None:
    tensors: dict[str, Any] = {"b": np.zeros(3, np.float32), "a": np.ones((2, 2), np.int64), "c": np.array([True])}
    entries = {GRAPH: "{}", RECORD: "{}"}
    data = join(tensors, entries)
    assert data == join(dict(reversed(list(tensors.items()))), entries)
    assert {name: array.tolist() for name, array in safetensors.numpy.load(data).items()} == {
        name: array.tolist() for name, array in tensors.items()
    }


def test_a_wrong_weight_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    to_array = numpy_helper.to_array

    def to_wrong_array(tensor: onnx.TensorProto) -> Any:
        return to_array(tensor) + np.float32(0.01) if tensor.name.endswith("action_net.weight") else to_array(tensor)

    monkeypatch.setattr(numpy_helper, "to_array", to_wrong_array)
    with pytest.raises(ValidationError, match="weights: the file and Stable-Baselines3 disagree"):
        export_policy(make_model(), tmp_path / "policy.onnx", options=ExportOptions(formats=["weights"]))
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_found(box: bytes) -> None:
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(box), 200):
        damaged = bytearray(box)
        damaged[position] ^= 1 << rng.integers(8)
        with pytest.raises(PolicyFileError):
            open_policy(bytes(damaged))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        (3).to_bytes(8, "little") + b"[1]",
        (2).to_bytes(8, "little") + b"{}",
        (28).to_bytes(8, "little") + b'{"__metadata__":{"graph":1}}',
        (1 << 17).to_bytes(8, "little") + b"[" * (1 << 17),
    ],
)
def test_what_is_no_file_of_this_package_is_refused(data: bytes) -> None:
    with pytest.raises(PolicyFileError, match="no weights of a policy of this package"):
        open_policy(data)
    with pytest.raises(WeightsError, match="this is no policy, or it is damaged"):
        NumpyPolicy(data)


def test_a_graph_that_is_not_what_its_record_says_is_refused(folder: Path, box: bytes) -> None:
    policy = NumpyPolicy(box)
    entries = {RECORD: encode(read_metadata(folder / "box.onnx"))}
    graph: dict[str, Any] = {"inputs": [], "outputs": [{"name": name} for name in policy.outputs], "operators": []}
    with pytest.raises(PolicyFileError, match="not those that its record says"):
        open_policy(join(policy.weights, {**entries, GRAPH: json.dumps(graph)}))
    for inputs in ([], ["obs"]):
        graph["operators"] = [{"op": "Explode", "inputs": inputs, "outputs": [], "attributes": {}}]
        with pytest.raises(PolicyFileError, match="KeyError\\('Explode'\\)"):
            open_policy(join(policy.weights, {**entries, GRAPH: json.dumps(graph)}))


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> dict[str, Any]:
    return {"op": op, "inputs": inputs, "outputs": outputs, "attributes": attributes}


HOSTILE: Mapping[str, list[dict[str, Any]]] = {
    "a circle": [_node("Abs", ["b"], ["a"]), _node("Abs", ["a"], ["b"]), _node("Abs", ["a"], ["action"])],
    "nothing": [],
    "a long sum": [_node("Add", ["row", "column"], ["action"])],
    "a large product": [_node("MatMul", ["column", "row"], ["action"])],
    "an empty product": [
        _node("Slice", ["row", "zero", "zero", "one"], ["empty"]),
        _node("Transpose", ["empty"], ["turned"]),
        _node("MatMul", ["turned", "empty"], ["action"]),
    ],
    "a large shape": [_node("Expand", ["row", "huge"], ["wide"]), _node("Exp", ["wide"], ["action"])],
    "many copies": [_node("Concat", ["row"] * 40_000, ["action"], axis=0)],
    "many indices": [_node("Gather", ["row", "indices"], ["action"])],
    "a wide margin": [_node("Conv", ["image", "kernel"], ["action"], pads=[1 << 20] * 4)],
    "many values": [_node("Abs", ["image"], [f"v{i}"]) for i in range(LIMIT >> 14)],
    "another function": [_node("Abs", ["obs"], ["action"], dtype="O")],
    "another type": [_node("Cast", ["obs"], ["action"], to="O")],
    "parts without end": [_node("Split", ["obs"], ["action"], num_outputs=0)],
    "no list": [{"op": ["Abs"], "inputs": "obs", "outputs": 3, "attributes": None}],
}


def test_inputs_that_are_none_are_an_error(box: bytes) -> None:
    for wrong in (
        None,
        5,
        {"name": 1},
        {"name": "obs", "dtype": None, "shape": None},
        {"name": "obs", "dtype": [], "shape": []},
    ):
        graph = {"inputs": [wrong], "outputs": [], "operators": []}
        with pytest.raises(WeightsError):
            NumpyPolicy(join({}, {GRAPH: json.dumps(graph)})).run([], {"obs": np.zeros(())})


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_graph_is_an_error_and_takes_no_memory(case: str) -> None:
    tensors: dict[str, Any] = {
        "row": np.ones((1, 1 << 15), np.float32),
        "column": np.ones((1 << 15, 1), np.float32),
        "image": np.ones((1, 1, 64, 64), np.float32),
        "kernel": np.ones((1, 1, 3, 3), np.float32),
        "indices": np.zeros(1 << 15, np.int64),
        "huge": np.array([1 << 40, 1 << 15]),
        "zero": np.array([0]),
        "one": np.array([1]),
    }
    spec = {"dtype": "float32", "shape": ["batch", 2]}
    graph = {"inputs": [{"name": "obs", **spec}], "outputs": [{"name": "action", **spec}], "operators": HOSTILE[case]}
    data = join(tensors, {GRAPH: json.dumps(graph)})
    tracemalloc.start()
    with pytest.raises(WeightsError):
        NumpyPolicy(data).run(["action"], {"obs": np.ones((3, 2), np.float32)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * LIMIT


def test_a_tensor_is_nowhere_but_in_its_file(box: bytes) -> None:
    header = json.loads(box[8 : 8 + int.from_bytes(box[:8], "little")])
    (name, *_), end = (name for name in header if name != "__metadata__"), len(box)
    for change in (
        {"data_offsets": [0, end]},
        {"data_offsets": [end, end + 8]},
        {"shape": [1 << 62]},
        {"shape": [-1]},
        {"shape": [0, 1 << 40], "data_offsets": [0, 0]},
        {"dtype": "F8"},
        {"more": 1},
    ):
        text = json.dumps(header | {name: header[name] | change}).encode()
        with pytest.raises(WeightsError, match="this is no policy, or it is damaged"):
            NumpyPolicy(len(text).to_bytes(8, "little") + text + box[8 + int.from_bytes(box[:8], "little") :])


def test_inputs_must_be_those_of_the_graph(folder: Path, box: bytes) -> None:
    policy = NumpyPolicy(box)
    for wrong in (np.zeros((1, 3)), np.zeros(3, np.float32), np.zeros((1, 4), np.float32), None):
        with pytest.raises(WeightsError, match=r"'obs' must be float32 \['batch', 3\], got "):
            policy.run(["action"], {} if wrong is None else {"obs": wrong})
    masked = NumpyPolicy((folder / "masked.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"'action_masks' must be bool \['batch', 7\], got bool \[1, 7\]"):
        masked.run(["action"], {"obs": np.zeros((2, 3), np.float32), "action_masks": np.ones((1, 7), bool)})
    with pytest.raises(WeightsError, match="KeyError\\('velocity'\\)"):
        policy.run(["velocity"], {"obs": np.zeros((1, 3), np.float32)})


def test_no_number_stays_no_number(folder: Path, box: bytes) -> None:
    obs = np.array([[np.nan, 0, 0], [0, 0, 0], [np.inf, 0, 0]], np.float32)
    (action,) = open_policy(box).run(["action"], {"obs": obs})
    (expected,) = OnnxPolicy(folder / "box.onnx").run({"obs": obs}).values()
    np.testing.assert_allclose(action, expected, atol=1e-5)
    assert np.isnan(action[0]).all()
    assert not np.isnan(action[1]).any()


def test_a_failed_run_is_a_typed_error(folder: Path, box: bytes) -> None:
    policy = OnnxPolicy.from_runner(open_policy(box), read_metadata(folder / "box.onnx"))
    with pytest.raises(InferenceError, match="'obs' must be float32"):
        policy.run({"obs": np.zeros((1, 5), np.float32)})


def _write(text: str, folder: Path, opset_version: int = 18) -> tuple[onnx.ModelProto, bytes]:
    """A graph as onnx writes it, and as weights."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset_version}]> {text}')
    metadata = read_metadata(folder / "box.onnx")
    specs = [
        tuple(
            TensorSpec(
                name=value.name,
                dtype=onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                shape=tuple(dim.dim_value or "batch" for dim in value.type.tensor_type.shape.dim),
                role="further",
                meaning="",
            )
            for value in values
        )
        for values in (model.graph.input, model.graph.output)
    ]
    metadata = replace(metadata, inputs=specs[0], outputs=specs[1], opset_version=opset_version)
    original: Any = Original(
        name="policy",
        run="",
        data=model.SerializeToString(),
        metadata=metadata,
        vectors=None,
        options=ExportOptions(),
        tensors={},
        copied_actor=lambda: None,  # type: ignore[arg-type, return-value]
        in_full=True,
    )
    return model, writer.WeightsWriter().write(original)[WEIGHTS]


X = "(float[batch, 4] x) => (float[batch, {}] y)"
OPERATORS = {
    **{
        op: f"g {X.format(4)} {{ y = {op}(x) }}"
        for op in ("Abs", "Elu", "Erf", "Exp", "Floor", "Identity", "LeakyRelu")
    },
    **{op: f"g {X.format(4)} {{ y = {op}(x) }}" for op in ("Neg", "Reciprocal", "Round", "Sign", "Softplus", "Tanh")},
    "Elu 2": f"g {X.format(4)} {{ y = Elu<alpha = 0.5>(x) }}",
    "PRelu": f"g {X.format(4)} <float[4] s = {{1.0, 0.5, 0.0, 2.0}}> {{ y = PRelu(x, s) }}",
    "Pow": f"g {X.format(4)} <float s = {{2.0}}> {{ y = Pow(x, s) }}",
    "Clip": f"g {X.format(4)} <float s = {{0.5}}> {{ y = Clip(x, , s) }}",
    "Log": f"g {X.format(4)} {{ a = Abs(x) y = Log(a) }}",
    "compared": f"g {X.format(4)} <float s = {{0.0}}> {{ a = Greater(x, s) b = Less(x, s) c = Or(a, b) d = Not(c) "
    "e = IsNaN(x) f = And(d, e) g = GreaterOrEqual(x, s) h = LessOrEqual(x, s) i = And(g, h) j = Or(f, i) "
    "k = Or(j, a) y = Cast<to = 1>(k) }",
    "Where": f"g {X.format(4)} <float s = {{0.0}}> {{ a = Equal(x, x) y = Where(a, s, x) }}",
    "integers": f"g {X.format(4)} <int64 s = {{2}}> {{ a = Cast<to = 7>(x) b = Abs(a) c = Div(b, s) "
    "y = Cast<to = 1>(c) }",
    "Gather": f"g {X.format(3)} <int64[3] i = {{3, 0, 0}}> {{ y = Gather<axis = 1>(x, i) }}",
    "Slice": f"g {X.format(2)} <int64[1] s = {{3}}, int64[1] e = {{-5}}, int64[1] a = {{1}}, int64[1] t = {{-2}}> "
    "{ y = Slice(x, s, e, a, t) }",
    "Split": f"g {X.format(2)} {{ a, y = Split<axis = 1, num_outputs = 2>(x) }}",
    "sizes": f"g {X.format(3)} <int64[2] s = {{1, 3}}> {{ a, y = Split<axis = 1>(x, s) }}",
    "Flatten": f"g {X.format(4)} <int64[3] s = {{0, 2, 2}}> {{ a = Reshape(x, s) y = Flatten(a) }}",
    "Transpose": f"g {X.format(4)} <int64[3] s = {{0, 2, 2}}, int64[2] t = {{-1, 4}}> "
    "{ a = Reshape(x, s) b = Transpose<perm = [0, 2, 1]>(a) y = Reshape(b, t) }",
    "Expand": f"g {X.format(4)} <int64[2] s = {{1, 4}}, int64[1] i = {{1}}> "
    "{ a = ReduceSum<keepdims = 1>(x, i) y = Expand(a, s) }",
    **{
        op: f"g {X.format(1)} <int64[1] i = {{1}}> {{ y = {op}(x, i) }}"
        for op in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceLogSumExp")
    },
    "ArgMax": f"g {X.format(1)} {{ a = ArgMax<axis = 1>(x) y = Cast<to = 1>(a) }}",
    "Softmax": f"g {X.format(4)} {{ y = Softmax<axis = 1>(x) }}",
    "LayerNormalization": f"g {X.format(4)} <float[4] s = {{1.0, 2.0, 3.0, 4.0}}> {{ y = LayerNormalization(x, s) }}",
    "MatMul": f"g {X.format(1)} <float[4, 1] w = {{1.0, 2.0, 3.0, 4.0}}> {{ y = MatMul(x, w) }}",
    "Gemm": f"g {X.format(1)} <float[4, 1] w = {{1.0, 2.0, 3.0, 4.0}}> {{ y = Gemm(x, w) }}",
    "Max": f"g {X.format(4)} <float s = {{0.0}}, float t = {{1.0}}> {{ a = Max(x, s) y = Min(a, t, x) }}",
    "Shape": f"g {X.format(4)} {{ a = Shape<start = -1>(x) b = Cast<to = 1>(a) y = Mul(x, b) }}",
    "Squeeze": f"g {X.format(4)} <int64[1] i = {{1}}> {{ a = Unsqueeze(x, i) y = Squeeze(a, i) }}",
    "Conv": "g (float[batch, 4, 7, 6] x) => (float[batch, 2, 4, 7] y) "
    f"<float[2, 2, 3, 2] w = {{{', '.join(f'{i % 7}.5' for i in range(24))}}}, float[2] b = {{1.0, 2.0}}> "
    "{ y = Conv<group = 2, pads = [1, 2, 1, 1], strides = [2, 1], dilations = [1, 2]>(x, w, b) }",
    "Conv 1": "g (float[batch, 1, 5] x) => (float[batch, 1, 4] y) <float[1, 1, 2] w = {1.0, -2.0}> { y = Conv(x, w) }",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_means_what_it_means_in_onnxruntime(folder: Path, name: str) -> None:
    model, data = _write(OPERATORS[name], folder)
    shape = [dim.dim_value or 3 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(scale=2.0, size=shape).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    (got,) = NumpyPolicy(data).run(["y"], {"x": x})
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, strict=True)


def test_attributes_of_opset_17(folder: Path) -> None:
    text = f"g {X.format(2)} {{ a = ReduceMean<axes = [0], keepdims = 0>(x) b = Add(a, x) c, y = Split<axis = 1>(b) }}"
    model, data = _write(text, folder, opset_version=17)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(NumpyPolicy(data).run(["y"], {"x": x})[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("y = Celu(x)", "the forward pass has no operator Celu"),
        (
            "y = Gemm<alpha = 2.0>(x, x)",
            "the forward pass has not all of Gemm: got an unexpected keyword argument 'alpha'",
        ),
        ("a = Constant<value = float {1.0}>() y = Add(a, x)", "the forward pass has no operator Constant"),
        ("a = Cast<to = 10>(x) y = Cast<to = 1>(a)", "the forward pass cannot cast to float16"),
    ],
)
def test_what_the_page_cannot_run_is_refused_by_name(folder: Path, text: str, problem: str) -> None:
    with pytest.raises(FormatError) as raised:
        _write(f"g {X.format(4)} {{ {text} }}", folder)
    assert str(raised.value) == (
        f"This policy cannot be written as weights: {problem}. Use the .onnx, or make the policy of simpler operators."
    )


def test_a_type_and_a_name_that_cannot_be_are_refused(folder: Path) -> None:
    with pytest.raises(FormatError, match="the forward pass takes no uint16, the type of '/w'"):
        _write(f"g {X.format(4)} <uint16 w = {{1}}> {{ a = Cast<to = 1>(w) y = Add(a, x) }}", folder)
    text = f'g {X.format(4)} <float "policy.x" = {{1.0}}> {{ y = Add("policy.x", x) }}'
    with pytest.raises(FormatError, match="two values in it are called 'x'"):
        _write(text, folder)
