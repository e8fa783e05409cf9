"""Callbacks of Stable-Baselines3 that write ``.zip`` files of the same training, and when they have written one."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EventCallback,
)

from sb3_clanker.errors import AlgorithmFileError, OptionError
from sb3_clanker.run_folder.names import BEST, REPLAY_BUFFER, STATISTICS, ZIP, Checkpoint, FileKind
from sb3_clanker.sb3.algorithms import holds_policy_of
from sb3_clanker.sb3.standard import is_of_library
from sb3_clanker.training.run import Training

_logger = logging.getLogger("sb3_clanker")
_silent_trainings = itertools.count()


class Followed:
    """A callback that writes the ``.zip`` of a checkpoint at times of its own.

    :param callback: an ``EvalCallback``, which writes ``best_model.zip`` at a new best, or a ``CheckpointCallback``
    """

    def __init__(self, callback: EvalCallback | CheckpointCallback) -> None:
        self.callback = callback
        self._best = self.best_mean_reward

    @property
    def best_mean_reward(self) -> float | None:
        """Its best so far, None where it does not evaluate."""
        return self.callback.best_mean_reward if isinstance(self.callback, EvalCallback) else None

    @property
    def zip_path(self) -> Path | None:
        """The ``.zip`` that it writes at this number of timesteps, None where it writes nothing."""
        callback = self.callback
        folder = callback.best_model_save_path if isinstance(callback, EvalCallback) else callback.save_path
        if folder is None:
            return None
        if isinstance(callback, CheckpointCallback):  # whose prefix may have a folder in it
            return Path(callback._checkpoint_path(extension="zip")).absolute()
        return Path(folder).absolute() / BEST.files[ZIP]

    @property
    def folder(self) -> Path | None:
        """The folder that it writes to, None where it writes nothing."""
        return self.zip_path and self.zip_path.parent

    @property
    def evaluations(self) -> list[EvalCallback]:
        """Itself, where it evaluates."""
        return [self.callback] if isinstance(self.callback, EvalCallback) else []

    @property
    def name_prefixes(self) -> set[str]:
        """Beginning of the names of its checkpoints, where it numbers them."""
        return {Path(self.callback.name_prefix).name} if isinstance(self.callback, CheckpointCallback) else set()

    def written(self) -> Checkpoint | None:
        """The checkpoint that it began in the call that has just ended, None where it began none."""
        callback, before = self.callback, self._best
        self._best = self.best_mean_reward
        if isinstance(callback, EvalCallback):
            return BEST if before != callback.best_mean_reward == callback.last_mean_reward else None
        if self.zip_path is None or callback.n_calls % callback.save_freq:
            return None
        return Checkpoint(self.zip_path.stem)

    def files(self, checkpoint: Checkpoint, model: BaseAlgorithm) -> dict[FileKind, Path]:
        """The files of a checkpoint that it has just written; none where it has no folder.

        :raises AlgorithmFileError: its ``.zip`` is not of this instant: one of the user's own may write at other times
        """
        callback, zip_path = self.callback, self.zip_path
        if zip_path is None:
            return {}
        kinds = [ZIP]
        if isinstance(callback, CheckpointCallback):
            has_buffer = getattr(model, "replay_buffer", None) is not None
            kinds += [STATISTICS] * (callback.save_vecnormalize and model.get_vec_normalize_env() is not None)
            kinds += [REPLAY_BUFFER] * (callback.save_replay_buffer and has_buffer)
        if not _saves_by_the_book(callback, model) and not holds_policy_of(zip_path, model):  # which reads all of it
            raise AlgorithmFileError(
                zip_path,
                f"{type(callback).__name__} is followed, and has not written the policy of this instant there",
                "Pass a save_path, and nothing is followed.",
            )
        return {kind: zip_path.with_name(checkpoint.files[kind]) for kind in kinds}

    def at_step(self, action: Callable[[], object], training: Training) -> None:
        """Do something after each of its calls, as long as a training lasts; its best so far is no new one."""
        self._best = self.best_mean_reward

        def step(on_step: Callable[[], bool]) -> bool:
            continue_training = on_step()
            action()
            return continue_training

        def init_callback(init: Callable[[], None]) -> None:
            if not training.is_running(sys._getframe()):  # it was broken off, and this is the next one
                training.end()
            init()

        training.stand_in(self.callback, "on_step", step, stays=True)
        training.stand_in(self.callback, "init_callback", init_callback, stays=True)


def _saves_by_the_book(callback: EvalCallback | CheckpointCallback, model: BaseAlgorithm) -> bool:
    """Whether no code of the user's decides what is saved, or changes the policy before the call is over."""
    children = (callback.callback, callback.callback_on_new_best) if isinstance(callback, EvalCallback) else ()
    code = (type(callback), type(callback)._on_step, type(model).save)
    is_replaced = "_on_step" in vars(callback) or "save" in vars(model)
    return all(map(is_of_library, code)) and not is_replaced and not any(children)


def follow(
    root: BaseCallback | None, above: BaseCallback | None, *, decides: str | None
) -> tuple[tuple[Followed, ...], Path | None]:
    """The callbacks whose checkpoints are to be completed, and the folder of the run: theirs, an evaluation's first.

    :param root: the callback that ``learn`` was given
    :param above: what calls the one that follows at its events, None where it is called at each step. An evaluation
        alone is followed to its folder, as it calls at each new best itself
    :param decides: the option by which the one that follows finds a best of its own, None where it does not
    :return: no folder where there are evaluations that write nothing, as in the trials of RL Zoo
    :raises OptionError: there is nothing to follow, or two would decide on one best
    """
    callbacks = [above] if isinstance(above, EvalCallback) else list(_below(root))
    found = [Followed(callback) for callback in callbacks if isinstance(callback, EvalCallback | CheckpointCallback)]
    found.sort(key=lambda followed: not followed.evaluations)
    if not found:
        raise OptionError(
            "save_path",
            None,
            "a folder, or a callback to follow: an EvalCallback with a best_model_save_path, or a CheckpointCallback",
        )
    folder = next((followed.folder for followed in found if followed.folder is not None), None)
    if folder is None:  # a study has many such trainings, in many threads
        level = logging.DEBUG if next(_silent_trainings) else logging.WARNING
        _logger.log(level, "Nothing is exported: no EvalCallback of this training has a best_model_save_path.")
    elif decides is not None and found[0].evaluations:
        value, other = ("given", "None") if decides == "eval_env" else ("rollout", '"evaluation"')
        expected = f"{other}, as an EvalCallback beside this callback is followed, or a save_path of its own"
        raise OptionError(decides, value, expected)
    return () if isinstance(above, EvalCallback) else tuple(found), folder


def _below(callback: BaseCallback | None) -> Iterator[BaseCallback]:
    """A callback and those that it calls."""
    if callback is None:
        return
    yield callback
    children: list[BaseCallback | None] = []
    if isinstance(callback, CallbackList):
        children += callback.callbacks
    if isinstance(callback, EventCallback):
        children.append(callback.callback)
    if isinstance(callback, EvalCallback):
        children.append(callback.callback_on_new_best)
    for child in children:
        yield from _below(child)
