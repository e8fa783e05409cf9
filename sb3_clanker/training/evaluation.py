"""Evaluations of Stable-Baselines3: which kind a policy needs, and what is called at a new best."""

from __future__ import annotations

import logging
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback

from sb3_clanker.actor.actor import masked_choices
from sb3_clanker.sb3.algorithms import missing_contrib

_logger = logging.getLogger("sb3_clanker")


class OnNewBest(BaseCallback):
    """Publishes at a new best, then calls the user's own callback, whose parent is the evaluation as always."""

    def __init__(self, publish: Callable[[], None], then: BaseCallback | None) -> None:
        super().__init__()
        self._publish, self._then = publish, then

    def _init_callback(self) -> None:
        if self._then is not None:
            self._then.parent = self.parent
            self._then.init_callback(self.model)

    def _on_step(self) -> bool:
        self._publish()
        return self._then is None or self._then.on_step()


def evaluation_of(model: BaseAlgorithm) -> type[EvalCallback]:
    """The evaluation that fits a policy: one with masks needs sb3-contrib's own.

    :raises MissingDependencyError: sb3-contrib is not installed
    """
    if not masked_choices(model.policy):
        return EvalCallback
    try:
        from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
    except ImportError as error:
        raise missing_contrib("The evaluation of a maskable policy") from error
    return MaskableEvalCallback


def evaluate(evaluation: EvalCallback) -> bool:
    """Let it evaluate when it is time to; what it finds may be no number, and then is no best.

    :return: whether training goes on
    """
    continue_training = evaluation.on_step()
    if evaluation.n_calls % evaluation.eval_freq == 0 and math.isnan(evaluation.last_mean_reward):
        _logger.error("The evaluation at %d timesteps gave no number: rewards are NaN.", evaluation.num_timesteps)
    return continue_training


def continue_log(evaluation: EvalCallback, num_timesteps: int) -> Path | None:
    """Go on with ``evaluations.npz`` of a training that was interrupted, which ``EvalCallback`` would begin anew.

    :return: the file, where something in it would be lost if it were overwritten
    """
    path = Path(f"{evaluation.log_path}.npz")
    if evaluation.log_path is None or evaluation.evaluations_timesteps or not path.is_file():
        return None  # it has all that was written in memory
    if num_timesteps == 0:
        return path
    try:
        with path.open("rb") as file, np.load(file) as log:
            kept = log["timesteps"] <= num_timesteps
            timesteps, results, lengths = (log[name][kept].tolist() for name in ("timesteps", "results", "ep_lengths"))
            successes = log["successes"][kept].tolist() if "successes" in log else []
    except (OSError, EOFError, KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
        _logger.warning("%s cannot be continued: %s", path, error)
        return path
    if any(len(row) != evaluation.n_eval_episodes for row in (*results, *lengths, *successes)):
        return path
    evaluation.evaluations_timesteps, evaluation.evaluations_results = timesteps, results
    evaluation.evaluations_length, evaluation.evaluations_successes = lengths, successes
    return None if kept.all() else path


def is_on_new_best(callback: BaseCallback) -> bool:
    """Whether a callback is called at each new best of an evaluation."""
    parent = callback.parent
    return isinstance(parent, EvalCallback) and callback in _flatten(parent.callback_on_new_best)


def _flatten(callback: BaseCallback | None) -> Iterator[BaseCallback]:
    if isinstance(callback, CallbackList):
        for child in callback.callbacks:
            yield from _flatten(child)
    elif callback is not None:
        yield callback
