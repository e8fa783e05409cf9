"""The proof finds a file that tells wrongly what is outside of what training saw."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch as th
from gymnasium import spaces
from msgspec.structs import replace
from onnx import helper, numpy_helper
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_clanker.errors import ValidationError
from sb3_clanker.export.exporter import Exporter, ProvenPolicy
from sb3_clanker.formats.format import FormatName, open_format
from sb3_clanker.observations.ranges import Ranges
from sb3_clanker.options import ExportOptions, as_options
from sb3_clanker.policy_file.record import ObservationRanges, PolicyMetadata
from sb3_clanker.policy_file.seal import stamp
from sb3_clanker.policy_file.spaces import describe_space
from sb3_clanker.proof.stages import prove
from sb3_clanker.proof.subject import Subject
from sb3_clanker.run_folder.names import running_kind
from sb3_clanker.runtime.policy import OnnxPolicy
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.writers.formats import FORMATS
from tests.worlds import BOX_OBSERVATION, UNBOUNDED_OBSERVATION, draw, make_model

ONNX = FORMATS[".onnx"]
FORMATS_BESIDE: tuple[FormatName, ...] = get_args(FormatName)
OPTIONS = ExportOptions(further_outputs=("outside",))
BYTES = spaces.Box(0, 255, (36, 36, 3), np.uint8)


def _ranges(space: spaces.Space[Any], seed: int = 0) -> ObservationRanges:
    """What training saw, where it saw 50 observations of a space."""
    drawn, ranges = draw(space, np.random.default_rng(seed), 50), Ranges(describe_space(space, "observation"))
    ranges.add(drawn if isinstance(drawn, dict) else {None: drawn})
    record = ranges.record()
    assert record is not None
    return record


class Specimen:
    """A proven file that tells what is outside, to be tampered with."""

    def __init__(self) -> None:
        self.model = make_model(PPO, UNBOUNDED_OBSERVATION)
        normalization, seen = Normalization(vec_normalize=None), _ranges(UNBOUNDED_OBSERVATION)
        self.subject = Subject(self.model, normalization, OPTIONS)
        self.proven: ProvenPolicy = Exporter(self.model, normalization, OPTIONS).export(ranges=seen)

    def prove(
        self, tamper: Callable[[onnx.ModelProto], None], metadata: PolicyMetadata | None = None, in_full: bool = True
    ) -> None:
        metadata = metadata or self.proven.metadata
        proto = onnx.load_from_string(self.proven.data)
        del proto.metadata_props[:]
        tamper(proto)
        data = stamp(proto.SerializeToString(), metadata)
        with self.subject.now(lambda *_: not in_full) as now:
            prove(ONNX, ONNX.reopen(data), metadata, now.reference(), now.probes, OPTIONS, in_full=in_full)

    def refused(self, match: str, tamper: Any = lambda _: None, **kwargs: Any) -> None:
        with pytest.raises(ValidationError, match=f"at the stage cross_check: {match}"):
            self.prove(tamper, **kwargs)


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return Specimen()


def _change(proto: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    values = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), name))


def test_a_file_that_was_not_tampered_with_is_proven(specimen: Specimen) -> None:
    for in_full in (True, False):
        specimen.prove(lambda _: None, in_full=in_full)


@pytest.mark.parametrize("in_full", [True, False])
@pytest.mark.parametrize("end", [-np.inf, np.inf])
@pytest.mark.parametrize("bound", ["outside.low", "outside.high"])
def test_a_bound_that_is_off_by_its_last_digit_is_found(
    specimen: Specimen, bound: str, end: float, in_full: bool
) -> None:
    def one_digit(values: Any) -> Any:
        values[1] = np.nextafter(values[1], np.float32(end))
        return values

    match = r"outside says that obs\[1\] is (outside|inside) at -?[\d.]+, and by the record it is inside from -?\d"
    specimen.refused(match, lambda proto: _change(proto, bound, one_digit), in_full=in_full)


@pytest.mark.parametrize("in_full", [True, False])
def test_the_bounds_of_other_components_are_found(specimen: Specimen, in_full: bool) -> None:
    def swapped(proto: onnx.ModelProto) -> None:
        for bound in ("outside.low", "outside.high"):
            _change(proto, bound, lambda values: values[[0, 2, 1]])

    specimen.refused(r"outside says that obs\[[12]\]", swapped, in_full=in_full)


@pytest.mark.parametrize("order", [[0, 2, 1], [1, 0, 2], [0, 1, 1]])
def test_components_in_another_order_are_found(specimen: Specimen, order: list[int]) -> None:
    def reordered(proto: onnx.ModelProto) -> None:
        last = proto.graph.node[-1]
        assert last.output[0] == "outside"
        last.output[0] = "/in_order"
        proto.graph.initializer.append(numpy_helper.from_array(np.array(order), "order"))
        proto.graph.node.append(helper.make_node("Gather", ["/in_order", "order"], ["outside"], axis=1))

    specimen.refused(r"outside says that obs\[[012]\]", reordered)


def test_what_is_no_number_must_be_outside(specimen: Specimen) -> None:
    def less_or_greater(proto: onnx.ModelProto) -> None:
        nodes = proto.graph.node
        (last,) = (node for node in nodes if node.output[0] == "outside")
        nodes.remove(last)
        nodes.extend(
            [
                helper.make_node("Less", ["obs", "outside.low"], ["/less"]),
                helper.make_node("Greater", ["obs", "outside.high"], ["/greater"]),
                helper.make_node("Or", ["/less", "/greater"], ["outside"]),
            ]
        )

    specimen.refused(r"outside says that obs\[0\] is inside at nan", less_or_greater)


def test_ranges_or_a_margin_that_are_not_those_of_the_graph_are_found(specimen: Specimen) -> None:
    metadata = specimen.proven.metadata
    ranges = metadata.observation_ranges
    assert ranges is not None
    assert ranges.margin == 0.1
    others = replace(_ranges(UNBOUNDED_OBSERVATION, 1), margin=0.1)
    specimen.refused("outside says", metadata=replace(metadata, observation_ranges=replace(ranges, margin=0.05)))
    specimen.refused("outside says", metadata=replace(metadata, observation_ranges=others))
    specimen.refused("outside says", metadata=replace(metadata, observation_ranges=None))


class _Lookup(BaseFeaturesExtractor):
    """The last component is the index of an embedding, which has none beyond its space."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 5)
        self.embedding = th.nn.Embedding(6, 3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.cat([observations[:, :2], self.embedding(observations[:, 2].long())], dim=1)


def test_a_policy_that_fails_beyond_its_space_is_asked_within() -> None:
    space = spaces.Box(np.array([-1, -1, 0], np.float32), np.array([1, 1, 5], np.float32))
    model = make_model(PPO, space, policy_kwargs={"features_extractor_class": _Lookup})
    seen = np.array([[-0.5, -0.5, 1.0], [0.5, 0.25, 4.0]], np.float32)
    ranges = Ranges(describe_space(space, "observation"))
    ranges.add({None: seen})
    policy = _open(_export(model, ranges.record()))
    assert policy.outputs(np.array([0.7, 0.0, 5.0], np.float32))["outside"].tolist() == [[True, False, True]]


# Every kind of policy -------------------------------------------------------------------------------------------------


def _export(model: BaseAlgorithm, ranges: ObservationRanges | None, **options: Any) -> ProvenPolicy:
    normalization = Normalization(vec_normalize=model.get_vec_normalize_env())
    own = {"further_outputs": ("outside",), "test_vectors": 6, "formats": FORMATS_BESIDE, "c_max_bytes": 1 << 28}
    asked = as_options(own | options)
    return Exporter(model, normalization, asked).export(ranges=ranges)


def _open(proven: ProvenPolicy) -> OnnxPolicy:
    return OnnxPolicy.from_bytes(proven.data)


def _open_format(proven: ProvenPolicy, name: FormatName) -> OnnxPolicy:
    return OnnxPolicy.from_runner(open_format(name, proven.further[running_kind(name)]), proven.metadata)


_GRID = spaces.Box(-1.0, 1.0, (2, 3))
_KEYS = spaces.Dict({"goal": spaces.Box(-1.0, 1.0, (3,)), "mode": spaces.Discrete(3), "grid": _GRID})
_JOINTS = spaces.Dict({"image": BYTES, "joint_positions": BOX_OBSERVATION})
_FLOATS = spaces.Box(0.0, 1.0, (3, 6, 8))
_DISCRETE, _TWO = spaces.Discrete(3), spaces.MultiDiscrete([3, 2])
_DICT_PPO = partial(make_model, PPO, policy="MultiInputPolicy")
KINDS: dict[str, tuple[Callable[[], BaseAlgorithm], dict[str, Any]]] = {
    "VecNormalize, value": (partial(make_model, normalize=True), {"further_outputs": ("outside", "value")}),
    "Dict": (partial(_DICT_PPO, _KEYS), {"opset_version": 17}),
    "recurrent": (partial(make_model, RecurrentPPO, policy="MlpLstmPolicy"), {"opset_version": 23}),
}
MORE_KINDS: dict[str, tuple[Callable[[], BaseAlgorithm], dict[str, Any]]] = {
    "q_values": (partial(make_model, DQN, action_space=_DISCRETE), {"further_outputs": ("q_values", "outside")}),
    "integers": (partial(make_model, PPO, spaces.Box(-5, 9, (3,), np.int32)), {}),
    "float64": (partial(make_model, PPO, spaces.Box(-1.0, 1.0, (3,), np.float64)), {}),
    "floats, channels last": (partial(make_model, PPO, _FLOATS), {"channels_last": True}),
    "image, channels last": (partial(make_model, SAC, _JOINTS, policy="MultiInputPolicy"), {"channels_last": True}),
    "clankers": (partial(_DICT_PPO, _JOINTS), {"target": "clankers"}),
    "godot": (partial(_DICT_PPO, _KEYS, _TWO), {"target": "godot"}),
    "masked": (partial(make_model, MaskablePPO, action_space=_TWO), {"opset_version": 21}),
}


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE_KINDS)])
def test_tells_what_is_outside_in_every_kind_of_policy(kind: str) -> None:
    make, options = (KINDS | MORE_KINDS)[kind]
    model = make()
    space = model.observation_space
    seen = _ranges(space)
    proven = _export(model, seen, **options)
    policies = [_open(proven), *(_open_format(proven, name) for name in FORMATS_BESIDE)]
    assert proven.metadata.observation_ranges == replace(seen, margin=0.1)
    assert proven.metadata.outputs[-1].name == "outside"
    observations = draw(space, np.random.default_rng(0), 50)
    for policy in policies:
        assert not policy.outputs(observations)["outside"].any()
    arrays = observations if isinstance(observations, dict) else {None: observations}
    limits = {each.key: (np.array(each.minimum), np.array(each.maximum)) for each in seen.ranges}
    for sign in (-1.0, 1.0, np.nan):
        moved = {
            key: rows if key not in limits else np.round(rows + sign * 20.0).astype(np.float32)
            for key, rows in arrays.items()
        }
        expected = [
            ~((flat >= low - 0.1 * (high - low)) & (flat <= high + 0.1 * (high - low)))
            for flat, (low, high) in ((moved[key].reshape(50, -1), limit) for key, limit in limits.items())
        ]
        for policy in policies:
            told = policy.outputs(moved.get(None, moved))["outside"]
            assert told.dtype == np.bool_
            assert told.tolist() == np.concatenate(expected, axis=1).tolist()
            assert told.mean() > 0.5
    assert proven.vectors is not None
