"""A training gets SIGINT or SIGTERM at any moment, and so do its environments: it leaves a final that is whole."""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_clanker import OnnxCheckpointCallback, read_metadata
from tests.integration.trainings import assert_whole, make_eval_env, processes, results, states, temporaries
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, SpacesEnv, make_model

_PATIENCE = 60.0
"""Seconds that a training may take to get somewhere."""
_N_ENVS = 2
_ON_POLICY: dict[str, Any] = {"n_steps": 64, "batch_size": 16, "n_epochs": 5}
_OFF_POLICY: dict[str, Any] = {"train_freq": 2, "gradient_steps": 2}
_UPDATES = "updates"
"""A file beside the folder: a line for each update, with the steps before it and a digest of what it made."""

_WORKERS = "workers"
"""Another: the processes of its environments."""


def _digest(model: BaseAlgorithm) -> str:
    return hashlib.sha256(
        b"".join(t.detach().numpy().tobytes() for t in model.policy.state_dict().values())
    ).hexdigest()


def _train(folder: Path, algorithm: type[BaseAlgorithm], in_processes: bool) -> None:
    """Train in a process group of its own, and keep a record of each update."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it
    th.set_num_threads(1)
    train = algorithm.train  # type: ignore[attr-defined]
    with (folder.parent / _UPDATES).open("w", buffering=1) as updates:

        def recorded(self: BaseAlgorithm, *args: Any, **kwargs: Any) -> None:
            train(self, *args, **kwargs)
            updates.write(f"{self.num_timesteps} {_digest(self)}\n")

        algorithm.train = recorded  # type: ignore[attr-defined]
        make = [lambda: Monitor(SpacesEnv(BOX_OBSERVATION, BOX_ACTION))] * _N_ENVS
        env = VecNormalize(SubprocVecEnv(list(make), start_method="fork") if in_processes else DummyVecEnv(list(make)))
        if isinstance(env.venv, SubprocVecEnv):
            (folder.parent / _WORKERS).write_text(" ".join(str(worker.pid) for worker in env.venv.processes))
        model = make_model(algorithm, env=env, **(_ON_POLICY if algorithm is PPO else _OFF_POLICY))
        callback = OnnxCheckpointCallback(folder, eval_env=make_eval_env(), eval_freq=50, n_eval_episodes=2)
        try:
            model.learn(1_000_000, callback=callback)
        except KeyboardInterrupt:
            updates.write("KeyboardInterrupt\n")
            raise


def _interrupt(
    folder: Path, number: int, algorithm: type[BaseAlgorithm], in_processes: bool, after: float, hang: bool = False
) -> int:
    """Start a training, and send a signal to all its processes when it has made some updates, and a while later.

    :param hang: whether its environments hang by then, and only the training gets the signal
    """
    process = processes().Process(target=_train, args=(folder, algorithm, in_processes))
    process.start()
    assert process.pid is not None
    try:
        deadline = time.monotonic() + _PATIENCE
        record = folder.parent / _UPDATES
        while not record.exists() or record.read_text().count("\n") < 3:
            assert process.is_alive(), process.exitcode
            assert time.monotonic() < deadline, "the training does not get anywhere"
            select.select([], [], [], 0.01)
        select.select([], [], [], after)
        workers = [int(pid) for pid in (folder.parent / _WORKERS).read_text().split()] if hang else []
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        (os.kill if hang else os.killpg)(process.pid, number)
        process.join(_PATIENCE)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        assert process.exitcode is not None, "it hangs"
    finally:
        if process.is_alive():
            process.kill()
    return process.exitcode


def _look(folder: Path, number: int, algorithm: type[BaseAlgorithm], exit_code: int) -> None:
    *updates, last = (folder.parent / _UPDATES).read_text().splitlines()
    if number == signal.SIGINT:
        assert (last, exit_code) == ("KeyboardInterrupt", 1)  # as multiprocessing ends a process with an exception
    else:
        assert exit_code == -signal.SIGTERM
        updates.append(last)
    assert {"final_model.zip", "final_model.onnx", "final_model_vecnormalize.pkl"} <= set(results(folder))
    assert temporaries(folder) == []
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    found = assert_whole(folder, algorithm)
    assert found["matched"] == found["policies"]
    saved = algorithm.load(folder / "final_model.zip", device="cpu")
    steps, digest = updates[-1].split()
    assert digest == _digest(saved)
    rollout = _ON_POLICY["n_steps"] if algorithm is PPO else _OFF_POLICY["train_freq"]
    assert int(steps) <= saved.num_timesteps <= int(steps) + rollout * _N_ENVS
    assert read_metadata(folder / "final_model.onnx").training.num_timesteps == saved.num_timesteps


_RUNS = [
    pytest.param(algorithm, number, in_processes, runs, marks=pytest.mark.slow if runs > 1 else ())
    for algorithm in (PPO, SAC)
    for number in (signal.SIGINT, signal.SIGTERM)
    for in_processes in (False, True)
    for runs in (1, 10)
    if runs > 1 or in_processes == ((algorithm is PPO) == (number == signal.SIGINT))
]
"""Each of them ten times; the default suite has half of them, once."""


@pytest.mark.parametrize(("algorithm", "number", "in_processes", "runs"), _RUNS)
def test_a_signal_at_any_moment_leaves_a_final_that_is_whole(
    algorithm: type[BaseAlgorithm], number: int, in_processes: bool, runs: int, tmp_path: Path
) -> None:
    generator = random.Random(f"{runs} {algorithm.__name__} {number} {in_processes}")  # noqa: S311
    for run in range(runs):
        folder = tmp_path / str(run) / "run"
        folder.parent.mkdir()
        exit_code = _interrupt(folder, number, algorithm, in_processes, generator.uniform(0.0, 0.3))
        _look(folder, number, algorithm, exit_code)


def test_environments_that_hang_do_not_keep_the_final_from_being_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    exit_code = _interrupt(folder, signal.SIGTERM, PPO, in_processes=True, after=0.1, hang=True)
    _look(folder, signal.SIGTERM, PPO, exit_code)


_SCRIPT = """
import signal
import sys
import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
from sb3_clanker import OnnxCheckpointCallback

class Ready(BaseCallback):
    def _on_step(self):
        if self.n_calls == 20:
            print("ready", flush=True)
        return True

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    env = make_vec_env("CartPole-v1", n_envs=2, vec_env_cls=SubprocVecEnv)
    PPO("MlpPolicy", env, device="cpu").learn(10**9, callback=[OnnxCheckpointCallback(sys.argv[1]), Ready()])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_script_ends_as_it_would_without_the_callback(number: int, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=_PATIENCE)
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
    assert results(tmp_path / "run") == ["final_model.onnx", "final_model.zip"]
    assert states(tmp_path / "run" / "final_model.onnx") == {"final_model.zip": "matched"}
