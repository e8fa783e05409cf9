"""``sb3-clanker inspect``: what a file says of itself, and whether a program takes it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from sb3_clanker.cli.arguments import Commands
from sb3_clanker.cli.text import say
from sb3_clanker.display import printable
from sb3_clanker.errors import TargetError
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.targets.check import TARGETS, TargetReport, check_target

_WIDEST_LABEL = 40


def add_inspect(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("inspect", help="show what a .onnx says of itself")
    parser.add_argument("policy", type=Path, metavar="POLICY.onnx")
    parser.add_argument("--json", action="store_true", help="the whole record, or what is said of a target, as JSON")
    parser.add_argument("--target", choices=TARGETS, help="say whether this program takes it, and if not, why")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    metadata = read_metadata(options.policy)
    report = None if options.target is None else check_target(metadata, options.target)
    if options.json:
        say(encode(metadata if report is None else report, indent=2))
    else:
        for line in _summary(metadata) if report is None else _verdict(report):
            say(line)
    if report is not None and not report.accepts:
        raise TargetError(report.target, report.problems)


def _verdict(report: TargetReport) -> Iterator[str]:
    """What is said of a target that takes the file; of one that does not, the error says it."""
    if report.accepts:
        yield f"{report.target} takes it" + (f", in {report.mode} mode" if report.mode else "")
        yield from (f"note: {note}" for note in report.notes)


def _summary(metadata: PolicyMetadata) -> Iterator[str]:
    facts = [*metadata.facts(), ("digest", f"{metadata.digest} (verified)")]
    width = min(max(len(label) for label, _ in facts), _WIDEST_LABEL)
    return (printable(f"{label:<{width}}  {text}") for label, text in facts)
