"""TorchScript: an actor that torch has traced, as ``policy.pt``, and ``metadata.json`` beside it.

torch has announced the end of TorchScript, and warns whenever it is used. Those who load it, from C++ above all, go on.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_clanker.actor.actor import Actor
from sb3_clanker.errors import GraphError
from sb3_clanker.formats.torchscript import RECORD
from sb3_clanker.policy_file.documents import encode, to_fields
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.run_folder.names import TORCHSCRIPT, TORCHSCRIPT_METADATA, FileKind
from sb3_clanker.writers.further import FurtherWriter, Original
from sb3_clanker.writers.trace import tracing

_NOTES = ".debug_pkl"
"""Where torch keeps stack traces, with paths of this machine."""


class TorchScriptWriter(FurtherWriter):
    """TorchScript, traced once for an actor's structure, and filled with live weights as often as needed."""

    format = "torchscript"
    is_timed = True

    def __init__(self) -> None:
        self._traced: _Traced | None = None

    def write(self, original: Original) -> dict[FileKind, bytes]:
        with tracing():
            if original.in_full or self._traced is None or not self._traced.fits(original.tensors):
                self._traced = _Traced(original.copied_actor())
            module = self._traced.fill(original.tensors)
            file = io.BytesIO()
            th.jit.save(module, file, _extra_files={RECORD: encode(original.metadata).encode()})
        bundle = describe_bundle(original.metadata, original.run)
        return {
            TORCHSCRIPT: _without_notes(file),
            TORCHSCRIPT_METADATA: json.dumps(bundle, indent=2, allow_nan=False).encode() + b"\n",
        }


def describe_bundle(metadata: PolicyMetadata, run: str) -> dict[str, object]:
    """What ``metadata.json`` says, for agents that run such bundles.

    :param metadata: the record of the policy
    :param run: name of the training
    """
    shapes = {spec.key: list(spec.shape[1:]) for spec in metadata.inputs if spec.role == "observation"}
    space = metadata.action_space
    return {
        "algo": metadata.algorithm,
        "obs_shape": shapes.get(None, shapes),
        "action_space": to_fields(space) if space.shape or not space.choices else space.choices[0],
        "created": metadata.provenance.created,
        "run_name": run,
        "policy_id": metadata.digest,
        "version": metadata.provenance.versions.get("sb3-clanker", ""),
        "framework": "torchscript",
        "export_method": "trace",
    }


class _Traced:
    """An actor as torch has traced it, frozen: nothing is left of what an action does not come from.

    It is frozen once, as torch never forgets what it has frozen. The tensors that an action comes from stay what they
    are, so that nothing is computed of them in advance, and are those of the actor: it is filled by writing into these.

    :param actor: of a policy whose ``.onnx`` is proven, so that it branches on no values, which a trace would freeze
    :raises GraphError: it cannot be traced
    """

    def __init__(self, actor: Actor) -> None:
        self._tensors = actor.tensors()
        jit: Any = th.jit
        try:
            traced = jit.trace(actor.eval(), actor.example_inputs(), check_trace=False).eval()
            self._module = jit.freeze(traced, preserved_attrs=_used(traced), optimize_numerics=False)
        except Exception as error:  # whatever torch raises
            problem = (str(error).strip() or "no message").splitlines()[0]
            policy = type(actor.policy).__qualname__
            raise GraphError(f"{policy} cannot be traced for TorchScript: {type(error).__name__}: {problem}") from error

    def fits(self, tensors: Mapping[str, th.Tensor]) -> bool:
        """Whether these are tensors of the structure that was traced."""
        shapes, own = ({name: tensor.shape for name, tensor in each.items()} for each in (tensors, self._tensors))
        return shapes == own

    def fill(self, tensors: Mapping[str, th.Tensor]) -> Any:
        """The frozen module, with live weights."""
        for name, tensor in self._tensors.items():
            tensor.copy_(tensors[name])
        return self._module


def _used(traced: Any) -> list[str]:
    """Names of the tensors that a traced module computes with."""

    def path(value: Any) -> list[str]:
        node = value.node()
        return [*path(node.inputsAt(0)), node.s("name")] if node.kind() == "prim::GetAttr" else []

    graph = traced.inlined_graph  # kept by this name, or its nodes are gone
    found = {".".join(path(node.output())) for node in graph.findAllNodes("prim::GetAttr")}
    return [name for name, _ in (*traced.named_parameters(), *traced.named_buffers()) if name in found]


def _without_notes(file: io.BytesIO) -> bytes:
    """A ``.pt`` without torch's notes on where its code comes from; its other members as they are."""
    kept = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(kept, "w") as target:
        for member in archive.infolist():
            if not member.filename.endswith(_NOTES):
                target.writestr(zipfile.ZipInfo(member.filename), archive.read(member))
    return kept.getvalue()
