"""``sb3-clanker inspect``: what a file says of itself, and whether a program takes it."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

from sb3_clanker.cli.arguments import Commands
from sb3_clanker.cli.many import Done, add_many, in_short, is_one_file, read_found, run_many
from sb3_clanker.cli.text import say
from sb3_clanker.display import printable
from sb3_clanker.errors import TargetError
from sb3_clanker.policy_file.documents import encode, to_fields
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.run_folder.names import POLICY
from sb3_clanker.run_folder.search import Found
from sb3_clanker.targets.check import TARGETS, TargetReport, check_target

_WIDEST_LABEL = 40


def add_inspect(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("inspect", help="show what a .onnx says of itself")
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="POLICY.onnx", help="or a folder: every policy in it and in its folders"
    )
    parser.add_argument("--json", action="store_true", help="the whole record, or what is said of a target, as JSON")
    parser.add_argument("--target", choices=TARGETS, help="say whether this program takes it, and if not, why")
    add_many(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if not is_one_file(options.paths):
        run_many(functools.partial(_inspect_found, target=options.target), options.paths, POLICY, options)
        return
    metadata = read_metadata(options.paths[0])
    report = None if options.target is None else check_target(metadata, options.target)
    if options.json:
        say(encode(metadata if report is None else report, indent=2))
    else:
        for line in _summary(metadata) if report is None else _verdict(report):
            say(line)
    if report is not None and not report.accepts:
        raise TargetError(report.target, report.problems)


def _inspect_found(found: Found, *, target: str | None) -> Done | None:
    """One of several: what stands in the table, and the whole record or what is said of the target."""
    if (file := read_found(found)) is None:
        return None
    if target is None:
        return Done(summary=in_short(file.metadata).summary, figures=to_fields(file.metadata))
    report = check_target(file.metadata, target)
    if not report.accepts:
        raise TargetError(report.target, report.problems)
    return Done(summary="; ".join(_verdict(report)), figures=to_fields(report))


def _verdict(report: TargetReport) -> Iterator[str]:
    """What is said of a target that takes the file; of one that does not, the error says it."""
    if report.accepts:
        yield f"{report.target} takes it" + (f", in {report.mode} mode" if report.mode else "")
        yield from (printable(f"note: {note}") for note in report.notes)


def _summary(metadata: PolicyMetadata) -> Iterator[str]:
    facts = [*metadata.facts(), ("digest", f"{metadata.digest} (verified)")]
    width = min(max(len(label) for label, _ in facts), _WIDEST_LABEL)
    return (printable(f"{label:<{width}}  {text}") for label, text in facts)
