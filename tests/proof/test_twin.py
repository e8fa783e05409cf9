"""A policy on an accelerator is proven by a twin on the CPU, kept up to date and made anew when it is stale."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy
from sb3_clanker.errors import UnsupportedPolicyError
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.proof.reference import Prediction
from sb3_clanker.proof.twin import CpuTwin, needs_twin, require_alike
from sb3_clanker.sb3.normalization import Normalization
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, draw, make_model, predict_raw, spread

OBSERVATIONS = draw(BOX_OBSERVATION, np.random.default_rng(0), 30)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat a policy on the CPU as if it lived on an accelerator."""
    monkeypatch.setattr("sb3_clanker.proof.subject.needs_twin", lambda _: True)


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
    assert exporter._subject._twin is not None


def test_a_twin_is_made_once(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    exporter = _exporter(model)
    exporter.export()
    assert exporter._subject._twin is not None
    first = exporter._subject._twin.policy
    spread(model)
    exporter.export()
    assert exporter._subject._twin.policy is first


class _Annealed(ActorCriticPolicy):
    """Keeps a plain number that training changes."""

    gain: float = 1.0

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return self.gain * super()._predict(observation, deterministic)


@pytest.mark.parametrize("gain", [0.25, 0.995])
def test_a_twin_is_made_anew_where_code_of_a_user_may_keep_a_state(elsewhere: None, gain: float) -> None:
    model = make_model(policy=_Annealed)  # type: ignore[arg-type]
    exporter = _exporter(model)
    exporter.export()
    assert exporter._subject._twin is not None
    first = exporter._subject._twin.policy
    model.policy.__dict__["gain"] = gain
    _assert_equal(exporter, model)
    assert exporter._subject._twin.policy is not first


def test_a_twin_is_made_anew_where_a_setting_has_changed(elsewhere: None) -> None:
    model: Any = make_model(policy_kwargs={"activation_fn": nn.LeakyReLU})
    exporter = _exporter(model)
    _assert_equal(exporter, model)
    model.policy.mlp_extractor.policy_net[1].negative_slope = 0.02
    _assert_equal(exporter, model)


def test_the_record_says_how_far_the_twin_is_from_the_policy(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    first = _exporter(model).export().metadata.cross_check
    assert first is not None
    assert first.twin_difference == 0.0
    predict = model.predict
    monkeypatch.setattr("sb3_clanker.proof.subject.check_own_predict", lambda _: None)  # it refuses such a replacement
    monkeypatch.setattr(model, "predict", lambda *args, **kwargs: (predict(*args, **kwargs)[0] + 1e-3, None))
    second = _exporter(model).export().metadata.cross_check
    assert second is not None
    assert second.twin_difference == pytest.approx(1e-3 / 0.375, rel=1e-3)
    assert second.max_difference < 1e-5


def test_on_the_cpu_the_record_knows_of_no_twin() -> None:
    cross_check = _exporter(make_model()).export().metadata.cross_check
    assert cross_check is not None
    assert cross_check.twin_difference is None


def test_the_live_policy_is_not_touched(elsewhere: None) -> None:
    model = make_model()
    model.policy.train()
    before = [(parameter.data_ptr(), parameter.clone()) for parameter in model.policy.parameters()]
    _exporter(model).export()
    assert model.policy.training
    for (address, values), parameter in zip(before, model.policy.parameters(), strict=True):
        assert parameter.data_ptr() == address
        assert th.equal(parameter, values)


def _prediction(action: Any, scores: Any = None) -> Prediction:
    return Prediction(np.asarray(action), None, scores=() if scores is None else (np.asarray(scores),))


def test_what_an_accelerator_may_change_is_alike_and_no_more() -> None:
    one, policy = np.zeros((8, 2), np.float32), make_model(action_space=BOX_ACTION).policy
    assert require_alike(_prediction(one), _prediction(one + 1e-3), policy) == pytest.approx(1e-3 / 0.375)
    message = (
        "Cannot export ActorCriticPolicy: a copy of it on the CPU acts otherwise (by 0.27; arithmetic explains 0.02). "
        "It must keep all that it needs where pickle finds it, and act alike on every device."
    )
    with pytest.raises(UnsupportedPolicyError, match=f"^{re.escape(message)}$"):
        require_alike(_prediction(one), _prediction(one + 0.1), policy)


def test_choices_are_alike_where_their_scores_are() -> None:
    policy = make_model(action_space=spaces.Discrete(3)).policy
    choices, scores = np.array([0, 1, 2, 0, 1, 2, 0, 1]), np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]]
    other = np.roll(choices, 1)
    assert require_alike(_prediction(choices, scores), _prediction(other, scores + 1e-3), policy) < 2e-3
    with pytest.raises(UnsupportedPolicyError, match="acts otherwise"):
        require_alike(_prediction(choices, scores), _prediction(choices, scores * 1.05), policy)
    assert require_alike(_prediction(choices), _prediction([1, *choices[1:]]), policy) == 1 / 8
    with pytest.raises(UnsupportedPolicyError, match="acts otherwise"):
        require_alike(_prediction(choices), _prediction(other), policy)


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
