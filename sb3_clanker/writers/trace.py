"""An actor traced by torch, as a clean ONNX graph.

The trace takes every parameter and buffer of the actor as an input of the graph. So no optimization can fold, merge
or rename a weight, constants that depend on no weight are folded away, and which tensor goes where is known by
construction. Afterwards these inputs become initializers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch as th
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

from sb3_clanker.actor.actor import Actor
from sb3_clanker.errors import GraphError
from sb3_clanker.errors.warnings import FILTERS
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec
from sb3_clanker.sb3.compiled import eager
from sb3_clanker.sb3.distributions import unchecked
from sb3_clanker.writers.opset import NATIVE_OPSET, lower_opset, oldest_ir_version
from sb3_clanker.writers.scores import captured_scores, scores_spec

_PRODUCER = "sb3_clanker"
_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")
"""Loggers that report each step of a trace."""


def trace(actor: Actor, tensors: Mapping[str, th.Tensor], opset_version: int) -> tuple[bytes, TensorSpec | None]:
    """The graph of an actor, serialized, with its scores as the last output; and what these are, if there are any.

    :param actor: an actor whose policy may be run and left in any state
    :param tensors: what ``Actor.tensors`` gives
    :param opset_version: opset of the graph, kept exactly
    :raises GraphError: the policy cannot be traced
    :raises UnsupportedOpsetError: an operator does not exist in the opset; it is named
    """
    with tracing():
        return _clean(_trace(actor, tensors, opset_version), actor, tensors, opset_version)


class _Functional(nn.Module):
    """An actor with its tensors as leading arguments."""

    def __init__(self, actor: Actor, names: list[str]) -> None:
        super().__init__()
        self._actor = (actor,)  # out of nn.Module's sight: the actor's tensors are arguments, not state
        self._names = names

    def forward(self, *arguments: th.Tensor) -> tuple[th.Tensor, ...]:
        count = len(self._names)
        tensors = dict(zip(self._names, arguments[:count], strict=True))
        with captured_scores(self._actor[0].policy) as scores:
            outputs: tuple[th.Tensor, ...] = th.func.functional_call(self._actor[0], tensors, arguments[count:])
        compared_anyway = self._actor[0].extra.names
        return outputs if compared_anyway else (*outputs, *scores)


def _trace(actor: Actor, tensors: Mapping[str, th.Tensor], opset_version: int) -> ir.Model:
    """Trace the actor; its scores come last."""
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
    return exported.model


@contextmanager
def tracing() -> Iterator[None]:
    """What tracing needs of the process, for one thread at a time; everything is put back afterwards."""
    with FILTERS, _surroundings():  # and what else is the process's
        yield


@contextmanager
def _surroundings() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with (
        th.random.fork_rng(devices=[]),
        th.no_grad(),
        eager(),
        _exporting_here(),
        unchecked(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _exporting_here() -> Iterator[None]:
    """Let no other thread take itself for one that exports: its optimizers would write into the trace of this one."""
    compiler: Any = th.compiler
    is_exporting, here = compiler.is_exporting, get_ident()
    compiler.is_exporting = lambda: get_ident() == here and is_exporting()
    try:
        yield
    finally:
        compiler.is_exporting = is_exporting


def _clean(
    model: ir.Model, actor: Actor, tensors: Mapping[str, th.Tensor], opset_version: int
) -> tuple[bytes, TensorSpec | None]:
    """From the exporter's model to a clean one, serialized, and what its scores are."""
    graph = model.graph
    onnxscript.optimizer.optimize(model)
    scores = _check_scores(model, actor)
    if opset_version < NATIVE_OPSET:
        lower_opset(model, opset_version)
        RemoveUnusedNodesPass()(model)
    _name_values(graph, list(tensors), actor, scores)
    for weight in graph.inputs[: len(tensors)]:
        graph.inputs.remove(weight)
        if weight.uses():
            weight.const_value = ir.tensor(tensors[str(weight.name)].detach().cpu().numpy(), name=weight.name)
            graph.register_initializer(weight)

    model.ir_version = oldest_ir_version(opset_version)
    model.producer_name, model.producer_version, model.doc_string = _PRODUCER, None, None
    graph.name, graph.doc_string = "policy", None
    for annotated in (model, graph, *graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
        annotated.metadata_props.clear()  # the exporter's stack traces, with paths of this machine
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # some consumers take it for more than a hint
    return proto.SerializeToString(), scores


def _check_scores(model: ir.Model, actor: Actor) -> TensorSpec | None:
    """Keep the scores as the last output, if they are a value within the graph, with a row for each observation."""
    graph = model.graph
    if len(graph.outputs) == len(actor.outputs):
        return None
    *others, scores = graph.outputs
    observation = graph.inputs[len(graph.inputs) - len(actor.inputs)]
    if scores.producer() and scores not in others and scores.shape and observation.shape:
        rows, *shape = scores.shape
        if rows == observation.shape[0] and all(isinstance(width, int) for width in shape):
            return scores_spec(tuple(int(width) for width in shape if isinstance(width, int)))
    graph.outputs.pop()
    RemoveUnusedNodesPass()(model)
    return None


def _name_values(graph: ir.Graph, weights: list[str], actor: Actor, scores: TensorSpec | None) -> None:
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
    for spec, value in zip((*actor.inputs, *actor.outputs, *([scores] if scores else [])), ends, strict=True):
        value.name, value.shape = spec.name, ir.Shape(spec.shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
