"""Programs that load policy files, and whether one of them takes a given policy.

A policy is checked by the inputs and outputs that it says it has: that costs nothing, and can be done before there is a
file. The rules of a target are those of its own code, or were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

from sb3_clanker.errors import OptionError, TargetError
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.tensors import BATCH, BoxSpace, DictSpace, ObservationSpace, TensorSpec, bounds

TargetName = Literal["clankers", "onnxruntime-web", "tract"]
Mode = Literal["vector", "vision"]

IMAGE = "image"
"""What clankers calls the input of its camera."""
_JOINTS = "joint_positions"
_VECTORS = ("obs", "observation")
_ACTIONS = ("action", "actions", "velocity")


class Signature(Protocol):
    """What has inputs and outputs: the record in a file, or a policy that is yet to be traced."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the graph."""

    @property
    def observation_space(self) -> ObservationSpace:
        """Space of one raw observation."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the graph."""


@dataclass(frozen=True, kw_only=True)
class TargetReport:
    """Whether a target takes a policy.

    :ivar target: name of the target
    :ivar accepts: whether it does
    :ivar mode: the way in which it feeds the policy; None where it does not take it, or has only one way
    :ivar problems: the rules that the policy breaks, each with what to do about it
    :ivar notes: what the target does not check itself, so that whoever uses it has to know
    """

    target: TargetName
    accepts: bool
    mode: Mode | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_target(metadata: PolicyMetadata, target: str) -> TargetReport:
    """Find out whether a target takes a policy file.

    :param metadata: what the file says of itself
    :param target: name of the target, one of :data:`TARGETS`
    :raises OptionError: there is no such target

    >>> check_target(read_metadata("policy.onnx"), "clankers").mode  # doctest: +SKIP
    'vector'
    """
    name = known_target(target)
    rules = _TARGETS[name]
    problems = tuple(rules.problems(metadata))
    return TargetReport(
        target=name,
        accepts=not problems,
        mode=None if problems else rules.mode(metadata),
        problems=problems,
        notes=() if problems else (*rules.notes(metadata), *_frame_notes(metadata)),
    )


def require_target(signature: Signature, target: str | None) -> None:
    """Refuse a policy that a target does not take; None takes any.

    :raises TargetError: a rule of the target is broken
    """
    if target is not None and (problems := tuple(_TARGETS[known_target(target)].problems(signature))):
        raise TargetError(target, problems)


def feeds_unit_images(target: str | None) -> bool:
    """Whether the file has to take images as float32 from 0 to 1, each byte divided by 255."""
    return target is not None and _TARGETS[known_target(target)].unit_images


