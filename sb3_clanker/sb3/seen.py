"""What a training gives its policy to act on, raw, as the file of the policy takes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker.observations.ranges import Ranges
from sb3_clanker.policy_file.record import ObservationRanges
from sb3_clanker.policy_file.spaces import describe_space, vectors
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.sb3.statistics import collect_statistics
from sb3_clanker.sb3.wrappers import FrameStack

_logger = logging.getLogger("sb3_clanker")


class SeenObservations:
    """Keeps ranges of what a training sees: the first observation, and each that a step of the environment gives.

    At the end of an episode that is the first of the next one: on the last of an episode no policy acts. Observations
    are read where Stable-Baselines3 keeps them, before VecNormalize. Frames that are stacked after it are stacked here
    again; what VecFrameStack pads them with is the raw value that normalization makes zero of.

    :param model: the algorithm
    :param before: what was seen before, where the training goes on with another one
    """

    def __init__(self, model: BaseAlgorithm, before: ObservationRanges | None = None) -> None:
        space = describe_space(model.policy.observation_space, "observation")
        self._model, self._newest, self._problem = model, None, ""
        self._looked, self._is_told_nothing = -1, False
        self._shapes = {key: leaf.shape for key, leaf in vectors(space).items()}
        self._ranges = Ranges(space)
        self._vec_normalize: Any = None
        self._stacks: Mapping[str | None, FrameStack] = {}
        self._frames: dict[Any, NDArray[np.float64]] = {}
        self._first: dict[Any, NDArray[Any]] | None = None
        if before is not None:
            try:
                self._ranges = Ranges.from_record(space, before)
            except ValueError as error:
                _logger.warning("Observation ranges begin anew, as those of before are none of this policy: %s.", error)

    def start(self, normalization: Normalization) -> None:
        """Look at the first observation, before the first step of a ``learn()``.

        :param normalization: of the environment, which may be another than that of the ``learn()`` before
        """
        vec_normalize = normalization.vec_normalize
        self._vec_normalize = vec_normalize if vec_normalize is not None and vec_normalize.norm_obs else None
        after = {key: stack for key, stack in normalization.stacks.items() if stack.after_normalization}
        self._stacks = after if self._vec_normalize is not None else {}
        latest = getattr(self._model, "_last_obs", None)
        if latest is not None and latest is not self._newest and self._shapes and not self._problem:
            try:
                raw = self._raw(latest, None)
                self._first = {key: np.array(raw[key]) for key in self._shapes}
            except Exception as error:  # of an environment or an algorithm of the user's, which trains all the same
                self._give_up(f"{type(error).__name__}: {error}")

    def look(self, told: Mapping[str, Any]) -> None:
        """Look at what the last step gave.

        :param told: the ``locals`` of the callback that ``learn`` was given
        """
        newest, now = told.get("new_obs"), self._model.num_timesteps
        if newest is None:
            self._is_told_nothing = True
            return
        if now == self._looked or self._problem:
            return
        try:
            rows = self._raw(newest, told.get("dones"))
            if self._first is not None:
                self._ranges.add(self._first)
                self._first = None
            self._ranges.add(rows)
            self._newest, self._looked = newest, now
        except Exception as error:  # as above
            self._give_up(f"{type(error).__name__}: {error}")

    def record(self) -> ObservationRanges | None:
        """The ranges as they are now, None where nothing was seen, or not all."""
        if self._is_told_nothing and self._newest is None and self._shapes:
            self._give_up(f"{type(self._model).__name__} tells callbacks of no new observation")
        return None if self._problem else self._ranges.record()

    def _give_up(self, problem: str) -> None:
        if not self._problem:
            self._problem = problem
            _logger.warning("No observation ranges are kept: %s.", problem)

    def _raw(self, observation: Any, dones: NDArray[np.bool_] | None) -> dict[Any, NDArray[Any]]:
        """Raw observations by key; those of VecNormalize are of the same step.

        :param observation: as the policy gets it
        :param dones: which episodes ended before it; None at the start
        """
        raw: Any = observation if self._vec_normalize is None else vars(self._vec_normalize)["old_obs"]
        by_key: dict[Any, NDArray[Any]] = raw if isinstance(raw, dict) else {None: raw}
        if self._stacks:
            stacked = observation if isinstance(observation, dict) else {None: observation}
            by_key = {key: self._stack(key, by_key[key], stacked[key], dones) for key in self._shapes}
        if dones is None or self._newest is None:
            self._check(by_key)
        return by_key

    def _check(self, by_key: Mapping[Any, NDArray[Any]]) -> None:
        for key, shape in self._shapes.items():
            if by_key[key].shape[1:] != shape:
                raise ValueError(f"the environment gives {by_key[key].shape[1:]} where the policy takes {shape}")

    def _stack(
        self, key: str | None, newest: NDArray[Any], seen: NDArray[Any], dones: NDArray[np.bool_] | None
    ) -> NDArray[np.float64]:
        """Stack raw frames; one that is not known is NaN, and its observation left out of the ranges.

        :param newest: the newest frame
        :param seen: the stack as the policy gets it, normalized
        """
        axis, width = self._stacks[key].axis, newest.shape[self._stacks[key].axis]
        older = np.arange(seen.shape[axis] - width)
        if dones is None or key not in self._frames:
            before, padded = np.full(seen.shape, np.nan), ~seen.take(older, axis).reshape(len(seen), -1).any(axis=1)
        else:
            before, padded = self._frames[key], dones
        frames = np.concatenate([before.take(older + width, axis), newest], axis)
        if padded.any():
            of_key = collect_statistics(self._vec_normalize).get(key)
            padding = np.zeros(newest.shape[1:]) if of_key is None else of_key.mean
            n_older = len(older) // width
            filled = np.concatenate([*[np.broadcast_to(padding, newest.shape)] * n_older, newest], axis)
            frames[padded] = filled[padded]
        self._frames[key] = frames
        return frames
