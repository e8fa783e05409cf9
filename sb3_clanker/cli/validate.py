"""``sb3-clanker validate``: whether a file is whole, belongs to the files beside it, and does what it should."""

from __future__ import annotations

import argparse
from pathlib import Path

from sb3_clanker.cli.arguments import TRUST, Commands, add_model, load_model
from sb3_clanker.cli.text import say
from sb3_clanker.dependencies import required_for
from sb3_clanker.display import printable
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.reading import PolicyFile, read_policy_file
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.run_folder.identity import require_matched
from sb3_clanker.runtime.check_vectors import check_vectors
from sb3_clanker.runtime.policy import OnnxPolicy


def add_validate(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser(
        "validate",
        help="check that a .onnx is whole and belongs to the files beside it, and prove it again",
        description=f"Without --model and --vectors, nothing in the files is run. {TRUST}",
    )
    parser.add_argument("policy", type=Path, metavar="POLICY.onnx")
    parser.add_argument("--vectors", type=Path, metavar="F.vectors.json", help="test vectors; needs no torch")
    add_model(parser, required=False)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    file = read_policy_file(options.policy)
    found = [f"{options.policy} is undamaged"]
    for partner in require_matched(options.policy, file.metadata):
        found.append(
            f"{partner.path} " + ("belongs to it" if partner.state == "matched" else "is not there to compare")
        )
    if options.vectors is not None:
        report = check_vectors(OnnxPolicy.from_file(file), read_vectors(options.vectors))
        found.append(f"it agrees with {report.n_cases} test vectors, within {report.max_difference:.2g}")
    if options.model is not None:
        found += [*_prove_again(file, options), f"it equals {options.model}"]
    for line in found:
        say(printable(line))


def _prove_again(file: PolicyFile, options: argparse.Namespace) -> list[str]:
    with required_for("sb3-clanker validate --model"):
        from sb3_clanker.export.calls import check_policy

    model, normalization = load_model(options, file)
    report = check_policy(file.data, file.metadata, model, normalization, ExportOptions())
    return [*str(report).splitlines(), f"VecNormalize statistics: {normalization.origin}"]
