"""Whatever a policy keeps beside its weights: a later file has it as it is then, not as it was at the first trace.

Each kind of state is annealed between exports while the weights stay as they are, and each file is held against
Stable-Baselines3's own ``predict`` on thousands of random observations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, settings
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.nn.utils import parametrize

from sb3_clanker import ExportOptions, OnnxPolicy
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.sb3.normalization import Normalization
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, draw, make_model, predict_raw

N_OBSERVATIONS = 5_000
OBSERVATIONS = draw(BOX_OBSERVATION, np.random.default_rng(11), N_OBSERVATIONS)
WIDTH = 8
Anneal = Callable[[float], None]
_GAIN = {"gain": 1.0}
_NUMBER = 1.0


class Extractor(BaseFeaturesExtractor):
    """A layer, and a gain that each kind of state holds in its own way."""

    shared_gain = 1.0

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, WIDTH)
        self.layer = nn.Linear(3, WIDTH)
        self.gain: Callable[[Extractor], Any] = lambda _: 1.0

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features: th.Tensor = th.tanh(self.layer(observations)) * self.gain(self)
        return features


class _Scale(nn.Module):
    """A parametrization."""

    gain = 1.0

    def forward(self, weight: th.Tensor) -> th.Tensor:
        return weight * self.gain


class _ScaledByFunction(th.autograd.Function):
    gain = 1.0

    @staticmethod
    def forward(_: Any, tensor: th.Tensor) -> th.Tensor:
        return tensor * _ScaledByFunction.gain


@dataclass
class _Holder:
    gain: float = 1.0


def _number(extractor: Any) -> Anneal:
    extractor.number = 1.0
    extractor.gain = lambda self: self.number
    return functools.partial(setattr, extractor, "number")


def _tensor_replaced(extractor: Any) -> Anneal:
    extractor.values = th.ones(WIDTH)
    extractor.gain = lambda self: self.values
    return lambda gain: setattr(extractor, "values", th.full((WIDTH,), gain))


def _tensor_in_place(extractor: Any) -> Anneal:
    extractor.values = th.ones(WIDTH)
    extractor.gain = lambda self: self.values
    return lambda gain: extractor.values.fill_(gain)


def _tensor_of_one_element(extractor: Any) -> Anneal:
    extractor.value = th.ones(())
    extractor.gain = lambda self: self.value
    return lambda gain: extractor.value.fill_(gain)


def _integers(extractor: Any) -> Anneal:
    extractor.index = th.arange(WIDTH)
    extractor.layer.register_forward_hook(lambda _, __, features: features[:, extractor.index])
    return lambda gain: extractor.index.copy_(extractor.index.roll(int(10 * gain)))


def _array(extractor: Any) -> Anneal:
    extractor.array = np.ones(WIDTH, np.float32)
    extractor.gain = lambda self: th.as_tensor(self.array)
    return lambda gain: extractor.array.fill(gain)


def _running_statistics(extractor: Any) -> Anneal:
    extractor.running = RunningMeanStd(shape=(WIDTH,))
    extractor.gain = lambda self: th.as_tensor(np.float32(self.running.mean) + 1.0)
    return lambda gain: extractor.running.update(np.full((4, WIDTH), gain))


def _closure(extractor: Any) -> Anneal:
    current = 1.0

    def anneal(gain: float) -> None:
        nonlocal current
        current = gain

    extractor.gain = lambda _: current
    return anneal


def _closure_over_the_extractor(extractor: Any) -> Anneal:
    extractor.register_buffer("values", th.ones(WIDTH))
    extractor.gain = lambda _: extractor.values
    return lambda gain: extractor.values.fill_(gain)


def _global(extractor: Any) -> Anneal:
    def anneal(gain: float) -> None:
        global _NUMBER
        _NUMBER = gain

    anneal(1.0)
    extractor.gain = lambda _: _NUMBER
    return anneal


def _global_container(extractor: Any) -> Anneal:
    _GAIN["gain"] = 1.0
    extractor.gain = lambda _: _GAIN["gain"]
    return lambda gain: _GAIN.update(gain=gain)


def _class_attribute(extractor: Any) -> Anneal:
    Extractor.shared_gain = 1.0
    extractor.gain = lambda self: self.shared_gain
    return functools.partial(setattr, Extractor, "shared_gain")


def _object(extractor: Any) -> Anneal:
    extractor.holder = _Holder()
    extractor.gain = lambda self: self.holder.gain
    return functools.partial(setattr, extractor.holder, "gain")


def _buffer(extractor: Any) -> Anneal:
    extractor.register_buffer("values", th.ones(WIDTH))
    extractor.gain = lambda self: self.values
    return lambda gain: extractor.values.fill_(gain)


def _buffer_that_is_not_saved(extractor: Any) -> Anneal:
    extractor.register_buffer("values", th.ones(WIDTH), persistent=False)
    extractor.gain = lambda self: self.values
    return lambda gain: setattr(extractor, "values", th.full((WIDTH,), gain))


def _parametrization(extractor: Any) -> Anneal:
    scale = _Scale()
    parametrize.register_parametrization(extractor.layer, "weight", scale)
    return functools.partial(setattr, scale, "gain")


def _hook(extractor: Any) -> Anneal:
    holder = [1.0]
    extractor.register_forward_hook(lambda _, __, features: features * holder[0])
    return lambda gain: holder.__setitem__(0, gain)


def _pre_hook(extractor: Any) -> Anneal:
    holder = [1.0]
    extractor.layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] * holder[0],))
    return lambda gain: holder.__setitem__(0, gain)


def _branch(extractor: Any) -> Anneal:
    extractor.late = False
    extractor.gain = lambda self: 0.5 if self.late else 1.0
    return lambda gain: setattr(extractor, "late", gain < 0.6)


def _autograd_function(extractor: Any) -> Anneal:
    _ScaledByFunction.gain = 1.0
    apply: Any = _ScaledByFunction.apply
    extractor.layer.register_forward_hook(lambda _, __, features: apply(features))
    return functools.partial(setattr, _ScaledByFunction, "gain")


def _layer_made_late(extractor: Any) -> Anneal:
    """A layer that appears in the middle of a training."""

    def anneal(gain: float) -> None:
        extractor.late = nn.Linear(1, WIDTH)
        nn.init.constant_(extractor.late.weight, gain)
        extractor.gain = lambda self: self.late.weight[:, 0]

    return anneal


def _view_of_a_weight(extractor: Any) -> Anneal:
    extractor.gain = lambda self: 1.0 + self.view
    extractor.view = extractor.layer.weight.detach()[:, 0]

    def anneal(gain: float) -> None:
        with th.no_grad():
            extractor.layer.weight.mul_(gain)

    return anneal


KINDS: dict[str, Callable[[Any], Anneal]] = {
    kind.__name__.strip("_").replace("_", " "): kind
    for kind in (
        _number,
        _tensor_replaced,
        _tensor_in_place,
        _tensor_of_one_element,
        _integers,
        _array,
        _running_statistics,
        _closure,
        _closure_over_the_extractor,
        _global,
        _global_container,
        _class_attribute,
        _object,
        _buffer,
        _buffer_that_is_not_saved,
        _parametrization,
        _hook,
        _pre_hook,
        _branch,
        _autograd_function,
        _layer_made_late,
        _view_of_a_weight,
    )
}
NETWORKS = {"small": [16, 16], "100 thousand": [300, 300], "1 million": [1000, 1000]}


def _assert_right(exporter: Exporter, model: BaseAlgorithm) -> None:
    policy = OnnxPolicy.from_bytes(exporter.export().data)
    got, expected = policy.predict(OBSERVATIONS)[0], predict_raw(model, OBSERVATIONS)
    if isinstance(model.action_space, spaces.Box):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    else:
        assert np.mean(got != expected) <= 1e-3, "more than near-ties"


def _make(kind: str, network: str, action_space: spaces.Space[Any], seed: int = 0) -> tuple[BaseAlgorithm, Anneal]:
    th.manual_seed(seed)
    model = make_model(
        action_space=action_space,
        policy_kwargs={"features_extractor_class": Extractor, "net_arch": NETWORKS[network]},
    )
    return model, KINDS[kind](model.policy.features_extractor)


def _exporter(model: BaseAlgorithm) -> Exporter:
    return Exporter(model, Normalization(vec_normalize=None), ExportOptions())


def _check(kind: str, network: str, action_space: spaces.Space[Any], gains: list[float], seed: int = 0) -> None:
    model, anneal = _make(kind, network, action_space, seed)
    exporter = _exporter(model)
    _assert_right(exporter, model)
    first = predict_raw(model, OBSERVATIONS)
    for gain in gains:
        anneal(gain)
        _assert_right(exporter, model)
    assert (predict_raw(model, OBSERVATIONS) != first).any(), "the state decides nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_state_of_its_own_instant(kind: str) -> None:
    action_space = BOX_ACTION if len(kind) % 2 else spaces.Discrete(4)
    _check(kind, "small", action_space, [0.5])


@pytest.mark.slow
@pytest.mark.parametrize("action_space", [BOX_ACTION, spaces.Discrete(4)], ids=["Box", "Discrete"])
@pytest.mark.parametrize("network", ["100 thousand", "1 million"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_network_has_the_state_of_its_own_instant(kind: str, network: str, action_space: Any) -> None:
    _check(kind, network, action_space, [0.98, 0.9, 0.5])


@pytest.mark.slow
def test_hundreds_of_drawn_states_make_no_wrong_file() -> None:
    @settings(
        max_examples=300,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @hypothesis.given(
        kind=st.sampled_from(sorted(KINDS)),
        network=st.sampled_from(["small", "100 thousand"]),
        action_space=st.sampled_from([BOX_ACTION, spaces.Discrete(4), spaces.MultiDiscrete([3, 2])]),
        gains=st.lists(st.floats(0.2, 0.99), min_size=1, max_size=3),
        seed=st.integers(0, 99),
    )
    def check(kind: str, network: str, action_space: Any, gains: list[float], seed: int) -> None:
        model, anneal = _make(kind, network, action_space, seed)
        exporter = _exporter(model)
        _assert_right(exporter, model)
        for gain in gains:
            anneal(gain)
            _assert_right(exporter, model)

    check()


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_bounds_that_are_changed_in_place_are_those_of_the_instant(algorithm: Any) -> None:
    model = make_model(algorithm, action_space=spaces.Box(-1.0, 1.0, (2,)))
    exporter = _exporter(model)
    _assert_right(exporter, model)
    for space in (model.action_space, model.policy.action_space):
        space.high[:] = [0.25, 3.0]  # type: ignore[attr-defined]
    for actor in [getattr(model.policy, "actor", None)]:
        if actor is not None:
            actor.action_space.high[:] = [0.25, 3.0]
    _assert_right(exporter, model)
    assert exporter.export().metadata.action_space.high == (0.25, 3.0)  # type: ignore[union-attr]
