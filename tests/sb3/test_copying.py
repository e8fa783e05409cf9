"""A copy has all that the policy has, and the policy is none the wiser."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from torch import nn

from sb3_clanker.sb3.copying import copy_policy
from tests.worlds import BOX_OBSERVATION, draw, make_model

OBSERVATIONS = draw(BOX_OBSERVATION, np.random.default_rng(2), 50)


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [
        (PPO, {}),
        (PPO, {"use_sde": True}),
        (SAC, {}),
        (DQN, {"action_space": spaces.Discrete(4)}),
        (RecurrentPPO, {"policy": "MlpLstmPolicy"}),
    ],
)
def test_a_copy_of_a_trained_policy_acts_as_it_does(algorithm: Any, kwargs: Any) -> None:
    model = make_model(algorithm, **kwargs)
    model.learn(60)
    copy = copy_policy(model.policy)
    np.testing.assert_array_equal(
        copy.predict(OBSERVATIONS, deterministic=True)[0], model.policy.predict(OBSERVATIONS, deterministic=True)[0]
    )
    tensors = {**model.policy.state_dict()}
    for name, tensor in copy.state_dict().items():
        assert th.equal(tensor, tensors[name])
        assert tensor.data_ptr() != tensors[name].data_ptr()
    for parameter, copied in zip(model.policy.parameters(), copy.parameters(), strict=True):
        assert copied.requires_grad == parameter.requires_grad
        assert copied.grad is None


def test_tensors_that_share_memory_share_it_in_the_copy() -> None:
    model: Any = make_model()
    policy = model.policy
    policy.tied = policy.action_net
    policy.view = policy.action_net.weight.detach()[1]
    copy = copy_policy(policy)
    assert copy.tied is copy.action_net
    copy.action_net.weight.data.fill_(3.0)
    assert copy.view.tolist() == [3.0] * 16
    assert policy.view.tolist() != [3.0] * 16


def test_what_a_function_closes_over_is_copied() -> None:
    model: Any = make_model()
    counted = [0]
    holder = nn.Linear(1, 1)

    def count(_: Any, __: Any, output: th.Tensor) -> th.Tensor:
        counted[0] += 1
        return output * holder.weight

    model.policy.action_net.register_forward_hook(count)
    copy = copy_policy(model.policy)
    holder.weight.data.fill_(100.0)
    copy.predict(OBSERVATIONS)
    assert counted == [0]
    assert np.abs(copy.predict(OBSERVATIONS, deterministic=True)[0]).max() < 50


def test_standard_output_is_shared() -> None:
    model: Any = make_model()
    model.policy.stream = sys.stdout
    assert copy_policy(model.policy).stream is sys.stdout


def test_a_function_that_refers_to_itself_is_copied() -> None:
    model: Any = make_model()

    def countdown(n: int) -> int:
        return 0 if n == 0 else countdown(n - 1)

    model.policy.countdown = countdown
    copied: Any = copy_policy(model.policy).countdown
    assert copied is not countdown
    assert copied(3) == 0
    assert copied.__closure__[0].cell_contents is copied


def test_a_module_that_a_policy_keeps_is_shared() -> None:
    model: Any = make_model()
    model.policy.functions = th.nn.functional
    assert copy_policy(model.policy).functions is th.nn.functional


def test_classes_of_a_script_keep_their_methods_and_their_globals() -> None:
    """A pickle of the class would replace its methods by others, whose global variables stay as they are."""
    script = """
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from sb3_clanker.sb3.copying import copy_policy

GAIN = 1.0

class Extractor(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 4)

    def forward(self, observations):
        return observations * GAIN

policy = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": Extractor}).policy
forward = Extractor.forward
copy = copy_policy(policy)
GAIN = 5.0
print(Extractor.forward is forward, *(float(p.features_extractor(th.ones(1, 4))[0, 0]) for p in (policy, copy)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "5.0", "5.0"]
