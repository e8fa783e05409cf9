"""Every row of the support table, exported from inside a running learn() and held against Stable-Baselines3.

So is the torch module of the policy as it is afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from sb3_clanker import OnnxCheckpointCallback, OnnxPolicy, PolicyModule, policy_module
from sb3_clanker.sb3.normalization import load_statistics
from tests.support import ACTIONS, CASES, OBSERVATIONS, Case
from tests.worlds import SpacesEnv, draw, make_model

N_STACK = 3


def _wrap(case: Case) -> VecEnv:
    observation_space, action_space = OBSERVATIONS[case.observation], ACTIONS[case.action]

    def make() -> SpacesEnv:
        return SpacesEnv(observation_space, action_space)

    env: VecEnv
    if case.wrapper == "SubprocVecEnv":
        return SubprocVecEnv([make, make], start_method="fork")
    env = DummyVecEnv([make] * (3 if case.wrapper == "3 environments" else 1))
    if case.wrapper == "VecMonitor":
        return VecMonitor(env)
    if case.wrapper == "VecFrameStack":
        return VecFrameStack(env, N_STACK)
    if case.wrapper == "VecNormalize":
        return VecNormalize(env)
    if case.wrapper == "VecNormalize of some keys":
        return VecNormalize(env, norm_obs_keys=["joints"])
    if case.wrapper == "VecNormalize with norm_obs=False":
        return VecNormalize(env, norm_obs=False)
    if case.wrapper == "VecNormalize of VecFrameStack":
        return VecNormalize(VecFrameStack(env, N_STACK))
    if case.wrapper == "VecFrameStack of VecNormalize":
        return VecFrameStack(VecNormalize(env), N_STACK)
    return env


def make_case(case: Case) -> BaseAlgorithm:
    name = case.algorithm
    algorithm: type[BaseAlgorithm] = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    kwargs = dict(case.kwargs)
    if case.variant == "HER":
        kwargs |= {"replay_buffer_class": HerReplayBuffer, "learning_starts": 25}
    if case.variant == "less memory":
        kwargs |= {"replay_buffer_kwargs": {"handle_timeout_termination": False}}
    return make_model(algorithm, env=_wrap(case), policy=case.policy, **kwargs)


def raw_observation(case: Case, rng: np.random.Generator, n: int | None) -> Any:
    """A raw observation as a consumer has it: what the environment gives, with its frames stacked."""
    space = OBSERVATIONS[case.observation]
    if "VecFrameStack" not in case.wrapper:
        return draw(space, rng, n)
    axis = -3 if case.observation == "image" else -1
    return np.concatenate([draw(space, rng, n) for _ in range(N_STACK)], axis=axis)


def normalized(case: Case, observation: Any, vec_normalize: VecNormalize | None) -> Any:
    if vec_normalize is None:
        return observation
    if case.wrapper == "VecFrameStack of VecNormalize":
        frames = [vec_normalize.normalize_obs(frame) for frame in np.split(observation, N_STACK, axis=-1)]
        return np.concatenate(frames, axis=-1)  # type: ignore[arg-type]
    return vec_normalize.normalize_obs(observation)


def contexts(model: BaseAlgorithm, rng: np.random.Generator, n: int | None) -> Iterator[dict[str, Any]]:
    """What predict takes beside the observation."""
    policy: Any = model.policy
    if type(model).__name__ == "RecurrentPPO":
        n_layers, _, width = policy.lstm_hidden_state_shape
        yield {}
        state = tuple(rng.normal(size=(n_layers, n or 1, width)).astype(np.float32) for _ in range(2))
        yield {"state": state, "episode_start": rng.random(n or 1) < 0.5}
    elif type(model).__name__ == "MaskablePPO":
        yield {}
        dims = {spaces.Discrete: [4], spaces.MultiDiscrete: [3, 2, 4], spaces.MultiBinary: [2, 2, 2]}
        masks = rng.random((n or 1, sum(dims[type(model.action_space)]))) < 0.5
        start = 0
        for dim in dims[type(model.action_space)]:
            masks[np.arange(n or 1), start + rng.integers(0, dim, n or 1)] = True
            start += dim
        yield {"action_masks": masks[0] if n is None else masks}
    else:
        yield {}


def _assert_close(got: Any, expected: Any, unit: Any = 1.0) -> None:
    assert type(got) is type(expected)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(got / unit, expected / unit, rtol=1e-5, atol=1e-5)


def _assert_module_is(
    module: PolicyModule, inputs: dict[str, Any], model: BaseAlgorithm, observation: Any, context: dict[str, Any]
) -> None:
    action, *state = module(*(th.as_tensor(inputs[spec.name]) for spec in module.inputs))
    expected, expected_state = model.predict(observation, deterministic=True, **context)
    box = model.action_space
    unit = (box.high.astype(np.float64) - box.low) / 2 if isinstance(box, spaces.Box) else 1.0
    _assert_close(action.numpy().astype(expected.dtype).reshape(expected.shape), expected, unit)
    for got_part, expected_part in zip(state, expected_state or (), strict=True):
        _assert_close(got_part.numpy(), expected_part)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_file_equals_its_own_zip(case: Case, tmp_path: Path) -> None:
    model = make_case(case)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    callback = OnnxCheckpointCallback(tmp_path, save_freq=18, save_final=False, on_error="raise")
    model.learn(60, callback=callback)
    module = policy_module(model)
    if model.get_env() is not None and case.wrapper == "SubprocVecEnv":
        model.get_env().close()  # type: ignore[union-attr]
    assert any(not th.equal(old, new) for old, new in zip(before, model.policy.parameters(), strict=True))

    report = callback.reports[-1]
    files = report.metadata.checkpoint
    assert files is not None
    assert files.algorithm_file is not None
    env = model.get_env() if case.variant == "HER" else None  # which cannot be loaded without
    saved = type(model).load(tmp_path / files.algorithm_file.name, env=env, device="cpu")
    assert (files.statistics_file is not None) == ("VecNormalize" in case.wrapper)
    statistics = load_statistics(tmp_path / files.statistics_file.name) if files.statistics_file else None
    policy = OnnxPolicy(report.path)
    action_space, rng = ACTIONS[case.action], np.random.default_rng(7)
    unit = (
        (action_space.high.astype(np.float64) - action_space.low) / 2 if isinstance(action_space, spaces.Box) else 1.0
    )
    seen, at_a_bound = set(), False
    for n in (None, 1, 7, 40):
        for context in contexts(model, rng, n):
            raw = raw_observation(case, rng, n)
            got, got_state = policy.predict(raw, **context)
            expected, expected_state = saved.predict(normalized(case, raw, statistics), deterministic=True, **context)
            _assert_close(got, expected, unit)
            for got_part, expected_part in zip(got_state or (), expected_state or (), strict=True):
                _assert_close(got_part, expected_part)
            _assert_module_is(
                module,
                policy.inputs(raw, **context),
                model,
                normalized(case, raw, model.get_vec_normalize_env()),
                context,
            )
            if isinstance(action_space, spaces.Box):
                at_a_bound |= bool(np.any((expected == action_space.low) | (expected == action_space.high)))
            seen |= {row.tobytes() for row in (expected if n else expected[None])}
    assert len(seen) > 1, "the weights tell no actions apart"
    if case.action == "Box" and not model.policy.squash_output and "scale" not in case.kwargs:
        assert at_a_bound, "no action is clipped"


def test_the_table_is_as_large_as_promised() -> None:
    assert len(CASES) >= 60
    assert len({str(case) for case in CASES}) == len(CASES)
    assert len({case.algorithm for case in CASES} | {case.variant for case in CASES if case.variant == "HER"}) == 14
