"""Whatever a prediction changes is put back."""

from __future__ import annotations

import functools
import logging.handlers
import mmap
import random
import tempfile
import warnings
from collections import OrderedDict, deque
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


class _Slots:
    """Has no ``__dict__``."""

    __slots__ = ("calls", "last")

    def __init__(self) -> None:
        self.calls = 0
        self.last: str


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
        self.slots, self.legacy = _Slots(), np.random.RandomState(0)
        self.recent, self.bytes = OrderedDict(one=1, other=2), bytearray(1)
        self.objects = np.array([[0], None], dtype=object)
        self.moved = th.zeros(2)
        self.wide, self.constant = th.zeros(1).expand(3), th.full((1,), th.nan).expand(3)
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
        self.slots.calls, self.slots.last = self.n_calls, "now"
        self.legacy.normal()
        self.recent.move_to_end("one")
        self.bytes[0] += 1
        self.objects[0].append(self.n_calls)
        self.moved.data = th.ones(3)
        self.wide[:1].fill_(self.n_calls)
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
        (extractor.slots.calls, hasattr(extractor.slots, "last")),
        extractor.legacy.get_state()[1].tolist(),
        list(extractor.recent),
        bytes(extractor.bytes),
        list(extractor.objects[0]),
        extractor.moved.tolist(),
        extractor.wide.tolist(),
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


def test_what_a_logger_keeps_is_not_of_the_policy() -> None:
    """Loggers are of the process: what is made and said meanwhile, by whomever, stays."""
    model: Any = make_model()
    model.policy.logger = logging.getLogger("a.user")
    handler = logging.handlers.MemoryHandler(10)
    model.policy.logger.addHandler(handler)
    try:
        with untouched(model.policy):
            made = logging.getLogger("made.meanwhile")
            model.policy.logger.warning("said meanwhile")
        assert logging.getLogger("made.meanwhile") is made
        assert [record.getMessage() for record in handler.buffer] == ["said meanwhile"]
    finally:
        model.policy.logger.removeHandler(handler)


def test_memory_that_may_only_be_read_is_not_written_to() -> None:
    """As a pretrained embedding is that a file is mapped to: to write to it ends the process."""
    model: Any = make_model()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(mmap.PAGESIZE))
        file.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_READ)
            model.policy.embedding = th.frombuffer(mapped, dtype=th.float32)
    with untouched(model.policy):
        model.predict(OBSERVATIONS)
    assert model.policy.embedding.sum() == 0
