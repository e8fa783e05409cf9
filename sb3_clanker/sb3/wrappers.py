"""What an environment is and what wraps it: frames that are stacked, and what no file can fold in.

Read from the wrappers themselves; no environment is stepped or reset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from msgspec.structs import replace
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize, VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_clanker.errors import InnerNormalizationWarning
from sb3_clanker.errors.warnings import warn
from sb3_clanker.policy_file.documents import decode, encode
from sb3_clanker.policy_file.record import EnvironmentRecord

_LONGEST, _LONGEST_OF_ALL = 1_000, 10_000
"""Characters of a keyword argument as JSON, and of all of them."""
_PATH = re.compile(r"[\"'\s=,;:(](~|/|\\\\|[A-Za-z]:[\\/])")
"""The beginning of an absolute path, or of what stands after ``https:``, somewhere in JSON."""
_SECRET = re.compile(r'"[^"]*(api_?key|access_?key|private_?key|passw|secret|token|credential)[^"]*":', re.IGNORECASE)
"""A name in JSON, of what nobody would publish."""


@dataclass(frozen=True, kw_only=True)
class FrameStack:
    """How the frames of one observation are stacked.

    :ivar n_stack: how many
    :ivar axis: along which axis, counted from the last
    :ivar after_normalization: whether VecNormalize came first, so that it knows single frames
    """

    n_stack: int
    axis: int
    after_normalization: bool


def wrapper_names(env: VecEnv | None) -> tuple[str, ...]:
    """Class names of an environment and its wrappers, outermost first; those of a subprocess end at its border."""
    if env is None:
        return ()
    chain: list[object] = list(vec_chain(env))
    if isinstance(chain[-1], DummyVecEnv):
        chain += _gym_chain(chain[-1].envs[0])
    return tuple(type(wrapper).__name__ for wrapper in chain)


def environment_spec(env: VecEnv | None) -> EnvironmentRecord | None:
    """What gymnasium knows of an environment that is in this process; None of any other.

    One in another process is not asked: a spec may hold what cannot be sent, such as a lambda, and a worker of
    SubprocVecEnv dies of trying. Nor are ``get_attr`` and ``env_method``, which a simulator's own VecEnv may refuse.
    """
    if env is None:
        return None
    *_, inner = vec_chain(env)
    with suppress(Exception):  # it may be anything
        first: Any = inner.envs[0] if hasattr(inner, "envs") else inner.env  # type: ignore[attr-defined]
        *wrappers, innermost = _gym_chain(first)
        if (spec := innermost.spec) is not None:
            return _recorded(spec.id, _limit_of_episodes(wrappers, spec.id) | spec.kwargs)
    return None


def _limit_of_episodes(wrappers: list[gym.Env[Any, Any]], env_id: str) -> dict[str, object]:
    """The argument of ``gymnasium.make`` for a limit that is not the registered one: a spec does not say it."""
    limits = [wrapper._max_episode_steps for wrapper in wrappers if isinstance(wrapper, gym.wrappers.TimeLimit)]
    limit, registered = limits[-1] if limits else None, gym.registry.get(env_id)
    if registered is None or limit == registered.max_episode_steps:
        return {}
    return {"max_episode_steps": -1 if limit is None else int(limit)}


def _recorded(env_id: str, kwargs: Mapping[str, object]) -> EnvironmentRecord:
    """Keyword arguments as far as a file may hold them."""
    record = EnvironmentRecord(id=env_id, kwargs={})
    for name, value in kwargs.items():
        with suppress(Exception):  # it is no JSON
            alone = decode(EnvironmentRecord, {"id": env_id, "kwargs": {name: value}, "omitted": ()})
            text = encode(alone.kwargs)
            if not _PATH.search(text) and not _SECRET.search(text) and len(text) <= _LONGEST:
                record.kwargs[name] = alone.kwargs[name]
                if len(encode(record.kwargs)) <= _LONGEST_OF_ALL:
                    continue
                del record.kwargs[name]
        record = replace(record, omitted=(*record.omitted, name))
    return record


def frame_stacks(env: VecEnv | None) -> dict[str | None, FrameStack]:
    """How frames are stacked by VecFrameStack, by key of a Dict space or under None."""
    chain = list(vec_chain(env)) if env is not None else []
    for position, wrapper in enumerate(chain):
        if isinstance(wrapper, VecFrameStack):
            normalized_before = any(isinstance(inner, VecNormalize) for inner in chain[position:])
            transposed = _transposed_keys(chain[:position])
            return {
                key: _frame_stack(stacked, normalized_before, key in transposed)
                for key, stacked in stacked_by_key(wrapper).items()
            }
    return {}


def stacked_by_key(wrapper: VecFrameStack) -> dict[str | None, StackedObservations[Any]]:
    """What VecFrameStack has stacked, by key of a Dict space or under None."""
    stacked: Any = wrapper.stacked_obs
    by_key: dict[str | None, StackedObservations[Any]] = getattr(stacked, "sub_stacked_observations", {None: stacked})
    return by_key


def vec_chain(env: VecEnv) -> Iterator[VecEnv]:
    """A vectorized environment and what it wraps, outermost first."""
    yield env
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        yield env


def _transposed_keys(wrappers: list[VecEnv]) -> set[str | None]:
    """Keys of images whose channels are put first, or None for an image without a key."""
    transposing = (wrapper for wrapper in wrappers if isinstance(wrapper, VecTransposeImage) and not wrapper.skip)
    return {key for wrapper in transposing for key in vars(wrapper).get("image_space_keys", [None])}


def warn_of_inner_normalization(env: VecEnv | None) -> None:
    """Warn where gymnasium normalizes observations inside the environment: its statistics cannot be read from here."""
    try:
        normalizes = env is not None and any(env.env_is_wrapped(gym.wrappers.NormalizeObservation))
    except Exception:  # its processes have ended, or it is a simulator that cannot be asked
        return
    if normalizes:
        warn(
            InnerNormalizationWarning(
                "The environment normalizes its observations itself (gymnasium's NormalizeObservation). That cannot be "
                "folded into the file, which will expect observations normalized in the same way. Use "
                "Stable-Baselines3's VecNormalize in its place."
            )
        )


def _frame_stack(stacked: StackedObservations[Any], normalized_before: bool, transposed: bool) -> FrameStack:
    rank = len(stacked.stacked_shape)
    axis = stacked.repeat_axis if stacked.repeat_axis < 0 else stacked.repeat_axis - rank
    if transposed:  # height, width, channels become channels, height, width
        axis = {-1: -3, -3: -2, -2: -1}[axis]
    return FrameStack(n_stack=stacked.n_stack, axis=axis, after_normalization=normalized_before)


def _gym_chain(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env
