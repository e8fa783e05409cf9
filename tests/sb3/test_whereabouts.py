"""What is in policies is copied, or the part in the way is named before the first step."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy, export_policy
from sb3_clanker.errors import UnsupportedPolicyError
from sb3_clanker.sb3.copying import copy_policy
from tests.worlds import BOX_OBSERVATION, draw, make_model, predict_raw

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


_open: list[IO[bytes]] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


class Extractor(BaseFeaturesExtractor):
    """A layer, and whatever a test puts beside it."""

    def __init__(self, space: spaces.Space[Any], keep: Callable[[Extractor], object]) -> None:
        super().__init__(space, 8)
        self.net: nn.Module = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
        self._kept = keep(self)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features: th.Tensor = self.net(observations)
        return features


def _model(keep: Callable[[Extractor], object], extractor: type[nn.Module] = Extractor) -> Any:
    return make_model(
        policy_kwargs={"features_extractor_class": extractor, "features_extractor_kwargs": {"keep": keep}}
    )


def _scripted(extractor: Extractor) -> None:
    extractor.net = th.jit.script(extractor.net)


def _traced(extractor: Extractor) -> None:
    extractor.net = th.jit.trace(extractor.net, th.zeros(1, 3))  # type: ignore[no-untyped-call]


def _double(tensor: th.Tensor) -> th.Tensor:
    return tensor * 2


def _open_file(_: Extractor) -> object:
    _open.append(Path(os.devnull).open("ab"))  # noqa: SIM115
    return [{"log": _open[-1]}]


def _closure(extractor: Extractor) -> object:
    numbers = (number for number in range(3))
    return lambda: next(numbers)


@pytest.mark.parametrize(
    "keep",
    [
        lambda _: threading.Lock(),
        lambda _: threading.RLock(),
        lambda _: {"stop": [threading.Event(), threading.Condition()]},
        lambda _: threading.Semaphore(),
    ],
    ids=["lock", "reentrant lock", "event", "semaphore"],
)
def test_a_lock_is_copied_as_a_new_one(keep: Any, tmp_path: Path) -> None:
    model = _model(keep)
    model.learn(16, callback=OnnxCheckpointCallback(tmp_path))
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 200)
    got = OnnxPolicy(tmp_path / "final_model.onnx").predict(observations)[0]
    np.testing.assert_allclose(got, predict_raw(model, observations), atol=1e-5)


def test_a_lock_that_training_holds_is_not_waited_for() -> None:
    model = _model(lambda _: threading.Lock())
    model.policy.features_extractor._kept.acquire()
    assert copy_policy(model.policy).features_extractor._kept.acquire(blocking=False)


@pytest.mark.parametrize(
    ("keep", "part"),
    [
        (lambda _: (number for number in range(3)), r"_kept \(of type generator\) cannot be copied: cannot pickle"),
        (_open_file, r"_kept\[0\]\['log'\] \(of type BufferedWriter\) cannot"),
        (_closure, r"_kept\.<closure>\.numbers \(of type generator\) cannot be copied: cannot pickle"),
        (lambda _: sys._getframe(), r"_kept \(of type frame\) cannot be copied: cannot pickle 'frame' object"),
        (
            _scripted,
            r"net \(of type RecursiveScriptModule\) cannot be copied: TorchScript cannot be traced .* graph; put",
        ),
        (_traced, r"net \(of type TopLevelTracedModule\) cannot be copied: TorchScript cannot be traced into a graph"),
        (lambda _: th.jit.script(_double), r"_kept \(of type ScriptFunction\) cannot be copied: TorchScript cannot"),
        (lambda _: threading.local(), r"_kept \(of type _local\) cannot be copied: cannot pickle '_thread\._local'"),
    ],
    ids=["generator", "open file", "closure", "frame", "scripted", "traced", "scripted function", "thread's own"],
)
def test_what_cannot_be_copied_is_named_before_the_first_step(keep: Any, part: str, tmp_path: Path) -> None:
    model = _model(keep)
    message = (
        rf"^Cannot export ActorCriticPolicy: policy\.features_extractor\.{part}.*Keep it outside of the policy, or"
    )
    with pytest.raises(UnsupportedPolicyError, match=message) as caught:
        model.learn(16, callback=OnnxCheckpointCallback(tmp_path))
    assert isinstance(caught.value, TypeError)
    assert model.num_timesteps == 0
    with pytest.raises(UnsupportedPolicyError, match=message):
        export_policy(model, tmp_path / "policy.onnx")
    assert list(tmp_path.glob("*")) == []
    model.learn(16)
    model.save(tmp_path / "model.zip")  # so Stable-Baselines3 itself has nothing against it


class _LeavesOut(Extractor):
    """Does what the message advises."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _kept=None)


def test_the_advice_of_the_message_helps(tmp_path: Path) -> None:
    model = _model(lambda _: (number for number in range(3)), _LeavesOut)
    assert export_policy(model, tmp_path / "policy.onnx").validation.passed


class _Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("not here")


def test_a_part_that_cannot_be_made_anew_is_refused() -> None:
    with pytest.raises(UnsupportedPolicyError, match="Cannot export ActorCriticPolicy: it cannot be copied: not here"):
        copy_policy(_model(lambda _: _Unloadable()).policy)


def test_a_part_that_no_attribute_leads_to_is_refused() -> None:
    class Slotted:
        __slots__ = ("numbers",)

        def __init__(self) -> None:
            self.numbers = (number for number in range(3))

    with pytest.raises(UnsupportedPolicyError, match=r"something in it \(of type generator\) cannot be copied"):
        copy_policy(_model(lambda _: Slotted()).policy)


_SCRIPT = """
class ScriptPolicy(ActorCriticPolicy):
    def _predict(self, observation, deterministic=False):
        numbers.gi_running  # of the script, and no pickle takes it
        return super()._predict(observation, deterministic) * 0.5
"""


def test_what_a_script_defines_is_copied_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script: dict[str, Any] = {
        "__name__": "__main__",
        "ActorCriticPolicy": ActorCriticPolicy,
        "numbers": (number for number in range(3)),
    }
    exec(_SCRIPT, script)  # noqa: S102
    policy = script["ScriptPolicy"]
    monkeypatch.setattr(sys.modules["__main__"], "ScriptPolicy", policy, raising=False)
    model = make_model(policy=policy)
    assert type(copy_policy(model.policy)) is policy
    assert export_policy(model, tmp_path / "policy", options=ExportOptions(n_samples=2)).validation.passed
