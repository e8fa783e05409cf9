"""Whatever a prediction changes is put back."""

from __future__ import annotations

import functools
import random
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_clanker.sb3.untouched import untouched
from tests.worlds import BOX_OBSERVATION, draw, make_model

OBSERVATIONS = draw(BOX_OBSERVATION, np.random.default_rng(2), 5)
_N_CALLS = 0
_CALLS: list[int] = []


class _Busy(BaseFeaturesExtractor):
    """Keeps state of every kind, and changes all of it in a prediction."""

    n_of_class = 0
    log: list[int] = []  # noqa: RUF012 - of the class on purpose

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 3)
        self.register_buffer("count", th.zeros(()))
        self.n_calls = 0
        self.tensor, self.array = th.zeros(2), np.zeros(2)
        self.running = RunningMeanStd(shape=(3,))
        self.rng, self.generator, self.python = np.random.default_rng(0), th.Generator(), random.Random(0)  # noqa: S311
        self.state = {"calls": [0], "last": deque(maxlen=2), "kinds": {0}}
        self.holder = SimpleNamespace(calls=0)
        self.late: nn.Module | None = None
        closed_over = 0

        def count(step: int) -> int:
            nonlocal closed_over
            closed_over += step
            return closed_over

        self.closure = functools.partial(count, 1)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        global _N_CALLS
        _N_CALLS += 1
        _CALLS.append(_N_CALLS)
        type(self).n_of_class += 1
        self.log.append(1)
        self.get_buffer("count").add_(1)
        self.n_calls += 1
        self.tensor += 1
        self.array[0] += 1
        self.running.update(observations.numpy())
        self.rng.normal()
        th.rand(1, generator=self.generator)
        self.python.random()
        self.state["calls"][0] += 1  # type: ignore[index]
        self.state["last"].append(self.n_calls)  # type: ignore[attr-defined]
        self.state["kinds"].add(self.n_calls)  # type: ignore[attr-defined]
        self.holder.calls += 1
        if self.late is None:
            self.late = nn.Linear(1, 1)
        self.closure()
        np.random.rand()  # noqa: NPY002
        random.random()  # noqa: S311
        return observations + th.randn(1)


def _state(policy: Any) -> list[Any]:
    extractor = policy.features_extractor
    return [
        _N_CALLS,
        list(_CALLS),
        _Busy.n_of_class,
        list(_Busy.log),
        extractor.count.item(),
        extractor.n_calls,
        extractor.tensor.tolist(),
        extractor.array.tolist(),
        extractor.running.mean.tolist(),
        extractor.running.count,
        extractor.rng.bit_generator.state,
        extractor.generator.get_state().tolist(),
        extractor.python.getstate(),
        {key: list(value) for key, value in extractor.state.items()},
        extractor.holder.calls,
        extractor.late,
        sorted(extractor._modules),
        extractor.closure.func.__closure__[0].cell_contents,
        th.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        random.getstate(),
        [module.training for module in policy.modules()],
        [parameter.tolist() for parameter in policy.parameters()],
    ]


def test_a_prediction_leaves_no_trace() -> None:
    model = make_model(policy_kwargs={"features_extractor_class": _Busy})
    model.policy.train()
    before = _state(model.policy)
    identities = [id(tensor) for tensor in (*model.policy.parameters(), *model.policy.buffers())]
    with untouched(model.policy):
        model.predict(OBSERVATIONS)
        during = _state(model.policy)
    assert _state(model.policy) == before
    assert [id(tensor) for tensor in (*model.policy.parameters(), *model.policy.buffers())] == identities
    unchanged = [index for index, (one, other) in enumerate(zip(before, during, strict=True)) if one == other]
    assert not unchanged, "a prediction of this policy should have changed everything"


def test_it_is_put_back_after_an_error_too() -> None:
    model = make_model(policy_kwargs={"features_extractor_class": _Busy})
    before = _state(model.policy)

    def fail() -> None:
        with untouched(model.policy):
            model.predict(OBSERVATIONS)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _state(model.policy) == before


def test_the_algorithm_and_its_environment_are_left_alone() -> None:
    model: Any = make_model()
    model.policy.algorithm = model
    with untouched(model.policy):
        model.note = "kept"
        model.get_env().note = "kept"
    assert (model.note, model.get_env().note) == ("kept", "kept")
