"""The best by the training's own episodes, for those who have one environment and no second for evaluations."""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker.training.evaluation import LastEvaluation, record_of

_logger = logging.getLogger("sb3_clanker")


class Rollouts:
    """Judges by the last episodes of a training, of the stochastic policy, that Stable-Baselines3 keeps.

    Their rewards are those of the environment, as ``Monitor`` or ``VecMonitor`` reports them, and not normalized.

    :param model: the algorithm, whose training is about to begin; what it has kept from before does not count
    :param eval_freq: after how many calls to look again, at the earliest
    :param n_calls: how many there have been
    :param last: is given what is found
    :ivar best_mean_reward: minus infinity before the first best
    :ivar last_mean_reward: of the last look at enough episodes
    """

    def __init__(self, model: BaseAlgorithm, eval_freq: int, n_calls: int, last: LastEvaluation) -> None:
        self.eval_freq = eval_freq
        self.best_mean_reward = self.last_mean_reward = float("-inf")
        self._model, self._looked, self._last, self._has_warned = model, n_calls, last, False
        self._known = self._newest()

    def look(self, n_calls: int) -> bool:
        """At the end of a rollout: whether the policy is the best so far, by episodes that ended since the last one.

        :param n_calls: how many calls there have been
        """
        if n_calls - self._looked < self.eval_freq:
            return False
        self._looked, episodes, rewards = n_calls, self._episodes, self._rewards()
        if not rewards and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "No best policy can be found by rollouts yet: after %d calls there is no episode in ep_info_buffer. "
                "None has ended, or the environment is in no Monitor or VecMonitor.",
                n_calls,
            )
        if not rewards or len(rewards) != episodes.maxlen:
            return False
        self._last.note(record_of(rewards, self._model.num_timesteps, "rollout", deterministic=False))
        self.last_mean_reward = float(np.mean(rewards))
        is_best = math.isfinite(self.last_mean_reward) and self.last_mean_reward > self.best_mean_reward
        if not is_best or any(episode is self._known for episode in episodes):
            return False
        self.best_mean_reward, self._known = self.last_mean_reward, self._newest()
        return True

    @property
    def _episodes(self) -> deque[dict[str, Any]]:
        episodes = self._model.ep_info_buffer
        return episodes if isinstance(episodes, deque) else deque()  # an algorithm of the user's may keep anything

    def _newest(self) -> object:
        return self._episodes[-1] if self._episodes else None

    def _rewards(self) -> list[float]:
        """The rewards of all episodes that are kept; none, where it is not Monitor that reports them."""
        try:
            return [float(episode["r"]) for episode in self._episodes]
        except (KeyError, TypeError, ValueError):
            return []
