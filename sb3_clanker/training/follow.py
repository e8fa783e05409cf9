"""Callbacks of Stable-Baselines3 that write ``.zip`` files of the same training, and when they have written one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EventCallback,
)

from sb3_clanker.errors import OptionError
from sb3_clanker.run_folder.names import BEST, REPLAY_BUFFER, STATISTICS, ZIP, Checkpoint, FileKind
from sb3_clanker.training.run import Training


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
    def folder(self) -> Path | None:
        """The folder that it writes to, None where it writes nothing."""
        callback = self.callback
        path = callback.best_model_save_path if isinstance(callback, EvalCallback) else callback.save_path
        return None if path is None else Path(path).absolute()

    @property
    def evaluations(self) -> list[EvalCallback]:
        """Itself, where it evaluates."""
        return [self.callback] if isinstance(self.callback, EvalCallback) else []

    @property
    def name_prefixes(self) -> set[str]:
        """Beginning of the names of its checkpoints, where it numbers them."""
        return {self.callback.name_prefix} if isinstance(self.callback, CheckpointCallback) else set()

    def remember(self) -> None:
        """Take its best so far as known."""
        self._best = self.best_mean_reward

    def written(self) -> Checkpoint | None:
        """The checkpoint that it began in the call that has just ended, None where it began none."""
        callback, best = self.callback, self._best
        if isinstance(callback, CheckpointCallback):
            is_due = callback.n_calls % callback.save_freq == 0
            return Checkpoint(Path(callback._checkpoint_path(extension="zip")).stem) if is_due else None
        self.remember()
        return BEST if self._best != best else None

    def files(self, checkpoint: Checkpoint) -> dict[FileKind, Path]:
        """The files of a checkpoint that it has just written."""
        if (folder := self.folder) is None:
            return {}
        kinds = [ZIP]
        if isinstance(self.callback, CheckpointCallback):
            kinds += [STATISTICS] * self.callback.save_vecnormalize + [REPLAY_BUFFER] * self.callback.save_replay_buffer
        paths = {kind: folder / checkpoint.files[kind] for kind in kinds}
        return {kind: path for kind, path in paths.items() if path.is_file()}

    def at_step(self, action: Callable[[], object], training: Training) -> None:
        """Do something after each of its calls, as long as a training lasts."""

        def step(on_step: Callable[[], bool]) -> bool:
            continue_training = on_step()
            action()
            return continue_training

        training.stand_in(self.callback, "on_step", step, stays=True)


def follow(root: BaseCallback | None, above: BaseCallback | None) -> tuple[tuple[Followed, ...], Path | None]:
    """The callbacks whose checkpoints are to be completed, and the folder of the run: theirs, an evaluation's first.

    :param root: the callback that ``learn`` was given
    :param above: what calls the one that follows at its events, None where it is called at each step
    :return: no folder where there are evaluations that write nothing, as in the trials of RL Zoo
    :raises OptionError: there is nothing to follow
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
    return tuple(found) if above is None else (), folder


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
