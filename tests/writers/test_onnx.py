"""A graph is traced once, clean, in the opset that was asked for, and filled with live weights."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, CrossQ
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_clanker.actor.actor import Actor
from sb3_clanker.errors import GraphError, UnsupportedOpsetError
from sb3_clanker.options import SUPPORTED_OPSETS, ExportOptions
from sb3_clanker.sb3.copying import copy_policy
from sb3_clanker.writers.formats import FORMATS
from sb3_clanker.writers.onnx import Graph
from tests.worlds import BOX_OBSERVATION, draw, make_model, predict_raw, spread


def _graph(model: BaseAlgorithm, opset_version: int = 18) -> Graph:
    return Graph(Actor(copy_policy(model.policy), {}, ExportOptions()), opset_version)


def _run(data: bytes, observations: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data)
    actions: np.ndarray = session.run(None, {"obs": observations})[0]
    return actions


def _fill(graph: Graph, model: BaseAlgorithm) -> bytes:
    return b"".join(graph.fill(Actor(model.policy, {}, ExportOptions()).tensors(), {}).published)


def _assert_equal(data: bytes, model: BaseAlgorithm) -> None:
    observations = draw(BOX_OBSERVATION, np.random.default_rng(3), 40)
    expected = predict_raw(model, observations)
    np.testing.assert_allclose(_run(data, observations), expected.reshape(40, -1), atol=1e-5)


def test_one_trace_serves_every_later_state_of_the_weights() -> None:
    model = make_model(SAC)
    graph = _graph(model)
    for seed in range(3):
        spread(model, seed=seed)
        tensors = Actor(model.policy, {}, ExportOptions()).tensors()
        assert graph.fits(tensors)
        _assert_equal(_fill(graph, model), model)


def test_running_statistics_of_batch_norm_are_live_weights() -> None:
    model = make_model(CrossQ)
    graph = _graph(model)
    model.learn(60)
    _assert_equal(_fill(graph, model), model)


def test_equal_weights_are_not_merged() -> None:
    model = make_model()
    with th.no_grad():
        for name, parameter in model.policy.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    graph = _graph(model)
    spread(model, seed=9)
    _assert_equal(_fill(graph, model), model)


def test_another_structure_is_noticed() -> None:
    graph = _graph(make_model())
    other = make_model(policy_kwargs={"net_arch": [16, 17]})
    assert not graph.fits(Actor(other.policy, {}, ExportOptions()).tensors())


@pytest.mark.parametrize("opset_version", SUPPORTED_OPSETS)
@pytest.mark.parametrize(
    ("algorithm", "action_space"),
    [(PPO, spaces.Discrete(3)), (PPO, spaces.MultiDiscrete([3, 2])), (QRDQN, spaces.Discrete(3))],
)
def test_the_file_has_exactly_the_opset_that_was_asked_for(
    algorithm: type[BaseAlgorithm], action_space: spaces.Space[Any], opset_version: int
) -> None:
    model = make_model(algorithm, action_space=action_space)
    data = _fill(_graph(model, opset_version), model)
    proto = onnx.load_from_string(data)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset_version)]
    oldest = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
    assert proto.ir_version == oldest[opset_version]
    _assert_equal(data, model)


def test_an_operator_that_the_opset_lacks_is_named() -> None:
    model = make_model(policy_kwargs={"activation_fn": th.nn.Mish})
    with pytest.raises(
        UnsupportedOpsetError, match=r"cannot be written in opset 17: it needs Mish.* up to 23"
    ) as caught:
        _graph(model, 17)
    assert caught.value.operators == ("Mish",)
    _assert_equal(_fill(_graph(model, 18), model), model)


@pytest.mark.parametrize("action_space", [spaces.Box(-1.0, 1.0, (2,)), spaces.MultiDiscrete([3, 2])])
def test_the_graph_is_clean(action_space: spaces.Space[Any]) -> None:
    model = make_model(action_space=action_space)
    data = _fill(_graph(model), model)
    proto = onnx.load_from_string(data)
    operators = {node.op_type for node in proto.graph.node}
    assert not operators & {"CastLike", "SplitToSequence", "SequenceAt", "Constant", "Identity"}
    assert not proto.graph.value_info
    assert not proto.functions
    assert not any(initializer.name.startswith("policy.value_net") for initializer in proto.graph.initializer)
    assert str(Path(__file__).parents[2]).encode() not in data
    assert b"site-packages" not in data
    assert b"torch" not in data


def test_names_and_bytes_are_the_same_from_trace_to_trace() -> None:
    model = make_model()
    assert _fill(_graph(model), model) == _fill(_graph(model), model)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_a_file_is_what_was_proven_less_the_entry_of_its_scores(algorithm: type[BaseAlgorithm]) -> None:
    model = make_model(algorithm, action_space=spaces.Discrete(4))
    filled = _graph(model).fill(Actor(model.policy, {}, ExportOptions()).tensors(), {})
    proven, published = onnx.load_from_string(filled.data), onnx.load_from_string(b"".join(filled.published))
    assert [output.name for output in proven.graph.output] == ["action", "/scores"]
    del proven.graph.output[1:]
    assert proven == published
    assert FORMATS[".onnx"].reopen(b"".join(filled.published)).scores == filled.scores


def test_the_scores_are_what_the_choice_is_made_of() -> None:
    model = make_model(DQN, action_space=spaces.Discrete(4))
    filled = _graph(model).fill(Actor(model.policy, {}, ExportOptions()).tensors(), {})
    observations = draw(BOX_OBSERVATION, np.random.default_rng(3), 40)
    scores = onnxruntime.InferenceSession(filled.data).run(["/scores"], {"obs": observations})[0]
    q_values = model.policy.q_net(th.as_tensor(observations)).detach().numpy()  # type: ignore[operator]
    np.testing.assert_allclose(scores, q_values, atol=1e-5)


class _Branching(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        if observation.sum() > 0:
            return super()._predict(observation, deterministic)
        return -super()._predict(observation, deterministic)


def test_a_policy_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    model = make_model(policy=_Branching)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=r"_Branching cannot be traced: .* without branches on the values of tensors"):
        _graph(model)


def test_tracing_leaves_the_process_as_it_was() -> None:
    model = make_model(DQN, action_space=spaces.Discrete(3))
    logging.getLogger("torch.onnx").setLevel(logging.INFO)
    state = (
        th.get_rng_state(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        random.getstate(),
        th.get_num_threads(),
        th.is_grad_enabled(),
        th.distributions.Distribution._validate_args,
    )
    _graph(model)
    assert th.equal(state[0], th.get_rng_state())
    assert state[1:] == (
        np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        random.getstate(),
        th.get_num_threads(),
        th.is_grad_enabled(),
        th.distributions.Distribution._validate_args,
    )
    assert logging.getLogger("torch.onnx").level == logging.INFO
    logging.getLogger("torch.onnx").setLevel(logging.NOTSET)
