"""What a program that loads policy files asks of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

from sb3_clanker.policy_file.dialects import CONTRACT, Dialect
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace
from sb3_clanker.policy_file.tensors import TensorSpec

TargetName = Literal["clankers", "godot", "onnxruntime-web", "tract"]
Mode = Literal["vector", "vision"]


class Signature(Protocol):
    """What has inputs and outputs: the record in a file, or a policy that is yet to be traced."""

    @property
    def action_space(self) -> LeafSpace:
        """Space of one action."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the graph."""

    @property
    def observation_space(self) -> ObservationSpace:
        """Space of one raw observation."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the graph."""


class Target:
    """A program that loads policy files. This one takes any, and says nothing; a program says what differs.

    The rules of a target are those of its own code, or were measured.

    :ivar name: its name
    :ivar unit_images: whether it feeds images as float32 from 0 to 1, so that the file has to take them so
    :ivar dialect: how its files are laid out
    """

    name: TargetName
    unit_images: bool = False
    dialect: Dialect = CONTRACT

    def problems(self, _: Signature) -> Iterator[str]:
        """The rules that a policy breaks, each with what to do about it."""
        yield from ()

    def notes(self, _: PolicyMetadata) -> Iterator[str]:
        """What it does not check itself, so that whoever uses it has to know."""
        yield from ()

    def mode(self, _: Signature) -> Mode | None:
        """The way in which it feeds a policy that it takes, None where it has only one."""
        return None

    def unused(self, _: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        """The inputs that it feeds although a policy with these observations has no use for them."""
        return ()


def is_static(spec: TensorSpec) -> bool:
    """Whether every dimension but the first has a size."""
    return all(isinstance(dim, int) and dim > 0 for dim in spec.shape[1:])


def listed(names: Iterable[str]) -> str:
    """Names, for a message."""
    return ", ".join(names) or "none"
