"""Every program that a policy can be checked for, and whether it takes one.

A policy is checked by the inputs and outputs that it says it has: that costs nothing, and can be done before there is a
file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sb3_clanker.errors import OptionError, TargetError
from sb3_clanker.policy_file.dialects import CONTRACT, Dialect
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.public import public
from sb3_clanker.targets.clankers import Clankers
from sb3_clanker.targets.godot import Godot
from sb3_clanker.targets.onnxruntime_web import OnnxruntimeWeb
from sb3_clanker.targets.target import Mode, Signature, Target, TargetName
from sb3_clanker.targets.tract import Tract

_TARGETS: Mapping[TargetName, Target] = MappingProxyType(
    {target.name: target for target in (Clankers(), Godot(), OnnxruntimeWeb(), Tract())}
)
TARGETS: tuple[TargetName, ...] = tuple(_TARGETS)
"""Every program that a policy can be checked for."""


@public
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


@public
def check_target(metadata: PolicyMetadata, target: str) -> TargetReport:
    """Find out whether a target takes a policy file.

    :param metadata: what the file says of itself
    :param target: name of the target, one of :data:`TARGETS`
    :raises OptionError: there is no such target

    >>> check_target(read_metadata("policy.onnx"), "clankers").mode  # doctest: +SKIP
    'vector'
    """
    program = _TARGETS[known_target(target)]
    problems = tuple(program.problems(metadata))
    return TargetReport(
        target=program.name,
        accepts=not problems,
        mode=None if problems else program.mode(metadata),
        problems=problems,
        notes=() if problems else (*program.notes(metadata), *_frame_notes(metadata)),
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


def dialect_for(target: str | None) -> Dialect:
    """How the files of a target are laid out."""
    return CONTRACT if target is None else _TARGETS[known_target(target)].dialect


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


def _frame_notes(metadata: PolicyMetadata) -> Iterator[str]:
    """What no program does by itself."""
    for stack in metadata.frame_stacks:
        of_key = "" if stack.key is None else f" of {stack.key}"
        yield f"an observation{of_key} holds {stack.n_stack} frames, which the caller has to stack"
