"""When: a Stable-Baselines3 callback that writes a proven policy beside every ``.zip``."""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.vec_env import VecEnv

from sb3_clanker.artifact import (
    BEST,
    FINAL,
    Generation,
    Publication,
    ensure_folder,
    pair_with_file,
    pair_with_zip,
    vectors_path,
)
from sb3_clanker.errors import OptionError
from sb3_clanker.evaluation import OnNewBest, continue_log, evaluation_of, is_on_new_best
from sb3_clanker.export import ExportFailure, ExportReport
from sb3_clanker.exporter import Exporter
from sb3_clanker.folder import Checkpoint, TrainingFolder, keep_newest
from sb3_clanker.options import ExportOptions, OptionsSource, as_options
from sb3_clanker.paths import local_path
from sb3_clanker.statistics import Normalization, resolve_normalization

_logger = logging.getLogger("sb3_clanker")


class OnnxCheckpointCallback(BaseCallback):
    """Write a proven ``.onnx`` policy beside Stable-Baselines3's own ``.zip`` files.

    What it writes to ``save_path``, each with ``.zip``, ``.onnx`` and, with VecNormalize, its statistics, all of the
    same instant:

    - ``best_model`` at each new best evaluation, where there is an ``eval_env``;
    - ``{name_prefix}_{num_timesteps}_steps`` every ``save_freq`` calls, where it is given;
    - ``final_model`` at the end of training, with ``save_final``.

    It can also be a child: as ``callback_on_new_best`` of an ``EvalCallback`` it writes ``best_model``, as a child of
    any other event (``EveryNTimesteps``, ``callback_after_eval``) a checkpoint at each event; ``save_final`` has no
    meaning there.

    It exports once before the first step, so that whatever can never work raises at once. Training itself is not
    changed, to the last bit.

    A training that goes on (``learn(..., reset_num_timesteps=False)`` of a loaded model) goes on here too: with the
    best score so far, and with the checkpoints that ``keep_last`` counts. One that begins anew inherits nothing from
    the folder, and says what it found there.

    Sources of the behaviour: ``EvalCallback`` and ``CheckpointCallback``,
    https://github.com/DLR-RM/stable-baselines3/blob/v2.9.2/stable_baselines3/common/callbacks.py

    :param save_path: folder to write to; made if need be
    :param eval_env: environment for evaluations; None evaluates nothing. A maskable policy is evaluated with its masks
    :param eval_freq: evaluate every so many calls (with n environments, one call is n timesteps)
    :param n_eval_episodes: episodes of an evaluation
    :param deterministic: whether evaluations use deterministic actions
    :param render: whether evaluations are rendered
    :param warn: whether to warn where ``eval_env`` is not wrapped in a Monitor
    :param log_path: folder for ``evaluations.npz``; None writes none
    :param callback_on_new_best: called at each new best evaluation, after the files are written
    :param callback_after_eval: called after each evaluation
    :param save_freq: write a checkpoint every so many calls; None writes none
    :param name_prefix: beginning of the names of checkpoints
    :param save_replay_buffer: whether checkpoints include the replay buffer
    :param keep_last: keep the newest so many checkpoints, each with all its files, and delete older ones; None keeps
        all. The best, the final and whatever this callback did not write are never deleted
    :param save_final: whether to write ``final_model`` at the end of training
    :param on_error: what a failed export does after the first step: ``"warn"`` logs and counts it, and training goes
        on; ``"raise"`` raises
    :param options: options of every export; also as a mapping, as a YAML file gives it
    :param verbose: 0 for no output, 1 for evaluations and exports, 2 for debug messages
    :raises OptionError: a value is out of its range
    :ivar reports: what each export did, in order
    :ivar failures: what failed, in order

    >>> callback = OnnxCheckpointCallback("runs/cartpole", eval_env=eval_env)  # doctest: +SKIP
    >>> model.learn(100_000, callback=callback)  # doctest: +SKIP
    """

    def __init__(
        self,
        save_path: str | Path,
        *,
        eval_env: gym.Env[Any, Any] | VecEnv | None = None,
        eval_freq: int = 10_000,
        n_eval_episodes: int = 5,
        deterministic: bool = True,
        render: bool = False,
        warn: bool = True,
        log_path: str | Path | None = None,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        save_freq: int | None = None,
        name_prefix: str = "rl_model",
        save_replay_buffer: bool = False,
        keep_last: int | None = None,
        save_final: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        options: OptionsSource = ExportOptions(),
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose=verbose)
        _require_positive("eval_freq", eval_freq)
        _require_positive("n_eval_episodes", n_eval_episodes)
        for option, count in (("save_freq", save_freq), ("keep_last", keep_last)):
            if count is not None:
                _require_positive(option, count)
        if on_error not in ("warn", "raise"):
            raise OptionError("on_error", on_error, '"warn" or "raise"')
        if not name_prefix or Path(name_prefix).name != name_prefix:
            raise OptionError("name_prefix", name_prefix, "the beginning of a file name, without a folder")
        if eval_env is None and (callback_on_new_best or callback_after_eval or log_path):
            raise OptionError("eval_env", None, "an environment, as callbacks or a log of evaluations were asked for")
        self.save_path = local_path(save_path, "save_path").absolute()  # the training may change its working directory
        self.save_freq = save_freq
        self.name_prefix = name_prefix
        self.save_replay_buffer = save_replay_buffer
        self.keep_last = keep_last
        self.save_final = save_final
        self.on_error = on_error
        self.options = as_options(options)
        self.reports: list[ExportReport] = []
        self.failures: list[ExportFailure] = []
        self.evaluation: EvalCallback | None = None
        self._told_of_start = False
        self._folder: TrainingFolder | None = None
        self._checkpoints: list[Checkpoint] = []
        self._best_before = float("-inf")
        self._make_evaluation: Callable[[type[EvalCallback]], EvalCallback] | None = None
        if eval_env is not None:
            self._make_evaluation = lambda evaluation: evaluation(
                eval_env,
                callback_on_new_best=OnNewBest(self._publish_best, callback_on_new_best),
                callback_after_eval=callback_after_eval,
                n_eval_episodes=n_eval_episodes,
                eval_freq=eval_freq,
                log_path=None if log_path is None else str(log_path),
                deterministic=deterministic,
                render=render,
                verbose=verbose,
                warn=warn,
            )

    @property
    def best_mean_reward(self) -> float:
        """Best mean reward of the evaluations, minus infinity before the first."""
        return float("-inf") if self.evaluation is None else self.evaluation.best_mean_reward

    @property
    def last_mean_reward(self) -> float:
        """Mean reward of the last evaluation, minus infinity before the first."""
        return float("-inf") if self.evaluation is None else self.evaluation.last_mean_reward

    def _init_callback(self) -> None:
        """Export once, unwritten, so that whatever can never work raises before the first step."""
        self._release()
        self._folder = TrainingFolder(self.save_path)
        try:
            self._exporter = Exporter(self.model, self._normalization(), self.options)
            self._exporter.export()
            if self.evaluation is None and self._make_evaluation is not None:
                self.evaluation = self._make_evaluation(evaluation_of(self.model))
            if self.evaluation is not None:
                self.evaluation.init_callback(self.model)
            self._look_back(self._folder)
        except BaseException:  # also of the user who interrupts: nobody trains here yet
            self._release()
            raise

    def _look_back(self, folder: TrainingFolder) -> None:
        """Go on where an earlier training was interrupted; a new one inherits nothing, and says what it found."""
        steps, best = self.model.num_timesteps, folder.best()
        self._checkpoints = folder.checkpoints(self.name_prefix, steps) if steps > 0 else []
        self._best_before = float("-inf")
        if steps == 0 and (others := folder.count_policies(self.name_prefix)):
            _logger.warning(
                "%s holds %d checkpoints of another training: this one begins anew, and deletes none of them.",
                self.save_path,
                others,
            )
        if self.evaluation is not None and steps > 0:
            continue_log(self.evaluation, steps)
        if best is None or best.training.mean_reward is None:
            return
        evaluation = self.evaluation or self.parent
        if not 0 < best.training.num_timesteps <= steps:
            _logger.warning(
                "%s holds a best policy of %d timesteps, mean reward %.2f, of another training: this one, at %d "
                "timesteps, begins anew and will overwrite it.",
                self.save_path,
                best.training.num_timesteps,
                best.training.mean_reward,
                steps,
            )
            return
        self._best_before = best.training.mean_reward
        if isinstance(evaluation, EvalCallback):
            evaluation.best_mean_reward = max(evaluation.best_mean_reward, self._best_before)

    def _on_training_start(self) -> None:
        self._told_of_start = True
        writes = self.evaluation is not None or self.save_freq is not None or self.save_final
        if self.parent is None and not writes:
            raise OptionError(
                "save_final", False, "True, or an eval_env, or a save_freq: as it is, nothing would ever be written"
            )
        if self.evaluation is not None:
            self.evaluation.on_training_start(self.locals, self.globals)

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        if self.evaluation is not None:
            self.evaluation.update_locals(locals_)

    def _on_step(self) -> bool:
        continue_training = self.evaluation is None or self._evaluate(self.evaluation)
        if self.save_freq is not None:
            if self.n_calls % self.save_freq == 0:
                self._publish_checkpoint()
        elif self.evaluation is None and self._is_on_new_best():
            self._publish_best()
        elif self.evaluation is None and self.parent is not None:
            self._publish_checkpoint()
        return continue_training

    def _evaluate(self, evaluation: EvalCallback) -> bool:
        """Let it evaluate when it is time to; what it found may be no number, and then is no best."""
        continue_training = evaluation.on_step()
        if evaluation.n_calls % evaluation.eval_freq == 0 and math.isnan(evaluation.last_mean_reward):
            _logger.error("The evaluation at %d timesteps gave no number: rewards are NaN.", self.num_timesteps)
        return continue_training

    def _is_on_new_best(self) -> bool:
        """Whether this is a child of a new best.

        Stable-Baselines3 tells such children of no start of training, and those in a list within a list not even of
        their parent.
        """
        return not self._told_of_start or is_on_new_best(self)

    def _on_training_end(self) -> None:
        if self.evaluation is not None:
            self.evaluation.on_training_end()
        try:
            if self.save_final and self.parent is None:
                self._publish(FINAL)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Let another training have the folder, and sum up what failed."""
        self._release()
        if self.failures:
            last = self.failures[-1]
            _logger.error(
                "%d of %d exports failed; the last was %s.onnx at %d timesteps: %s",
                len(self.failures),
                len(self.failures) + len(self.reports),
                last.name,
                last.num_timesteps,
                last.error,
            )

    def _release(self) -> None:
        """Let another training have the folder."""
        if self._folder is not None:
            self._folder.release()
            self._folder = None

    def _publish_best(self) -> None:
        evaluation = self.evaluation if self.evaluation is not None else self.parent
        if not isinstance(evaluation, EvalCallback):
            self._publish(BEST)
        elif evaluation.last_mean_reward > self._best_before:
            self._publish(BEST, evaluation.last_mean_reward)
        else:  # within a list, it is told of its parent too late to tell that of the best before
            evaluation.best_mean_reward = self._best_before

    def _publish_checkpoint(self) -> None:
        generation = Generation.checkpoint(self.name_prefix, self.num_timesteps)
        self._publish(generation, with_replay_buffer=self.save_replay_buffer)

    def _publish(
        self, generation: Generation, mean_reward: float | None = None, with_replay_buffer: bool = False
    ) -> None:
        """Write one generation; what a failure does, ``on_error`` says."""
        try:
            self._write(generation, mean_reward, with_replay_buffer)
        except Exception as error:  # a training must not end because of an export, whatever went wrong in it
            unmatched = () if self._folder is None else self._folder.unmatched(generation)
            self.failures.append(
                ExportFailure(
                    name=generation.stem, num_timesteps=self.model.num_timesteps, error=error, unmatched=unmatched
                )
            )
            self._record()
            if self.on_error == "raise":
                self._release()
                raise
            _logger.error(
                "The export of %s.onnx at %d timesteps failed; training goes on. %s: %s%s",
                generation.stem,
                self.model.num_timesteps,
                type(error).__name__,
                error,
                f" {generation.stem}.onnx is older than {' and '.join(unmatched)} beside it." if unmatched else "",
            )
        else:
            self._record()

    def _write(self, generation: Generation, mean_reward: float | None, with_replay_buffer: bool) -> None:
        """The ``.zip`` and the statistics first: they are safe whatever becomes of the export."""
        if generation == BEST:
            self._exporter.check_finite()  # the last good best is worth more than the .zip of a policy that diverged
        ensure_folder(self.save_path)  # it may have vanished
        zip_name, onnx_name = f"{generation.stem}.zip", f"{generation.stem}.onnx"
        normalization = self._normalization()
        with Publication(self.save_path, durable=generation == FINAL) as publication:
            staged_zip = publication.stage(zip_name, self.model.save)
            statistics_file = None
            if (vec_normalize := normalization.vec_normalize) is not None:
                staged = publication.stage(generation.statistics, lambda file: pickle.dump(vec_normalize, file))
                statistics_file = pair_with_file(staged, generation.statistics)
            buffer = getattr(self.model, "replay_buffer", None)
            if with_replay_buffer := with_replay_buffer and buffer is not None:
                publication.stage(generation.replay_buffer, lambda file: save_to_pkl(file, buffer))
            whole = False
            try:
                proven = self._exporter.export(
                    mean_reward=mean_reward,
                    algorithm_file=pair_with_zip(staged_zip, zip_name),
                    statistics_file=statistics_file,
                    together=True,
                    replay_buffer=with_replay_buffer,
                )
                start = time.perf_counter()
                if (vectors := proven.vectors) is not None:
                    publication.stage(vectors_path(Path(onnx_name)).name, lambda file: file.write(vectors))
                publication.stage(onnx_name, proven.write)
                seconds = {**proven.seconds, "write": time.perf_counter() - start}
                whole = True
            finally:
                publication.commit()
                self._prune(generation, publication.published, whole)
        report = ExportReport(
            path=self.save_path / onnx_name,
            size=proven.size,
            seconds=seconds,
            validation=proven.validation,
            metadata=proven.metadata,
        )
        self.reports.append(report)
        if self.verbose >= 1:
            _logger.info("Wrote %s: %s", report.path, report.validation.stages[-1].detail)

    def _prune(self, generation: Generation, files: list[Path], whole: bool) -> None:
        """Delete checkpoints that are too many."""
        if self.keep_last is None or generation in (BEST, FINAL):
            return
        checkpoint = Checkpoint(num_timesteps=self.model.num_timesteps, files=tuple(files), whole=whole)
        others = [other for other in self._checkpoints if other.num_timesteps != checkpoint.num_timesteps]
        self._checkpoints = keep_newest([*others, checkpoint], self.keep_last)

    def _record(self) -> None:
        """Counts and figures for Stable-Baselines3's logger."""
        self.logger.record("onnx/exports", len(self.reports))
        self.logger.record("onnx/failures", len(self.failures))
        if self.reports:
            last = self.reports[-1]
            self.logger.record("onnx/export_time", sum(last.seconds.values()))
            if last.validation.cross_check is not None:
                self.logger.record("onnx/max_difference", last.validation.cross_check.max_difference)

    def _normalization(self) -> Normalization:
        return resolve_normalization(self.model, "auto")


def _require_positive(option: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise OptionError(option, value, "a positive integer")
