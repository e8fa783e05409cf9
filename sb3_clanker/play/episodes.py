"""Episodes of a policy in its environment, one for each seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.errors import UnfitEnvironmentError
from sb3_clanker.play.environment import Env, Playable, name_of, open_environment
from sb3_clanker.play.frames import Array, ByKey, Frames
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.runtime.policy import OnnxPolicy

MOST_STEPS = 1_000_000
"""Of an episode: one that is as long has no end."""

_Step: TypeAlias = tuple[ByKey, Array]


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """What came of some episodes.

    :ivar environment: what they were played in is called
    :ivar seeds: the seed of each
    :ivar returns: the sum of the rewards of each, float64 of shape (n_episodes,)
    :ivar lengths: the steps of each, int64 of shape (n_episodes,)
    :ivar observations: of steps that are spread evenly over all of them, what the policy saw, by key of a Dict space or
        under None; one row for each step
    :ivar actions: what it did at these, of shape (n_kept, *action_space.shape)
    :ivar frames: the first episode from its beginning in pictures, uint8 of shape (height, width, 3)
    :ivar frames_per_second: how many there are in a second, None where the environment does not say
    """

    environment: str
    seeds: tuple[int, ...]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    observations: ByKey
    actions: Array
    frames: tuple[NDArray[np.uint8], ...] = ()
    frames_per_second: float | None = None


def play_episodes(
    policy: OnnxPolicy, env: str | Playable | None, seeds: Sequence[int], *, n_kept: int = 0, n_frames: int = 0
) -> Episodes:
    """Play a policy, deterministically, in one environment that is reset with each seed.

    The returns are those of ``stable_baselines3.common.evaluation.evaluate_policy``, and of the one of sb3-contrib for
    a policy with masks, for one episode after each of these seeds.

    :param policy: the policy
    :param env: as in :func:`sb3_clanker.play.environment.open_environment`
    :param seeds: one for each episode
    :param n_kept: how many observations and actions to keep at most
    :param n_frames: how many pictures to keep at most; of an environment of the caller's own, only where its
        ``render_mode`` is ``"rgb_array"``
    :raises UnfitEnvironmentError: the environment cannot be made as it was in training, or its spaces are not those of
        the policy, or it has no masks for a policy with masks, or an episode does not end
    :raises MissingDependencyError: gymnasium is not installed
    """
    sample = _Sample(n_kept)
    frames: list[NDArray[np.uint8]] = []
    returns, lengths = [], []
    with open_environment(policy.metadata, env, renders=n_frames > 0) as environment:
        player = _Player(policy, environment)
        for number, seed in enumerate(seeds):
            renders = number == 0 and environment.render_mode == "rgb_array"
            total, length = player.play(seed, sample, frames, n_frames if renders else 0)
            returns.append(total)
            lengths.append(length)
        name, per_second = name_of(environment), environment.metadata.get("render_fps")
    observations, actions = sample.arrays(policy.metadata)
    return Episodes(
        environment=name,
        seeds=tuple(seeds),
        returns=np.array(returns, np.float64),
        lengths=np.array(lengths, np.int64),
        observations=observations,
        actions=actions,
        frames=tuple(frames),
        frames_per_second=None if per_second is None else float(per_second),
    )


class _Player:
    """Plays a policy in an environment.

    :raises UnfitEnvironmentError: the two do not fit
    """

    def __init__(self, policy: OnnxPolicy, env: Env) -> None:
        self._policy, self._env, self._frames = policy, env, Frames(policy.metadata, env)
        self._is_dict = None not in policy.metadata.observation_space.leaves()
        self._find_masks: Any = None
        if any(spec.role == "action_masks" for spec in policy.metadata.inputs):
            try:  # as sb3_contrib.common.maskable.utils.get_action_masks finds it
                self._find_masks = env.get_wrapper_attr("action_masks")
            except AttributeError as error:
                problem = "it has no method action_masks, which this policy needs"
                remedy = "Pass one that has it as env, such as one in the ActionMasker of sb3-contrib."
                raise UnfitEnvironmentError(name_of(env), problem, remedy) from error

    def play(self, seed: int, sample: _Sample, frames: list[NDArray[np.uint8]], n_frames: int) -> tuple[float, int]:
        """Play one episode; its return and its length."""
        observation, _ = self._env.reset(seed=seed)
        state, total, length, ends = None, 0.0, 0, False
        while not ends:
            if len(frames) < n_frames:
                frames.append(np.asarray(self._env.render(), np.uint8))
            seen = self._frames.observe(observation, starts=length == 0)
            batch: Any = {key: array[None] for key, array in seen.items()}
            action, state = self._policy.predict(
                batch if self._is_dict else batch[None],
                state,
                np.array([length == 0]),
                action_masks=None if self._find_masks is None else self._find_masks(),
            )
            sample.add(seen, action[0])
            observation, reward, terminated, truncated, _ = self._env.step(action[0])
            total += np.asarray(reward, np.float64).item()
            length += 1
            ends = bool(terminated or truncated)
            if length == MOST_STEPS and not ends:
                problem = f"an episode did not end in {MOST_STEPS:,} steps"
                raise UnfitEnvironmentError(
                    name_of(self._env), problem, "Give it an end, as gymnasium's TimeLimit does."
                )
        if len(frames) < n_frames:
            frames.append(np.asarray(self._env.render(), np.uint8))
        return total, length


class _Sample:
    """Every so many-th step of all, so that there are never more than n."""

    def __init__(self, n: int) -> None:
        self._n, self._every, self._count = n, 1, 0
        self._steps: list[_Step] = []

    def add(self, seen: ByKey, action: Array) -> None:
        """Keep a step, or not."""
        if self._n and self._count % self._every == 0:
            if len(self._steps) == self._n:
                self._steps, self._every = self._steps[::2], 2 * self._every
            if self._count % self._every == 0:
                self._steps.append(({key: array.copy() for key, array in seen.items()}, np.copy(action)))
        self._count += 1

    def arrays(self, metadata: PolicyMetadata) -> tuple[ByKey, Array]:
        """The observations by key, and the actions."""
        leaves, shape = metadata.observation_space.leaves(), metadata.action_space.shape
        if not self._steps:
            return {key: np.zeros((0, *leaf.shape)) for key, leaf in leaves.items()}, np.zeros((0, *shape))
        seen = {key: np.stack([step[0][key] for step in self._steps]) for key in leaves}
        return seen, np.stack([action for _, action in self._steps])
