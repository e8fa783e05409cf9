"""Stable-Baselines3 is asked, and left as it was."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker.proof.probes import batch_size
from sb3_clanker.proof.reference import Reference, seen_observations
from tests.worlds import BOX_OBSERVATION, draw, make_model, predict_raw


def test_it_is_predict_on_normalized_observations() -> None:
    model = make_model(normalize=True)
    model.learn(32)
    vec_normalize = model.get_vec_normalize_env()
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 9)
    np.testing.assert_array_equal(
        Reference(model.policy, model.predict, vec_normalize).predict(observations)[0],
        predict_raw(model, observations, vec_normalize),
    )


def test_every_module_stays_in_its_mode() -> None:
    model = make_model(SAC)
    model.policy.train()
    model.policy.actor.eval()  # type: ignore[union-attr]
    modes = [module.training for module in model.policy.modules()]
    assert len(set(modes)) == 2
    Reference(model.policy, model.predict, None).predict(draw(BOX_OBSERVATION, np.random.default_rng(0), 2))
    assert [module.training for module in model.policy.modules()] == modes


def test_the_modes_stay_even_where_predict_raises() -> None:
    model = make_model()
    model.policy.train()
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        Reference(model.policy, model.predict, None).predict(np.zeros((2, 99), dtype=np.float32))
    assert model.policy.training


def test_perturbed_weights_are_those_of_a_copy() -> None:
    model = make_model(PPO, action_space=spaces.Box(-100.0, 100.0, (2,)))
    before = [parameter.clone() for parameter in model.policy.parameters()]
    state = th.get_rng_state()
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 5)
    perturbed = np.stack(
        [actions for actions, *_ in Reference(model.policy, model.predict, None).perturbed(observations)]
    )
    assert perturbed.shape == (16, 5, 2)
    difference = np.abs(perturbed - predict_raw(model, observations))
    assert 0 < difference.max() < 1e-3
    assert all(th.equal(old, new) for old, new in zip(before, model.policy.parameters(), strict=True))
    assert th.equal(state, th.get_rng_state())


@pytest.mark.parametrize(
    ("algorithm", "normalize"), [(PPO, False), (PPO, True), (SAC, False), (SAC, True), (DQN, False)]
)
def test_what_training_saw_is_raw(algorithm: type[BaseAlgorithm], normalize: bool) -> None:
    kwargs: dict[str, Any] = {"action_space": spaces.Discrete(2)} if algorithm is DQN else {}
    observation_space = spaces.Box(50.0, 51.0, (3,), np.float32)
    model = make_model(algorithm, observation_space, normalize=normalize, **kwargs)
    assert seen_observations(model, model.get_vec_normalize_env(), 10) is None
    model.learn(40)
    seen = seen_observations(model, model.get_vec_normalize_env(), 10)
    assert isinstance(seen, np.ndarray)
    assert 1 <= batch_size(seen) <= 10
    assert np.all((seen >= 50.0) & (seen <= 51.0))
    if not (algorithm is PPO and normalize):  # its buffer holds normalized observations
        assert batch_size(seen) == 10


def test_a_large_buffer_is_not_copied() -> None:
    model: Any = make_model(DQN, action_space=spaces.Discrete(2), buffer_size=400_000)
    model.learn(1)
    model.replay_buffer.full = True
    tracemalloc.start()
    seen_observations(model, None, 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < model.replay_buffer.observations.nbytes / 50
