"""What a caller may choose about an export."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from sb3_clanker.errors import OptionError, UnsupportedOpsetError
from sb3_clanker.formats.format import FormatName
from sb3_clanker.policy_file.entries import check_entries
from sb3_clanker.policy_file.tensors import OUTSIDE
from sb3_clanker.public import public
from sb3_clanker.targets.check import known_target
from sb3_clanker.targets.target import TargetName

SUPPORTED_OPSETS = range(17, 24)

_MOST = 100_000
"""Observations and vectors that may be asked for: they are drawn at once."""

_LARGEST_MARGIN = 100
"""In ranges: far beyond what could tell anything."""

FurtherOutput = Literal["distribution", "value", "q_values", "outside"]
OUTPUTS: Mapping[FurtherOutput, frozenset[str]] = {
    "distribution": frozenset({"action_mean", "action_std", "action_logits"}),
    "value": frozenset({"value"}),
    "q_values": frozenset({"q_values"}),
    "outside": frozenset({OUTSIDE}),
}
"""Names in the graph of the outputs of each kind."""
Labels: TypeAlias = Sequence[str]


@public
@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export, checked when they are made.

    :param opset_version: the opset of the file, 17 to 23, kept exactly. The IR version is the oldest that allows it
        (8 for 17 and 18), so that as many runtimes as possible read the file.
    :param atol: largest difference that the cross-check lets pass, absolute. Box actions are compared in units of half
        their range (or of the largest action, where the policy uses less of it), so that one tolerance fits a joint of
        ±0.1 rad and a motor of ±1000 N.
    :param rtol: the same, relative to the magnitude of the action in these units
    :param n_samples: how many random observations the cross-check tries beside those that training saw and the bounds
        of the space; None (the default) chooses by the size of the network
    :param max_latency_ms: milliseconds that 99 of 100 predictions on one observation must keep on this machine; the
        file is refused if they do not, and the figures go into its metadata. None (the default) measures nothing
    :param channels_last: whether the file takes images as height, width, channels, as cameras give them; by default it
        takes them as channels, height, width, as Stable-Baselines3 trains on them
    :param further_outputs: what the file gives beside the action, for those who sample or inspect: ``"distribution"``
        (``action_mean`` and ``action_std``, or ``action_logits``), ``"value"``, ``"q_values"``, and ``"outside"``: for
        each component of the vectors of an observation, whether it lies outside of what training saw; none by default
    :param outside_margin: by what part of its range (maximum less minimum) a component may leave what training saw
        before ``"outside"`` says so, 0 to 100
    :param formats: formats in which the policy is written beside the ``.onnx``, each proven as that is:
        ``"torchscript"`` (``NAME_torchscript/policy.pt`` and ``metadata.json``), ``"weights"`` (``NAME.safetensors``);
        none by default
    :param observation_names: names of the components of an observation, for those who wire a robot: one for each
        element of a Box, for each category of a Discrete space; of a Dict space, a mapping of such by key
    :param observation_units: the same for units
    :param action_names: names of the components of an action, likewise
    :param action_units: the same for units
    :param control_period: seconds from one action to the next
    :param observation_ranges: whether a training keeps what it sees of observations that are vectors (the smallest, the
        largest, mean, deviation and quantiles of each component), for the record of the file
    :param test_vectors: how many test vectors to write to ``NAME.vectors.json`` beside the file, at most, for consumers
        that prove themselves; None (the default) writes none
    :param target: the program that has to take the file: ``"clankers"``, ``"godot"``, ``"onnxruntime-web"`` or
        ``"tract"``. What it cannot take is refused before anything is traced; for clankers, images become float32, 0 to
        1; for godot, inputs and outputs are those of the plugin of godot_rl_agents. None (the default) holds the file
        to the contract alone
    :param metadata: the caller's own entries, stored in the file as flat keys
    :raises OptionError: a value is out of its range
    :raises UnsupportedOpsetError: ``opset_version`` is not one of the supported
    :raises ReservedMetadataKeyError: a key of ``metadata`` is kept for the format

    >>> ExportOptions(opset_version=17, metadata={"robot": "arm-3"}).opset_version
    17
    """

    suffix: ClassVar[str] = ".onnx"
    """Of the files, which is that of their format."""

    opset_version: int = 18
    atol: float = 1e-5
    rtol: float = 1e-5
    n_samples: int | None = None
    max_latency_ms: float | None = None
    channels_last: bool = False
    further_outputs: Sequence[FurtherOutput] = ()
    outside_margin: float = 0.1
    formats: Sequence[FormatName] = ()
    observation_names: Labels | Mapping[str, Labels] | None = None
    observation_units: Labels | Mapping[str, Labels] | None = None
    action_names: Labels | None = None
    action_units: Labels | None = None
    control_period: float | None = None
    observation_ranges: bool = True
    test_vectors: int | None = None
    target: TargetName | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.opset_version) is not int or self.opset_version not in SUPPORTED_OPSETS:
            raise UnsupportedOpsetError(self.opset_version, SUPPORTED_OPSETS)
        for option in ("atol", "rtol"):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise OptionError(option, value, "a number of at least 0 and below 1")
        for option in ("n_samples", "test_vectors"):
            value = getattr(self, option)
            if value is not None and (type(value) is not int or value < 1):
                raise OptionError(option, value, "a positive integer, or None")
            if value is not None and value > _MOST:
                raise OptionError(option, value, f"{_MOST:,} at most, or None")
        for option in ("channels_last", "observation_ranges"):
            if not isinstance(value := getattr(self, option), bool):
                raise OptionError(option, value, "True or False")
        for option, names in (("further_outputs", FurtherOutput), ("formats", FormatName)):
            known, asked = get_args(names), getattr(self, option)
            if isinstance(asked, str) or not isinstance(asked, Collection) or any(name not in known for name in asked):
                raise OptionError(option, asked, f"a sequence of {', '.join(map(repr, known))}")
            object.__setattr__(self, option, tuple(dict.fromkeys(asked)))
        if OUTSIDE in self.further_outputs and not self.observation_ranges:
            raise OptionError("observation_ranges", False, "True, as further_outputs with 'outside' tells by them")
        margin = self.outside_margin
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin <= _LARGEST_MARGIN:
            raise OptionError("outside_margin", margin, f"a number from 0 to {_LARGEST_MARGIN}")
        for option, unit in (("control_period", "seconds"), ("max_latency_ms", "milliseconds")):
            value = getattr(self, option)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf")
            ):
                raise OptionError(option, value, f"a positive number of {unit}, or None")
        for option in ("observation_names", "observation_units", "action_names", "action_units"):
            object.__setattr__(self, option, _check_labels(option, getattr(self, option)))
        if self.target is not None:
            known_target(self.target)
        object.__setattr__(self, "metadata", dict(check_entries(self.metadata)))


