"""What a trace bakes in is told apart from what training changes at every step."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_clanker import ExportOptions
from sb3_clanker.actor.actor import make_actor
from sb3_clanker.sb3.copying import copy_policy
from sb3_clanker.sb3.standard import is_standard, settings, space_bounds
from sb3_clanker.writers.baked import baked_in
from tests.worlds import make_model, spread

DISCRETE = spaces.Discrete(4)


def _baked_in(model: BaseAlgorithm) -> Any:
    actor = make_actor(model.policy, {}, ExportOptions())
    within = baked_in(actor, settings(model.policy))
    return None if within is None else (space_bounds(model.policy), within)


class _Caching(BaseFeaturesExtractor):
    """Keeps its last activation, and counts: neither decides anything."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 4)
        self.layer = nn.Linear(3, 4)
        self.n_calls, self.gain = 0, 1.0
        self.last: th.Tensor | None = None

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.n_calls += 1
        self.last = self.layer(observations) * self.gain
        return self.last


CASES: list[Any] = [
    (PPO, "MlpPolicy", {}),
    (PPO, "MlpPolicy", {"use_sde": True}),
    (A2C, "MlpPolicy", {"action_space": DISCRETE}),
    (TRPO, "MlpPolicy", {}),
    (ARS, "MlpPolicy", {}),
    (SAC, "MlpPolicy", {}),
    (SAC, "MlpPolicy", {"use_sde": True}),
    (TD3, "MlpPolicy", {}),
    (TQC, "MlpPolicy", {}),
    (CrossQ, "MlpPolicy", {}),
    (DQN, "MlpPolicy", {"action_space": DISCRETE}),
    (QRDQN, "MlpPolicy", {"action_space": DISCRETE}),
    (MaskablePPO, "MlpPolicy", {"action_space": DISCRETE}),
    (RecurrentPPO, "MlpLstmPolicy", {"action_space": DISCRETE}),
    (PPO, "CnnPolicy", {"observation_space": spaces.Box(0, 255, (3, 36, 36), np.uint8)}),
    (PPO, "MlpPolicy", {"policy_kwargs": {"features_extractor_class": _Caching}}),
]


@pytest.mark.parametrize(("algorithm", "policy", "kwargs"), CASES)
def test_training_alone_changes_nothing_of_it(algorithm: Any, policy: str, kwargs: Any) -> None:
    model = make_model(algorithm, policy=policy, **kwargs)
    found = [_baked_in(model)]
    assert is_standard(model.policy) == ("policy_kwargs" not in kwargs)

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls % 13 == 0:
                with_modes = self.model.policy.training
                found.append(_baked_in(self.model))
                self.model.policy.set_training_mode(with_modes)
            return True

    model.learn(60, callback=Look())
    spread(model)
    found += [_baked_in(model)]
    assert len(found) >= 4
    assert found[0] is not None
    assert len(set(found)) == 1


def _steeper(model: Any) -> None:
    model.policy.mlp_extractor.policy_net[1].negative_slope = 0.5


def _another_activation(model: Any) -> None:
    model.policy.mlp_extractor.policy_net[1] = nn.Tanh()


def _higher_bound(model: Any) -> None:
    model.policy.action_space.high[:] = 7.0


def _squashed(model: Any) -> None:
    model.policy._squash_output = True


@pytest.mark.parametrize("change", [_steeper, _another_activation, _higher_bound, _squashed])
def test_a_setting_of_a_standard_policy_is_noticed(change: Any) -> None:
    model = make_model(policy_kwargs={"activation_fn": nn.LeakyReLU}, action_space=spaces.Box(-1.0, 1.0, (2,)))
    before = _baked_in(model)
    change(model)
    assert is_standard(model.policy)
    assert _baked_in(model) != before


def test_a_setting_may_be_a_number_of_numpy() -> None:
    model: Any = make_model(policy_kwargs={"activation_fn": nn.LeakyReLU})
    found = []
    for slope in (np.float32(0.5), np.float32(0.25)):
        model.policy.mlp_extractor.policy_net[1].negative_slope = slope
        found.append(_baked_in(model))
    assert is_standard(model.policy)
    assert found[0] != found[1]


