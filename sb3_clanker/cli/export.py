"""``sb3-clanker export``: the policy of a ``.zip`` as a proven ``.onnx``."""

from __future__ import annotations

import argparse

from sb3_clanker.cli.arguments import TRUST, Commands, add_model, load_model
from sb3_clanker.cli.text import say
from sb3_clanker.dependencies import required_for
from sb3_clanker.display import printable
from sb3_clanker.options import ExportOptions
from sb3_clanker.targets.check import TARGETS


def add_export(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("export", help="write the policy of a .zip as a proven .onnx", description=TRUST)
    parser.add_argument("--output", metavar="F.onnx", help="where to (default: beside the .zip)")
    parser.add_argument("--opset", type=int, default=18, help="ONNX opset, 17 to 23 (default: 18)")
    parser.add_argument("--test-vectors", type=int, metavar="N", help="write N test vectors to F.vectors.json as well")
    parser.add_argument("--target", choices=TARGETS, help="the program that has to take the file")
    add_model(parser, required=True)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    with required_for("sb3-clanker export"):
        from sb3_clanker.export.calls import onnx_path, write_policy

    export_options = ExportOptions(
        opset_version=options.opset, test_vectors=options.test_vectors, target=options.target
    )
    beside = options.model.parent / f"{options.model.stem}.onnx"
    path = onnx_path(beside if options.output is None else options.output)
    model, normalization = load_model(options)
    report = write_policy(model, path, normalization, options.model, export_options)
    say(str(report.validation))
    say(printable(f"VecNormalize statistics: {normalization.origin}"))
    say(printable(f"wrote {report.path} ({report.size:,} bytes)"))
