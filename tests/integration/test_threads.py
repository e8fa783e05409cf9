"""Several trainings in the threads of one process."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch as th
from stable_baselines3 import PPO, SAC
from torch import nn

from sb3_clanker import OnnxCheckpointCallback, OnnxPolicy, export_policy
from tests.worlds import BOX_OBSERVATION, assert_same_actions, make_model, predict_raw


@pytest.mark.filterwarnings("default")  # what one thread ignores meanwhile is the process's
def test_trainings_in_threads_all_export(tmp_path: Path) -> None:
    algorithms: list[Any] = [PPO, SAC, PPO]
    models = [make_model(algorithm) for algorithm in algorithms]
    together = Barrier(len(models))

    def train(number: int) -> list[Path]:
        together.wait()
        callback = OnnxCheckpointCallback(tmp_path / str(number), save_freq=25, on_error="raise")
        models[number].learn(60, callback=callback)
        return [report.path for report in callback.reports]

    with ThreadPoolExecutor(len(models)) as threads:
        written = list(threads.map(train, range(len(models))))
    for number, paths in enumerate(written):
        assert len(paths) >= 3
        policy, model = OnnxPolicy(paths[-1]), models[number]
        assert_same_actions(
            lambda observation: policy.predict(observation)[0],  # noqa: B023
            lambda observation: predict_raw(model, observation),  # noqa: B023
            BOX_OBSERVATION,
            model.action_space,
        )


class _Watched(nn.Linear):
    """A layer that says, while it is traced, whether another thread takes itself for one that exports."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        if th.compiler.is_exporting():
            with ThreadPoolExecutor(1) as other:
                sys.stdout.write(f"elsewhere: {other.submit(th.compiler.is_exporting).result()}\n")
        return super().forward(x)


def test_a_trace_is_of_its_own_thread_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Optimizers of other threads would annotate it, and fail when it ends."""
    model = make_model()
    model.policy.action_net = _Watched(16, 1)
    export_policy(model, tmp_path / "policy.onnx")
    assert capsys.readouterr().out == "elsewhere: False\n"
    assert not th.compiler.is_exporting()
