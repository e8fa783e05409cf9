"""Processes that work through many tasks: one that dies or hangs costs the task that it was at, and no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from sb3_clanker.cli.text import open_standard_streams

T = TypeVar("T")
R = TypeVar("R")

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy the locks of whatever threads there are
_GRACE = 5.0
"""Seconds in which a process that is told to end may remove its temporary files."""


class LostTaskError(Exception):
    """Why there is no result of a task."""


class _StopWorkError(BaseException):
    """The process is told to stop; no ``except Exception`` of a task takes it for its own."""


def in_processes(
    function: Callable[[T], R], tasks: Sequence[T], *, n_processes: int, timeout: float
) -> Generator[tuple[int, R | LostTaskError]]:
    """Work through tasks, and give the number of each with its result, in the order in which they are done.

    :param function: what to do; found by its name in a process that has imported nothing. It should not raise
    :param tasks: what to do it with
    :param n_processes: how many processes there may be
    :param timeout: seconds that a task may take; to start a process does not count
    """
    waiting = deque(range(len(tasks)))
    workers: list[_Worker[T, R]] = []
    ending: list[_Worker[T, R]] = []
    n_threads = max(1, (os.cpu_count() or 1) // n_processes)
    try:
        while waiting or any(worker.task is not None for worker in workers):
            while len(workers) < min(n_processes, len(waiting) + sum(worker.task is not None for worker in workers)):
                workers.append(_Worker(function, n_threads))
            _wait_for(workers)
            for worker in list(workers):
                try:
                    results = worker.results()
                except LostTaskError as error:
                    # One that never came to its first task costs the next one, so that this comes to an end.
                    task = waiting.popleft() if worker.task is None and waiting else worker.task
                    workers.remove(worker)
                    _stop([worker])
                    if task is not None:
                        yield task, error
                    continue
                if results is None:
                    continue
                worker.task = None
                if waiting:
                    worker.begin(task := waiting.popleft(), tasks[task], timeout)
                else:
                    worker.connection.close()  # upon which it ends
                    workers.remove(worker)
                    ending.append(worker)
                yield from results
    finally:
        _stop(workers, ending)


class _Worker(Generic[T, R]):
    """A process, and what it is at.

    :ivar task: number of the task, None where it is at none
    """

    def __init__(self, function: Callable[[T], R], n_threads: int) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(theirs, function, n_threads), daemon=True)
        with _deaf_to_interrupts():
            self.process.start()
        theirs.close()
        self.task: int | None = None
        self.deadline = inf
        self._timeout = inf

    def begin(self, number: int, task: T, timeout: float) -> None:
        """Give it a task."""
        self.task, self._timeout = number, timeout
        self.deadline = time.monotonic() + timeout
        with suppress(OSError):  # it is dead, as results() will say
            self.connection.send((number, task))

    def results(self) -> list[tuple[int, R]] | None:
        """What came of its task; of none where it has only just started, and None where it has nothing to say yet.

        :raises LostTaskError: it will never say anything
        """
        with suppress(EOFError, OSError):
            if self.connection.poll():
                results: list[tuple[int, R]] = self.connection.recv()
                return results
            if self.process.is_alive() and time.monotonic() < self.deadline:
                return None
        if time.monotonic() >= self.deadline:
            raise LostTaskError(f"took more than {self._timeout:g} seconds")
        self.process.join(_GRACE)
        raise LostTaskError(f"died ({_cause(self.process.exitcode)})")


def _work(connection: Connection, function: Callable[[T], R], n_threads: int) -> None:
    """What a process does: a task after the other, until nobody has one for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started this process decides
    signal.signal(signal.SIGTERM, _raise_stop)
    open_standard_streams()
    os.dup2(2, 1)  # standard output belongs to the table, or to the JSON document
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))
    try:
        connection.send([])
        while True:
            number, task = connection.recv()
            connection.send([(number, function(task))])
    except (EOFError, OSError, _StopWorkError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends as it is


def _raise_stop(*_: object) -> None:
    raise _StopWorkError


def _wait_for(workers: Sequence[_Worker[T, R]]) -> None:
    """Wait until a process says something, dies, or is late."""
    late = min((worker.deadline for worker in workers), default=inf) - time.monotonic()
    sources = [source for worker in workers for source in (worker.connection, worker.process.sentinel)]
    wait(sources, None if late == inf else max(0.0, late))


def _stop(workers: Sequence[_Worker[T, R]], ending: Sequence[_Worker[T, R]] = ()) -> None:
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + _GRACE
    for worker in (*workers, *ending):
        worker.process.join(max(0.0, until - time.monotonic()))
        worker.process.kill()
        worker.process.join()
        worker.connection.close()


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with suppress(ValueError):
            return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let a process start deaf to Ctrl+C, which is for this one: else it would die with a traceback of its own."""
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
