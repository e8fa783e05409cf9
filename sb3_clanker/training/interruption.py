"""SIGINT and SIGTERM during a training: its final files are written, then all goes on as it would have anyway.

Stable-Baselines3 calls nothing then. The workers of a SubprocVecEnv get Ctrl+C as well, and die first, so the files are
written where the signal finds the main thread, and no environment is asked for anything. It waits only where something
is half done: an update of the policy, a file of ours, and what :data:`_OTHERS` names.

Python runs a handler between two instructions of the main thread, and nowhere else.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType, FrameType, FunctionType
from typing import Any, Final, Protocol, TypeVar, cast

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import polyak_update
from torch import nn

from sb3_clanker.export.exporter import Exporter
from sb3_clanker.export.publish import publish
from sb3_clanker.sb3.seen import SeenObservations

_logger = logging.getLogger("sb3_clanker")
_F = TypeVar("_F", bound=Callable[..., Any])

_DEFAULTS: Final[dict[signal.Signals, Any]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""The signals, and the handlers that Python starts with: one of the user's own is left alone."""

_OTHERS: tuple[Any, ...] = (
    *(RunningMeanStd.update_from_moments, polyak_update, nn.Module.load_state_dict),  # would be saved half new
    SeenObservations.look,  # its ranges too
    *(Exporter.export, publish, Logger.dump, logging.Handler.handle),  # may hold a lock that we need
)
_indivisible: set[CodeType] = {function.__code__ for function in _OTHERS}


def indivisible(function: _F) -> _F:
    """Let a signal wait until a function returns, or raises."""
    _indivisible.add(cast("FunctionType", function).__code__)
    return function


class Interruptible(Protocol):
    """A training, as a signal finds it.

    :ivar is_updating: whether its weights may be half new
    """

    is_updating: bool

    def is_running(self, frame: FrameType | None) -> bool:
        """Whether its ``learn`` is among the callers of a frame."""

    def final_writes(self) -> Iterable[Callable[[], object]]:
        """What writes its final files."""

    def end(self) -> None:
        """It is over."""


class _Signals:
    """The handler of SIGINT and SIGTERM: one for all trainings, which may run within each other."""

    def __init__(self) -> None:
        self._trainings: weakref.WeakSet[Interruptible] = weakref.WeakSet()  # nobody may live for a handler's sake
        self._waiting: weakref.WeakSet[Interruptible] = weakref.WeakSet()
        self._pending: int | None = None
        self._process_id = 0

    def watch(self, training: Interruptible) -> None:
        """Let a training write its final files at a signal; only in the main thread, and where no handler is set."""
        try:
            for number, default in _DEFAULTS.items():
                if signal.getsignal(number) in (default, self._handle):
                    signal.signal(number, self._handle)
        except ValueError:  # not the main thread, which alone may set a handler, and alone runs it
            return
        self._process_id = os.getpid()
        self._trainings.add(training)

    def forget(self, training: Interruptible) -> None:
        """Take no more notice of a training; without any, the handlers are those of before."""
        self._trainings.discard(training)
        if not self._trainings:
            self._put_back()

    def go_on(self, training: Interruptible) -> None:
        """Do what a signal has waited for during an update of a training, where one has."""
        if self._pending is not None and training in self._waiting:
            self._go_on(sys._getframe(1))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        trainings = self._running(frame) if os.getpid() == self._process_id else ()  # a fork has the handler too
        is_second = self._pending is not None and not self._waiting.isdisjoint(trainings)
        self._pending, self._waiting = None, weakref.WeakSet(trainings)
        if trainings and not is_second:
            self._pending = number
            self._go_on(frame)
        else:
            self._put_back()
            _act_as_without_us(number)

    def _go_on(self, frame: FrameType | None) -> None:
        trainings, number = self._running(frame), self._pending
        if number is None:
            return  # a second signal came
        if half_done := [caller for caller in callers(frame) if caller.f_code in _indivisible]:
            _at_return(half_done[-1], lambda: self._go_on(half_done[-1].f_back))
            return
        if any(training.is_updating for training in trainings):
            _logger.warning(
                "%s: the final files are written after this update; again, and it ends at once.",
                signal.Signals(number).name,
            )
            return
        self._put_back()  # a second signal does what it always does, at once
        try:
            with _by_itself():
                _do_all(write for training in trainings for write in training.final_writes())
        finally:
            self._pending = None
            for training in trainings:
                training.end()
            _act_as_without_us(number)

    def _running(self, frame: FrameType | None) -> list[Interruptible]:
        return [training for training in self._trainings if training.is_running(frame)]

    def _put_back(self) -> None:
        for number, default in _DEFAULTS.items():
            if signal.getsignal(number) == self._handle:
                try:
                    signal.signal(number, default)
                except ValueError:  # another thread ends the training: without one, the handler does nothing
                    return


signals: Final = _Signals()


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, what called it, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _act_as_without_us(number: int) -> None:
    if number == signal.SIGINT:
        signal.default_int_handler(number, None)  # raises KeyboardInterrupt
    signal.signal(number, _DEFAULTS[signal.Signals(number)])
    signal.raise_signal(number)


def _do_all(actions: Iterable[Callable[[], object]]) -> None:
    """Do one after the other, though one fails; a second signal ends it."""
    errors: list[Exception] = []
    for action in actions:
        try:
            action()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


@contextmanager
def _by_itself() -> Iterator[None]:
    """Run as if nobody called: without the modes of torch and numpy that the code was in which was interrupted."""
    with ExitStack() as stack:
        for mode in (th.inference_mode(mode=False), th.enable_grad(), np.errstate(all="warn", under="ignore")):
            stack.enter_context(mode)
        for device in ("cpu", "cuda"):
            if th.is_autocast_enabled(device):
                stack.enter_context(th.autocast(device, enabled=False))
        yield


def _at_return(frame: FrameType, action: Callable[[], object]) -> None:
    """Do something as soon as a call is over, however it ends.

    Python tells a profiler of it. One that is at work is replaced: the training is about to end.
    """

    def look(returning: FrameType, event: str, _: object) -> None:
        if returning is frame and event == "return":
            sys.setprofile(None)
            action()

    sys.setprofile(look)
