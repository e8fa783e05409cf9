"""The command line: ``sb3-clanker export``, ``validate``, ``inspect``, ``diff``, ``card`` and ``schema``.

Exit codes: 0, it worked; 1, it did not, with the reason in one line on standard error; 2, wrong usage. Those of
``diff`` are what a shell expects: 1, the two are not the same; 2, it did not work.
"""

from __future__ import annotations

import argparse
import functools
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sb3_clanker import __version__
from sb3_clanker.cli.card import add_card
from sb3_clanker.cli.diff import add_diff
from sb3_clanker.cli.export import add_export
from sb3_clanker.cli.inspect import add_inspect
from sb3_clanker.cli.schema import add_schema
from sb3_clanker.cli.text import complain, flush, open_standard_streams
from sb3_clanker.cli.validate import add_validate
from sb3_clanker.errors import ClankerError, PublicationError

_VERBS = (add_export, add_validate, add_inspect, add_diff, add_card, add_schema)
_EPILOG = "exit codes: 0 it worked, 1 it did not, or not all (the reason is one line on standard error), 2 wrong usage"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: the words after the program's name, ``sys.argv`` by default
    :return: the exit code
    """
    open_standard_streams()
    try:
        options = _parse(arguments)
    except PublicationError as error:
        return _fail(error)
    fail = functools.partial(_fail, code=options.failure)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code: int | None = options.run(options)
        flush()
    except ClankerError as error:
        return fail(error)
    except KeyboardInterrupt:
        return fail("interrupted")
    except (Exception, SystemExit) as error:  # a mistake of this package, or whatever the code in a file does
        if sys.flags.dev_mode:
            raise
        return fail(f"unexpected {type(error).__name__}: {error} (python -X dev -m sb3_clanker shows where)")
    return code or 0


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        with suppress(AttributeError, OSError):  # as argparse itself has it from Python 3.11 on
            super()._print_message(message, file)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser: argparse.ArgumentParser = _Parser(
        prog="sb3-clanker", description="Proven ONNX policies from Stable-Baselines3.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"sb3-clanker {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    parser.set_defaults(check=lambda _: None, failure=1)  # a verb has its own where it checks its arguments itself
    for add_verb in _VERBS:
        add_verb(commands)
    try:
        options = parser.parse_args(arguments)
        options.check(options)
        return options
    finally:
        flush()  # its help is of no use where it cannot be written


def _fail(reason: object, code: int = 1) -> int:
    with suppress(PublicationError):
        flush()
    complain(reason)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain(f"warning: {message}")
