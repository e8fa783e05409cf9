"""``sb3-clanker inspect``: what a file says of itself, and whether a program takes it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from sb3_clanker.cli.arguments import Commands
from sb3_clanker.cli.text import printable, say
from sb3_clanker.errors import TargetError
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import EvaluationRecord, PolicyMetadata
from sb3_clanker.targets.check import TARGETS, TargetReport, check_target
from sb3_clanker.targets.target import shown

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
    facts = list(_facts(metadata))
    width = min(max(len(label) for label, _ in facts), _WIDEST_LABEL)
    return (printable(f"{label:<{width}}  {text}") for label, text in facts)


def _facts(metadata: PolicyMetadata) -> Iterator[tuple[str, str]]:
    check, training = metadata.cross_check, metadata.training
    yield "policy", f"{metadata.algorithm} ({metadata.policy_class})"
    yield "trained", f"{training.num_timesteps:,} timesteps"
    if training.evaluation is not None:
        yield _evaluation(training.evaluation)
    if check is not None:
        yield "proven", f"{check.n_observations} observations, largest difference {check.max_difference:.2g}"
    yield "observation space", str(metadata.observation_space)
    yield "action space", str(metadata.action_space)
    yield from (("input", f"{shown(spec)}: {spec.meaning}") for spec in metadata.inputs)
    yield from (("output", f"{shown(spec)}: {spec.meaning}") for spec in metadata.outputs)
    if (spec := metadata.environment_spec) is not None:
        yield "environment", f"{spec.id}({', '.join(f'{name}={value!r}' for name, value in spec.kwargs.items())})"
    yield "normalization", metadata.normalization.status
    yield "opset", f"{metadata.opset_version} (IR version {metadata.ir_version})"
    yield "created", metadata.provenance.created
    if metadata.checkpoint is not None:
        yield from (("belongs to", file.name) for file in metadata.checkpoint.files)
    yield from metadata.entries.items()
    yield "digest", f"{metadata.digest} (verified)"


def _evaluation(evaluation: EvaluationRecord) -> tuple[str, str]:
    """What made a policy the best, or what was found last before it was written."""
    facts = [
        "no mean reward" if evaluation.mean_reward is None else f"mean reward {evaluation.mean_reward:.2f}",
        *([] if evaluation.std_reward is None else [f"standard deviation {evaluation.std_reward:.2f}"]),
        *([] if evaluation.n_episodes is None else [f"{evaluation.n_episodes} episodes"]),
        *([] if evaluation.deterministic is None else ["deterministic" if evaluation.deterministic else "stochastic"]),
    ]
    label = "best by" if evaluation.role == "best" else "last found"
    return label, f"{evaluation.source} at {evaluation.num_timesteps:,} timesteps: {', '.join(facts)}"
