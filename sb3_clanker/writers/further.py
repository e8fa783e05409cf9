"""What a format beside ONNX is to the rest of the package: what it refuses, and how a proven policy becomes its files.

Such a format is one class in a module beside this one, which makes its files of a policy whose ``.onnx`` has passed its
proof: of that file, or of the actor. How they run is in ``formats/``. The exporter opens what was written again, and
compares it with Stable-Baselines3's own ``predict`` on the same observations as the ``.onnx``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch as th

from sb3_clanker.actor.actor import Actor
from sb3_clanker.formats.format import FormatName
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.vectors import TestVectors
from sb3_clanker.run_folder.names import FileKind


@dataclass(frozen=True, kw_only=True)
class Original:
    """A policy whose ``.onnx`` has passed its proof.

    :ivar name: of its files, without a suffix
    :ivar run: name of the training that they are of; of an export by itself, that of the files
    :ivar data: the ``.onnx``, sealed. Its initializers have the names of the actor's tensors: those of
        Stable-Baselines3, behind ``policy.``
    :ivar metadata: its record, sealed
    :ivar tensors: parameters and buffers of the actor, live, on any device
    :ivar copied_actor: makes an actor on the CPU that may be left in any state
    :ivar vectors: its test vectors, None where there are none
    :ivar options: of the export
    :ivar in_full: whether more than weights is new
    """

    name: str
    run: str
    data: bytes
    metadata: PolicyMetadata
    vectors: TestVectors | None
    options: ExportOptions
    tensors: Mapping[str, th.Tensor]
    copied_actor: Callable[[], Actor]
    in_full: bool


class FurtherWriter(ABC):
    """A format beside ONNX. There is one of these for each exporter, so it may keep what serves again.

    :ivar format: its name
    :ivar is_timed: whether ``max_latency_ms`` holds for it too
    """

    format: ClassVar[FormatName]
    is_timed: ClassVar[bool] = False

    def refuse(self, actor: Actor, options: ExportOptions) -> None:  # noqa: B027 - most can hold whatever ONNX can
        """Refuse what it cannot hold, as far as that can be known before anything is traced.

        :param actor: of the live policy, which must be left as it is
        :raises FormatError: it cannot; or, of the ClankerErrors, what says better why
        """

    def unproven(self, options: ExportOptions) -> str | None:  # noqa: ARG002
        """Why its files cannot be proven on this machine, where that was asked for; None where they have to be."""
        return None

    @abstractmethod
    def write(self, original: Original) -> dict[FileKind, bytes]:
        """The files of the format.

        :return: by kind; what is in ``KINDS`` of ``run_folder/names`` for this format
        :raises FormatError: it cannot hold the policy
        """
