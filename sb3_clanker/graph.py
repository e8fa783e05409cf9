"""An actor as an ONNX graph: traced once, filled with live weights as often as needed.

The trace takes every parameter and buffer of the actor as an input of the graph. So no optimization can fold, merge
or rename a weight, constants that depend on no weight are folded away, and which tensor goes where is known by
construction. Afterwards these inputs become initializers, and an export is nothing but writing values into them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch as th
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

from sb3_clanker.actor import Actor
from sb3_clanker.compiled import eager
from sb3_clanker.container import find_tensors
from sb3_clanker.errors import GraphError
from sb3_clanker.opset import NATIVE_OPSET, lower_opset, oldest_ir_version
from sb3_clanker.tensors import BATCH

_PRODUCER = "sb3_clanker"
_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")
"""Loggers that report each step of a trace."""


class Graph:
    """The ONNX graph of an actor's structure, to be filled with weights.

    :param actor: an actor whose policy may be run and left in any state: a copy, never the one in training
    :param opset_version: opset of the graph, kept exactly
    :ivar reusable: whether it holds no tensor that training could change unseen
    :ivar ir_version: IR version of the graph
    :raises GraphError: the policy cannot be traced
    :raises UnsupportedOpsetError: an operator does not exist in the opset; it is named
    """

    def __init__(self, actor: Actor, opset_version: int) -> None:
        tensors = actor.tensors()
        self._structure = _structure(tensors)
        with _surroundings():
            model, self.reusable = _trace(actor, tensors, opset_version)
            template = _clean(model, actor, tensors, opset_version)
        self.ir_version = oldest_ir_version(opset_version)
        self._pieces = _cut(template, tensors)

    def fits(self, tensors: Mapping[str, th.Tensor]) -> bool:
        """Whether these are tensors of the structure that was traced."""
        return _structure(tensors) == self._structure

    def fill(self, tensors: Mapping[str, th.Tensor], entries: bytes = b"") -> bytes:
        """Serialize the graph with these weights.

        :param tensors: what ``Actor.tensors`` gives, on any device
        :param entries: serialized metadata entries to append
        :return: a ``ModelProto``
        """
        pieces = (
            piece if isinstance(piece, bytes) else np.ascontiguousarray(_to_numpy(tensors[piece])).data
            for piece in self._pieces
        )
        return b"".join([*pieces, entries])


class _Functional(nn.Module):
    """An actor with its tensors as leading arguments."""

    def __init__(self, actor: Actor, names: list[str]) -> None:
        super().__init__()
        self._actor = (actor,)  # out of nn.Module's sight: the actor's tensors are arguments, not state
        self._names = names

    def forward(self, *arguments: th.Tensor) -> tuple[th.Tensor, ...]:
        count = len(self._names)
        tensors = dict(zip(self._names, arguments[:count], strict=True))
        outputs: tuple[th.Tensor, ...] = th.func.functional_call(self._actor[0], tensors, arguments[count:])
        return outputs


def _trace(actor: Actor, tensors: Mapping[str, th.Tensor], opset_version: int) -> tuple[ir.Model, bool]:
    """Trace the actor, and tell whether the trace holds no tensor that training could change unseen."""
    arguments = (*(tensor.detach() for tensor in tensors.values()), *actor.example_inputs())
    batch = th.export.Dim("batch", min=1)
    shapes: list[dict[int, object] | None] = [None] * len(tensors)
    shapes += [{spec.shape.index(BATCH): batch} for spec in actor.inputs]
    actor.eval()
    try:
        program = th.export.export(
            _Functional(actor, list(tensors)), arguments, dynamic_shapes={"arguments": tuple(shapes)}, strict=False
        )
        exported = th.onnx.export(
            program, opset_version=max(opset_version, NATIVE_OPSET), dynamo=True, optimize=False, verbose=False
        )
    except Exception as error:  # whatever the policy's own code and torch's exporter raise
        raise GraphError(
            f"{type(actor.policy).__qualname__} cannot be traced: {type(error).__name__}: {_first_line(error)} "
            "Its _predict() must be made of torch operations, without branches on the values of tensors."
        ) from error
    if exported is None:
        raise GraphError("torch.onnx.export returned no program.")
    constants = (program.constants[name] for name in program.graph_signature.lifted_tensor_constants)
    reusable = all(constant.numel() == 1 or not constant.is_floating_point() for constant in constants)
    return exported.model, reusable


@contextmanager
def _surroundings() -> Iterator[None]:
    """What tracing needs of the process; everything is put back afterwards."""
    distribution = th.distributions.Distribution
    validate_args = distribution._validate_args
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with th.random.fork_rng(devices=[]), th.no_grad(), eager(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        distribution.set_default_validate_args(False)  # its checks branch on values, which cannot be traced
        try:
            yield
        finally:
            distribution.set_default_validate_args(validate_args)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _clean(model: ir.Model, actor: Actor, tensors: Mapping[str, th.Tensor], opset_version: int) -> bytes:
    """From the exporter's model to a clean one, serialized."""
    graph = model.graph
    onnxscript.optimizer.optimize(model)
    if opset_version < NATIVE_OPSET:
        lower_opset(model, opset_version)
        RemoveUnusedNodesPass()(model)
    _name_values(graph, list(tensors), actor)
    for weight in graph.inputs[: len(tensors)]:
        graph.inputs.remove(weight)
        if weight.uses():
            weight.const_value = ir.tensor(_to_numpy(tensors[str(weight.name)]), name=weight.name)
            graph.register_initializer(weight)

    model.ir_version = oldest_ir_version(opset_version)
    model.producer_name, model.producer_version, model.doc_string = _PRODUCER, None, None
    graph.name, graph.doc_string = "policy", None
    for annotated in (model, graph, *graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
        annotated.metadata_props.clear()  # the exporter's stack traces, with paths of this machine
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # some consumers take it for more than a hint
    serialized: bytes = proto.SerializeToString()
    return serialized


def _name_values(graph: ir.Graph, weights: list[str], actor: Actor) -> None:
    """Names that are the same in every export; those within begin with a slash, and so collide with no other."""
    for index, constant in enumerate(list(graph.initializers.values())):
        constant.name = f"/constant_{index}"
    for index, node in enumerate(graph):
        node.name, node.doc_string = f"{node.op_type}_{index}", None
        for position, value in enumerate(node.outputs):
            value.name = f"/{node.name}" if position == 0 else f"/{node.name}_{position}"
    for name, value in zip(weights, graph.inputs, strict=False):
        value.name = name
    ends = (*graph.inputs[len(weights) :], *graph.outputs)
    for spec, value in zip((*actor.inputs, *actor.outputs), ends, strict=True):
        value.name, value.shape = spec.name, ir.Shape(spec.shape)


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
