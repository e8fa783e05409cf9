"""A record that contradicts itself is found out, line by line; a sound one is left in peace."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from msgspec.structs import replace

from sb3_clanker import ClankerError, ExportOptions, OnnxPolicy, PolicyMetadata, export_policy
from sb3_clanker.actor.labels import label_action
from sb3_clanker.actor.observation import observation_inputs
from sb3_clanker.errors import MetadataError
from sb3_clanker.observations.ranges import Ranges
from sb3_clanker.policy_file.consistency import contradictions
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.dialects import GODOT
from sb3_clanker.policy_file.reading import parse
from sb3_clanker.policy_file.record import ObservationRange, ObservationRanges
from sb3_clanker.policy_file.seal import stamp
from sb3_clanker.policy_file.spaces import (
    BoxSpace,
    DictSpace,
    DiscreteSpace,
    LeafSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
    ObservationSpace,
    describe_space,
)
from sb3_clanker.policy_file.tensors import TensorSpec
from tests.support import ACTIONS, OBSERVATIONS
from tests.worlds import make_model

BOX = BoxSpace(shape=(3,), dtype="float32", low=-1.0, high=(None, 1.0, 2.0))
DISCRETE = DiscreteSpace(n=4)
OBS = TensorSpec(name="obs", dtype="float32", shape=("batch", 3), role="observation", meaning="raw observation")
ACTION = TensorSpec(name="action", dtype="float32", shape=("batch", 1), role="action", meaning="index of the action")


def _found(
    *,
    observation_space: ObservationSpace = BOX,
    action_space: LeafSpace = DISCRETE,
    inputs: tuple[TensorSpec, ...] = (OBS,),
    outputs: tuple[TensorSpec, ...] = (ACTION,),
    predict_dtype: str = "int64",
) -> list[str]:
    return contradictions(observation_space, action_space, inputs, outputs, predict_dtype)


def _action(space: LeafSpace) -> tuple[TensorSpec, ...]:
    return (replace(ACTION, shape=("batch", space.n_elements)),)


# Sound records ------------------------------------------------------------------------------------------------------


def test_a_sound_record_has_no_contradiction() -> None:
    assert _found() == []


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_every_observation_space_is_sound_as_it_is_described(name: str, channels_last: bool) -> None:
    space = OBSERVATIONS[name]
    inputs = tuple(leaf.spec for leaf in observation_inputs(describe_space(space, "observation"), {}, channels_last))
    assert _found(observation_space=describe_space(space, "observation"), inputs=inputs) == []


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_space_is_sound_as_it_is_described(name: str) -> None:
    space: Any = describe_space(ACTIONS[name], "action")
    outputs = tuple(label_action(spec, space, ExportOptions()) for spec in _action(space))
    assert _found(action_space=space, outputs=outputs, predict_dtype="float64") == []


@pytest.mark.parametrize(
    "space",
    [
        BoxSpace(shape=(), dtype="float32", low=(0.0,), high=None),
        BoxSpace(shape=(0,), dtype="float32", low=(), high=1.0),
        BoxSpace(shape=(2, 2), dtype="uint8", low=0.0, high=(1.0, 2.0, 3.0, 4.0)),
        MultiBinarySpace(n=(2, 3), shape=(2, 3)),
        MultiBinarySpace(n=6, shape=(6,), dtype="bool"),
        MultiDiscreteSpace(nvec=(1,), shape=(1,), dtype="int32"),
        DiscreteSpace(n=1),
    ],
    ids=str,
)
def test_a_space_at_the_edge_of_what_is_sound_has_no_contradiction(space: ObservationSpace) -> None:
    inputs: tuple[TensorSpec, ...] = (replace(OBS, shape=("batch", *getattr(space, "shape", ()))),)
    if isinstance(space, DiscreteSpace):
        inputs = (replace(OBS, shape=("batch", 1)),)
    assert _found(observation_space=space, inputs=inputs) == []


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool", "int8"])
def test_a_type_of_numbers_has_no_contradiction(dtype: str) -> None:
    assert _found(predict_dtype=dtype) == []


H_IN = TensorSpec(name="h_in", dtype="float32", shape=(1, "batch", 8), role="hidden_state", meaning="the state")
C_IN = replace(H_IN, name="c_in", role="cell_state")
START = replace(H_IN, name="episode_start", role="episode_start", shape=("batch",))
NEXT = (replace(H_IN, name="h_out"), replace(C_IN, name="c_out"))
MASKS = TensorSpec(name="action_masks", dtype="bool", shape=("batch", 4), role="action_masks", meaning="what may be")
LOGITS = TensorSpec(name="action_logits", dtype="float32", shape=("batch", 4), role="further", meaning="log-odds")


def _of_state(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], *, recurrent: bool = True, sampling: Any = None
) -> list[str]:
    return contradictions(BOX, DISCRETE, (OBS, *inputs), (ACTION, *outputs), "int64", recurrent, sampling)


def test_further_inputs_and_outputs_are_no_contradiction() -> None:
    assert _of_state((H_IN, C_IN, START), NEXT) == []
    assert _of_state((H_IN, C_IN, START), (*NEXT, LOGITS), sampling="categorical") == []
    assert _of_state((MASKS,), (LOGITS,), recurrent=False, sampling="categorical") == []


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((), ()),
        ((H_IN, C_IN, START), ()),
        ((H_IN, C_IN, START, *NEXT), ()),
        ((H_IN, C_IN), NEXT),
        ((H_IN, replace(C_IN, shape=(1, "batch", 9)), START), NEXT),
        ((H_IN, C_IN, replace(START, shape=("batch", 1))), NEXT),
        ((H_IN, C_IN, START), (NEXT[1], NEXT[0])),
        *(
            (
                (replace(H_IN, shape=shape), replace(C_IN, shape=shape), START),
                tuple(replace(spec, shape=shape) for spec in NEXT),
            )
            for shape in ((1 << 40, "batch", 8), (-1, "batch", -8), ("batch", 1, 8), ("batch",), ())
        ),
    ],
)
def test_a_state_that_cannot_be_fed_is_named(inputs: Any, outputs: Any) -> None:
    assert _of_state(inputs, outputs) == ["recurrent: it is True, which does not fit the inputs and outputs"]


@pytest.mark.parametrize(
    "inputs",
    [
        (H_IN,),
        (H_IN, C_IN, START),
        (MASKS, MASKS),
        (replace(MASKS, shape=("batch",)),),
        (replace(MASKS, shape=("batch", "batch")),),
        (replace(MASKS, shape=("batch", 1 << 40)),),
        (replace(MASKS, dtype="float32"),),
    ],
)
def test_what_goes_in_beside_an_observation_is_named(inputs: Any) -> None:
    problem = "recurrent: it is False, which does not fit the inputs and outputs"
    assert _of_state(inputs, (), recurrent=False) == [problem]


@pytest.mark.parametrize("shape", [("batch",), ("batch", "batch"), ("batch", 5), (4,), ("many", 4)])
def test_a_distribution_of_another_shape_is_named(shape: Any) -> None:
    problem = "sampling: 'categorical' does not fit the action space and the outputs"
    assert _of_state((), (replace(LOGITS, shape=shape),), recurrent=False, sampling="categorical") == [problem]


def test_an_action_of_millions_of_elements_is_named() -> None:
    space = replace(BOX, shape=(1 << 21,), low=0.0, high=1.0)
    found = _found(action_space=space, outputs=_action(space))
    assert found == ["action_space: an action of 2,097,152 elements is none"]


# Spaces -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        (replace(BOX, shape=(-3,)), "the shape [-3] is none of an observation or action"),
        (replace(BOX, shape=(-1, -3)), "the shape [-1, -3] is none of an observation or action"),
        (replace(BOX, shape=(10**18,)), f"the shape [{10**18}] is none of an observation or action"),
        (replace(BOX, shape=(2**14, 2**14)), "the shape [16384, 16384] is none of an observation or action"),
        (replace(BOX, shape=(2,) * 100), "the shape [2, 2, 2, 2] is none of an observation or action"),
        (replace(BOX, dtype="text"), "'text' is no type of numbers"),
        (replace(BOX, dtype="complex64"), "'complex64' is no type of numbers"),
        (replace(BOX, dtype="object"), "'object' is no type of numbers"),
        (replace(BOX, dtype="datetime64[s]"), "'datetime64[s]' is no type of numbers"),
        (replace(BOX, dtype="f4,f4"), "'f4,f4' is no type of numbers"),
        (replace(BOX, dtype="<U3"), "'<U3' is no type of numbers"),
        (replace(BOX, dtype=""), "'' is no type of numbers"),
        (replace(BOX, low=(0.0, 1.0)), "there are 2 bounds for 3 elements"),
        (replace(BOX, high=()), "there are 0 bounds for 3 elements"),
        (replace(BOX, high=(None,) * 4), "there are 4 bounds for 3 elements"),
        (DiscreteSpace(n=0), "n is 0 and the shape [], expected n of at least 1 and no shape"),
        (DiscreteSpace(n=-2), "n is -2 and the shape [], expected n of at least 1 and no shape"),
        (DiscreteSpace(n=2, shape=(1,)), "n is 2 and the shape [1], expected n of at least 1 and no shape"),
        (MultiDiscreteSpace(nvec=(2, 3), shape=(3,)), "nvec does not fit the shape [3]"),
        (MultiDiscreteSpace(nvec=(2, 3), shape=(2, 1)), "nvec does not fit the shape [2, 1]"),
        (MultiDiscreteSpace(nvec=(2, 0), shape=(2,)), "nvec does not fit the shape [2]"),
        (MultiBinarySpace(n=3, shape=(4,)), "n does not fit the shape [4]"),
        (MultiBinarySpace(n=(2, 3), shape=(6,)), "n does not fit the shape [6]"),
        (MultiBinarySpace(n=6, shape=(2, 3)), "n does not fit the shape [2, 3]"),
    ],
    ids=str,
)
def test_a_space_that_contradicts_itself_is_named(space: LeafSpace, problem: str) -> None:
    assert _found(observation_space=space) == [f"observation_space: {problem}"]
    assert _found(action_space=space) == [f"action_space: {problem}"]
    nested = DictSpace(spaces={"sound": BOX, "odd": space})
    assert _found(observation_space=nested) == [f"observation_space: key 'odd': {problem}"]


@pytest.mark.parametrize(
    "dtype",
    ["9999999999999f4", "(-1,)f4", "(,)f", "2f4", "6)", "|4>6", "a3", "f4\n", "1_f", "é", "np.float32"],
    ids=repr,
)
def test_a_type_that_numpy_chokes_on_is_named(dtype: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _found(predict_dtype=dtype) == [
            f"predict_dtype: expected the name of a type of numbers, got {dtype!r}",
        ]


def test_every_space_and_type_is_named_at_once() -> None:
    problems = _found(
        observation_space=DictSpace(spaces={"a": replace(BOX, dtype="text", low=()), "b": DiscreteSpace(n=0)}),
        action_space=MultiBinarySpace(n=3, shape=(4,)),
        predict_dtype="complex128",
    )
    assert problems == [
        "observation_space: key 'a': 'text' is no type of numbers",
        "observation_space: key 'a': there are 0 bounds for 3 elements",
        "observation_space: key 'b': n is 0 and the shape [], expected n of at least 1 and no shape",
        "action_space: n does not fit the shape [4]",
        "predict_dtype: expected the name of a type of numbers, got 'complex128'",
    ]


# Inputs and outputs -------------------------------------------------------------------------------------------------

NOT_ONE_FOR_EACH = "inputs: they are not one for each observation"
A = replace(OBS, name="a", key="a")
B = replace(OBS, name="b", key="b")


@pytest.mark.parametrize(
    ("observation_space", "inputs"),
    [
        (BOX, ()),
        (BOX, (A,)),
        (BOX, (OBS, A)),
        (BOX, (replace(OBS, role="hidden_state"),)),
        (BOX, (OBS, replace(OBS, name="obs_2"))),
        (DictSpace(spaces={"a": BOX}), (OBS,)),
        (DictSpace(spaces={"a": BOX, "b": BOX}), (A,)),
        (DictSpace(spaces={"a": BOX}), (A, B)),
        (DictSpace(spaces={"a": BOX}), (A, replace(A, name="b"))),
        (DictSpace(spaces={}), (OBS,)),
        (DictSpace(spaces={}), ()),
    ],
    ids=[
        "none",
        "with a key",
        "one more",
        "another role",
        "twice",
        "without a key",
        "one missing",
        "one unknown",
        "a key twice",
        "empty Dict",
        "empty Dict, no inputs",
    ],
)
def test_inputs_that_are_not_one_for_each_observation_are_named(
    observation_space: ObservationSpace, inputs: tuple[TensorSpec, ...]
) -> None:
    assert _found(observation_space=observation_space, inputs=inputs) == [NOT_ONE_FOR_EACH]


@pytest.mark.parametrize(
    ("space", "changes", "got"),
    [
        (BOX, {"shape": ("batch", 4)}, "float32 ['batch', 4]"),
        (BOX, {"shape": (3,)}, "float32 [3]"),
        (BOX, {"shape": ("batch", 3, 1)}, "float32 ['batch', 3, 1]"),
        (BOX, {"shape": (3, "batch")}, "float32 [3, 'batch']"),
        (BOX, {"shape": ("n", 3)}, "float32 ['n', 3]"),
        (BOX, {"dtype": "float64"}, "float64 ['batch', 3]"),
        (BOX, {"dtype": "int64"}, "int64 ['batch', 3]"),
        (DISCRETE, {"shape": ("batch",)}, "float32 ['batch']"),
        (DISCRETE, {"shape": ("batch", 4)}, "float32 ['batch', 4]"),
        (replace(BOX, shape=(2, 4, 5), low=None, high=None), {"shape": ("batch", 4, 5, 2)}, None),
        (
            replace(BOX, shape=(2, 4, 5), low=None, high=None),
            {"shape": ("batch", 2, 4, 5), "layout": "channels_last"},
            "float32 ['batch', 2, 4, 5]",
        ),
        (
            replace(BOX, shape=(2, 4, 5), low=None, high=None),
            {"shape": ("batch", 4, 5, 2), "layout": "channels_first"},
            "float32 ['batch', 4, 5, 2]",
        ),
    ],
    ids=str,
)
def test_an_input_that_does_not_fit_its_space_is_named(space: LeafSpace, changes: Any, got: str | None) -> None:
    got = got or "float32 ['batch', 4, 5, 2]"
    problem = f"{got}, which does not fit its space"
    assert _found(observation_space=space, inputs=(replace(OBS, **changes),)) == [f"inputs: 'obs' is {problem}"]
    nested = DictSpace(spaces={"a": BOX, "b": space})
    assert _found(observation_space=nested, inputs=(A, replace(B, **changes))) == [f"inputs: 'b' is {problem}"]


BYTES = BoxSpace(shape=(3, 4, 5), dtype="uint8", low=0.0, high=255.0)
PIXELS = TensorSpec(
    name="image",
    dtype="float32",
    shape=("batch", 3, 4, 5),
    role="observation",
    layout="channels_first",
    divisor=255.0,
    meaning="image from 0 to 1",
)
UNUSED = TensorSpec(name="joint_positions", dtype="float32", shape=("batch", 1), role="unused", meaning="not looked at")


def test_an_image_is_no_row_of_numbers() -> None:
    row = replace(PIXELS, shape=("batch", 60), layout=None, divisor=None)
    echo_in, echo_out = GODOT.echo_specs()
    outputs = (replace(ACTION, name=GODOT.action, shape=("batch", 4)), echo_out)
    assert _found(observation_space=BYTES, inputs=(row, echo_in), outputs=outputs) == []
    for layout in ("channels_first", "channels_last"):
        inputs = (replace(row, layout=layout, dtype="uint8"), echo_in)
        (problem,) = _found(observation_space=BYTES, inputs=inputs, outputs=outputs)
        assert problem == "inputs: 'image' is uint8 ['batch', 60], which does not fit its space"


def test_bytes_that_go_in_as_floats_are_divided_by_255_and_nothing_else_is() -> None:
    assert _found(observation_space=BYTES, inputs=(PIXELS,)) == []
    assert _found(observation_space=BYTES, inputs=(replace(PIXELS, dtype="uint8", divisor=None),)) == []
    wrong: list[tuple[LeafSpace, TensorSpec]] = [
        (BYTES, replace(PIXELS, divisor=None)),
        (BYTES, replace(PIXELS, divisor=1.0)),
        (BYTES, replace(PIXELS, divisor=0.0)),
        (BYTES, replace(PIXELS, dtype="uint8")),
        (BYTES, replace(PIXELS, layout=None)),
        (replace(BYTES, dtype="float32"), PIXELS),
        (BOX, replace(OBS, divisor=255.0)),
    ]
    for space, spec in wrong:
        problem = f"inputs: {spec.name!r} has the divisor {spec.divisor}, which does not fit its space and type"
        assert _found(observation_space=space, inputs=(spec,)) == [problem]
    masks = TensorSpec(name="action_masks", dtype="bool", shape=("batch", 4), role="action_masks", meaning="allowed")
    assert _found(inputs=(OBS, replace(masks, divisor=255.0))) == [
        "inputs: 'action_masks' has a divisor, and is no observation"
    ]


def test_an_input_that_is_not_looked_at_is_a_row_of_floats() -> None:
    assert _found(inputs=(OBS, UNUSED)) == []
    for changes in ({"dtype": "uint8"}, {"shape": ("batch",)}, {"shape": (1, 1)}, {"shape": ("batch", 1 << 40)}):
        (problem,) = _found(inputs=(OBS, replace(UNUSED, **changes)))
        assert problem.startswith("inputs: 'joint_positions' is ")
        assert problem.endswith("expected float32 ['batch', n]")


@pytest.mark.parametrize(
    "outputs",
    [
        (),
        (replace(ACTION, name="actions"),),
        (replace(ACTION, dtype="int64"),),
        (replace(ACTION, shape=("batch", 2)),),
        (replace(ACTION, shape=("batch",)),),
        (replace(ACTION, shape=(1, "batch")),),
        (replace(ACTION, name="h_out"), ACTION),
    ],
    ids=["none", "name", "dtype", "width", "rank", "order of dimensions", "order of outputs"],
)
def test_a_first_output_that_is_not_the_action_is_named(outputs: tuple[TensorSpec, ...]) -> None:
    assert _found(outputs=outputs) == ["outputs: the first is not the action"]


@pytest.mark.parametrize("name", ACTIONS)
def test_the_action_is_as_wide_as_its_space(name: str) -> None:
    space: Any = describe_space(ACTIONS[name], "action")
    wider = (replace(ACTION, shape=("batch", math.prod(space.shape) + 1)),)
    assert _found(action_space=space, outputs=wider) == ["outputs: the first is not the action"]


def test_inputs_and_outputs_are_named_at_once() -> None:
    nested = DictSpace(spaces={"a": BOX, "b": BOX})
    inputs = (replace(A, shape=("batch", 1)), replace(B, dtype="bool"))
    assert _found(observation_space=nested, inputs=inputs, outputs=()) == [
        "inputs: 'a' is float32 ['batch', 1], which does not fit its space",
        "inputs: 'b' is bool ['batch', 3], which does not fit its space",
        "outputs: the first is not the action",
    ]


# In a file ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, PolicyMetadata]:
    """The graph of a file without its metadata, and its record."""
    model = make_model(action_space=spaces.Discrete(3))
    report = export_policy(model, tmp_path_factory.mktemp("file") / "policy", options=ExportOptions(n_samples=16))
    body, _ = split_container(report.path.read_bytes())
    return b"".join(body), report.metadata


def test_a_record_that_was_made_up_is_refused_for_each_contradiction(file: tuple[bytes, PolicyMetadata]) -> None:
    body, metadata = file
    assert parse(stamp(body, metadata)).metadata.inputs == metadata.inputs
    made_up = replace(metadata, predict_dtype="text", observation_space=replace(BOX, low=()))
    with pytest.raises(MetadataError, match="the record in the file is damaged:\n  observation_space: there") as raised:
        parse(stamp(body, made_up), Path("policy.onnx"))
    assert raised.value.problems == (
        "observation_space: there are 0 bounds for 3 elements",
        "predict_dtype: expected the name of a type of numbers, got 'text'",
    )
    with pytest.raises(MetadataError, match="outputs: the first is not the action"):
        parse(stamp(body, replace(metadata, outputs=())))


def test_a_type_that_numpy_chokes_on_is_damage_to_a_record(file: tuple[bytes, PolicyMetadata]) -> None:
    body, metadata = file
    with pytest.raises(MetadataError, match="predict_dtype: expected the name of a type of numbers"):
        parse(stamp(body, replace(metadata, predict_dtype="6)")))


def test_a_layout_of_what_is_no_image_is_named() -> None:
    for layout in ("channels_first", "channels_last"):
        problems = _found(inputs=(replace(OBS, layout=layout),))
        assert problems
        assert problems[0].startswith("inputs: 'obs' ")


@pytest.mark.parametrize(
    "changes", [{"recurrent": True}, {"sampling": "categorical"}, {"sampling": "gaussian"}], ids=str
)
def test_a_record_of_more_than_the_graph_has_is_refused(file: tuple[bytes, PolicyMetadata], changes: Any) -> None:
    body, metadata = file
    with pytest.raises(ClankerError):
        OnnxPolicy.from_bytes(stamp(body, replace(metadata, **changes)))


def test_shapes_are_told_without_allocating_them() -> None:
    huge = replace(BOX, shape=(2**13, 2**13), low=None, high=None)
    inputs = (replace(OBS, shape=("batch", 2**13, 2**13)),)
    assert math.prod(huge.shape) == 1 << 26
    assert _found(observation_space=huge, inputs=inputs) == []
    assert np.prod(huge.shape) * 4 > 1e8


# Ranges of observations ---------------------------------------------------------------------------------------------

RANGE = ObservationRange(
    key=None,
    minimum=(-1.0, 0.5, 2.0),
    maximum=(1.0, 0.5, 3e38),
    mean=(0.1, 0.5, 1e38),
    deviation=(0.3, 0.0, 1e38),
    quantiles=((-0.9, -0.5, -0.1, 0.0, 0.1, 0.5, 0.9), (0.5,) * 7, (2.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e38)),
)
RANGES = ObservationRanges(n_observations=9, margin=0.1, ranges=(RANGE,))


def _in_ranges(ranges: ObservationRanges, space: ObservationSpace = BOX) -> list[str]:
    inputs = (OBS,) if space == BOX else tuple(leaf.spec for leaf in observation_inputs(space, {}, False))
    return contradictions(space, DISCRETE, inputs, (ACTION,), "int64", ranges=ranges)


def test_sound_ranges_have_no_contradiction() -> None:
    assert _in_ranges(RANGES) == []
    assert _in_ranges(replace(RANGES, margin=None)) == []
    leaves: dict[str, LeafSpace] = {"mode": DISCRETE, "arm": BOX, "leg": BOX}
    ranges = tuple(replace(RANGE, key=key) for key in ("arm", "leg"))
    assert _in_ranges(replace(RANGES, ranges=ranges), DictSpace(spaces=leaves)) == []


@pytest.mark.parametrize("seed", range(20))
def test_ranges_that_are_kept_have_no_contradiction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-300, 38, 3)
    rows = np.where(rng.random((5_000, 3)) < rng.random(3), 0.1, rng.standard_cauchy((5_000, 3))) * scale
    ranges = Ranges(BOX)
    for part in np.array_split(rows, rng.integers(1, 50)):
        ranges.add({None: part})
        record = ranges.record()
        assert record is not None
        assert _in_ranges(record) == []
        if rng.random() < 0.3:
            ranges = Ranges.from_record(BOX, record)
            again = ranges.record()
            assert again is not None
            assert _in_ranges(again) == []


_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"n_observations": 0}, f"observation_ranges: n_observations is none of 1 to {1 << 53}"),
    ({"n_observations": 10**400}, "observation_ranges: n_observations is none of 1 to"),
    ({"margin": -0.1}, "observation_ranges: the margin -0.1 is below 0"),
    ({"ranges": ()}, "observation_ranges: they are of 0 vectors, and the observation has 1"),
    ({"ranges": (RANGE, RANGE)}, "observation_ranges: they are of 2 vectors, and the observation has 1"),
    ({"key": "arm"}, "observation_ranges: they are of 1 vectors, and the observation has 1, or others"),
    ({"minimum": (0.0, 0.0)}, "observation_ranges: ranges[0]: it does not have 3 components"),
    ({"mean": ()}, "observation_ranges: ranges[0]: it does not have 3 components in each list, and 7 quantiles"),
    ({"quantiles": (RANGE.quantiles[0],) * 2}, "observation_ranges: ranges[0]: it does not have 3 components"),
    ({"quantiles": ((0.0,) * 7, (0.0,) * 7, ())}, "observation_ranges: ranges[0]: it does not have 3 components"),
    ({"minimum": (-1.0, 0.6, 2.0)}, "ranges[0]: minimum, quantiles and maximum are not in their order"),
    ({"maximum": (0.8, 0.5, 3e38)}, "ranges[0]: minimum, quantiles and maximum are not in their order"),
    ({"quantiles": (RANGE.quantiles[0][::-1], *RANGE.quantiles[1:])}, "are not in their order"),
    ({"maximum": (1.0, 0.5, 1e39)}, "ranges[0]: a value is beyond float32, the type of an observation"),
    ({"quantiles": (*RANGE.quantiles[:2], (math.inf,) * 7)}, "ranges[0]: a value is beyond float32"),
    ({"mean": (1.1, 0.5, 1e38)}, "ranges[0]: a mean is not between minimum and maximum"),
    ({"deviation": (-0.1, 0.0, 1.0)}, "ranges[0]: a deviation is none"),
    ({"deviation": (1e300, 0.0, 1.0)}, "ranges[0]: a deviation is none"),
]


@pytest.mark.parametrize(("changes", "message"), _WRONG, ids=lambda value: str(value)[:60])
def test_ranges_that_cannot_be_are_found_out(changes: dict[str, Any], message: str) -> None:
    of_all = {name: value for name, value in changes.items() if name in ("n_observations", "margin", "ranges")}
    of_one = {name: value for name, value in changes.items() if name not in of_all}
    ranges = replace(RANGES, **({"ranges": (replace(RANGE, **of_one),)} if of_one else of_all))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _in_ranges(ranges)
    assert len(found) == 1
    assert message in found[0]
    assert len(found[0]) < 200


def test_a_file_with_such_ranges_is_refused(tmp_path: Path) -> None:
    path = export_policy(make_model(), tmp_path / "policy.onnx").path
    body, _ = split_container(path.read_bytes())
    metadata = parse(path.read_bytes()).metadata
    wide = replace(RANGE, minimum=(0.0,) * 2_000)
    for ranges in (replace(RANGES, n_observations=-1), replace(RANGES, ranges=(wide,))):
        with pytest.raises(MetadataError, match="observation_ranges: "):
            parse(stamp(b"".join(body), replace(metadata, observation_ranges=ranges)))


# What is outside of what training saw ---------------------------------------------------------------------------------

OUTSIDE = TensorSpec(
    name="outside", dtype="bool", shape=("batch", 3), role="further", meaning="", names=("a", "b", "c")
)


@pytest.mark.parametrize("spec", [OUTSIDE, replace(OUTSIDE, names=None)])
def test_a_bool_for_each_component_is_sound(spec: TensorSpec) -> None:
    assert _found(outputs=(ACTION, spec)) == []


@pytest.mark.parametrize(
    "changed",
    [{"dtype": "float32"}, {"shape": ("batch", 4)}, {"shape": ("batch",)}, {"names": ("a", "b")}, {"names": ()}],
)
def test_anything_else_than_a_bool_for_each_component_is_found(changed: dict[str, Any]) -> None:
    (problem,) = _found(outputs=(ACTION, replace(OUTSIDE, **changed)))
    assert problem.startswith("outputs: 'outside' is ")
    assert problem.endswith(" names, expected bool ['batch', 3]")