def unused_inputs(target: str | None, observed: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The inputs that a target feeds although the policy has no use for them."""
    return () if target is None else _TARGETS[known_target(target)].unused(tuple(observed))


def known_target(target: object) -> TargetName:
    """The name of a target.

    :raises OptionError: there is no such target
    """
    for name in TARGETS:
        if target == name:
            return name
    raise OptionError("target", target, f"one of {', '.join(map(repr, TARGETS))}")


# clankers -----------------------------------------------------------------------------------------------------------


def _clankers_problems(signature: Signature) -> Iterator[str]:
    observed = {spec.name: spec for spec in signature.inputs if spec.role in ("observation", "unused")}
    further = {spec.role for spec in signature.inputs} - {"observation", "unused"}
    if further & {"hidden_state", "cell_state", "episode_start"}:
        yield (
            "the policy is recurrent, and the loader carries no state from step to step: "
            "train one without a recurrent network"
        )
    if "action_masks" in further:
        yield "the policy takes action_masks, and the loader feeds none: train one without masks"
    if observed.keys() & {IMAGE, _JOINTS}:
        yield from _vision_problems(observed)
        yield from _pixel_problems(observed, signature.observation_space)
    else:
        yield from _vector_problems(observed)
    yield from _action_problems(signature.outputs)


def _vector_problems(observed: Mapping[str, TensorSpec]) -> Iterator[str]:
    if len(observed) != 1 or not observed.keys() <= set(_VECTORS):
        yield (
            f"the inputs are {_listed(observed)}, and the loader feeds obs alone, or image and joint_positions: "
            "flatten the observation with gymnasium's FlattenObservation, or name its keys image and joint_positions"
        )
        return
    (spec,) = observed.values()
    yield from _float32_problems(spec)
    if (spec.layout is None and len(spec.shape) != 2) or not _is_static(spec):
        yield (
            f"{_shown(spec)} is not [batch, width], and the loader feeds one row of numbers: flatten the observation "
            "with gymnasium's FlattenObservation, or observe a Dict of image and joint_positions"
        )


def _vision_problems(observed: Mapping[str, TensorSpec]) -> Iterator[str]:
    if set(observed) != {IMAGE, _JOINTS}:
        yield (
            f"the inputs are {_listed(observed)}, and the loader feeds exactly image and joint_positions: "
            "give the observation space these two keys and no others"
        )
    if (image := observed.get(IMAGE)) is not None:
        yield from _float32_problems(image)
        if len(image.shape) != 4 or not _is_static(image) or image.layout == "channels_last":
            yield (
                f"{_shown(image)} is not [batch, channels, height, width]: "
                "use an image of three dimensions, and channels_last=False"
            )
    if (joints := observed.get(_JOINTS)) is not None:
        yield from _float32_problems(joints)
        if len(joints.shape) != 2 or not _is_static(joints):
            yield f"{_shown(joints)} is not [batch, joints]: use a Box of one dimension"


def _pixel_problems(observed: Mapping[str, TensorSpec], space: ObservationSpace) -> Iterator[str]:
    """An image that is none of bytes must have been trained on what the loader feeds."""
    leaf = space.spaces.get(IMAGE) if isinstance(space, DictSpace) else space
    image = observed.get(IMAGE)
    if image is None or image.dtype != "float32" or image.divisor is not None or not isinstance(leaf, BoxSpace):
        return
    low, high = bounds(leaf)
    if (low < 0.0).any() or (high > 1.0).any():
        yield (
            f"{_shown(image)} was trained on values from {low.min():g} to {high.max():g}, and the loader feeds 0 to 1: "
            "train on bytes (uint8, 0 to 255) that VecNormalize leaves alone (norm_obs_keys), or on floats from 0 to 1"
        )


def _clankers_unused(observed: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The loader runs no policy on an image alone."""
    if [spec.name for spec in observed] != [IMAGE]:
        return ()
    meaning = "not looked at: the loader runs no policy on an image alone"
    return (TensorSpec(name=_JOINTS, dtype="float32", shape=(BATCH, 1), role="unused", meaning=meaning),)


def _action_problems(outputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    actions = [spec for spec in outputs if spec.name in _ACTIONS]
    if len(actions) != 1:
        yield f"of the outputs {_listed(spec.name for spec in outputs)}, not exactly one is the action: export it again"
    for spec in actions:
        if spec.dtype != "float32" or len(spec.shape) < 2 or not _is_static(spec):
            yield f"{_shown(spec)} is not float32 [batch, width]: use an action space of at least one element"


def _float32_problems(spec: TensorSpec) -> Iterator[str]:
    if spec.dtype != "float32":
        yield f"{_shown(spec)} is not float32: export with ExportOptions(target='clankers')"


def _clankers_mode(signature: Signature) -> Mode | None:
    return "vision" if any(spec.name == IMAGE for spec in signature.inputs) else "vector"


def _clankers_notes(metadata: PolicyMetadata) -> Iterator[str]:
    for spec in metadata.inputs:
        if spec.role == "unused":
            yield f"{spec.name} is {spec.meaning}"
        elif len(spec.shape) == 2:
            yield f"{spec.name} needs {spec.shape[1]} numbers: the loader fills up fewer with zeros, without a word"
        else:
            yield f"{spec.name} gets the camera's bytes divided by 255, from 0 to 1"
        if spec.name == _JOINTS and spec.role != "unused":
            yield (
                f"{spec.name} gets the first {spec.shape[1]} numbers after the pixels, and the simulator interleaves "
                "positions and velocities there: train on them in this order"
            )
    if not isinstance(metadata.action_space, BoxSpace):
        yield (
            f"the action is a {metadata.action_space.type} one, in whole numbers; "
            "the loader, which finds no bounds for it, takes them for -1 and 1"
        )


# onnxruntime-web and tract -------------------------------------------------------------------------------------------


def _nothing(_: Signature) -> Iterator[str]:
    """No rule: no policy that can be exported is known to fail there, whatever its kind, opset or further outputs."""
    yield from ()


def _web_notes(metadata: PolicyMetadata) -> Iterator[str]:
    if any(spec.dtype == "bool" for spec in metadata.inputs):
        yield "a tensor of type bool takes a Uint8Array of 0 and 1"


def _tract_notes(metadata: PolicyMetadata) -> Iterator[str]:
    names = ", ".join(spec.name for spec in metadata.outputs)
    yield f"it does not keep the names of outputs: take them by position ({names})"


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What is known of a program that loads policy files.

    :ivar problems: the rules that a policy breaks, each with what to do about it
    :ivar notes: what the program does not check itself
    :ivar mode: the way in which it feeds a policy that it takes
    :ivar unit_images: whether it feeds images as float32 from 0 to 1, so that the file has to take them so
    :ivar unused: the inputs that it needs beside those of a policy that has no use for them
    """

    problems: Callable[[Signature], Iterator[str]]
    notes: Callable[[PolicyMetadata], Iterator[str]]
    mode: Callable[[Signature], Mode | None] = lambda _: None
    unit_images: bool = False
    unused: Callable[[tuple[TensorSpec, ...]], tuple[TensorSpec, ...]] = lambda _: ()


_TARGETS: Mapping[TargetName, _Target] = MappingProxyType(
    {
        "clankers": _Target(
            problems=_clankers_problems,
            notes=_clankers_notes,
            mode=_clankers_mode,
            unit_images=True,
            unused=_clankers_unused,
        ),
        "onnxruntime-web": _Target(problems=_nothing, notes=_web_notes),
        "tract": _Target(problems=_nothing, notes=_tract_notes),
    }
)
TARGETS: tuple[TargetName, ...] = tuple(_TARGETS)
"""Every program that a policy can be checked for."""


def _frame_notes(metadata: PolicyMetadata) -> Iterator[str]:
    """What no program does by itself."""
    for stack in metadata.frame_stacks:
        of_key = "" if stack.key is None else f" of {stack.key}"
        yield f"an observation{of_key} holds {stack.n_stack} frames, which the caller has to stack"


def _is_static(spec: TensorSpec) -> bool:
    return all(isinstance(dim, int) and dim > 0 for dim in spec.shape[1:])


def _shown(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
