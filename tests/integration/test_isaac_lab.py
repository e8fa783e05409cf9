"""A training script as Isaac Lab's, with one more callback: a simulator that is one vectorized environment."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback, LogEveryNTimesteps
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_clanker import OnnxCheckpointCallback, read_metadata
from tests.checkpoints import LOCK, names
from tests.integration.trainings import assert_alike, states
from tests.worlds import BOX_OBSERVATION, draw

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
N_ENVS, STEPS = 8, 40


class Simulator(VecEnv):
    """Many environments in one simulator, which nobody can ask for anything."""

    def __init__(self, at_step: Callable[[int], object]) -> None:
        self._rng, self._steps, self._at_step = np.random.default_rng(0), 0, at_step
        self.render_mode = None
        super().__init__(N_ENVS, BOX_OBSERVATION, spaces.Box(-100.0, 100.0, (2,), np.float32))

    def reset(self) -> Any:
        return draw(BOX_OBSERVATION, self._rng, N_ENVS)

    def step_async(self, actions: np.ndarray) -> None:
        assert actions.shape == (N_ENVS, 2)
        self._steps += 1
        self._at_step(self._steps)

    def step_wait(self) -> VecEnvStepReturn:
        rewards = self._rng.normal(size=N_ENVS).astype(np.float32)
        ends = self._steps % 10 == 0
        infos = [{"episode": {"r": float(reward), "l": 10}} if ends else {} for reward in rewards]
        return self.reset(), rewards, np.full(N_ENVS, ends), infos

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":  # which VecEnv itself asks for
            return [None] * N_ENVS
        raise NotImplementedError

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * N_ENVS

    def get_images(self) -> Sequence[Any]:
        raise NotImplementedError


def train(log_dir: Path, *, normalize: bool, device: str = "cpu", at_step: Callable[[int], object] = int) -> PPO:
    """What Isaac Lab's script does; ours is the last of the callbacks."""
    env: VecEnv = Simulator(at_step)
    if normalize:
        env = VecNormalize(env, norm_reward=False, clip_obs=100.0, clip_reward=np.inf)
    kwargs: Any = {"n_steps": 16, "batch_size": 64, "n_epochs": 2, "policy_kwargs": {"net_arch": [16]}}
    agent = PPO("MlpPolicy", env, device=device, seed=0, stats_window_size=N_ENVS, **kwargs)
    checkpoint_callback = CheckpointCallback(save_freq=15, save_path=str(log_dir), name_prefix="model")
    ours = OnnxCheckpointCallback(best_of="rollout", eval_freq=16, on_error="raise")
    callbacks = [checkpoint_callback, LogEveryNTimesteps(n_steps=100), ours]
    with contextlib.suppress(KeyboardInterrupt):
        options: Any = {"progress_bar": True, "log_interval": None}
        agent.learn(total_timesteps=STEPS * N_ENVS, callback=callbacks, **options)
    agent.save(log_dir / "model")
    if isinstance(env, VecNormalize):
        env.save(str(log_dir / "model_vecnormalize.pkl"))
    env.close()
    return agent


def assert_written(folder: Path, *steps: int, normalized: bool, final: bool = True) -> None:
    """The best, the checkpoints after so many steps of all environments, and the final."""
    stems = {"best_model", *(f"model_{step * N_ENVS}_steps" for step in steps), *(["final_model"] if final else [])}
    assert {path.stem for path in folder.glob("*.onnx")} == stems
    assert {path.stem for path in folder.glob("*.zip")} == {*stems, "model"}
    for stem in stems:
        assert list(states(folder / f"{stem}.onnx").values()) == ["matched"] * (1 + normalized)
        assert_alike(folder / f"{stem}.onnx")
    assert LOCK not in names(folder)


@pytest.mark.parametrize("normalize", [False, True])
def test_its_script_gets_checkpoints_and_the_final(normalize: bool, tmp_path: Path) -> None:
    agent = train(tmp_path, normalize=normalize)
    assert_written(tmp_path, 15, 30, 45, normalized=normalize)
    metadata = read_metadata(tmp_path / "final_model.onnx")
    assert metadata.training.num_timesteps == agent.num_timesteps == 48 * N_ENVS
    assert metadata.environment[-1] == "Simulator"


def test_ctrl_c_writes_the_final_of_that_moment(tmp_path: Path) -> None:
    agent = train(
        tmp_path, normalize=True, at_step=lambda step: signal.raise_signal(signal.SIGINT) if step == 35 else 0
    )
    assert agent.num_timesteps == 34 * N_ENVS
    assert_written(tmp_path, 15, 30, normalized=True)
    final, last = PPO.load(tmp_path / "final_model"), PPO.load(tmp_path / "model")
    for name, value in final.policy.state_dict().items():
        assert th.equal(value, last.policy.state_dict()[name])


def test_a_handler_of_the_scripts_own_stays(tmp_path: Path) -> None:
    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        agent = train(
            tmp_path, normalize=False, at_step=lambda step: signal.raise_signal(signal.SIGINT) if step == 35 else 0
        )
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert agent.num_timesteps == 34 * N_ENVS
    (tmp_path / LOCK).unlink(missing_ok=True)
    assert_written(tmp_path, 15, 30, normalized=False, final=False)


@pytest.mark.gpu
@pytest.mark.parametrize("normalize", [False, True])
def test_a_policy_on_a_gpu(normalize: bool, tmp_path: Path) -> None:
    train(tmp_path, normalize=normalize, device="cuda")
    assert_written(tmp_path, 15, 30, 45, normalized=normalize)
