"""Episodes of a policy in its environment, one for each seed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.errors import UnfitEnvironmentError
from sb3_clanker.play.environment import Env, Playable, describe, name_of, open_environment
from sb3_clanker.play.frames import Array, Frames
from sb3_clanker.runtime.policy import OnnxPolicy

MOST_STEPS = 1_000_000
"""Of an episode: one that is as long has no end."""

Picture: TypeAlias = NDArray[np.uint8]

_logger = logging.getLogger("sb3_clanker")


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """What came of some episodes.

    :ivar environment: what they were played in is called
    :ivar seeds: the seed of each
    :ivar returns: the sum of the rewards of each, float64 of shape (n_episodes,)
    :ivar lengths: the steps of each, int64 of shape (n_episodes,)
    :ivar actions: what the policy did at steps that are spread evenly over all of them, of shape
        (n_kept, *action_space.shape)
    :ivar frames: the first episode from its beginning in pictures, uint8 of shape (height, width, 3); none where the
        environment gives none
    :ivar frames_per_second: how many there are in a second, None where the environment does not say
    """

    environment: str
    seeds: tuple[int, ...]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    actions: Array
    frames: tuple[Picture, ...] = ()
    frames_per_second: float | None = None


def play_episodes(
    policy: OnnxPolicy,
    env: str | Playable | None,
    seeds: Sequence[int],
    *,
    n_kept: int = 0,
    n_frames: int = 0,
    shrink: Callable[[Picture], Picture] = np.copy,
) -> Episodes:
    """Play a policy, deterministically, in one environment that is reset with each seed.

    The returns are those of ``stable_baselines3.common.evaluation.evaluate_policy``, and of the one of sb3-contrib for
    a policy with masks, for one episode after each of these seeds.

    :param policy: the policy
    :param env: as in :func:`sb3_clanker.play.environment.open_environment`
    :param seeds: one for each episode
    :param n_kept: how many actions to keep at most
    :param n_frames: how many pictures to keep at most; of an environment of the caller's own, only where its
        ``render_mode`` is ``"rgb_array"``. One that cannot draw, as without a display, is played without pictures
    :param shrink: what is kept of a picture
    :raises UnfitEnvironmentError: the environment cannot be made as it was in training, or its spaces are not those of
        the policy, or it has no masks for a policy with masks, or an episode does not end
    :raises MissingDependencyError: gymnasium is not installed
    """
    sample = _Sample(n_kept)
    camera = _Camera(n_frames, shrink)
    returns, lengths = [], []
    with open_environment(policy.metadata, env, renders=n_frames > 0) as environment:
        player = _Player(policy, environment)
        for number, seed in enumerate(seeds):
            films = number == 0 and environment.render_mode == "rgb_array"
            total, length = player.play(seed, sample, camera if films else _Camera(0))
            returns.append(total)
            lengths.append(length)
        name, per_second = name_of(environment), environment.metadata.get("render_fps")
    return Episodes(
        environment=name,
        seeds=tuple(seeds),
        returns=np.array(returns, np.float64),
        lengths=np.array(lengths, np.int64),
        actions=sample.actions(policy.metadata.action_space.shape),
        frames=tuple(camera.pictures),
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

    def play(self, seed: int, sample: _Sample, camera: _Camera) -> tuple[float, int]:
        """Play one episode; its return and its length."""
        observation, _ = self._env.reset(seed=seed)
        state, total, length, ends = None, 0.0, 0, False
        while not ends:
            camera.shoot(self._env)
            seen = self._frames.observe(observation, starts=length == 0)
            batch: Any = {key: array[None] for key, array in seen.items()}
            action, state = self._policy.predict(
                batch if self._is_dict else batch[None],
                state,
                np.array([length == 0]),
                action_masks=None if self._find_masks is None else self._find_masks(),
            )
            sample.add(action[0])
            observation, reward, terminated, truncated, _ = self._env.step(action[0])
            total += np.asarray(reward, np.float64).item()
            length += 1
            ends = bool(terminated or truncated)
            if length == MOST_STEPS and not ends:
                problem = f"an episode did not end in {MOST_STEPS:,} steps"
                raise UnfitEnvironmentError(
                    name_of(self._env), problem, "Give it an end, as gymnasium's TimeLimit does."
                )
        camera.shoot(self._env)
        return total, length


class _Camera:
    """Takes the first pictures of an episode, as long as the environment gives any."""

    def __init__(self, n: int, shrink: Callable[[Picture], Picture] = np.copy) -> None:
        self.pictures: list[Picture] = []
        self._left, self._shrink = n, shrink

    def shoot(self, env: Env) -> None:
        """Take one, if there is still to be one."""
        if not self._left:
            return
        try:
            self.pictures.append(self._shrink(np.asarray(env.render(), np.uint8)))
            self._left -= 1
        except Exception as error:  # it is the environment's own code: no display, no pygame, ...
            _logger.warning("%s is played without pictures: it cannot draw (%s).", name_of(env), describe(error))
            self.pictures, self._left = [], 0


class _Sample:
    """The actions of every so many-th step of all, so that there are never more than n."""

    def __init__(self, n: int) -> None:
        self._n, self._every, self._count = n, 1, 0
        self._actions: list[Array] = []

    def add(self, action: Array) -> None:
        """Keep that of a step, or not."""
        if self._n and self._count % self._every == 0:
            if len(self._actions) == self._n:
                self._actions, self._every = self._actions[::2], 2 * self._every
            if self._count % self._every == 0:
                self._actions.append(np.copy(action))
        self._count += 1

    def actions(self, shape: tuple[int, ...]) -> Array:
        """What was kept, of shape (n_kept, *shape)."""
        return np.stack(self._actions) if self._actions else np.zeros((0, *shape))
