"""Trainings to disturb: small, quick, with a new best at every evaluation, in this process or in one of their own."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import random
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_clanker import OnnxPolicy, read_metadata
from sb3_clanker.formats.format import open_format
from sb3_clanker.formats.torchscript import policy_id
from sb3_clanker.run_folder.identity import find_partners, state_of
from sb3_clanker.run_folder.names import KINDS, TEMPORARY, Checkpoint
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, SpacesEnv, assert_same_actions, make_model, predict_raw


class RisingEnv(SpacesEnv):
    """Episodes of two steps, each with a better return than the last."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, action_space)
        self.episodes = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *_, info = super().step(action)
        done = self._steps >= 2
        self.episodes += done
        return observation, self.reward(), False, done, info

    def reward(self) -> float:
        return float(self.episodes)


class NaNOnceEnv(RisingEnv):
    """The second return, and only that, is no number."""

    def reward(self) -> float:
        return math.nan if self.episodes == 2 and self._steps == 2 else super().reward()


def make_eval_env(
    env: type[RisingEnv] = RisingEnv, action_space: spaces.Space[Any] = BOX_ACTION, *, normalize: bool = True
) -> VecEnv:
    """An environment for evaluations; as normalized as that of the training."""
    venv = DummyVecEnv([lambda: Monitor(env(BOX_OBSERVATION, action_space))])
    venv.seed(11)
    return VecNormalize(venv, training=False, norm_reward=False) if normalize else venv


def train(callbacks: list[BaseCallback], steps: int = 64, **kwargs: Any) -> BaseAlgorithm:
    """A normalized PPO, always the same one."""
    random.seed(0)
    model = make_model(normalize=True, **kwargs)
    model.learn(steps, callback=callbacks)
    return model


def remains(model: BaseAlgorithm) -> dict[str, bytes]:
    """Everything that a training leaves behind in memory, to the last bit."""
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    obs_rms: Any = vec_normalize.obs_rms
    return dict(
        _leaves(
            {
                "parameters": model.get_parameters(),  # of every network and every optimizer
                "torch": th.get_rng_state(),
                "numpy": np.random.get_state(),  # noqa: NPY002
                "python": random.getstate(),
                "action space": model.action_space.np_random.bit_generator.state,
                "statistics": (obs_rms.mean, obs_rms.var, obs_rms.count, vec_normalize.ret_rms.var),
            }
        )
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, bytes]]:
    """What is in nested containers, as bytes."""
    if isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, f"{path}/{key}")
    elif isinstance(value, (th.Tensor, np.ndarray)):
        yield path, np.asarray(value).tobytes()
    else:
        yield path, repr(value).encode()


def results(folder: Path) -> list[str]:
    """Names of all files but the hidden ones and those of earlier trainings, also in the folders of checkpoints."""
    files = [path for path in (*folder.iterdir(), *folder.glob("*_torchscript/*")) if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in files if not path.name.startswith(TEMPORARY))


def temporaries(folder: Path) -> list[str]:
    """Names of what was being written."""
    return sorted(path.name for path in folder.glob(f"{TEMPORARY}*.tmp"))


def states(policy: Path) -> dict[str, str]:
    """Each partner of a policy file, and whether it is the one."""
    return {partner.path.name: partner.state for partner in find_partners(policy, read_metadata(policy))}


def states_of_formats(policy: Path) -> dict[str, str]:
    """Each file of another format beside a policy file, and whether it is the same policy."""
    names, metadata = Checkpoint(policy.stem).files, read_metadata(policy)
    return {names[kind]: state_of(policy.parent / names[kind], kind, metadata) for kind in KINDS if kind.format}


def assert_alike(policy: Path, algorithm: type[BaseAlgorithm] = PPO) -> None:
    """A policy file does what Stable-Baselines3 does with the ``.zip`` and the statistics beside it."""
    metadata = read_metadata(policy)
    statistics = metadata.checkpoint.statistics_file if metadata.checkpoint else None
    vec_normalize = None
    if statistics is not None:
        vec_normalize = pickle.loads((policy.parent / statistics.name).read_bytes())
        assert isinstance(vec_normalize, VecNormalize)
    saved = algorithm.load(policy.with_suffix(".zip"), device="cpu")
    assert saved.num_timesteps == metadata.training.num_timesteps
    loaded = OnnxPolicy(policy)
    assert_same_actions(
        lambda observation: loaded.predict(observation)[0],
        lambda observation: predict_raw(saved, observation, vec_normalize),
        BOX_OBSERVATION,
        saved.action_space,
    )


def assert_whole(folder: Path, algorithm: type[BaseAlgorithm] = PPO) -> dict[str, int]:
    """Every file with a name is whole, and what claims to belong together does.

    :return: how many files there are, policy files among them, and policy files whose partners are all theirs
    """
    found = {"files": 0, "policies": 0, "matched": 0}
    for name in results(folder):
        path = folder / name
        found["files"] += 1
        if path.suffix == ".onnx":
            found["policies"] += 1
            OnnxPolicy(path)
            if set(states(path).values()) == {"matched"}:
                found["matched"] += 1
                assert_alike(path, algorithm)
        elif path.suffix == ".zip":
            algorithm.load(path, device="cpu")
        elif path.suffix == ".pkl":
            pickle.loads(path.read_bytes())
        elif path.suffix == ".pt":
            open_format("torchscript", path.read_bytes())
        elif path.name == "metadata.json":
            assert policy_id(path).startswith("sha256:")
        else:
            assert path.name.endswith(".vectors.json"), f"{name} is none of our files"
    return found


def processes() -> ForkServerContext:
    """Processes that begin in milliseconds, with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.warm"])
    return context
