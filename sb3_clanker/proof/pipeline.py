"""What stands between VecNormalize and the policy: nothing that changes an observation behind the file's back.

A file folds in one VecNormalize, and its consumer stacks frames. Whatever else changes observations on their way from
VecNormalize to the policy is refused by its name. What leaves them alone passes: by its class where Stable-Baselines3
wrote it; any other wrapper is tried, as a copy of its own around an environment that hands out what it is given.
Nothing here steps or resets the environment of the training, and no generator advances.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_clanker.errors import UnsupportedWrapperError
from sb3_clanker.proof.probes import Batch, as_batch, batch_size, by_key, draw_observations, take
from sb3_clanker.sb3.statistics import collect_statistics
from sb3_clanker.sb3.untouched import generators_kept
from sb3_clanker.sb3.wrappers import frame_stacks, stacked_by_key, vec_chain

_KNOWN: tuple[type[VecEnvWrapper], ...] = (VecMonitor, VecCheckNan, VecVideoRecorder, VecTransposeImage, VecFrameStack)
"""Wrappers that leave observations alone, or that the file and its record account for."""

_METHODS = (
    *("step", "step_wait", "reset"),
    *("normalize_obs", "_normalize_obs", "get_original_obs", "transpose_observations", "transpose_image"),
)
"""What an observation passes through in the wrappers of Stable-Baselines3."""

_N_CALLS = 128
"""How often a wrapper is tried: one that changes few observations must not slip through."""
_N_DRAWN = 64

_INSIDE = "Put it inside VecNormalize, where it belongs to the environment."


def check_pipeline(model: BaseAlgorithm, vec_normalize: VecNormalize | None) -> None:
    """Refuse an environment in which the policy sees something else than what VecNormalize makes of raw observations.

    :param model: the algorithm
    :param vec_normalize: the normalization that is folded in; where it is not of the model's own environment, such as
        one from a file, it stands for the one that is
    :raises UnsupportedWrapperError: a wrapper changes observations, or cannot be shown to leave them alone
    """
    if vec_normalize is None:
        return
    chain = [] if (env := model.get_env()) is None else list(vec_chain(env))
    normalizing = [wrapper for wrapper in chain if isinstance(wrapper, VecNormalize)]
    of_env = vec_normalize if vec_normalize in normalizing else next(iter(normalizing), None)
    for other in normalizing:
        if other is not of_env and other.norm_obs:
            raise UnsupportedWrapperError(
                type(other).__name__,
                "a second VecNormalize normalizes observations too, and a file folds in one",
                "Use one VecNormalize, or norm_obs=False in all but one, which must be the outermost.",
            )
    if not vec_normalize.norm_obs:
        return
    for normalizer in (vec_normalize, of_env):
        if normalizer is not None and (own := _overridden(normalizer, VecNormalize)):
            raise UnsupportedWrapperError(
                type(normalizer).__name__,
                f"it normalizes in its own way ({', '.join(own)}), and the file would do it in that of VecNormalize",
                "Use VecNormalize itself, and put what is more inside it, into a wrapper of its own.",
            )
    if of_env is not None:
        outside = chain[: chain.index(of_env)]
        _check_stacks(outside, of_env)
        _check_unknown(outside, of_env)
        _check_first(model, outside, of_env)


def _check_stacks(outside: Sequence[VecEnv], vec_normalize: VecNormalize) -> None:
    """Normalized frames can be stacked once, in a type that holds them: VecFrameStack keeps that of the space."""
    stacks = [wrapper for wrapper in outside if isinstance(wrapper, VecFrameStack)]
    if len(stacks) > 1:
        raise UnsupportedWrapperError(
            type(stacks[0]).__name__, "frames are stacked twice outside VecNormalize", "Stack them once."
        )
    for stack in stacks:
        by_key = stacked_by_key(stack)
        for key in collect_statistics(vec_normalize):
            if key in by_key and not np.can_cast(np.float32, dtype := by_key[key].stacked_obs.dtype):
                raise UnsupportedWrapperError(
                    type(stack).__name__,
                    f"it stacks in {dtype}, the type of the observation space, which cuts off what VecNormalize made",
                    "Make the observation space one of float32, or stack inside VecNormalize.",
                )


def _check_unknown(outside: Sequence[VecEnv], vec_normalize: VecNormalize) -> None:
    """Try each wrapper that is not known, on what would come to it."""
    wrappers = [wrapper for wrapper in outside if isinstance(wrapper, VecEnvWrapper)]
    if all(map(_is_known, wrappers)):
        return
    raw = draw_observations(vec_normalize.venv.observation_space, collect_statistics(vec_normalize), _N_DRAWN)
    observations: Any = vec_normalize.normalize_obs(raw)
    for wrapper in reversed(wrappers):
        if not _is_known(wrapper):
            _try(wrapper, observations)
        elif isinstance(wrapper, VecTransposeImage):
            observations = wrapper.transpose_observations(observations)
        elif isinstance(wrapper, VecFrameStack):
            observations = _repeat(wrapper, observations)


def _check_first(model: BaseAlgorithm, outside: Sequence[VecEnv], vec_normalize: VecNormalize) -> None:
    """Before the first step, hold what the policy is about to see against what VecNormalize makes of the raw one.

    Only then are the two certainly of one instant: later, the environment may be a step ahead of the policy.
    """
    seen: Any = getattr(model, "_last_obs", None)
    if model.num_timesteps > 0 or seen is None or "old_obs" not in vars(vec_normalize):
        return
    expected: Any = vec_normalize.normalize_obs(vec_normalize.get_original_obs())
    for wrapper in reversed(outside):
        if isinstance(wrapper, VecTransposeImage):
            expected = wrapper.transpose_observations(expected)
    for key, stack in frame_stacks(model.get_env()).items():
        if stack.after_normalization:  # the newest frame comes last
            seen = as_batch({**by_key(seen), key: np.split(by_key(seen)[key], stack.n_stack, stack.axis)[-1]})
    if not _same(seen, expected):
        raise UnsupportedWrapperError(
            ", ".join(type(wrapper).__name__ for wrapper in (*outside, vec_normalize)),
            "what the policy sees is not what VecNormalize makes of the raw observation",
            "Put every wrapper inside VecNormalize.",
        )


def _is_known(wrapper: VecEnvWrapper) -> bool:
    return any(isinstance(wrapper, base) and not _overridden(wrapper, base) for base in _KNOWN)


def _overridden(wrapper: VecEnvWrapper, base: type[VecEnvWrapper]) -> list[str]:
    """What a wrapper does otherwise than a class of Stable-Baselines3, by its class or by itself."""
    return [
        name
        for name in _METHODS
        if name in vars(wrapper) or getattr(type(wrapper), name, None) is not getattr(base, name, None)
    ]


def _try(wrapper: VecEnvWrapper, observations: Batch) -> None:
    name, rows = type(wrapper).__name__, np.arange(wrapper.num_envs)
    try:
        with generators_kept():
            source = _Source(wrapper.venv)
            tried = _copy_around(wrapper, source)
            changes = False
            for call in range(_N_CALLS):
                given = take(observations, (call * wrapper.num_envs + rows) % batch_size(observations))
                source.observations = copy.deepcopy(given)  # one that is changed in place is changed too
                got = tried.reset() if call in (0, _N_CALLS - 1) else tried.step(source.actions())[0]
                changes = changes or not _same(got, given)
    except Exception as error:  # it is the user's code, in an environment that it does not know
        raise UnsupportedWrapperError(
            name,
            "it stands between VecNormalize and the policy, and cannot be shown to leave observations alone "
            f"({type(error).__name__}: {error})",
            _INSIDE,
        ) from error
    if changes:
        raise UnsupportedWrapperError(
            name, "it changes observations between VecNormalize and the policy, which no file can fold in", _INSIDE
        )


class _Source(VecEnv):
    """An environment that hands out what it is given; every second step ends the episodes.

    :param env: the environment that it stands for
    :ivar observations: what comes next
    """

    def __init__(self, env: VecEnv) -> None:
        self.observations: Any = None
        self._ends = False
        super().__init__(env.num_envs, env.observation_space, env.action_space)

    def actions(self) -> Any:
        """Some actions."""
        return np.zeros((self.num_envs, *(self.action_space.shape or ())), self.action_space.dtype)

    def reset(self) -> Any:
        return self.observations

    def step_async(self, *_: Any) -> None:
        self._ends = not self._ends

    def step_wait(self) -> Any:
        infos = [self._info(row) if self._ends else {} for row in range(self.num_envs)]
        return self.observations, np.zeros(self.num_envs, np.float32), np.full(self.num_envs, self._ends), infos

    def _info(self, row: int) -> dict[str, Any]:
        """What an environment and its Monitor say of an episode that has ended."""
        return {
            "terminal_observation": copy.deepcopy(take(self.observations, row)),
            "TimeLimit.truncated": False,
            "episode": {"r": 0.0, "l": 2, "t": 0.0},
        }

    def close(self) -> None:
        pass

    def get_attr(self, *_: Any, **__: Any) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, *_: Any, **__: Any) -> None:
        pass

    def env_method(self, *_: Any, **__: Any) -> list[Any]:
        return [None] * self.num_envs

    def env_is_wrapped(self, *_: Any, **__: Any) -> list[bool]:
        return [False] * self.num_envs


def _copy_around(wrapper: VecEnvWrapper, source: VecEnv) -> VecEnvWrapper:
    """A copy with a state of its own; ``copy.deepcopy`` fails, as a wrapper looks in its ``venv`` for what it lacks."""
    tried = object.__new__(type(wrapper))
    known: dict[int, Any] = {id(env): source for env in vec_chain(wrapper.venv)}
    known |= {id(wrapper): tried, id(wrapper.class_attributes): wrapper.class_attributes}
    vars(tried).update(copy.deepcopy(vars(wrapper), known))
    return tried


def _repeat(wrapper: VecFrameStack, observations: Any) -> Any:
    """A stack of the same frame, as VecFrameStack gives it."""
    stacks = stacked_by_key(wrapper)

    def repeat(frame: Any, stack: StackedObservations[Any]) -> Any:
        stacked = np.concatenate([frame] * stack.n_stack, axis=stack.stack_dimension)
        return stacked.astype(stack.stacked_obs.dtype)

    return as_batch({key: repeat(frame, stacks[key]) for key, frame in by_key(observations).items()})


def _same(one: Any, other: Any) -> bool:
    of_one, of_other = by_key(one), by_key(other)
    alike = (np.array_equal(of_one[key], of_other[key], equal_nan=True) for key in of_one)
    return of_one.keys() == of_other.keys() and all(alike)
