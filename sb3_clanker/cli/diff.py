"""``sb3-clanker diff``: what differs between two policies."""

from __future__ import annotations

import argparse
import functools
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from sb3_clanker.cli.arguments import Commands
from sb3_clanker.cli.text import say
from sb3_clanker.comparison.policies import compare_policies, difference_facts
from sb3_clanker.display import short
from sb3_clanker.errors import IncomparablePoliciesError

_WIDTH = 80
_WIDEST_LABEL = 24
_N_EPISODES = 10


def add_diff(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser(
        "diff",
        help="show what differs between two policies",
        description="Two policies beside each other: records, actions on the same observations, and, with --env, "
        "returns on the same seeds.",
        epilog="exit codes: 0 they act the same, 1 they do not, 2 they could not be compared (the reason is one line "
        "on standard error), or wrong usage",
    )
    parser.add_argument("first", type=Path, metavar="A.onnx")
    parser.add_argument("second", type=Path, metavar="B.onnx")
    parser.add_argument(
        "--observations",
        type=Path,
        metavar="FILE",
        help="raw observations, .npy, or .npz by key (default: drawn from what training saw, by the record)",
    )
    parser.add_argument("--env", nargs="?", const=True, metavar="ID", help="play them (default: in that of the record)")
    parser.add_argument("--episodes", type=int, metavar="N", help=f"for each, with --env (default: {_N_EPISODES})")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes, and of all that is drawn (default: 0)")
    parser.set_defaults(run=_run, check=functools.partial(_check, parser), failure=2)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.episodes is not None and options.env is None:
        parser.error("--episodes needs --env")
    if options.episodes is not None and options.episodes < 1:
        parser.error("--episodes must be at least 1")


def _run(options: argparse.Namespace) -> int:
    """Compare two policies; the exit code."""
    plays = options.env is not None
    try:
        comparison = compare_policies(
            options.first,
            options.second,
            observations=options.observations,
            env=None if options.env is True else options.env,
            n_episodes=(options.episodes or _N_EPISODES) if plays else 0,
            seed=options.seed,
        )
    except IncomparablePoliciesError as error:
        _say(difference_facts(error.differences))
        raise
    _say(comparison.facts())
    return 0 if comparison.act_the_same else 1


def _say(facts: Iterable[tuple[str, str]]) -> None:
    """Print facts in two columns; a label that is too wide has a line of its own."""
    for label, text in facts:
        for line in _lines(short(label), text):
            say(line)


def _lines(label: str, text: str) -> Iterator[str]:
    indent = " " * (_WIDEST_LABEL + 2)
    if len(label) > _WIDEST_LABEL:
        yield label
        label = ""
    wrapped = textwrap.wrap(short(text), _WIDTH - len(indent), drop_whitespace=True) or [""]
    yield f"{label:<{_WIDEST_LABEL}}  {wrapped[0]}".rstrip()
    yield from (f"{indent}{line}" for line in wrapped[1:])