def _hooked(model: Any) -> None:
    model.policy.action_net.register_forward_hook(lambda _, __, output: 2 * output)


def _hooked_before(model: Any) -> None:
    model.policy.action_net.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))


def _shadowed(model: Any) -> None:
    forward = model.policy.action_net.forward
    model.policy.action_net.forward = lambda tensor: 2 * forward(tensor)


def _by_a_tensor(model: Any) -> None:
    model.policy.mlp_extractor.policy_net[1].negative_slope = th.tensor(0.5)


def _of_a_class_of_its_own(model: Any) -> None:
    class Doubling(nn.Linear):
        def forward(self, tensor: th.Tensor) -> th.Tensor:
            return 2 * super().forward(tensor)

    model.policy.action_net.__class__ = Doubling


@pytest.mark.parametrize("change", [_hooked, _hooked_before, _shadowed, _by_a_tensor, _of_a_class_of_its_own])
def test_code_of_a_user_makes_a_policy_no_standard_one(change: Any) -> None:
    model = make_model(policy_kwargs={"activation_fn": nn.LeakyReLU})
    before = _baked_in(model)
    change(model)
    assert not is_standard(model.policy)
    assert _baked_in(model) not in (None, before)


def test_a_method_that_is_replaced_in_its_class_makes_a_policy_no_standard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(policy_kwargs={"activation_fn": nn.LeakyReLU})
    before = _baked_in(model)
    monkeypatch.setattr(nn.LeakyReLU, "forward", lambda _, tensor: 2 * tensor)
    assert not is_standard(model.policy)
    assert _baked_in(model) not in (None, before)


def test_a_copy_has_the_same() -> None:
    model = make_model(policy_kwargs={"features_extractor_class": _Caching})
    actor = make_actor(copy_policy(model.policy), {}, ExportOptions())
    assert (space_bounds(model.policy), baked_in(actor, None)) == _baked_in(model)


_POSITIONS: dict[int, th.Tensor] = {}


class _FillingCaches(_Caching):
    """Keeps what it makes at its first call, counts in a tensor, and draws noise that decides nothing."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.mask: th.Tensor | None = None
        self.register_buffer("count", th.zeros(()))
        self.generator = th.Generator()

    @functools.cache  # noqa: B019 - as many write it
    def positions(self, n: int) -> th.Tensor:
        return th.arange(n) / n

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.get_buffer("count").add_(1)
        noise = th.empty_like(observations).normal_(generator=self.generator)
        if self.mask is None:
            self.mask = th.linspace(0.5, 1.0, 3)
        if 3 not in _POSITIONS:
            _POSITIONS[3] = th.arange(3) / 3
        positions = self.positions(3) + _POSITIONS[3]
        return super().forward(observations * self.mask + positions + (noise if self.training else 0))


def test_a_first_call_that_fills_caches_is_as_any_other() -> None:
    model = make_model(policy_kwargs={"features_extractor_class": _FillingCaches})
    actor = make_actor(copy_policy(model.policy), {}, ExportOptions())
    found = [_baked_in(model), (space_bounds(model.policy), baked_in(actor, None)), _baked_in(model)]
    assert found[0] is not None
    assert len(set(found)) == 1


class _ChangingInPlace(_Caching):
    """Changes a part of what it is given in place."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        observations = observations.clone()
        observations[:, :1].mul_(self.gain)
        return self.layer(observations)  # type: ignore[no-any-return]


def test_what_is_changed_through_a_view_is_noticed() -> None:
    model: Any = make_model(policy_kwargs={"features_extractor_class": _ChangingInPlace})
    before = _baked_in(model)
    model.policy.features_extractor.gain = 0.5
    assert _baked_in(model) not in (None, before)


def test_what_cannot_be_run_cannot_be_told() -> None:
    model: Any = make_model(policy_kwargs={"features_extractor_class": _Caching})
    model.policy.features_extractor.gain = "much"
    assert _baked_in(model) is None


def test_a_value_that_is_never_the_same_is_noticed() -> None:
    model: Any = make_model(policy_kwargs={"features_extractor_class": _Caching})
    model.policy.features_extractor.layer.register_forward_hook(lambda _, __, output: output * time.perf_counter())
    assert _baked_in(model) != _baked_in(model)
