"""When: a Stable-Baselines3 callback that writes a proven policy beside every ``.zip``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_clanker.card.training import Cards
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.export.publish import ExportReport
from sb3_clanker.options import ExportOptions, OptionsSource, as_options
from sb3_clanker.public import public
from sb3_clanker.run_folder.names import BEST, FINAL, Checkpoint, FileKind
from sb3_clanker.run_folder.retention import Retention
from sb3_clanker.sb3.normalization import resolve_normalization
from sb3_clanker.sb3.seen import SeenObservations
from sb3_clanker.training import settings
from sb3_clanker.training.evaluation import (
    Judge,
    LastEvaluation,
    OnNewBest,
    continue_log,
    evaluate,
    evaluation_of,
    prepare,
)
from sb3_clanker.training.follow import Followed, follow
from sb3_clanker.training.interruption import indivisible
from sb3_clanker.training.outcome import ExportFailure, dump_exports, record_exports, say_written, sum_up
from sb3_clanker.training.place import Place, places_of
from sb3_clanker.training.placeholders import RunPath, fill_in
from sb3_clanker.training.rollouts import Rollouts
from sb3_clanker.training.run import Training, event_of
from sb3_clanker.training.writing import CheckpointWriter, watch


@public
class OnnxCheckpointCallback(BaseCallback):
    """Write a proven ``.onnx`` policy beside Stable-Baselines3's own ``.zip`` files.

    What it writes to ``save_path``, each with ``.zip``, ``.onnx`` and, with VecNormalize, its statistics, all of the
    same instant:

    - ``best_model`` at each new best evaluation, where there is an ``eval_env``, or with ``best_of="rollout"``;
    - ``{name_prefix}_{num_timesteps}_steps`` every ``save_freq`` calls, where it is given;
    - ``final_model`` at the end of training, with ``save_final``; also where Ctrl+C (SIGINT) or SIGTERM ends it in the
      main thread: at once, or when an update of the policy or a file is done; a second signal does not wait. A handler
      of the user's own is left alone.

    Without a ``save_path`` it follows the callbacks beside it in the list, as in RL Zoo: what an ``EvalCallback`` or a
    ``CheckpointCallback`` writes gets its ``.onnx`` and statistics, at the same steps and beside the same ``.zip``, and
    their folder gets ``final_model``. Where their evaluations write nothing, as in a study, nothing is written.

    As a child it writes at the events of its parent, and no ``final_model``: as ``callback_on_new_best`` the best, else
    (``EveryNTimesteps``, ``callback_after_eval``) a numbered checkpoint at each event.

    It exports and saves once before the first step: what can never work raises at once. Training is not changed at all.

    A training that begins anew moves files of an earlier one that it would overwrite into ``previous_1`` in the folder,
    or the next number. One that goes on (``learn(..., reset_num_timesteps=False)`` of a loaded model) goes on with the
    best score so far and the checkpoints that ``keep_last`` counts, and moves only what lies further on than it stands.

    Many trainings may have one ``save_path``, with placeholders: ``{env}``, the id of the environment, and ``{run}``, a
    number that no other run has: ``"runs/{env}_{run}"`` becomes ``runs/CartPole-v1_1`` when training begins, and so
    does ``callback.save_path``. To go on with a run, name its folder: a pattern is a new run, but for this callback.

    Sources of the behaviour, in ``EvalCallback`` and ``CheckpointCallback``:
    https://github.com/DLR-RM/stable-baselines3/blob/v2.9.2/stable_baselines3/common/callbacks.py

    :param save_path: folder, made if need be, with placeholders or not; None: that of the callbacks that are followed
    :param eval_env: environment for evaluations; None evaluates nothing. A maskable policy is evaluated with its masks
    :param best_of: ``"rollout"`` finds the best without evaluations, at the end of a rollout: by the mean of the last
        ``stats_window_size`` episodes, all of them since the last best
    :param eval_freq: evaluate, or look at rollouts, every so many calls (with n environments, one call is n timesteps)
    :param n_eval_episodes: episodes of an evaluation
    :param deterministic: whether evaluations use deterministic actions
    :param render: whether evaluations are rendered
    :param warn: whether to warn where ``eval_env`` is not wrapped in a Monitor
    :param log_path: folder for ``evaluations.npz``; None writes none. It may hold the placeholders of ``save_path``
    :param callback_on_new_best: called at each new best evaluation, after the files are written
    :param callback_after_eval: called after each evaluation
    :param save_freq: write a numbered checkpoint every so many calls; None writes none
    :param name_prefix: beginning of the names of numbered checkpoints
    :param save_replay_buffer: whether numbered checkpoints include the replay buffer
    :param keep_last: keep the newest so many numbered checkpoints, each with all its files, and delete older ones; None
        keeps all. The best, the final, what is followed, and what is not proven to be ours are never deleted
    :param save_final: whether to write ``final_model`` at the end of training
    :param overwrite: whether files of an earlier training are overwritten, rather than moved out of the way
    :param card: whether the best and the final get a policy card, after their files; one that fails is only logged
    :param on_error: what a failed export does after the first step: ``"warn"`` logs and counts it, and training goes
        on; ``"raise"`` raises
    :param options: options of every export; also as a mapping, as a YAML file gives it
    :param verbose: 0 for no output, 1 for evaluations, exports and a summary, 2 for debug messages
    :raises OptionError: a value is out of its range
    :ivar save_path: the folder, absolute; before the training begins, with its placeholders, or None
    :ivar reports: what each export did, in order; ``self.parent.parent.reports`` in ``callback_on_new_best``, after the
        best is written, and in ``callback_after_eval``
    :ivar failures: what failed, in order

    >>> callback = OnnxCheckpointCallback("runs/cartpole", eval_env=eval_env)  # doctest: +SKIP
    >>> model.learn(100_000, callback=callback)  # doctest: +SKIP
    """

    def __init__(
        self,
        save_path: str | Path | None = None,
        *,
        eval_env: gym.Env[Any, Any] | VecEnv | None = None,
        best_of: Literal["evaluation", "rollout"] = "evaluation",
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
        overwrite: bool = False,
        card: bool = False,
        on_error: Literal["warn", "raise"] = "warn",
        options: OptionsSource = ExportOptions(),
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose=verbose)
        settings.require_positive(eval_freq=eval_freq, n_eval_episodes=n_eval_episodes)
        settings.require_positive(or_none=True, save_freq=save_freq, keep_last=keep_last)
        settings.require_one_of("on_error", on_error, "warn", "raise")
        settings.require_one_of("best_of", best_of, "evaluation", "rollout")
        settings.require_prefix(name_prefix)
        settings.require_environment(eval_env)
        callbacks = {"callback_on_new_best": callback_on_new_best, "callback_after_eval": callback_after_eval}
        settings.require_best_of(best_of, {"eval_env": eval_env, "log_path": log_path, **callbacks})
        self._pattern = None if save_path is None else RunPath("save_path", save_path)
        placeholders = self._pattern.placeholders if self._pattern else ()
        self._log_pattern = None if log_path is None else RunPath("log_path", log_path, placeholders)
        self.save_path = self._pattern.fill_in() if self._pattern else None
        self.save_freq = save_freq
        self.name_prefix = name_prefix
        self.save_replay_buffer = save_replay_buffer
        self.keep_last = keep_last
        self.save_final = save_final
        self.overwrite = overwrite
        self.on_error = on_error
        self.options = as_options(options)
        self.reports: list[ExportReport] = []
        self.failures: list[ExportFailure] = []
        self.evaluation: EvalCallback | None = None
        self._rollout_freq = eval_freq if best_of == "rollout" else None
        self._judge: EvalCallback | Rollouts | None = None
        self._last = LastEvaluation()
        self._event: BaseCallback | None = None
        self._is_on_new_best = False
        self._retention = Retention(keep_last, [], overwrite=overwrite)
        self._cards = Cards(wanted=card)
        self._training: Training | None = None
        self._is_finished = False
        self._run = "", ""
        self._places: dict[Path, Place] = {}
        self._followed: tuple[Followed, ...] = ()
        self._seen: SeenObservations | None = None
        self._looks = False
        self._trained: tuple[object, Path | None] | None = None
        self._counted = 0, 0
        self._best_before = float("-inf")
        self._make_evaluation: Callable[[type[EvalCallback]], EvalCallback] | None = None
        if eval_env is not None:
            self._make_evaluation = lambda evaluation: evaluation(
                eval_env,
                callback_on_new_best=OnNewBest(self._publish_best, callback_on_new_best),
                callback_after_eval=callback_after_eval,
                n_eval_episodes=n_eval_episodes,
                eval_freq=eval_freq,
                deterministic=deterministic,
                render=render,
                verbose=verbose,
                warn=warn,
            )

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle has of it: nothing of a training that goes on, which nobody can go on with elsewhere."""
        return vars(self) | {"_training": None, "_places": {}, "_followed": ()}

    @property
    def best_mean_reward(self) -> float:
        """Best mean reward of the evaluations or rollouts, minus infinity before the first."""
        return float("-inf") if self._judge is None else self._judge.best_mean_reward

    @property
    def last_mean_reward(self) -> float:
        """Mean reward of the last evaluation, or look at rollouts, minus infinity before the first."""
        return float("-inf") if self._judge is None else self._judge.last_mean_reward

    def _init_callback(self) -> None:
        """Export and save once, unnamed, so that whatever can never work raises before the first step."""
        training, before = Training.of(self), self._training
        self._event, self._is_on_new_best = event_of(self)
        if before is not None and before.gives_way_to(training):
            before.end()
        self._training = training
        try:
            if self._has_folder(training):
                self._begin(training)
            else:
                self._training = None
        except BaseException:  # also of the user who interrupts: nobody trains here yet
            training.end()
            raise

    def _has_folder(self, training: Training) -> bool:
        """Find out where this run writes; one that goes on with this callback keeps its own number."""
        if self._pattern is None:
            decides = "eval_env" if self._make_evaluation else "best_of" if self._rollout_freq else None
            self._followed, self.save_path = follow(training.root, self._above, decides=decides)
            return self.save_path is not None
        if not any(self._run) or self.model.num_timesteps == 0:
            self._run = fill_in(self._pattern, self.training_env, training)
        self.save_path = self._pattern.fill_in(*self._run)
        return True

    def _begin(self, training: Training) -> None:
        self._counted, self._is_finished = (len(self.reports), len(self.failures)), False
        if self._rollout_freq is not None:
            settings.require_rollouts(self.model, self._above)
        self._places = places_of(self._folder, self.name_prefix, self._followed, training)
        training.at_end(self._leave)
        exporter = Exporter(self.model, resolve_normalization(self.model, "auto"), self.options)
        self._writer = CheckpointWriter(self.model, exporter, save_replay_buffer=self.save_replay_buffer)
        self._writer.rehearse(self._folder)
        if self.model.num_timesteps == 0 or not self._goes_on():
            self._last = LastEvaluation()
            if self._rollout_freq is not None:
                self._judge = Rollouts(self.model, self._rollout_freq, self.n_calls, self._last)
        is_new = self.evaluation is None or (self.model.num_timesteps == 0 and not self._goes_on())
        if is_new and self._make_evaluation is not None:  # what it remembers is not of another training
            self.evaluation = self._make_evaluation(evaluation_of(self.model))
        log = None if self._log_pattern is None else self._log_pattern.fill_in(*self._run) / "evaluations.npz"
        if self.evaluation is not None:
            self._judge = self.evaluation
            settings.require_alike(self.training_env, self.evaluation.eval_env)
            prepare(self.evaluation, self, log, raises=self.on_error == "raise")
        self._cards.begin(log and log.parent)
        training.at_start(lambda: self._look_back(training, log))
        training.at_start(lambda: training.at_interruption(self._write_final) if self._has_final else None)

    @property
    def _folder(self) -> Path:
        """The folder of this run, once it is known."""
        return cast("Path", self.save_path)

    def _goes_on(self) -> bool:
        """Whether the training before was of the same algorithm, in the same folder, and by this callback."""
        return self._trained == (self.model, self.save_path)

    def _look_back(self, training: Training, log: Path | None) -> None:
        """Go on where an earlier training was interrupted; move what is another's, or lies further on."""
        steps = self.model.num_timesteps
        if self.evaluation is not None and log is not None:
            log = continue_log(self.evaluation, log, steps)
        judge = self._judge or self._above
        if isinstance(judge, EvalCallback | Rollouts):
            self._places[self._folder].judges.append(judge)
        for path, place in self._places.items():
            self._last.watch(place.judges, training)
            of_place = log if path == self._folder else None
            score = place.look_back(steps, is_own=self._goes_on(), overwrite=self.overwrite, log=of_place)
            if path == self._folder:
                self._best_before = score
        if self.options.observation_ranges:
            is_new = steps == 0 or not self._goes_on()
            self._seen = watch(self.model, self._places.values(), None if is_new else self._seen)
            self._looks = self._above is None and not self._followed  # at each step, before anything is written
            if not self._looks:
                training.watch(self._seen.look)
        for followed in self._followed:
            followed.at_step(functools.partial(self._complete, followed), training)
        self._trained = self.model, self.save_path
        earlier = self._places[self._folder].folder.numbered(self.name_prefix, steps) if steps > 0 else []
        self._retention = Retention(self.keep_last, earlier, overwrite=self.overwrite)

    def _on_training_start(self) -> None:
        if self._training is None:
            return
        begins_anew = bool(self.locals.get("reset_num_timesteps", True))
        if self._above is None and (begins_anew or self.n_calls == 0):  # what goes on was checked before
            frequencies = {} if self.save_freq is None else {"save_freq": (self.save_freq, self.n_calls)}
            if self._judge is not None:
                frequencies["eval_freq"] = self._judge.eval_freq, (self.evaluation or self).n_calls
            writes = self.save_final or bool(self._followed)
            settings.check_schedule(self.model, frequencies, save_final=writes, begins_anew=begins_anew)
        if self.evaluation is not None:
            self.evaluation.on_training_start(self.locals, self.globals)

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        if self.evaluation is not None:
            self.evaluation.update_locals(locals_)

    def _on_step(self) -> bool:
        if self._training is None:
            return True
        self._training.begin()  # another callback may have made this one in the middle of a training
        if self._seen is not None and self._looks:
            self._seen.look(self._training.told)
        continue_training = self.evaluation is None or evaluate(self.evaluation)
        is_child = self.evaluation is None and self._above is not None
        if self.save_freq is None and is_child and self._is_on_new_best:
            self._publish_best()
        elif is_child if self.save_freq is None else self.n_calls % self.save_freq == 0:
            self._publish(Checkpoint.numbered(self.name_prefix, self.num_timesteps))
        return continue_training

    def _on_rollout_end(self) -> None:
        if self._training is not None and isinstance(self._judge, Rollouts) and self._judge.look(self.n_calls):
            self._publish(BEST, self._judge)

    @property
    def _above(self) -> BaseCallback | None:
        """What this is called by at its events, if it is not called at each step."""
        return self._event or self.parent

    def _on_training_end(self) -> None:
        if self._training is None:
            return  # it has been told before: RL Zoo does so twice
        self._training.begin()
        if self.evaluation is not None:
            self.evaluation.on_training_end()
        if self._has_final:
            self._write_final()
        if self.reports or self.failures:
            dump_exports(self.logger, self.num_timesteps, self.reports, self.failures)

    @property
    def _has_final(self) -> bool:
        return self.save_final and self._above is None

    def _write_final(self) -> None:
        """Write it once: a signal may come when it has been written."""
        if not self._is_finished:
            self._is_finished = True
            self._publish(FINAL)

    def _leave(self) -> None:
        """The training is over, whoever else is a callback of it: sum up."""
        self._training, self._places, self._followed = None, {}, ()
        n_reports, n_failures = self._counted
        sum_up(self.reports[n_reports:], self.failures[n_failures:], verbose=self.verbose)
        self._cards.write()

    def _publish_best(self) -> None:
        evaluation = cast("EvalCallback", self.evaluation or self._above)
        if evaluation.last_mean_reward > self._best_before:
            follows = Followed(evaluation) if evaluation is self._above and self._pattern is None else None
            self._publish(BEST, evaluation, follows=follows)
        else:  # it was remembered after the evaluation had begun
            evaluation.best_mean_reward = self._best_before

    def _complete(self, followed: Followed) -> None:
        """Write what is missing of a checkpoint that another callback has just begun, if it has."""
        if (checkpoint := followed.written()) is not None:
            self._publish(checkpoint, next(iter(followed.evaluations), None), follows=followed)

    @indivisible
    def _publish(self, checkpoint: Checkpoint, judge: Judge | None = None, follows: Followed | None = None) -> None:
        """Write one checkpoint; what a failure does, ``on_error`` says.

        :param judge: what has found it to be the best
        :param follows: the callback that has begun it
        """
        folder = (follows.folder if follows else None) or self._folder
        try:
            self._write(folder, checkpoint, judge, follows.files(checkpoint, self.model) if follows else {})
        except Exception as error:  # a training must not end because of an export, whatever went wrong in it
            unmatched = self._places[folder].folder.unmatched(checkpoint) if folder in self._places else ()
            failure = ExportFailure.of(checkpoint, self.model.num_timesteps, error, unmatched)
            self.failures.append(failure)
            if self.on_error == "raise":
                if self._training is not None:
                    self._training.end()
                raise
            failure.log()
        finally:
            record_exports(self.logger, self.reports, self.failures)

    def _write(self, folder: Path, checkpoint: Checkpoint, judge: Judge | None, there: Mapping[FileKind, Path]) -> None:
        evaluation = self._last.known(judge, self.model.num_timesteps)
        ranges = self._seen.record() if self._seen else None
        self.reports.append(self._writer.write(folder, checkpoint, evaluation, self._retention, there, ranges))
        self._cards.add(self.reports[-1].path)
        if self.verbose >= 1:
            say_written(self.reports[-1])