OptionsSource: TypeAlias = ExportOptions | Mapping[str, Any]
"""Options, or a mapping of their names to values, as a YAML file gives it."""


def as_options(options: OptionsSource) -> ExportOptions:
    """Options from whatever a caller may give for them; errors as for :class:`ExportOptions`."""
    if isinstance(options, ExportOptions):
        return options
    if not isinstance(options, Mapping):
        raise OptionError("options", options, "ExportOptions, or a mapping of their names to values")
    known = [option.name for option in fields(ExportOptions)]
    for name in options:
        if name not in known:
            (nearest,) = get_close_matches(str(name), known, n=1, cutoff=0.0)
            expected = f"options that exist: {', '.join(known)}. Nearest is {nearest}"
            raise OptionError(f"options[{name!r}]", options[name], expected)
    return ExportOptions(**options)


def _check_labels(option: str, labels: object) -> Labels | dict[str, Labels] | None:
    """Labels are a sequence of strings, or for observations a mapping of such by key; kept as tuples."""
    if labels is None:
        return None
    if isinstance(labels, Mapping) and option.startswith("observation"):
        return {str(key): _check_sequence(option, of_key) for key, of_key in labels.items()}
    return _check_sequence(option, labels)


def _check_sequence(option: str, labels: object) -> Labels:
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not all(isinstance(item, str) for item in labels):
        raise OptionError(option, labels, "a sequence of strings")
    return tuple(labels)
