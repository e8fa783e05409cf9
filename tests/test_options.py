"""What a caller may choose, and what the answer is to a choice that cannot be."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from sb3_clanker import ClankerError, ExportOptions, OnnxCheckpointCallback, export_policy, validate_policy
from sb3_clanker.errors import OptionError, ReservedMetadataKeyError, UnsupportedOpsetError
from sb3_clanker.options import as_options
from tests.worlds import make_model

RESERVED = (
    "clanker_policy_version",
    "action_space",
    "action_transform",
    "action_scale",
    "action_offset",
    "training_framework",
    "recurrent",
    "deterministic_mode",
    "batch_inference",
    "sb3_clanker",
    "sb3_clanker_seal",
)


LABELS = ("observation_names", "observation_units", "action_names", "action_units")


def repr_of_type(value: object) -> str:
    return type(value).__name__ if not isinstance(value, list) else repr(value)


def make(option: str, value: object) -> ExportOptions:
    arguments: dict[str, Any] = {option: value}
    return ExportOptions(**arguments)


def test_the_defaults_are_what_the_documentation_says() -> None:
    options = ExportOptions()
    assert (options.opset_version, options.atol, options.rtol) == (18, 1e-5, 1e-5)
    assert (options.n_samples, options.channels_last, options.metadata) == (None, False, {})
    assert (options.control_period, *(getattr(options, option) for option in LABELS)) == (None,) * 5


@pytest.mark.parametrize("opset_version", range(17, 24))
def test_opsets_17_to_23_are_accepted(opset_version: int) -> None:
    assert ExportOptions(opset_version=opset_version).opset_version == opset_version


@pytest.mark.parametrize(
    "opset_version", [16, 24, 0, -18, "18", True, None, 18.0, [18], np.int64(18)], ids=lambda value: repr(value)
)
def test_any_other_opset_is_refused(opset_version: object) -> None:
    message = f"Opset {opset_version!r} is not supported: expected one of 17 to 23."
    with pytest.raises(UnsupportedOpsetError, match=f"^{re.escape(message)}$") as raised:
        make("opset_version", opset_version)
    assert raised.value.opset_version is opset_version
    assert raised.value.operators == ()
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("option", ["atol", "rtol"])
@pytest.mark.parametrize("value", [0, 0.0, 1e-12, 0.5, math.nextafter(1.0, 0.0), np.float64(1e-3)])
def test_a_tolerance_from_0_to_below_1_is_accepted(option: str, value: float) -> None:
    assert getattr(make(option, value), option) == value


@pytest.mark.parametrize("option", ["atol", "rtol"])
@pytest.mark.parametrize(
    "value", [-1e-9, 1, 1.0, 2, math.nan, math.inf, -math.inf, True, False, "1e-5", None, 1j, [0.1]], ids=repr
)
def test_any_other_tolerance_is_refused(option: str, value: object) -> None:
    message = f"{option}={value!r} cannot be used: expected a number of at least 0 and below 1."
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$") as raised:
        make(option, value)
    assert raised.value.option == option
    assert raised.value.value is value
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("value", [1, 2, 100_000, None])
def test_a_positive_number_of_samples_or_none_is_accepted(value: int | None) -> None:
    assert ExportOptions(n_samples=value).n_samples == value


@pytest.mark.parametrize("value", [0, -1, 1.0, 1.5, True, False, "8", [8]], ids=repr)
def test_any_other_number_of_samples_is_refused(value: object) -> None:
    message = f"n_samples={value!r} cannot be used: expected a positive integer, or None."
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$") as raised:
        make("n_samples", value)
    assert raised.value.option == "n_samples"
    assert raised.value.value is value
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("value", [True, False])
def test_images_are_passed_with_their_channels_last_or_first(value: bool) -> None:
    assert ExportOptions(channels_last=value).channels_last is value


def test_ranges_are_kept_unless_they_are_switched_off() -> None:
    assert ExportOptions().observation_ranges
    assert not ExportOptions(observation_ranges=False).observation_ranges
    with pytest.raises(OptionError, match=r"observation_ranges=1 cannot be used: expected True or False\."):
        ExportOptions(observation_ranges=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 0, 1, "False", "channels_last"], ids=repr)
def test_any_other_place_of_channels_is_refused(value: object) -> None:
    message = f"channels_last={value!r} cannot be used: expected True or False."
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$") as raised:
        make("channels_last", value)
    assert raised.value.option == "channels_last"
    assert raised.value.value is value
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("value", [None, 1, 0.02, 1e-9])
def test_a_positive_control_period_or_none_is_accepted(value: float | None) -> None:
    assert ExportOptions(control_period=value).control_period == value


@pytest.mark.parametrize("value", [0, 0.0, -0.02, math.inf, math.nan, True, "0.02", [0.02]], ids=repr)
def test_any_other_control_period_is_refused(value: object) -> None:
    message = f"control_period={value!r} cannot be used: expected a positive number of seconds, or None."
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$") as raised:
        make("control_period", value)
    assert raised.value.option == "control_period"
    assert raised.value.value is value
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("option", LABELS)
@pytest.mark.parametrize("value", [None, [], ["x"], ("x", "ÿ"), ["", ""]], ids=repr)
def test_a_sequence_of_strings_is_accepted_as_labels(option: str, value: object) -> None:
    expected: object = tuple(value) if isinstance(value, (list, tuple)) else value
    assert getattr(make(option, value), option) == expected


@pytest.mark.parametrize("option", LABELS)
@pytest.mark.parametrize(
    "value", ["xyz", b"xyz", 3, [1], ["x", None], [["x"]], {"x", "y"}, iter("xy")], ids=repr_of_type
)
def test_any_other_labels_are_refused(option: str, value: object) -> None:
    message = f"{option}={value!r} cannot be used: expected a sequence of strings."
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$") as raised:
        make(option, value)
    assert raised.value.option == option
    assert raised.value.value is value
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("option", ["observation_names", "observation_units"])
def test_labels_of_an_observation_may_stand_by_key(option: str) -> None:
    labels = {"arm": ["x", "y"], "eye": ("z",)}
    assert getattr(make(option, labels), option) == {"arm": ("x", "y"), "eye": ("z",)}
    with pytest.raises(OptionError, match=f"^{option}='xy' cannot be used: expected a sequence of strings"):
        make(option, {"arm": "xy"})


@pytest.mark.parametrize("option", ["action_names", "action_units"])
def test_labels_of_an_action_stand_by_no_key(option: str) -> None:
    with pytest.raises(OptionError, match=f"^{option}={{'arm': .* cannot be used: expected a sequence of strings"):
        make(option, {"arm": ["x"]})


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"robot": "arm-3", "empty": "", "ключ": "значение", "Recurrent": "another case is another key"},
        MappingProxyType({"robot": "arm-3"}),
        OrderedDict(robot="arm-3"),
    ],
    ids=str,
)
def test_any_mapping_of_strings_is_accepted_as_metadata(metadata: Any) -> None:
    options = ExportOptions(metadata=metadata)
    assert options.metadata == dict(metadata)
    assert type(options.metadata) is dict


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [("robot", "arm-3")],
        "robot",
        {"robot": 3},
        {"robot": None},
        {"robot": b"arm-3"},
        {3: "robot"},
        {b"robot": "arm-3"},
        {"": "no key"},
        {"good": "yes", "bad": True},
    ],
    ids=repr,
)
def test_any_other_metadata_is_refused(metadata: object) -> None:
    message = f"metadata={metadata!r} cannot be used: expected a mapping of non-empty strings to strings."
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$") as raised:
        make("metadata", metadata)
    assert raised.value.option == "metadata"
    assert raised.value.value is metadata
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("metadata", [{"robot": "\ud800"}, {"\ud800": "arm-3"}], ids=["value", "key"])
def test_metadata_that_utf_8_cannot_carry_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(OptionError, match=r"^metadata=.* cannot be used"):
        ExportOptions(metadata=metadata)


@pytest.mark.parametrize("key", RESERVED)
def test_a_reserved_key_is_refused(key: str) -> None:
    message = (
        f"The metadata key {key!r} is reserved. Reserved keys: clanker_policy_version, action_space, "
        "action_transform, action_scale, action_offset, training_framework, recurrent, deterministic_mode, "
        "batch_inference, sb3_clanker, sb3_clanker_seal. Choose another name."
    )
    with pytest.raises(ReservedMetadataKeyError, match=f"^{re.escape(message)}$") as raised:
        ExportOptions(metadata={"robot": "arm-3", key: "x"})
    assert (raised.value.key, raised.value.reserved) == (key, RESERVED)
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


def test_a_later_change_of_the_callers_mapping_changes_nothing() -> None:
    metadata = {"robot": "arm-3"}
    options = ExportOptions(metadata=metadata)
    metadata["recurrent"] = "true"
    assert options.metadata == {"robot": "arm-3"}


@pytest.mark.parametrize("option", [field.name for field in fields(ExportOptions)])
def test_options_are_frozen(option: str) -> None:
    options = ExportOptions()
    before = getattr(options, option)
    with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{option}'"):
        setattr(options, option, 17)
    assert getattr(options, option) == before


def test_options_are_given_by_name_alone() -> None:
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        ExportOptions(18)  # type: ignore[call-arg]


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'opset'"):
        make("opset", 18)


# As a mapping -------------------------------------------------------------------------------------------------------

_YAML = {
    "opset_version": 17,
    "atol": 0,
    "max_latency_ms": 100,
    "further_outputs": ["distribution", "value"],
    "formats": ["torchscript", "torchscript"],
    "observation_names": ["x", "y", "z"],
    "control_period": 1,
    "metadata": {"robot": "arm-3"},
}
"""As a YAML file gives it: lists for tuples, whole numbers."""


def test_options_may_be_a_mapping() -> None:
    expected = ExportOptions(
        opset_version=17,
        atol=0.0,
        max_latency_ms=100.0,
        further_outputs=("distribution", "value"),
        formats=("torchscript",),
        observation_names=("x", "y", "z"),
        control_period=1.0,
        metadata={"robot": "arm-3"},
    )
    assert as_options(_YAML) == as_options(MappingProxyType(_YAML)) == expected
    assert as_options({}) == ExportOptions()
    assert as_options(expected) is expected


def test_an_option_of_a_mapping_that_does_not_exist_is_refused_and_the_nearest_named() -> None:
    for name, nearest in (("opset", "opset_version"), ("n_sample", "n_samples"), (3, "")):
        options: Any = {"atol": 1e-4, name: 17}
        message = re.escape(f"options[{name!r}]=17 cannot be used: expected options that exist: opset_version, atol, ")
        with pytest.raises(OptionError, match=rf"^{message}.*, metadata\. Nearest is {nearest}") as raised:
            as_options(options)
        assert raised.value.value == 17


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("atol", "1e-5"),
        ("further_outputs", None),
        ("further_outputs", 3),
        ("further_outputs", [["value"]]),
        ("formats", "torchscript"),
        ("formats", ["pt"]),
        ("formats", None),
        ("target", 3),
    ],
    ids=repr,
)
def test_a_value_of_a_mapping_is_checked(option: str, value: object) -> None:
    with pytest.raises(OptionError, match=rf"^{option}={re.escape(repr(value))} cannot be used: expected ") as raised:
        as_options({option: value})
    assert raised.value.option == option


@pytest.mark.parametrize("options", [None, "opset_version=17", 17, [("atol", 0)], {"atol"}, ExportOptions], ids=repr)
def test_whatever_else_is_refused_at_once(options: Any, tmp_path: Path) -> None:
    message = f"options={options!r} cannot be used: expected ExportOptions, or a mapping of their names to values."
    model = make_model()
    calls: list[Callable[[], object]] = [
        lambda: OnnxCheckpointCallback(tmp_path, options=options),
        lambda: export_policy(model, tmp_path / "policy.onnx", options=options),
        lambda: validate_policy(tmp_path / "policy.onnx", model, options=options),
    ]
    for call in calls:
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            call()
    assert list(tmp_path.glob("*")) == []


def test_a_mapping_does_in_each_place_what_options_do(tmp_path: Path) -> None:
    model = make_model()
    report = export_policy(model, tmp_path / "policy.onnx", options=_YAML)
    assert (report.metadata.opset_version, report.metadata.entries) == (17, {"robot": "arm-3"})
    assert validate_policy(report.path, model, options={"n_samples": 3}).passed
    assert OnnxCheckpointCallback(tmp_path, options=_YAML).options == as_options(_YAML)


# The range check ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0, 0.0, 0.1, 100])
def test_a_margin_is_a_part_of_a_range(margin: float) -> None:
    assert ExportOptions(outside_margin=margin).outside_margin == margin


@pytest.mark.parametrize("margin", [-0.1, 100.1, float("nan"), float("inf"), True, None, "0.1"], ids=repr)
def test_any_other_margin_is_refused(margin: Any) -> None:
    with pytest.raises(OptionError, match=r"outside_margin=.* cannot be used: expected a number from 0 to 100\."):
        ExportOptions(outside_margin=margin)


def test_what_is_outside_is_told_by_ranges_that_are_kept() -> None:
    message = "observation_ranges=False cannot be used: expected True, as further_outputs with 'outside' tells by them."
    with pytest.raises(OptionError, match=re.escape(message)):
        ExportOptions(further_outputs=["outside"], observation_ranges=False)
