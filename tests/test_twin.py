"""A policy on an accelerator is proven by a twin on the CPU, kept up to date and made anew when it is stale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy
from sb3_clanker.exporter import Exporter
from sb3_clanker.statistics import Normalization
from sb3_clanker.twin import CpuTwin, alike, needs_twin
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, draw, make_model, predict_raw, spread

OBSERVATIONS = draw(BOX_OBSERVATION, np.random.default_rng(0), 30)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat a policy on the CPU as if it lived on an accelerator."""
    monkeypatch.setattr("sb3_clanker.exporter.needs_twin", lambda _: True)


def _exporter(model: Any) -> Exporter:
    return Exporter(model, Normalization(vec_normalize=None), ExportOptions())


def _assert_equal(exporter: Exporter, model: Any) -> None:
    policy = OnnxPolicy.from_bytes(exporter.export().data)
    np.testing.assert_allclose(policy.predict(OBSERVATIONS)[0], predict_raw(model, OBSERVATIONS), atol=1e-5)


def test_a_policy_on_the_cpu_needs_none() -> None:
    assert not needs_twin(make_model().policy)


def test_a_twin_follows_the_live_weights(elsewhere: None) -> None:
    model = make_model(SAC)
    exporter = _exporter(model)
    for seed in range(2):
        spread(model, seed=seed)
        _assert_equal(exporter, model)
    assert exporter._twin is not None


def test_a_twin_is_made_once(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    exporter = _exporter(model)
    exporter.export()
    assert exporter._twin is not None
    first = exporter._twin.policy
    spread(model)
    exporter.export()
    assert exporter._twin.policy is first


class _Annealed(ActorCriticPolicy):
    """Keeps a plain number that training changes."""

    gain: float = 1.0

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return self.gain * super()._predict(observation, deterministic)


def test_a_stale_twin_is_noticed_and_made_anew(elsewhere: None) -> None:
    model = make_model(policy=_Annealed)  # type: ignore[arg-type]
    exporter = _exporter(model)
    exporter.export()
    assert exporter._twin is not None
    first = exporter._twin.policy
    model.policy.__dict__["gain"] = 0.25
    _assert_equal(exporter, model)
    assert exporter._twin.policy is not first


def test_the_live_policy_is_not_touched(elsewhere: None) -> None:
    model = make_model()
    model.policy.train()
    before = [(parameter.data_ptr(), parameter.clone()) for parameter in model.policy.parameters()]
    _exporter(model).export()
    assert model.policy.training
    for (address, values), parameter in zip(before, model.policy.parameters(), strict=True):
        assert parameter.data_ptr() == address
        assert th.equal(parameter, values)


def test_what_an_accelerator_may_change_is_alike_and_no_more() -> None:
    box, discrete = BOX_ACTION, spaces.Discrete(3)
    one = np.zeros((8, 2), np.float32)
    assert alike(one, one + 1e-3, box)
    assert not alike(one, one + 0.1, box)
    choices = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    other = choices.copy()
    other[0] = 1
    assert alike(choices, other, discrete)
    assert not alike(choices, (choices + 1) % 3, discrete)


def test_a_twin_copies_buffers_too() -> None:
    model = make_model()
    model.policy.register_buffer("counted", th.zeros(3))
    twin = CpuTwin(model.policy)
    model.policy.counted += 2  # type: ignore[operator, assignment]
    twin.update()
    assert dict(twin.policy.named_buffers())["counted"].tolist() == [2, 2, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("algorithm", [PPO, SAC, DQN])
def test_a_policy_that_trains_on_a_gpu_is_proven(algorithm: Any, tmp_path: Any) -> None:
    kwargs: dict[str, Any] = {"action_space": spaces.Discrete(3)} if algorithm is DQN else {}
    model = make_model(algorithm, device="cuda", **kwargs)
    callback = OnnxCheckpointCallback(tmp_path, save_freq=20, on_error="raise")
    model.learn(60, callback=callback)
    assert model.policy.device.type == "cuda"
    saved = type(model).load(tmp_path / "final_model.zip", device="cpu")
    got = OnnxPolicy(tmp_path / "final_model.onnx").predict(OBSERVATIONS)[0]
    np.testing.assert_allclose(got, predict_raw(saved, OBSERVATIONS), atol=1e-5)
