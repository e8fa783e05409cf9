"""Names and units of the caller: they reach the file, one for each component, or are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from msgspec.structs import replace

from sb3_clanker import ClankerError, ExportOptions, export_policy, read_metadata
from sb3_clanker.actor.labels import label_action, label_observations
from sb3_clanker.errors import OptionError
from sb3_clanker.policy_file.spaces import ObservationSpace, describe_space
from sb3_clanker.policy_file.tensors import TensorSpec
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, MATRIX_ACTION, make_model

DICT = spaces.Dict({"joints": BOX_OBSERVATION, "mode": spaces.Discrete(2), "bits": spaces.MultiBinary(4)})
SPEC = TensorSpec(name="action", dtype="float32", shape=("batch", 1), role="action", meaning="the action")


def _observed(space: spaces.Space[Any]) -> tuple[list[TensorSpec], ObservationSpace]:
    keys = list(space.spaces) if isinstance(space, spaces.Dict) else [None]
    specs = [
        TensorSpec(name=key or "obs", dtype="float32", shape=("batch", 1), role="observation", key=key, meaning="raw")
        for key in keys
    ]
    return specs, describe_space(space, "observation")


def _options(option: str, value: object) -> ExportOptions:
    arguments: dict[str, Any] = {option: value}
    return ExportOptions(**arguments)


# Into the file ------------------------------------------------------------------------------------------------------


def test_labels_of_vectors_reach_the_file(tmp_path: Path) -> None:
    options = ExportOptions(
        observation_names=["x", "y", "θ"],
        observation_units=("m", "m", "rad"),
        action_names=["left", "right"],
        action_units=["N·m", ""],
        control_period=0.02,
    )
    path = export_policy(make_model(), tmp_path / "policy", options=options).path
    metadata = read_metadata(path)
    (observed,), (action,) = metadata.inputs, metadata.outputs
    assert (observed.names, observed.units) == (("x", "y", "θ"), ("m", "m", "rad"))
    assert (action.names, action.units) == (("left", "right"), ("N·m", ""))
    assert metadata.control_period == 0.02


def test_labels_of_keys_and_categories_reach_the_file(tmp_path: Path) -> None:
    options = ExportOptions(
        observation_names={"joints": ["hip", "knee", "foot"], "mode": ["walk", "run"]},
        observation_units={"joints": ["rad"] * 3},
        action_names=["stop", "go", "turn"],
        control_period=1,
    )
    model = make_model(observation_space=DICT, action_space=spaces.Discrete(3), policy="MultiInputPolicy")
    metadata = read_metadata(export_policy(model, tmp_path / "policy", options=options).path)
    labels = {spec.key: (spec.names, spec.units) for spec in metadata.inputs}
    assert labels == {
        "joints": (("hip", "knee", "foot"), ("rad", "rad", "rad")),
        "mode": (("walk", "run"), None),
        "bits": (None, None),
    }
    (action,) = metadata.outputs
    assert (action.shape, action.names, action.units) == (("batch", 1), ("stop", "go", "turn"), None)
    assert metadata.control_period == 1.0


def test_without_labels_there_are_none(tmp_path: Path) -> None:
    metadata = read_metadata(export_policy(make_model(), tmp_path / "policy").path)
    assert [(spec.names, spec.units) for spec in (*metadata.inputs, *metadata.outputs)] == [(None, None)] * 2
    assert metadata.control_period is None


def test_labels_change_nothing_else() -> None:
    specs, space = _observed(DICT)
    labelled = label_observations(specs, space, _options("observation_names", {"mode": ["walk", "run"]}))
    assert [replace(spec, names=None) for spec in labelled] == specs
    action = label_action(SPEC, _action_space(BOX_ACTION), _options("action_names", ["left", "right"]))
    assert replace(action, names=None) == SPEC


def _action_space(space: spaces.Space[Any]) -> Any:
    return describe_space(space, "action")


# How many -----------------------------------------------------------------------------------------------------------

COUNTS: dict[str, tuple[spaces.Space[Any], int]] = {
    "Box": (BOX_ACTION, 2),
    "matrix": (MATRIX_ACTION, 6),
    "number": (spaces.Box(-1.0, 1.0, ()), 1),
    "Discrete": (spaces.Discrete(5), 5),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 2, 4]), 3),
    "MultiBinary": (spaces.MultiBinary(4), 4),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("kind", ["names", "units"])
def test_there_is_one_label_for_each_component(name: str, kind: str) -> None:
    space, n = COUNTS[name]
    labels = tuple(f"label {index}" for index in range(n))
    action = label_action(SPEC, _action_space(space), _options(f"action_{kind}", labels))
    assert getattr(action, kind) == labels
    specs, observed = _observed(space)
    (observation,) = label_observations(specs, observed, _options(f"observation_{kind}", labels))
    assert getattr(observation, kind) == labels


def _refused(call: Any, option: str, value: object, expected: str) -> None:
    message = f"{option}={value!r} cannot be used: expected {expected}."
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$") as raised:
        call()
    assert (raised.value.option, raised.value.value) == (option, value)
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("kind", ["names", "units"])
@pytest.mark.parametrize("too_many", [-1, 1])
def test_another_number_of_labels_is_refused(name: str, kind: str, too_many: int) -> None:
    space, n = COUNTS[name]
    labels = ["label"] * (n + too_many)
    expected = f"{n} labels, one for each component, not {n + too_many}"
    action = f"action_{kind}"
    _refused(lambda: label_action(SPEC, _action_space(space), _options(action, labels)), action, labels, expected)
    option, (specs, observed) = f"observation_{kind}", _observed(space)
    _refused(lambda: label_observations(specs, observed, _options(option, labels)), option, labels, expected)


@pytest.mark.parametrize(
    ("observation_space", "option", "labels", "value", "expected"),
    [
        (BOX_OBSERVATION, "observation_names", ["x"], ["x"], "3 labels, one for each component, not 1"),
        (BOX_OBSERVATION, "action_units", ["N"] * 3, ["N"] * 3, "2 labels, one for each component, not 3"),
        (
            BOX_OBSERVATION,
            "observation_names",
            {"obs": ["x", "y", "z"]},
            {"obs": ("x", "y", "z")},
            "a sequence, not one for 'obs'",
        ),
        (
            DICT,
            "observation_units",
            ["m", "m", "m"],
            ("m", "m", "m"),
            "a mapping with keys among ['bits', 'joints', 'mode'], not one for None",
        ),
        (
            DICT,
            "observation_names",
            {"joints": ["a", "b", "c"], "legs": ["d"]},
            {"joints": ("a", "b", "c"), "legs": ("d",)},
            "a mapping with keys among ['bits', 'joints', 'mode'], not one for 'legs'",
        ),
        (DICT, "observation_names", {"mode": ["one"]}, ["one"], "2 labels, one for each component, not 1"),
    ],
    ids=["too few", "too many", "mapping for one array", "sequence for a Dict", "unknown key", "too few of a key"],
)
def test_labels_that_do_not_fit_stop_an_export(
    observation_space: spaces.Space[Any], option: str, labels: object, value: object, expected: str, tmp_path: Path
) -> None:
    policy = "MultiInputPolicy" if observation_space is DICT else "MlpPolicy"
    model = make_model(observation_space=observation_space, policy=policy)
    options = _options(option, labels)
    _refused(lambda: export_policy(model, tmp_path / "policy", options=options), option, value, expected)
    assert not list(tmp_path.iterdir())
