"""What the command line prints, whatever the text and whatever the standard streams are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sb3_clanker.display import printable
from sb3_clanker.errors import PublicationError


def say(line: str) -> None:
    """Print a line, whatever the encoding of standard output.

    :raises PublicationError: it cannot be written
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with _writing():
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def complain(message: object) -> None:
    """Print a message as one line on standard error."""
    if sys.stderr is not None:  # print would take None for standard output
        line = printable(" ".join(str(message).split()))
        with suppress(OSError):
            print(f"sb3-clanker: {line}", file=sys.stderr, flush=True)


def flush() -> None:
    """Write what standard output still holds.

    :raises PublicationError: it cannot be written
    """
    if sys.stdout is not None:
        with _writing():
            sys.stdout.flush()


def open_standard_streams() -> None:
    """Let no file that is opened later get the number of a standard stream that is closed: libraries write there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def _writing() -> Iterator[None]:
    """Write to standard output; a reader that wants no more (``| head``) is no error."""
    try:
        yield
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left in the buffer must not fail again at the end of the process
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise PublicationError(Path("standard output"), error.strerror or str(error)) from error
