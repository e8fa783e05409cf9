"""Evaluations of Stable-Baselines3: which kind a policy needs, and what is called at a new best."""

from __future__ import annotations

import functools
import logging
import math
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from msgspec.structs import replace
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_clanker.actor.actor import masked_choices
from sb3_clanker.dependencies import CONTRIB, required_for
from sb3_clanker.errors import PublicationError
from sb3_clanker.policy_file.record import EvaluationRecord, PolicyMetadata
from sb3_clanker.run_folder.publication import Publication, ensure_folder
from sb3_clanker.training.interruption import indivisible
from sb3_clanker.training.run import Training

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
    with required_for("The evaluation of a maskable policy", CONTRIB):
        from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
    return MaskableEvalCallback


def evaluate(evaluation: EvalCallback) -> bool:
    """Let it evaluate when it is time to; what it finds may be no number, and then is no best.

    :return: whether training goes on
    """
    continue_training = evaluation.on_step()
    if evaluation.n_calls % evaluation.eval_freq == 0 and math.isnan(evaluation.last_mean_reward):
        _logger.error("The evaluation at %d timesteps gave no number: rewards are NaN.", evaluation.num_timesteps)
    return continue_training


class Judge(Protocol):
    """What decides on the best: an ``EvalCallback``, or the training's own episodes."""

    best_mean_reward: float
    last_mean_reward: float


class LastEvaluation:
    """What the last evaluation found, of whichever ``EvalCallback``: that itself keeps no more than the mean."""

    def __init__(self) -> None:
        self._before: EvaluationRecord | None = None
        self._now: tuple[EvalCallback, int, list[float]] | None = None

    def watch(self, judges: Sequence[Judge], training: Training) -> None:
        """Take note of their evaluations, as long as a training lasts."""
        for judge in judges:
            if isinstance(judge, EvalCallback):
                training.stand_in(judge, "_log_success_callback", functools.partial(self._note, judge), stays=True)

    def known(self, judge: Judge | None, num_timesteps: int) -> EvaluationRecord | None:
        """What is known of a policy that is about to be written.

        :param judge: what has just found it to be the best; of one that evaluates in a way of its own, the mean alone
        """
        record = self.record
        if judge is None:
            return record
        if record is None or record.mean_reward != judge.last_mean_reward:
            record = EvaluationRecord(num_timesteps=num_timesteps, mean_reward=judge.last_mean_reward)
        return replace(record, role="best")

    def note(self, record: EvaluationRecord) -> None:
        """Take note of what has been found otherwise."""
        self._before, self._now = record, None

    def _note(self, evaluation: EvalCallback, log_success: Callable[[], object]) -> object:
        """Keep the rewards of its episodes, a list that ``evaluate_policy`` fills, and tells of at each step."""
        arguments: tuple[dict[str, Any], ...] = getattr(log_success, "args", ())
        rewards = arguments[0].get("episode_rewards") if arguments else None
        if rewards is not None and (self._now is None or self._now[2] is not rewards):
            self._before, self._now = self.record, (evaluation, evaluation.num_timesteps, rewards)
        return log_success()

    @property
    def record(self) -> EvaluationRecord | None:
        """The last evaluation that has ended, None before the first."""
        if self._now is None:
            return self._before
        evaluation, num_timesteps, rewards = self._now
        if len(rewards) < evaluation.n_eval_episodes:
            return self._before
        return record_of(rewards, num_timesteps, "evaluation", deterministic=evaluation.deterministic)


def record_of(
    rewards: Sequence[float], num_timesteps: int, source: Literal["evaluation", "rollout"], *, deterministic: bool
) -> EvaluationRecord:
    """What the rewards of episodes say, which ended after so many timesteps."""
    with np.errstate(all="ignore"):  # they may be no numbers
        mean_reward, std_reward = float(np.mean(rewards)), float(np.std(rewards))
    return EvaluationRecord(
        source=source,
        num_timesteps=num_timesteps,
        mean_reward=mean_reward,
        std_reward=std_reward,
        n_episodes=len(rewards),
        deterministic=deterministic,
    )


def prepare(evaluation: EvalCallback, parent: BaseCallback, log: Path | None, *, raises: bool) -> None:
    """Initialize an evaluation of our own.

    :param parent: the callback that it belongs to, which its own children so find above it
    :param log: the log that it goes on with; errors as of :class:`EvaluationLog`
    """
    evaluation.log_path = None  # it would make the folder of one
    evaluation.init_callback(parent.model)
    evaluation.parent = parent
    if log is not None:
        evaluation.log_path = cast("Any", EvaluationLog(log, raises=raises))


class EvaluationLog(BytesIO):
    """``evaluations.npz``, for numpy to write to: on disk it is whole, or as it was before.

    ``EvalCallback`` writes it before it tells of a new best: an error there would cost that, and end the training.

    :param path: the file
    :param raises: whether what cannot be written later is an error, rather than logged
    :raises PublicationError: no file can be written in its folder, which is made if need be
    """

    def __init__(self, path: Path, *, raises: bool) -> None:
        super().__init__()
        ensure_folder(path.parent)
        self._path, self._raises = path, raises

    @indivisible
    def flush(self) -> None:
        """Write it: the last thing that is done to a .zip."""
        content = self.getvalue()
        self.seek(0)
        self.truncate()
        try:
            ensure_folder(self._path.parent)  # it may have vanished
            with Publication(self._path.parent, durable=False) as publication:
                publication.stage(self._path.name, lambda file: file.write(content))
                publication.commit()
        except PublicationError as error:
            if self._raises:
                raise
            _logger.error("%s Training goes on, and the next evaluation writes all of it.", error)


def continue_log(evaluation: EvalCallback, path: Path, num_timesteps: int) -> Path | None:
    """Go on with ``evaluations.npz`` of a training that was interrupted, which ``EvalCallback`` would begin anew.

    :param path: the file
    :return: the file, where something in it would be lost if it were overwritten
    """
    if evaluation.evaluations_timesteps or not path.is_file():
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


def continue_best(judges: Sequence[Judge], best: PolicyMetadata | None, num_timesteps: int) -> float:
    """Go on with the best score of a training that was interrupted, which an ``EvalCallback`` would not know.

    :param judges: what decides on the best
    :param best: the record of the best policy so far
    :param num_timesteps: where the training stands
    :return: its score, minus infinity where there is none of this training
    """
    score = best.training.mean_reward if best and 0 < best.training.num_timesteps <= num_timesteps else None
    if score is None:
        return float("-inf")
    for judge in judges:
        judge.best_mean_reward = max(judge.best_mean_reward, score)
    return score
