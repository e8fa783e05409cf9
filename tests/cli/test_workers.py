"""A process that dies or hangs costs its task alone, and none outlives whoever started it."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from sb3_clanker.cli.workers import LostTaskError, in_processes


def _work(task: str) -> str:
    if task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "exit":
        os._exit(3)
    if task == "hang":
        threading.Event().wait()
    if task == "print":
        os.system("echo from a library")  # noqa: S605, S607 - a program writes past sys.stdout, as C code does
    if task == "sigint":
        os.kill(os.getpid(), signal.SIGINT)
    return f"{task} done"


class _OnlyHere:
    """Cannot be unpickled elsewhere: a process ends before it has begun."""

    def __call__(self, task: str) -> str:
        return task

    def __reduce__(self) -> tuple[object, ...]:
        return (sys.exit, (7,))


def _results(*tasks: str, n_processes: int, timeout: float = 600) -> list[str]:
    results = dict(in_processes(_work, tasks, n_processes=n_processes, timeout=timeout))
    assert sorted(results) == list(range(len(tasks)))
    return [str(results[number]) for number in range(len(tasks))]


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_process_that_dies_costs_its_task_alone(n_processes: int) -> None:
    tasks = ("a", "crash", "b", "c", "exit", "sigint", "d")
    expected = [
        *("a done", "died (SIGSEGV)", "b done", "c done"),
        *("died (exit code 3)", "sigint done", "d done"),
    ]
    assert _results(*tasks, n_processes=n_processes) == expected


def test_a_process_that_hangs_is_ended() -> None:
    assert _results("hang", "a", n_processes=1, timeout=1) == ["took more than 1 seconds", "a done"]


def test_a_process_that_cannot_start_is_no_endless_loop() -> None:
    results = dict(in_processes(_OnlyHere(), ["a", "b"], n_processes=2, timeout=600))
    assert [str(results[number]) for number in (0, 1)] == ["died (exit code 7)"] * 2
    assert all(isinstance(result, LostTaskError) for result in results.values())


def test_there_are_no_more_processes_than_tasks_and_none_is_left() -> None:
    results = in_processes(_pid, range(6), n_processes=40, timeout=600)
    pids = {pid for _, pid in results}
    assert len(pids) <= 6
    _assert_gone(pids)
    assert list(in_processes(_pid, [], n_processes=2, timeout=600)) == []


def test_whoever_wants_no_more_leaves_no_process() -> None:
    results = in_processes(_pid_then_hang, range(3), n_processes=1, timeout=600)
    _, pid = next(results)
    assert isinstance(pid, int)
    results.close()
    _assert_gone({pid})


def test_standard_output_is_left_to_whoever_started_them(capfd: pytest.CaptureFixture[str]) -> None:
    assert _results("print", n_processes=1) == ["print done"]
    assert capfd.readouterr().out == ""


def _pid(_: int) -> int:
    return os.getpid()


def _pid_then_hang(number: int) -> int:
    if number:
        threading.Event().wait()
    return os.getpid()


def _assert_gone(pids: set[int | LostTaskError]) -> None:
    for pid in pids:
        assert isinstance(pid, int)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
