"""The command line: ``sb3-clanker export``, ``validate``, ``inspect`` and ``schema``.

Exit codes: 0, it worked; 1, it did not, with the reason in one line on standard error; 2, wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sb3_clanker import __version__
from sb3_clanker.errors import ClankerError, PublicationError, TargetError
from sb3_clanker.policy_file.json_schema import document_schema
from sb3_clanker.policy_file.record import PolicyMetadata, parse, read_file, read_metadata
from sb3_clanker.policy_file.schema import to_json
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.run_folder.identity import require_matched
from sb3_clanker.runtime.check_vectors import check_vectors
from sb3_clanker.runtime.policy import OnnxPolicy
from sb3_clanker.targets.check import TARGETS, check_target

_WIDEST_LABEL = 40
_EPILOG = "exit codes: 0 it worked, 1 it did not (the reason is one line on standard error), 2 wrong usage"
_TRUST = "Loading a .zip or a .pkl runs code that is in it: use files that you trust."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: the words after the program's name, ``sys.argv`` by default
    :return: the exit code
    """
    _open_standard_streams()
    try:
        options = _parse(arguments)
        command: Callable[[argparse.Namespace], None] = options.command
    except PublicationError as error:
        return _fail(error)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command(options)
        _flush()
    except ClankerError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail("interrupted")
    except (Exception, SystemExit) as error:  # a mistake of this package, or whatever the code in a file does
        if sys.flags.dev_mode:
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (python -X dev -m sb3_clanker shows where)")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    try:
        return _parser().parse_args(arguments)
    finally:
        _flush()  # its help is of no use where it cannot be written


def _export(options: argparse.Namespace) -> None:
    from sb3_clanker.export.calls import onnx_path, write_policy
    from sb3_clanker.options import ExportOptions
    from sb3_clanker.sb3.algorithms import load_algorithm
    from sb3_clanker.sb3.normalization import resolve_normalization

    export_options = ExportOptions(
        opset_version=options.opset, test_vectors=options.test_vectors, target=options.target
    )
    beside = options.model.parent / f"{options.model.stem}.onnx"
    path = onnx_path(beside if options.output is None else options.output)
    model = load_algorithm(options.model, options.algo)
    normalization = resolve_normalization(model, _source(options.vecnormalize), options.model)
    report = write_policy(model, path, normalization, options.model, export_options)
    _say(str(report.validation))
    _say(_printable(f"VecNormalize statistics: {normalization.origin}"))
    _say(_printable(f"wrote {report.path} ({report.size:,} bytes)"))


def _validate(options: argparse.Namespace) -> None:
    metadata = read_metadata(options.policy)
    found = [f"{options.policy} is undamaged"]
    for partner in require_matched(options.policy, metadata):
        found.append(
            f"{partner.path} " + ("belongs to it" if partner.state == "matched" else "is not there to compare")
        )
    if options.vectors is not None:
        report = check_vectors(OnnxPolicy(options.policy), read_vectors(options.vectors))
        found.append(f"it agrees with {report.n_cases} test vectors, within {report.max_difference:.2g}")
    if options.model is not None:
        found += [*_prove_again(options), f"it equals {options.model}"]
    for line in found:
        _say(_printable(line))


def _prove_again(options: argparse.Namespace) -> list[str]:
    from sb3_clanker.export.calls import check_policy
    from sb3_clanker.options import ExportOptions
    from sb3_clanker.sb3.algorithms import load_algorithm
    from sb3_clanker.sb3.normalization import resolve_normalization

    data = read_file(options.policy)
    model = load_algorithm(options.model, options.algo)
    normalization = resolve_normalization(model, _source(options.vecnormalize), options.model)
    report = check_policy(data, parse(data, options.policy), model, normalization, ExportOptions())
    return [*str(report).splitlines(), f"VecNormalize statistics: {normalization.origin}"]


def _inspect(options: argparse.Namespace) -> None:
    metadata = read_metadata(options.policy)
    if options.target is not None:
        _inspect_target(metadata, options)
        return
    if options.json:
        _say(json.dumps(to_json(metadata), indent=2))
        return
    width = min(max(len(label) for label, _ in _summary(metadata)), _WIDEST_LABEL)
    for label, text in _summary(metadata):
        _say(_printable(f"{label:<{width}}  {text}"))


def _schema(options: argparse.Namespace) -> None:
    _say(json.dumps(document_schema(options.document), indent=2))


def _inspect_target(metadata: PolicyMetadata, options: argparse.Namespace) -> None:
    report = check_target(metadata, options.target)
    if options.json:
        _say(json.dumps(to_json(report), indent=2))
    elif report.accepts:
        _say(f"{report.target} takes it" + (f", in {report.mode} mode" if report.mode else ""))
        for note in report.notes:
            _say(f"note: {note}")
    if not report.accepts:
        raise TargetError(report.target, report.problems)


