"""Wrappers outside and inside VecNormalize, as a search draws them: a file is right, or refused by name.

The reference is the pipeline of the training itself: its environment is stepped on with what Stable-Baselines3's
``predict`` answers, and the file gets the raw observations, stacked by its record alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy
from sb3_clanker.errors import UnsupportedWrapperError
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.sb3.wrappers import vec_chain
from tests import wrappers
from tests.worlds import BOX_ACTION, UNBOUNDED_OBSERVATION, SpacesEnv, make_model

Wrap = Callable[[Any], Any]

SPACES: Mapping[str, spaces.Space[Any]] = {
    "vector": UNBOUNDED_OBSERVATION,
    "float64": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "whole numbers": spaces.Box(-60, 60, (3,), np.int64),
    "Dict": spaces.Dict({"arm": UNBOUNDED_OBSERVATION, "eye": spaces.Box(-9.0, 9.0, (2,), np.float32)}),
    "camera": spaces.Dict({"arm": UNBOUNDED_OBSERVATION, "camera": spaces.Box(0, 255, (36, 36, 3), np.uint8)}),
    "image": spaces.Box(0, 255, (3, 36, 36), np.uint8),
}
VECTORS = ("vector", "float64", "whole numbers")


class Outliers(SpacesEnv):
    """Some observations lie far from the others."""

    def _observe(self) -> Any:
        observation = super()._observe()
        if self.np_random.random() < 0.1 and not isinstance(observation, dict) and observation.ndim == 1:
            return np.clip(6 * observation, -60, 60)
        return observation


def _doubled(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return gym.wrappers.TransformObservation(env, lambda observation: observation * 2, env.observation_space)


def _stack(env: VecEnv) -> VecEnv:
    return VecFrameStack(env, 2)


def _arm(env: VecEnv) -> VecEnv:
    return VecExtractDictObs(env, "arm")


GYM: dict[str, Wrap] = {
    "TimeLimit": lambda env: gym.wrappers.TimeLimit(env, 9),
    "OrderEnforcing": gym.wrappers.OrderEnforcing,
    "RecordEpisodeStatistics": gym.wrappers.RecordEpisodeStatistics,
}
GYM_OF_VECTORS: dict[str, Wrap] = {
    "doubled": _doubled,
    "TimeAware": lambda env: gym.wrappers.TimeAwareObservation(gym.wrappers.TimeLimit(env, 9)),
    "Delay": lambda env: gym.wrappers.DelayObservation(env, 1),
}
INSIDE: dict[str, Wrap] = {"VecCheckNan": VecCheckNan, "Log": wrappers.HalfReward, "VecFrameStack": _stack}
INSIDE_OF_VECTORS: dict[str, Wrap] = {"Scale": wrappers.Scale, "Noise": wrappers.Noise, "Clip": wrappers.ClipFar}
NORMALIZE: dict[str, Wrap] = {
    "VecNormalize": VecNormalize,
    "NamedNormalize": wrappers.NamedNormalize,
    "clipped": lambda env: VecNormalize(env, clip_obs=1.5),
    "rewards": lambda env: VecNormalize(env, norm_obs=False),
    "over rewards": lambda env: VecNormalize(VecNormalize(env, norm_obs=False)),
    "none": lambda env: env,
}
CHANGING_NORMALIZE: dict[str, Wrap] = {
    "HalfNormalize": wrappers.HalfNormalize,
    "MeanNormalize": wrappers.MeanNormalize,
    "patched": lambda env: wrappers.patched(VecNormalize(env)),
    "twice": lambda env: VecNormalize(VecNormalize(env)),
    "rewards over": lambda env: VecNormalize(VecNormalize(env), norm_obs=False),
}
OUTSIDE: dict[str, Wrap] = {
    "VecMonitor": VecMonitor,
    "NamedMonitor": wrappers.NamedMonitor,
    "VecCheckNan": VecCheckNan,
    "HalfReward": wrappers.HalfReward,
    "VecFrameStack": _stack,
}
CHANGING: dict[str, Wrap] = {
    wrapper.__name__: wrapper
    for wrapper in (
        *(wrappers.Scale, wrappers.Clip, wrappers.ClipFar, wrappers.InPlace, wrappers.Noise, wrappers.Seldom),
        *(wrappers.StepsOnly, wrappers.ResetOnly, wrappers.Late),
    )
}


class Combination:
    """One training: what wraps its environment, from the innermost to the outermost.

    :ivar names: what was chosen
    :ivar harmless: whether a file can be right, so that a refusal is a fault
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)

        def some(*choices: dict[str, Wrap]) -> dict[str, Wrap]:
            every = {name: wrap for choice in choices for name, wrap in choice.items()}
            return {name: every[name] for name in rng.permutation(list(every))[: rng.integers(0, 3)]}

        self.seed = seed
        self.space = str(rng.choice(list(SPACES), p=[0.35, 0.1, 0.1, 0.2, 0.1, 0.15]))
        vectors = self.space in VECTORS
        self.gym = some(GYM, GYM_OF_VECTORS if vectors else {})
        self.inside = some(INSIDE, INSIDE_OF_VECTORS if self.space == "vector" else {})
        normalize = CHANGING_NORMALIZE if rng.random() < 0.2 else NORMALIZE
        self.normalize = str(rng.choice(list(normalize)))
        outside = some(OUTSIDE) if rng.random() < 0.6 else some(OUTSIDE, CHANGING)
        if self.space in ("Dict", "camera") and rng.random() < 0.15:
            outside["VecExtractDictObs"] = _arm
        self.outside = outside
        self.n_envs = int(rng.integers(1, 3))
        folded = self.normalize not in ("rewards", "none")
        stacked = "VecFrameStack" in outside
        self.harmless = normalize is NORMALIZE and (
            not folded
            or (
                not (outside.keys() & (CHANGING.keys() | {"VecExtractDictObs"}))
                and not (stacked and self.space == "whole numbers" and not self._gives_floats())
            )
        )
        shaped = stacked or "VecExtractDictObs" in outside or self.space in ("image", "camera")
        of_sac = [] if shaped else [SAC]  # whose buffer takes what VecNormalize got for what the policy gets
        algorithms: list[type[BaseAlgorithm]] = [PPO, A2C, *of_sac]
        self.algorithm = algorithms[int(rng.integers(len(algorithms)))]

    def _gives_floats(self) -> bool:
        """Whether time, a float64, is put beside whole numbers."""
        return "TimeAware" in self.gym

    def __str__(self) -> str:
        inside, outside = "+".join((*self.gym, *self.inside)), "+".join(self.outside)
        parts = (self.seed, self.algorithm.__name__, self.space, inside, self.normalize, outside)
        return "-".join(str(part).replace(" ", "") for part in parts)

    def make_env(self) -> VecEnv:
        """The environment of the training."""
        space = SPACES[self.space]

        def one() -> gym.Env[Any, Any]:
            env: gym.Env[Any, Any] = Outliers(space, BOX_ACTION)
            for wrap in self.gym.values():
                env = wrap(env)
            return env

        env: VecEnv = DummyVecEnv([one] * self.n_envs)
        for wrap in self.inside.values():
            env = wrap(env)
        if self.space == "camera" and self.normalize not in ("none", "rewards"):
            env = _of_arm({**NORMALIZE, **CHANGING_NORMALIZE}[self.normalize], env)
        else:
            env = {**NORMALIZE, **CHANGING_NORMALIZE}[self.normalize](env)
        for wrap in self.outside.values():
            env = wrap(env)
        return env

    def make_model(self) -> BaseAlgorithm:
        """A small algorithm in it."""
        env = self.make_env()
        kwargs: dict[str, Any] = {}
        if isinstance(env.observation_space, spaces.Dict):
            kwargs = {"policy": "MultiInputPolicy"}
            if self.space == "camera":
                kwargs["policy_kwargs"] = {"features_extractor_kwargs": {"cnn_output_dim": 16}}
        return make_model(self.algorithm, env=env, scale=0.5, **kwargs)


