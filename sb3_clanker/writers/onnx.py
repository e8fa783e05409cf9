"""ONNX: an actor as a graph that is traced once, and filled with live weights as often as needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch as th
from numpy.typing import NDArray

from sb3_clanker.actor.actor import Actor
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.container import cut_last_output, find_tensors, join_container
from sb3_clanker.policy_file.reading import PolicyFile
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.seal import Hashing, seal
from sb3_clanker.runtime.session import Runner, open_session
from sb3_clanker.writers.contract import contract_problems
from sb3_clanker.writers.scores import add_scores
from sb3_clanker.writers.trace import trace
from sb3_clanker.writers.writer import Filled, RefusedError, Stretches, Writer


class Graph:
    """The ONNX graph of an actor's structure, to be filled with weights: nothing but writing values into it.

    :param actor: an actor whose policy may be run and left in any state: a copy, never the one in training
    :param opset_version: opset of the graph, kept exactly
    :raises GraphError: the policy cannot be traced
    :raises UnsupportedOpsetError: an operator does not exist in the opset; it is named
    """

    def __init__(self, actor: Actor, opset_version: int) -> None:
        tensors = actor.tensors()
        self._structure = _structure(tensors)
        template, self._scores = trace(actor, tensors, opset_version)
        self._pieces = _cut(template, tensors)
        self._without_scores = cut_last_output(template) if self._scores else (b"", [slice(None)])

    def fits(self, tensors: Mapping[str, th.Tensor]) -> bool:
        return _structure(tensors) == self._structure

    def fill(self, tensors: Mapping[str, th.Tensor], entries: Mapping[str, str]) -> Filled:
        pieces = (
            piece if isinstance(piece, bytes) else np.ascontiguousarray(_to_numpy(tensors[piece])).data
            for piece in self._pieces
        )
        metadata = join_container(b"", entries)
        data = b"".join([*pieces, metadata])
        beginning, stretches = self._without_scores
        view = memoryview(data)
        published: Stretches = (beginning, *(view[stretch] for stretch in stretches))
        return Filled(data=data, published=published, scores=self._scores, n_entries=len(metadata))


class OnnxWriter(Writer):
    """ONNX, run by onnxruntime."""

    runtime = "onnxruntime"
    stages = ("structure", "contract")

    def trace(self, actor: Actor, options: ExportOptions) -> Graph:
        return Graph(actor, options.opset_version)

    def reopen(self, data: bytes) -> Filled:
        scored, scores = add_scores(data)
        return Filled(data=scored, published=(data,), scores=scores)

    def check(self, data: bytes, metadata: PolicyMetadata, *, in_full: bool) -> Iterator[str]:
        onnx.checker.check_model(data, full_check=in_full)  # in full, it infers shapes, which no weight changes
        model = onnx.load_from_string(data)
        yield f"{len(model.graph.node)} nodes, {len(data):,} bytes"
        if problems := contract_problems(model, metadata):
            raise RefusedError("; ".join(problems))
        yield f"opset {metadata.opset_version}, IR version {metadata.ir_version}"

    def open(self, data: bytes, metadata: PolicyMetadata, *, trusted: bool) -> Runner:
        return open_session(PolicyFile(data=data, metadata=metadata), trusted=trusted)

    def stamp(self, filled: Filled, metadata: PolicyMetadata, hashing: Hashing) -> tuple[Stretches, PolicyMetadata]:
        tail, metadata = seal(metadata, hashing)
        return (*filled.published, tail), metadata


def _cut(template: bytes, tensors: Mapping[str, th.Tensor]) -> list[bytes | str]:
    """A serialized graph as what stays, and the names of the tensors whose values come between."""
    pieces: list[bytes | str] = []
    position = 0
    for name, (first, last) in sorted(find_tensors(template).items(), key=lambda found: found[1]):
        if name in tensors:
            pieces += [template[position:first], name]
            position = last
    return [*pieces, template[position:]]


def _structure(tensors: Mapping[str, th.Tensor]) -> dict[str, tuple[th.Size, th.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _to_numpy(tensor: th.Tensor) -> NDArray[np.generic]:
    values: NDArray[np.generic] = tensor.detach().cpu().numpy()
    return values
