"""A compiled policy is exported as what it was compiled from, and nothing is compiled on the way."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import OnnxCheckpointCallback, OnnxPolicy, export_policy, validate_policy
from sb3_clanker.errors import UnsupportedPolicyError
from sb3_clanker.proof.twin import CpuTwin
from sb3_clanker.sb3.algorithms import holds_policy_of
from sb3_clanker.sb3.compiled import eager, uncompiled
from sb3_clanker.sb3.copying import copy_policy
from tests.support import ACTIONS
from tests.worlds import BOX_OBSERVATION, draw, make_model, predict_raw, spread


class Backend:
    """Runs eagerly what it compiles, and counts."""

    def __init__(self) -> None:
        self.n_compiled = 0

    def __call__(self, module: th.fx.GraphModule, _: object) -> Callable[..., Any]:
        self.n_compiled += 1
        return module.forward


Compile = Callable[[BaseAlgorithm, Backend], object]


def _whole(model: Any, backend: Backend) -> None:
    model.policy = th.compile(model.policy, backend=backend)


def _extractor(model: Any, backend: Backend) -> None:
    model.policy.mlp_extractor = th.compile(model.policy.mlp_extractor, backend=backend)


def _forward(model: Any, backend: Backend) -> None:
    model.policy.forward = th.compile(model.policy.forward, backend=backend)


def _predict(model: Any, backend: Backend) -> None:
    model.policy._predict = th.compile(model.policy._predict, backend=backend)
    model.policy.predict = th.compile(model.policy.predict, backend=backend)


def _in_place(model: Any, backend: Backend) -> None:
    model.policy.mlp_extractor.compile(backend=backend)
    model.policy.compile(backend=backend)


def _within(model: Any, backend: Backend) -> None:
    _extractor(model, backend)
    _whole(model, backend)


def test_the_file_is_that_of_the_policy_before_it_was_compiled(tmp_path: Path) -> None:
    plain = export_policy(make_model(), tmp_path / "plain").metadata
    for compile_ in (_within, _forward, _predict, _in_place):
        model, backend = make_model(), Backend()
        compile_(model, backend)
        report = export_policy(model, tmp_path / "compiled")
        assert (report.metadata.digest, report.metadata.policy_class) == (plain.digest, plain.policy_class)
        assert backend.n_compiled == 0
    assert validate_policy(report.path, model).passed


def _within_q(model: Any, backend: Backend) -> None:
    model.policy.q_net.q_net = th.compile(model.policy.q_net.q_net, backend=backend)
    _whole(model, backend)


@pytest.mark.parametrize(("algorithm", "compile_"), [(PPO, _extractor), (SAC, _whole), (DQN, _within_q)])
def test_a_compiled_policy_trains_on_and_is_exported(algorithm: Any, compile_: Compile, tmp_path: Path) -> None:
    model = make_model(algorithm, action_space=ACTIONS["Discrete" if algorithm is DQN else "Box"])
    compile_(model, Backend())
    callback = OnnxCheckpointCallback(tmp_path, save_freq=16, on_error="raise")
    model.learn(48, callback=callback)
    assert len(callback.reports) == 4
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 500)
    got = OnnxPolicy(tmp_path / "final_model.onnx").predict(observations)[0]
    np.testing.assert_allclose(got, predict_raw(model, observations), atol=1e-5)


def test_training_compiles_and_computes_what_it_does_without_the_callback(tmp_path: Path) -> None:
    weights, compiled = [], []
    for callback in (None, OnnxCheckpointCallback(tmp_path, save_freq=8)):
        th._dynamo.reset()
        model, backend = make_model(), Backend()
        _extractor(model, backend)
        model.learn(32, callback=callback)
        weights.append([parameter.detach().clone() for parameter in model.policy.parameters()])
        compiled.append(backend.n_compiled)
    assert all(map(th.equal, *weights))
    assert compiled[0] == compiled[1] > 0


def test_a_zip_of_a_compiled_policy_is_its_own(tmp_path: Path) -> None:
    model = make_model()
    _whole(model, Backend())
    model.save(tmp_path / "policy.zip")
    assert holds_policy_of(tmp_path / "policy.zip", model)
    files = export_policy(model, tmp_path / "policy.onnx").metadata.checkpoint
    assert files is not None
    assert files.algorithm_file is not None


def test_a_predict_that_stands_in_the_policy_is_refused(tmp_path: Path) -> None:
    for own in (lambda *_, **__: (np.zeros((1, 2), np.float32), None), make_model().policy.predict):
        model: Any = make_model()
        model.policy.predict = own
        with pytest.raises(UnsupportedPolicyError, match=r"Cannot export ActorCriticPolicy: it overrides predict\(\)"):
            export_policy(model, tmp_path / "policy")


def test_a_function_around_a_compiled_one_is_not_taken_for_it() -> None:
    def double(tensor: th.Tensor) -> th.Tensor:
        return tensor * 2

    compiled = th.compile(double, backend="eager")

    @functools.wraps(compiled)
    def around(tensor: th.Tensor) -> th.Tensor:
        return compiled(tensor) + 1

    assert uncompiled(compiled) is double
    assert uncompiled(around) is around
    assert uncompiled(double) is double


def test_a_copy_is_not_compiled() -> None:
    model, backend = make_model(), Backend()
    for compile_ in (_in_place, _within, _predict):
        compile_(model, backend)
    copied = copy_policy(model.policy)
    assert type(copied) is type(make_model().policy)
    assert [name for name, _ in copied.named_parameters()] == [
        name for name, _ in make_model().policy.named_parameters()
    ]
    copied.predict(draw(BOX_OBSERVATION, np.random.default_rng(0), 3))
    assert backend.n_compiled == 0


def test_a_twin_follows_a_compiled_policy() -> None:
    model = make_model()
    _within(model, Backend())
    twin = CpuTwin(model.policy)
    spread(model, seed=1)
    twin.update()
    assert all(map(th.equal, model.policy.parameters(), twin.policy.parameters()))


def test_threads_share_what_is_not_compiled() -> None:
    backend = Backend()
    compiled = th.compile(lambda tensor: tensor + 1, backend=backend)
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with eager():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    with eager():
        thread.start()
        entered.wait()
    compiled(th.zeros(2))  # the other thread still needs it
    assert backend.n_compiled == 0
    leave.set()
    thread.join()
    compiled(th.zeros(2))
    assert backend.n_compiled == 1
