"""The actor owns its inputs and outputs, refuses what it would get wrong, and copies what must not be touched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_clanker import ExportOptions, OnnxPolicy, export_policy
from sb3_clanker.actor.actor import Actor
from sb3_clanker.errors import ClankerError, NormalizationError, UnsupportedPolicyError, UnsupportedSpaceError
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.sb3.copying import copy_policy
from sb3_clanker.sb3.statistics import Statistics
from tests.worlds import BOX_OBSERVATION, MATRIX_ACTION, draw, make_model, predict_raw


def _statistics(*shape: int) -> Statistics:
    return Statistics(mean=np.zeros(shape), variance=np.ones(shape), epsilon=1e-8, clip_obs=10.0)


def test_it_names_its_inputs_and_outputs() -> None:
    actor = Actor(make_model(action_space=MATRIX_ACTION).policy, {}, ExportOptions())
    assert actor.inputs == (
        TensorSpec(
            name="obs", dtype="float32", shape=("batch", 3), role="observation", key=None, meaning="raw observation"
        ),
    )
    assert [(spec.name, spec.dtype, spec.shape) for spec in actor.outputs] == [("action", "float32", ("batch", 6))]
    assert [tuple(example.shape) for example in actor.example_inputs()] == [(2, 3)]


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_it_does_what_predict_does(algorithm: Any) -> None:
    model = make_model(algorithm, action_space=MATRIX_ACTION)
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 50)
    with th.no_grad():
        actor = Actor(copy_policy(model.policy), {}, ExportOptions()).eval()
        (got,) = actor(th.as_tensor(observations))
    np.testing.assert_allclose(got.numpy().reshape(50, 2, 3), predict_raw(model, observations), atol=1e-6)


def test_bounds_that_float32_cannot_carry_are_rounded_to_the_inside() -> None:
    action_space = spaces.Box(np.array([-0.1, 0.1]), np.array([-0.05, 0.7]), dtype=np.float64)
    model = make_model(action_space=action_space)
    actor = Actor(model.policy, {}, ExportOptions())
    assert np.all(actor.action_low.numpy().astype(np.float64) >= action_space.low)
    assert np.all(actor.action_high.numpy().astype(np.float64) <= action_space.high)
    np.testing.assert_allclose(actor.action_low.numpy(), action_space.low, rtol=1e-6)
    np.testing.assert_allclose(actor.action_high.numpy(), action_space.high, rtol=1e-6)


def _squashed_ppo(**kwargs: Any) -> BaseAlgorithm:
    return make_model(PPO, use_sde=True, policy_kwargs={"squash_output": True}, **kwargs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "make",
    [partial(make_model, SAC), partial(make_model, TD3), _squashed_ppo, make_model],
    ids=["SAC", "TD3", "PPO, squashed", "PPO"],
)
def test_no_action_leaves_its_bounds_by_a_digit(make: Callable[..., BaseAlgorithm], dtype: Any, tmp_path: Path) -> None:
    """Unscaling rounds, and a policy that saturates stands at its bounds: neither brings an action outside."""
    rng = np.random.default_rng(3)
    low = rng.uniform(-9.0, 5.0, 200)
    action_space = spaces.Box(low.astype(dtype), (low + 10 ** rng.uniform(-2, 2, 200)).astype(dtype), dtype=dtype)
    model = make(action_space=action_space, scale=5.0)
    further: Any = () if isinstance(model, TD3) else ("distribution",)
    policy = OnnxPolicy(export_policy(model, tmp_path / "p", options=ExportOptions(further_outputs=further)).path)
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 5000)
    action = policy.run({"obs": observations})["action"]
    actions = [action, policy.predict(observations)[0]]
    if policy.metadata.sampling:
        actions.append(policy.predict(observations, deterministic=False)[0])
    for chosen in actions:
        assert (chosen.astype(np.float64) >= action_space.low).all()
        assert (chosen.astype(np.float64) <= action_space.high).all()
    half = (action_space.high.astype(np.float64) - action_space.low) / 2
    assert (np.abs(action - (action_space.low + half)) / half > 0.999).any(axis=0).all(), "no action is at its bounds"
    np.testing.assert_allclose(action, predict_raw(model, observations), rtol=1e-5, atol=1e-5 * half.max())


class _OwnPredict(ActorCriticPolicy):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        action, state = super().predict(*args, **kwargs)
        return -action, state


def test_a_policy_with_its_own_predict_is_refused() -> None:
    model = make_model(policy=_OwnPredict)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedPolicyError, match=r"Cannot export _OwnPredict: it overrides predict\(\)") as caught:
        Actor(model.policy, {}, ExportOptions())
    assert isinstance(caught.value, ClankerError)
    assert isinstance(caught.value, TypeError)


def test_statistics_of_another_shape_are_refused() -> None:
    policy = make_model().policy
    with pytest.raises(NormalizationError, match=r"for the observation have the shape \(4,\).* observes \(3,\)"):
        Actor(policy, {None: _statistics(4)}, ExportOptions())
    with pytest.raises(NormalizationError, match="the observation key 'position', which the policy does not have"):
        Actor(policy, {"position": _statistics(3)}, ExportOptions())


def test_an_action_space_that_starts_elsewhere_is_refused() -> None:
    model = make_model(action_space=spaces.Discrete(3))
    model.policy.action_space = spaces.Discrete(3, start=1)
    with pytest.raises(UnsupportedSpaceError, match="it starts at 1, and Stable-Baselines3 works with 0 to n-1"):
        Actor(model.policy, {}, ExportOptions())


def test_a_policy_is_copied_in_the_state_that_training_leaves_it_in() -> None:
    model = make_model(use_sde=True)
    model.learn(32)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model.policy)
    copied = copy_policy(model.policy)
    for live, other in zip(model.policy.parameters(), copied.parameters(), strict=True):
        assert th.equal(live, other)
        assert live.data_ptr() != other.data_ptr()


def test_making_an_actor_leaves_the_policy_as_it_is() -> None:
    policy = make_model().policy
    policy.train()
    before = {name: tensor.data_ptr() for name, tensor in policy.named_parameters()}
    Actor(policy, {None: _statistics(3)}, ExportOptions())
    assert policy.training
    assert {name: tensor.data_ptr() for name, tensor in policy.named_parameters()} == before
    assert all(parameter.requires_grad for parameter in policy.parameters())