def _of_arm(normalize: Wrap, env: VecEnv) -> VecEnv:
    """VecNormalize in one of its kinds, of one key alone."""
    original = VecNormalize.__init__

    def of_arm(self: VecNormalize, venv: VecEnv, **kwargs: Any) -> None:
        keys = ["arm"] if kwargs.get("norm_obs", True) else None
        original(self, venv, norm_obs_keys=keys, **kwargs)

    VecNormalize.__init__ = of_arm  # type: ignore[method-assign,assignment]
    try:
        wrapped: VecEnv = normalize(env)
    finally:
        VecNormalize.__init__ = original  # type: ignore[method-assign]
    return wrapped


class Consumer:
    """Stacks raw frames by the record of a file, the newest last."""

    def __init__(self, metadata: PolicyMetadata) -> None:
        self._records = {record.key: record for record in metadata.frame_stacks}
        self._frames: dict[str | None, list[Any]] = {}

    def stack(self, raw: Any, began: Any) -> Any:
        """A batch of observations that ends with these frames.

        :param began: for each environment, whether an episode began
        """
        if isinstance(raw, dict):
            return {key: self._stack(key, array, began) for key, array in raw.items()}
        return self._stack(None, raw, began)

    def _stack(self, key: str | None, frame: Any, began: Any) -> Any:
        if frame.shape[1:3] == (36, 36):
            frame = VecTransposeImage.transpose_image(frame)
        record = self._records.get(key)
        if record is None:
            return frame
        shape = frame.shape[1:]
        padding = np.reshape(record.padding, shape if isinstance(record.padding, tuple) else ()) + np.zeros(shape)
        frames = self._frames.setdefault(key, [np.zeros(frame.shape)] * record.n_stack)
        dtype = np.uint8 if frame.dtype == np.uint8 and not isinstance(record.padding, tuple) else np.float32
        padded = [np.where(began.reshape(-1, *[1] * len(shape)), padding, old).astype(dtype) for old in frames]
        self._frames[key] = [*padded[1:], frame]
        return np.concatenate(self._frames[key], axis=record.axis)


