"""The scores that an action comes from: logits, Q-values, a mean before it is clipped or squashed.

An action alone says little: a wrong network may well choose the same one of four. So a proof compares the scores too:
what the last layer of the policy gives, in the file's own graph.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_clanker.policy_file.tensors import BATCH, TensorSpec

SCORES = "/scores"
"""Name of the scores in a graph, where they are a value within."""

_LAST_LAYERS = ("action_net", "q_net", "quantile_net", "actor.mu")


@contextmanager
def captured_scores(policy: BasePolicy) -> Iterator[list[th.Tensor]]:
    """The scores of a prediction that is made meanwhile: at most one tensor, of shape (batch, ...).

    :param policy: the policy that predicts, live or in a trace
    """
    captured: list[th.Tensor] = []

    def capture(_: nn.Module, __: object, scores: object) -> None:
        if isinstance(scores, th.Tensor) and scores.is_floating_point() and scores.dim() > 1:
            captured[:] = [scores]

    layer = _last_layer(policy)
    if layer is None:
        yield captured
        return
    hook = layer.register_forward_hook(capture)
    try:
        yield captured
    finally:
        hook.remove()


def _last_layer(policy: Any) -> nn.Module | None:
    for name in _LAST_LAYERS:
        try:
            layer = operator.attrgetter(name)(policy)
        except AttributeError:
            continue
        if isinstance(layer, nn.Module):
            return layer
    return None


def scores_spec(shape: tuple[int, ...]) -> TensorSpec:
    """The scores as an output of a graph.

    :param shape: of the scores of one observation
    """
    return TensorSpec(name=SCORES, dtype="float32", shape=(BATCH, *shape), role="further", meaning="scores")


def add_scores(data: bytes) -> tuple[bytes, TensorSpec | None]:
    """A file with its scores as one more output; unchanged, and None, where it has none within.

    :param data: the bytes of a file of this package, or of any other
    """
    try:
        model = onnx.load_from_string(data)
        within = onnx.shape_inference.infer_shapes(model).graph.value_info
    except Exception:  # onnx raises what it likes; the proof of the file will say what is wrong with it
        return data, None
    scores = next((value for value in within if value.name == SCORES), None)
    if scores is None:
        return data, None
    rows, *widths = scores.type.tensor_type.shape.dim
    rows.dim_param = BATCH  # as the exporter saw it; the inference may have lost it on the way
    model.graph.output.append(scores)
    return model.SerializeToString(), scores_spec(tuple(width.dim_value for width in widths))
