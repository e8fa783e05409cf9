"""What a format is to the rest of the package: an actor as bytes, and bytes that run again.

A format is one module beside this one, with a :class:`Writer`, and an entry in :mod:`sb3_clanker.writers.formats`. The
exporter traces, fills and stamps through it; the proof opens what it wrote, and compares that with Stable-Baselines3's
own ``predict``, whatever the format. A template that cannot take other weights fits none, and is traced each time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch as th

from sb3_clanker.actor.actor import Actor
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.seal import Hashing
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.runtime.session import Runner

Stretches: TypeAlias = tuple[bytes | memoryview, ...]


class RefusedError(Exception):
    """A proof found a file wanting; the message is the finding."""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """An actor as bytes, with its weights.

    :ivar data: the bytes that are proven, with the scores as the last output where it has any
    :ivar published: the bytes that are published, as stretches: the same, but for that output
    :ivar scores: what the scores are, None where there are none
    :ivar n_entries: how many bytes at the end of the last stretch are metadata
    """

    data: bytes
    published: Stretches
    scores: TensorSpec | None = None
    n_entries: int = 0

    @property
    def body(self) -> Stretches:
        """What is published, less the metadata: what the digest is of."""
        *first, last = self.published
        return *first, last[: len(last) - self.n_entries]


class Template(Protocol):
    """An actor as it was traced, to be filled with live weights."""

    def fits(self, tensors: Mapping[str, th.Tensor]) -> bool:
        """Whether these are tensors of the structure that was traced."""

    def fill(self, tensors: Mapping[str, th.Tensor], entries: Mapping[str, str]) -> Filled:
        """Serialize the actor with what ``Actor.tensors`` gives, on any device, and with the flat keys of the file."""


class Writer(ABC):
    """One format.

    :ivar runtime: name of what runs its files
    :ivar stages: what its proof begins with, before a file is run and compared
    """

    runtime: str
    stages: tuple[str, ...] = ()

    @abstractmethod
    def trace(self, actor: Actor, options: ExportOptions) -> Template:
        """Trace an actor: a copy, whose policy may be run and left in any state.

        :raises GraphError: it cannot be traced
        :raises UnsupportedOpsetError: the format cannot hold what it does
        """

    @abstractmethod
    def stamp(self, filled: Filled, metadata: PolicyMetadata, hashing: Hashing) -> tuple[Stretches, PolicyMetadata]:
        """The whole file with the record in it; and that record, sealed."""

    @abstractmethod
    def open(self, data: bytes, metadata: PolicyMetadata, *, trusted: bool) -> Runner:
        """Load a file to run it.

        :param trusted: whether the same was loaded before, with other weights
        """

    def reopen(self, data: bytes) -> Filled:
        """What there is to prove in a file that was published before."""
        return Filled(data=data, published=(data,))

    def check(self, data: bytes, metadata: PolicyMetadata, *, in_full: bool) -> Iterator[str]:  # noqa: ARG002
        """Go through :attr:`stages`: at each, raise what is wrong, or say what was found.

        :param in_full: whether more than weights is new
        """
        return iter(())