def _summary(metadata: PolicyMetadata) -> list[tuple[str, str]]:
    check, training, files = metadata.cross_check, metadata.training, metadata.provenance
    reward = "" if training.mean_reward is None else f", mean reward {training.mean_reward:.2f}"
    lines = [
        ("policy", f"{metadata.algorithm} ({metadata.policy_class})"),
        ("trained", f"{training.num_timesteps:,} timesteps{reward}"),
        ("observation space", str(metadata.observation_space)),
        ("action space", str(metadata.action_space)),
        *(("input", _describe_tensor(spec)) for spec in metadata.inputs),
        *(("output", _describe_tensor(spec)) for spec in metadata.outputs),
        ("normalization", metadata.normalization.status),
        ("opset", f"{metadata.opset_version} (IR version {metadata.ir_version})"),
        ("created", files.created),
        *(("belongs to", file.name) for file in (files.algorithm_file, files.statistics_file) if file),
        *((key, value) for key, value in metadata.entries.items()),
        ("digest", f"{metadata.digest} (verified)"),
    ]
    if check is not None:
        lines.insert(
            2,
            ("proven", f"{check.n_observations} observations, largest difference {check.max_difference:.2g}"),
        )
    return lines


def _describe_tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]: {spec.meaning}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sb3-clanker", description="Proven ONNX policies from Stable-Baselines3.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"sb3-clanker {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="write the policy of a .zip as a proven .onnx", description=_TRUST)
    export.add_argument("--output", metavar="F.onnx", help="where to (default: beside the .zip)")
    export.add_argument("--opset", type=int, default=18, help="ONNX opset, 17 to 23 (default: 18)")
    export.add_argument("--test-vectors", type=int, metavar="N", help="write N test vectors to F.vectors.json as well")
    export.add_argument("--target", choices=TARGETS, help="the program that has to take the file")
    export.set_defaults(command=_export)

    validate = commands.add_parser(
        "validate",
        help="check that a .onnx is whole and belongs to the files beside it, and prove it again",
        description=f"Without --model and --vectors, nothing in the files is run. {_TRUST}",
    )
    validate.add_argument("policy", type=Path, metavar="POLICY.onnx")
    validate.add_argument("--vectors", type=Path, metavar="F.vectors.json", help="test vectors; needs no torch")
    validate.set_defaults(command=_validate)

    for command in (export, validate):
        needed = command is export
        command.add_argument("--model", type=Path, required=needed, metavar="M.zip", help="what model.save() wrote")
        command.add_argument(
            "--vecnormalize",
            default="auto",
            metavar="P.pkl|none",
            help="VecNormalize statistics, or none (default: those that are the .zip's own by name, or by its .onnx)",
        )
        command.add_argument("--algo", help="the algorithm, where the .zip does not tell, such as ppo")

    inspect = commands.add_parser("inspect", help="show what a .onnx says of itself")
    inspect.add_argument("policy", type=Path, metavar="POLICY.onnx")
    inspect.add_argument("--json", action="store_true", help="the whole record, or what is said of a target, as JSON")
    inspect.add_argument("--target", choices=TARGETS, help="say whether this program takes it, and if not, why")
    inspect.set_defaults(command=_inspect)

    schema = commands.add_parser("schema", help="print the JSON Schema of a record, or of test vectors")
    schema.add_argument("document", choices=("record", "vectors"), help="which of the two")
    schema.set_defaults(command=_schema)
    return parser


def _source(vecnormalize: str) -> str | None:
    return None if vecnormalize == "none" else vecnormalize


def _one_line(error: object) -> str:
    return _printable(" ".join(str(error).split()))


def _printable(text: str) -> str:
    """A text from a file, without what would steer a terminal or cannot be written."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


# Standard output and standard error ---------------------------------------------------------------------------------


def _say(line: str) -> None:
    """Print a line, whatever the encoding of standard output."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with _writing():
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def _flush() -> None:
    if sys.stdout is not None:
        with _writing():
            sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    """Write to standard output; a reader that wants no more (``| head``) is no error.

    :raises PublicationError: it cannot be written
    """
    try:
        yield
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left in the buffer must not fail again at the end of the process
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise PublicationError(Path("standard output"), error.strerror or str(error)) from error


def _complain(line: str) -> None:
    if sys.stderr is not None:  # print would take None for standard output
        with suppress(OSError):
            print(f"sb3-clanker: {line}", file=sys.stderr, flush=True)


def _fail(error: object) -> int:
    with suppress(PublicationError):
        _flush()
    _complain(_one_line(error))
    return 1


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _complain(f"warning: {_one_line(message)}")


def _open_standard_streams() -> None:
    """Let no file that is opened later get the number of a standard stream that is closed: libraries write there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