def _assert_right(model: BaseAlgorithm, policy: OnnxPolicy, n_steps: int) -> None:
    """The file does on raw observations what training's own pipeline makes the policy do."""
    env: Any = model.get_env()
    chain = list(vec_chain(env))
    normalizing = [wrapper for wrapper in chain if isinstance(wrapper, VecNormalize) and wrapper.norm_obs]
    for wrapper in normalizing:
        wrapper.training = False
    stacked_outside = normalizing and any(
        isinstance(wrapper, VecFrameStack) for wrapper in chain[: chain.index(normalizing[-1])]
    )
    consumer = Consumer(policy.metadata)
    observation, began, actions = env.reset(), np.full(env.num_envs, True), []
    half = (BOX_ACTION.high - BOX_ACTION.low) / 2
    for _ in range(n_steps):
        raw = normalizing[-1].get_original_obs() if normalizing else observation
        if stacked_outside:
            raw = consumer.stack(raw, began)
        action, _ = model.predict(observation, deterministic=True)
        got, _ = policy.predict(raw)
        np.testing.assert_allclose(got / half, action / half, rtol=1e-4, atol=1e-4)
        actions.append(action)
        observation, _, began, _ = env.step(action)
    assert len(np.unique(np.concatenate(actions).round(3), axis=0)) > 1, "the weights tell no actions apart"


def _right_or_refused(combination: Combination, folder: Path) -> bool:
    """Train, and see that the file is right, or that a wrapper was refused by its name.

    :return: whether there is a file
    """
    model = combination.make_model()
    names = {type(wrapper).__name__ for wrapper in vec_chain(model.get_env())}  # type: ignore[arg-type]
    callback = OnnxCheckpointCallback(folder, options=ExportOptions(n_samples=8))
    try:
        model.learn(48, callback=callback)
    except UnsupportedWrapperError as error:
        refused = error
    else:
        if not callback.failures:
            _assert_right(model, OnnxPolicy(folder / "final_model.onnx"), n_steps=50)
            return True
        assert isinstance(callback.failures[-1].error, UnsupportedWrapperError)
        refused = callback.failures[-1].error
    assert refused.wrapper in names
    assert not combination.harmless, refused
    assert not list(folder.glob("*.onnx"))
    return False


SEEDS_OF_A_FEW = (2, 3, 8, 9, 13, 16, 17, 30, 37, 40, 46, 56)


@pytest.mark.parametrize("combination", [Combination(seed) for seed in SEEDS_OF_A_FEW], ids=str)
def test_a_few_combinations_are_right_or_refused(combination: Combination, tmp_path: Path) -> None:
    _right_or_refused(combination, tmp_path)


@pytest.mark.slow
def test_a_hundred_combinations_are_right_or_refused(tmp_path: Path) -> None:
    files = [_right_or_refused(Combination(seed), tmp_path / str(seed)) for seed in range(100, 200)]
    assert 20 < sum(files) < 80, "the draw tells little"
