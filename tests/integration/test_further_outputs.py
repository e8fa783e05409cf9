"""What a file tells beside the action, and the actions that are drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch as th
from gymnasium import spaces
from onnx import numpy_helper
from sb3_contrib import QRDQN, TQC, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import ClankerError, ExportOptions, OnnxPolicy, ValidationError, export_policy
from sb3_clanker.errors import OptionError, StochasticActionError
from sb3_clanker.policy_file.reading import parse
from sb3_clanker.policy_file.seal import stamp
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, draw, make_model

DISCRETE, MULTI_DISCRETE, MULTI_BINARY = spaces.Discrete(3), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)
OBSERVATIONS = draw(BOX_OBSERVATION, np.random.default_rng(0), 9)


def _export(model: BaseAlgorithm, folder: Path, *outputs: Any) -> OnnxPolicy:
    options = ExportOptions(further_outputs=outputs)
    return OnnxPolicy(export_policy(model, folder / "policy.onnx", options=options).path)


def _told(model: BaseAlgorithm, folder: Path, *outputs: Any, **context: Any) -> dict[str, np.ndarray]:
    return _export(model, folder, *outputs).outputs(OBSERVATIONS, **context)


def _close(got: np.ndarray, expected: th.Tensor) -> None:
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-5, atol=1e-5)


def _prepared(model: BaseAlgorithm) -> tuple[Any, th.Tensor]:
    model.policy.set_training_mode(False)
    return model.policy, th.as_tensor(OBSERVATIONS)


@pytest.mark.parametrize("kwargs", [{}, {"use_sde": True}, {"use_sde": True, "policy_kwargs": {"squash_output": True}}])
def test_mean_and_deviation_of_a_gaussian(kwargs: Any, tmp_path: Path) -> None:
    model = make_model(PPO, **kwargs)
    told = _told(model, tmp_path, "distribution", "value")
    policy, observations = _prepared(model)
    distribution = policy.get_distribution(observations).distribution
    _close(told["action_mean"], distribution.mean)
    _close(told["action_std"], distribution.stddev)
    _close(told["value"], policy.predict_values(observations))


@pytest.mark.parametrize("algorithm", [SAC, TQC, CrossQ])
def test_mean_and_deviation_before_the_squashing(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
    model = make_model(algorithm)
    told = _told(model, tmp_path, "distribution")
    policy, observations = _prepared(model)
    mean, log_std, _ = policy.actor.get_action_dist_params(observations)
    _close(told["action_mean"], mean)
    _close(told["action_std"], log_std.exp())


def test_log_probabilities_of_choices(tmp_path: Path) -> None:
    model = make_model(PPO, action_space=DISCRETE)
    policy, observations = _prepared(model)
    expected = policy.get_distribution(observations).distribution.logits
    _close(_told(model, tmp_path, "distribution")["action_logits"], expected)


def test_log_probabilities_of_several_choices_stand_side_by_side(tmp_path: Path) -> None:
    model = make_model(PPO, action_space=MULTI_DISCRETE)
    policy, observations = _prepared(model)
    parts = policy.get_distribution(observations).distribution
    _close(_told(model, tmp_path, "distribution")["action_logits"], th.cat([part.logits for part in parts], dim=1))


def test_log_odds_of_bits(tmp_path: Path) -> None:
    model = make_model(PPO, action_space=MULTI_BINARY)
    policy, observations = _prepared(model)
    expected = policy.get_distribution(observations).distribution.logits
    _close(_told(model, tmp_path, "distribution")["action_logits"], expected)


def test_masks_are_in_the_log_probabilities(tmp_path: Path) -> None:
    model = make_model(MaskablePPO, action_space=DISCRETE)
    masks = np.random.default_rng(0).random((9, 3)) < 0.5
    masks[:, 1] = True
    policy, observations = _prepared(model)
    expected = policy.get_distribution(observations, action_masks=masks).distribution.logits
    _close(_told(model, tmp_path, "distribution", action_masks=masks)["action_logits"], expected)


def test_the_state_is_in_the_distribution_of_a_recurrent_policy(tmp_path: Path) -> None:
    model = make_model(RecurrentPPO, policy="MlpLstmPolicy")
    rng = np.random.default_rng(0)
    state = tuple(rng.normal(size=(1, 9, 16)).astype(np.float32) for _ in range(2))
    start = rng.random(9) < 0.5
    policy, observations = _prepared(model)
    tensors = tuple(map(th.as_tensor, state))
    distribution, _ = policy.get_distribution(observations, tensors, th.as_tensor(start, dtype=th.float32))
    mean = distribution.distribution.mean
    told = _told(model, tmp_path, "distribution", state=state, episode_start=start)
    _close(told["action_mean"], mean)


def test_q_values(tmp_path: Path) -> None:
    model = make_model(DQN, action_space=DISCRETE)
    policy, observations = _prepared(model)
    _close(_told(model, tmp_path, "q_values")["q_values"], policy.q_net(observations))
    model = make_model(QRDQN, action_space=DISCRETE)
    policy, observations = _prepared(model)
    _close(_told(model, tmp_path, "q_values")["q_values"], policy.quantile_net(observations).mean(dim=1))


@pytest.mark.parametrize(
    ("algorithm", "action_space", "output"),
    [(TD3, None, "distribution"), (SAC, None, "value"), (PPO, DISCRETE, "q_values"), (DQN, DISCRETE, "value")],
)
def test_what_a_policy_cannot_tell_is_refused(
    algorithm: type[BaseAlgorithm], action_space: Any, output: Any, tmp_path: Path
) -> None:
    model = make_model(algorithm, action_space=action_space) if action_space is not None else make_model(algorithm)
    with pytest.raises(OptionError, match=f"what {type(model.policy).__name__} has; it has no '{output}'") as caught:
        _export(model, tmp_path, output)
    assert isinstance(caught.value, ClankerError)


def test_the_value_of_a_recurrent_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="it has no 'value'"):
        _export(make_model(RecurrentPPO, policy="MlpLstmPolicy"), tmp_path, "value")


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(OptionError, match=r"further_outputs=\('entropy',\) cannot be used: expected a sequence of"):
        ExportOptions(further_outputs=("entropy",))  # type: ignore[arg-type]


def test_the_default_file_is_the_plain_actor(tmp_path: Path) -> None:
    policy = _export(make_model(PPO), tmp_path)
    assert [spec.name for spec in policy.metadata.outputs] == ["action"]
    with pytest.raises(StochasticActionError, match="holds the deterministic policy alone"):
        policy.predict(OBSERVATIONS, deterministic=False)


def test_the_outputs_are_documented_and_the_action_stays_first(tmp_path: Path) -> None:
    policy = _export(make_model(PPO), tmp_path, "value", "distribution")
    assert [spec.name for spec in policy.metadata.outputs] == ["action", "value", "action_mean", "action_std"]
    assert policy.metadata.outputs[2].meaning == "mean of the Gaussian, before clipping"
    assert policy.metadata.sampling == "gaussian"


@pytest.mark.parametrize(
    ("algorithm", "action_space", "output", "tensor"),
    [
        (PPO, BOX_ACTION, "value", "policy.value_net.bias"),
        (MaskablePPO, DISCRETE, "distribution", "policy.action_net.bias"),
    ],
)
def test_a_wrong_further_output_is_refused(
    algorithm: Any, action_space: Any, output: Any, tensor: str, tmp_path: Path
) -> None:
    from sb3_clanker import validate_policy

    model = make_model(algorithm, action_space=action_space)
    path = export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(further_outputs=(output,))).path
    assert validate_policy(path, model).passed
    metadata, proto = parse(path.read_bytes()).metadata, onnx.load(path)
    del proto.metadata_props[:]
    weight = next(initializer for initializer in proto.graph.initializer if initializer.name == tensor)
    values = numpy_helper.to_array(weight).copy()
    values[0] += 1e-3
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    path.write_bytes(stamp(proto.SerializeToString(), metadata))
    with pytest.raises(ValidationError, match="stage cross_check: the file and Stable-Baselines3 disagree"):
        validate_policy(path, model)


# Sampling ------------------------------------------------------------------------------------------------------------

N_DRAWS = 20_000


@pytest.mark.parametrize(
    ("algorithm", "action_space", "kwargs"),
    [
        (PPO, spaces.Box(-1.0, 2.0, (2,)), {}),
        (PPO, spaces.Box(-1.0, 2.0, (2,)), {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
        (SAC, spaces.Box(-1.0, 2.0, (2,)), {}),
        (PPO, DISCRETE, {}),
        (PPO, MULTI_DISCRETE, {}),
        (PPO, MULTI_BINARY, {}),
        (MaskablePPO, MULTI_BINARY, {}),
    ],
)
def test_drawn_actions_are_distributed_as_those_of_stable_baselines3(
    algorithm: type[BaseAlgorithm], action_space: spaces.Space[Any], kwargs: Any, tmp_path: Path
) -> None:
    model = make_model(algorithm, action_space=action_space, scale=0.5, **kwargs)
    policy = _export(model, tmp_path, "distribution")
    policy.rng = np.random.default_rng(0)
    one = np.repeat(OBSERVATIONS[:1], N_DRAWS, axis=0)
    th.manual_seed(0)
    if kwargs:
        model.policy.reset_noise(N_DRAWS)  # type: ignore[operator]
    drawn, expected = policy.predict(one, deterministic=False)[0], model.predict(one, deterministic=False)[0]
    assert (drawn.shape, drawn.dtype) == (expected.shape, expected.dtype)
    for moment in (1, 2):
        np.testing.assert_allclose((drawn**moment).mean(axis=0), (expected**moment).mean(axis=0), atol=0.05)
    assert action_space.contains(drawn[0].astype(action_space.dtype))


def test_draws_are_repeatable_with_a_seeded_generator(tmp_path: Path) -> None:
    policy = _export(make_model(PPO), tmp_path, "distribution")
    drawn = []
    for _ in range(2):
        policy.rng = np.random.default_rng(5)
        drawn.append(policy.predict(OBSERVATIONS, deterministic=False)[0])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert policy.predict(OBSERVATIONS[0], deterministic=False)[0].shape == (2,)
    assert np.abs(drawn[0] - policy.predict(OBSERVATIONS)[0]).max() > 0


def test_a_forbidden_action_is_never_drawn(tmp_path: Path) -> None:
    policy = _export(make_model(MaskablePPO, action_space=DISCRETE), tmp_path, "distribution")
    masks = np.tile([True, False, True], (9, 1))
    drawn = {
        int(a) for _ in range(50) for a in policy.predict(OBSERVATIONS, deterministic=False, action_masks=masks)[0]
    }
    assert drawn <= {0, 2}
