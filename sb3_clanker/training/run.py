"""One run of ``learn()``: who writes during it, when it really begins, and when it is over."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, MethodType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, EventCallback

from sb3_clanker.run_folder.lock import Owner
from sb3_clanker.training.interruption import callers, signals


class Training(Owner):
    """One run of ``learn()``, the same for all callbacks that write during it.

    Of its beginning and its end Stable-Baselines3 tells the callback that ``learn`` was given, and not every child of
    it. So that one's ``on_training_start`` and ``on_training_end`` tell of them here, however deep below a callback is,
    as ``on_rollout_start`` and ``on_rollout_end`` tell of updates. Neither the algorithm nor any class is changed for
    it.

    :param model: the algorithm; without one, it is over when :meth:`end` is called, and not before
    :ivar runs: numbers of this run, by the path that they stand in
    :ivar root: the callback that ``learn`` was given
    :ivar is_updating: whether the weights may be half new
    """

    def __init__(self, model: BaseAlgorithm | None = None) -> None:
        super().__init__()
        self.runs: dict[str, str] = {}
        self.root: BaseCallback | None = None
        self.is_updating = False
        self._model = None if model is None else weakref.ref(model)
        self._callbacks: list[BaseCallback] = []
        self._at_start: list[Callable[[], object]] = []
        self._final_writes: list[Callable[[], object]] = []

    @property
    def model(self) -> BaseAlgorithm | None:
        """The algorithm, as long as anybody else remembers it."""
        return None if self._model is None else self._model()

    @classmethod
    def of(cls, callback: BaseCallback) -> Training:
        """The training that a callback is just being initialized for."""
        *_, root = _way_up(callback)
        stand_in = vars(root).get("on_training_end")
        training = stand_in.training if isinstance(stand_in, _StandIn) else None
        if training is not None and (training._knows(callback) or training.model is not callback.model):
            training.end()  # it was broken off, and ``learn`` is called again
            training = None
        if training is None:
            training = cls(callback.model)
            training.root = root
            for name, around, stays in (
                ("on_training_start", training._start, False),
                ("on_training_end", training._finish, False),
                ("on_rollout_start", training._start_rollout, True),
                ("on_rollout_end", training._end_rollout, True),
            ):
                training.stand_in(root, name, around, stays=stays)
        training._callbacks.append(callback)
        return training

    def stand_in(
        self, callback: BaseCallback, name: str, around: Callable[[Callable[[], Any]], Any], *, stays: bool
    ) -> None:
        """Do something around a method of a callback, at its next call or at all of them, as long as this lasts.

        :param callback: the callback
        :param name: name of the method
        :param around: is given what calls the method, and returns what it returned
        :param stays: whether it is for all calls
        """
        before = vars(callback).get(name)
        if isinstance(before, _StandIn) and before.training is not self and before.training.gives_way_to(self):
            before.training.end()  # it was broken off, and has left this behind
        self.at_end(_StandIn(self, callback, name, around, stays=stays).remove)

    def at_start(self, action: Callable[[], object]) -> None:
        """Do something when it begins: when all callbacks are content, and before the first step."""
        self._at_start.append(action)

    @property
    def told(self) -> Mapping[str, Any]:
        """What the algorithm has told its callbacks of this step, their ``locals``."""
        return {} if self.root is None else self.root.locals

    def watch(self, look: Callable[[Mapping[str, Any]], object]) -> None:
        """Look at each step, before any callback does, as long as this lasts.

        :param look: is given what it is :attr:`told`
        """

        def step(on_step: Callable[[], bool]) -> bool:
            look(self.told)
            return on_step()

        if self.root is not None:
            self.stand_in(self.root, "on_step", step, stays=True)

    def at_interruption(self, write: Callable[[], object]) -> None:
        """Write something before SIGINT or SIGTERM ends it; see :mod:`sb3_clanker.training.interruption`."""
        if not self._final_writes:
            signals.watch(self)
            self.at_end(lambda: signals.forget(self))
        self._final_writes.append(write)

    def final_writes(self) -> list[Callable[[], object]]:
        """What is to be written before a signal ends it."""
        return self._final_writes

    def is_running(self, frame: FrameType | None) -> bool:
        """Whether its ``learn`` is among the callers of a frame, and not another of the same algorithm."""
        model = self.model
        return model is not None and any(
            _self(caller) is model and any(value is self.root for value in caller.f_locals.values())
            for caller in callers(frame)
        )

    def begin(self) -> None:
        """Do what is to be done at the start; a second time there is nothing left.

        A callback that another makes in the middle of a training calls it itself: that has begun already.
        """
        try:
            while self._at_start:
                self._at_start.pop(0)()
        except BaseException:
            self.end()
            raise

    def gives_way_to(self, other: Owner) -> bool:
        """Whether it was broken off: its algorithm trains again, or its ``learn`` is on no thread's stack."""
        trains_again = isinstance(other, Training) and self.model is other.model
        return self._model is not None and (trains_again or not _is_on_a_stack(self.model))

    def _knows(self, callback: BaseCallback) -> bool:
        return any(known is callback for known in self._callbacks)

    def _start(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except BaseException:
            self.end()
            raise
        self.begin()

    def _finish(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        finally:
            self.end()
            signals.go_on(self)

    def _start_rollout(self, tell: Callable[[], None]) -> None:
        self.is_updating = False
        signals.go_on(self)
        tell()

    def _end_rollout(self, tell: Callable[[], None]) -> None:
        tell()
        self.is_updating = True


class _StandIn:
    """Stands in for a method of a callback until that is called or the training ends; a pickle has the method itself.

    :param around: is given what calls the method
    :param stays: whether it stands in for the next call too
    """

    def __init__(
        self,
        training: Training,
        callback: BaseCallback,
        name: str,
        around: Callable[[Callable[[], Any]], Any],
        *,
        stays: bool,
    ) -> None:
        self.training, self._callback, self._name, self._around, self._stays = training, callback, name, around, stays
        self._before = vars(callback).get(name)
        vars(callback)[name] = self

    def __call__(self, *args: Any) -> Any:
        if not self._stays:
            self.remove()
        method = self._before or MethodType(getattr(type(self._callback), self._name), self._callback)
        return self._around(functools.partial(method, *args))

    def remove(self) -> None:
        attributes = vars(self._callback)
        if attributes.get(self._name) is self:
            del attributes[self._name]
            if self._before is not None:
                attributes[self._name] = self._before

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, (self._callback, self._name)  # as a bound method pickles itself


def event_of(callback: BaseCallback) -> tuple[EventCallback | None, bool]:
    """The event that a callback, which is just being initialized, is called at, and whether that is a new best.

    Stable-Baselines3 tells a child in a list within a list nothing of its parent, and one of a new best nothing of the
    start of training.
    """
    below = callback
    for above in _way_up(callback):
        if isinstance(above, EventCallback):
            return above, isinstance(above, EvalCallback) and below is above.callback_on_new_best
        below = above
    return None, False


def _way_up(callback: BaseCallback) -> Iterator[BaseCallback]:
    """The callbacks from one to that which ``learn`` was given, by who calls whom; one may come more than once."""
    yield callback
    frame = sys._getframe().f_back
    while frame is not None and (caller := _self(frame)) is not callback.model:
        if isinstance(caller, BaseCallback):
            yield caller
        frame = frame.f_back


def _is_on_a_stack(model: BaseAlgorithm | None) -> bool:
    """Whether any thread is within a method of an algorithm."""
    if model is None:
        return False
    return any(_self(frame) is model for top in sys._current_frames().values() for frame in callers(top))


def _self(frame: FrameType) -> object:
    """The object whose method a frame runs, None where it runs none."""
    return frame.f_locals.get("self") if frame.f_code.co_varnames[:1] == ("self",) else None
