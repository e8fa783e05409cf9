"""A verb on several files: a line for each and their sum, or one JSON document; and whether all passed."""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from sb3_clanker.cli.progress import Progress
from sb3_clanker.cli.text import complain, say
from sb3_clanker.cli.workers import LostTaskError, in_processes
from sb3_clanker.display import printable
from sb3_clanker.errors import (
    ClankerError,
    FilesFailedError,
    ForeignFileError,
    MissingFileError,
    WorkerError,
)
from sb3_clanker.paths import is_folder
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.reading import PolicyFile, read_policy_file
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.run_folder.names import FileKind
from sb3_clanker.run_folder.search import Found, find_files

_WIDEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class Done:
    """What was found out about a file that passed.

    :ivar summary: for people, in a line
    :ivar figures: for programs; plain values alone
    """

    summary: str
    figures: Mapping[str, Any] = field(default_factory=dict)


Work: TypeAlias = Callable[[Found], Done | None]
"""What a verb does with a file: None is one of somebody else's, which merely lies in a folder that was named."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong.

    :ivar type: name of the error
    :ivar text: what it says, in one line
    """

    type: str
    text: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a file.

    :ivar path: the file
    :ivar passed: whether it did what it should
    :ivar error: what is wrong, None where nothing is
    :ivar warnings: what its user should know
    :ivar summary: for people, in a line; empty where it failed
    :ivar figures: for programs; empty where it failed
    """

    path: str
    passed: bool
    error: Failure | None = None
    warnings: tuple[str, ...] = ()
    summary: str = ""
    figures: dict[str, Any] = {}


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all.

    :ivar passed: whether every one did, and there was one
    :ivar skipped: files of somebody else
    :ivar files: all others
    """

    passed: bool
    skipped: tuple[str, ...]
    files: tuple[Outcome, ...]


def add_many(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of work on several files."""
    parser.add_argument("--jobs", type=_count, default=1, metavar="N", help="processes for several files (default: 1)")
    parser.add_argument(
        "--timeout",
        type=_count,
        default=600,
        metavar="SECONDS",
        help="of several files, what one may take before it counts as failed (default: 600)",
    )


def is_one_file(paths: Sequence[Path]) -> bool:
    """Whether paths name one file: not several, and not a folder, whatever is in it."""
    return len(paths) == 1 and not is_folder(paths[0])


def read_found(found: Found) -> PolicyFile | None:
    """Read a policy file; None is one of somebody else, which merely lies in a folder that was named."""
    try:
        return read_policy_file(found.path)
    except ForeignFileError:
        if found.named:
            raise
        return None


def in_short(metadata: PolicyMetadata) -> Done:
    """Which policy it is."""
    training = metadata.training
    reward = "" if training.mean_reward is None else f", mean reward {training.mean_reward:.2f}"
    return Done(
        summary=f"{metadata.algorithm}, {training.num_timesteps:,} timesteps{reward}",
        figures={
            "algorithm": metadata.algorithm,
            "num_timesteps": training.num_timesteps,
            "mean_reward": training.mean_reward,
            "normalization": metadata.normalization.status,
            "digest": metadata.digest,
        },
    )


def run_many(work: Work, paths: Sequence[Path], kind: FileKind, options: argparse.Namespace) -> None:
    """Do something with every file that paths stand for, and print what became of each.

    :param work: what to do; found by its name in a process of its own
    :param paths: files, and folders that hold some
    :param kind: what to look for in folders
    :param options: of :func:`add_many`, and ``json``
    :raises FilesFailedError: not all passed
    :raises MissingFileError: there was none but those of somebody else
    """
    found = find_files(paths, kind)
    width = min(max(len(printable(str(each.path))) for each in found), _WIDEST_NAME)
    attempt = functools.partial(_attempt, work)
    done: dict[int, Outcome | None] = {}
    n_shown = 0
    with (
        closing(Progress(len(found))) as progress,
        closing(in_processes(attempt, found, n_processes=options.jobs, timeout=options.timeout)) as results,
    ):
        for number, result in results:
            path = found[number].path
            if isinstance(result, LostTaskError):
                result = _failed(path, WorkerError(path, str(result)))
            done[number] = result
            progress.step()
            while n_shown in done:  # in the order of the files
                if (outcome := done[n_shown]) is not None:
                    with progress.aside():
                        _show(outcome, width, as_line=not options.json)
                n_shown += 1
    files = tuple(outcome for outcome in map(done.get, range(len(found))) if outcome is not None)
    skipped = tuple(str(found[number].path) for number, outcome in sorted(done.items()) if outcome is None)
    failed = [printable(outcome.path) for outcome in files if not outcome.passed]
    if options.json:
        say(encode(Outcomes(passed=bool(files) and not failed, skipped=skipped, files=files), indent=2))
    else:
        foreign = f", {len(skipped):,} skipped: of somebody else" if skipped else ""
        say(f"{len(files) - len(failed):,} passed, {len(failed):,} failed{foreign}")
    if failed:
        raise FilesFailedError(failed, len(files))
    if not files:
        raise MissingFileError(paths[0], f"folder with {kind.suffix} files of its own")


def _attempt(work: Work, found: Found) -> Outcome | None:
    """Work on a file, in a process of its own; whatever happens is its outcome."""
    if found.problem is not None:
        return _failed(found.path, found.problem)
    with warnings.catch_warnings(record=True) as caught:
        try:
            done = work(found)
        except (Exception, SystemExit) as error:  # also whatever the code in a file does
            return _failed(found.path, error, _texts(caught))
    if done is None:
        return None
    return Outcome(
        path=str(found.path),
        passed=True,
        warnings=_texts(caught),
        summary=done.summary,
        figures=dict(done.figures),
    )


def _failed(path: Path, error: BaseException, caught: tuple[str, ...] = ()) -> Outcome:
    name = type(error).__name__
    text = _line(str(error) if isinstance(error, ClankerError) else f"unexpected {name}: {error}")
    return Outcome(path=str(path), passed=False, error=Failure(type=name, text=text), warnings=caught)


def _show(outcome: Outcome, width: int, *, as_line: bool) -> None:
    for text in outcome.warnings:
        complain(f"warning: {outcome.path}: {text}")
    if as_line:
        says = outcome.summary if outcome.error is None else outcome.error.text.removeprefix(f"{outcome.path}: ")
        say(f"{'ok' if outcome.passed else 'FAILED':<6}  {printable(outcome.path):<{width}}  {printable(says)}")


def _texts(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    return tuple(_line(str(each.message)) for each in caught)


def _line(text: str) -> str:
    return " ".join(text.split())


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


_count.__name__ = "number"  # argparse names it in its message
