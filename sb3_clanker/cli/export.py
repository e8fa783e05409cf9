"""``sb3-clanker export``: the policies of ``.zip`` files as proven ``.onnx`` files."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args

from sb3_clanker.cli.arguments import TRUST, Commands, Loading, add_loading
from sb3_clanker.cli.many import Done, add_many, in_short, is_one_file, run_many
from sb3_clanker.cli.text import say
from sb3_clanker.dependencies import required_for
from sb3_clanker.display import printable
from sb3_clanker.errors import ClankerError, FileInTheWayError
from sb3_clanker.formats.format import FormatName
from sb3_clanker.options import OUTPUTS, ExportOptions, FurtherOutput
from sb3_clanker.paths import is_file
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.run_folder.identity import beside, identify, state_of
from sb3_clanker.run_folder.names import KINDS, POLICY, VECTORS, ZIP, own_statistics, stem_of
from sb3_clanker.run_folder.search import Found, holds_algorithm
from sb3_clanker.targets.check import TARGETS, check_target

if TYPE_CHECKING:
    from sb3_clanker.export.publish import ExportReport

_Exported: TypeAlias = "tuple[ExportReport, list[str]]"
"""What was done, and where the statistics and the ranges come from, a line each."""


def add_export(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("export", help="write the policy of a .zip as a proven .onnx", description=TRUST)
    parser.add_argument(
        "paths",
        type=Path,
        nargs="*",
        metavar="M.zip",
        help="what model.save() wrote, or a folder: every one in it and in its folders, but those with their .onnx",
    )
    parser.add_argument("--model", type=Path, metavar="M.zip", help="the same, for one file")
    parser.add_argument("--output", metavar="F.onnx", help="where to (default: beside the .zip)")
    parser.add_argument("--opset", type=int, help="ONNX opset, 17 to 23 (default: 18)")
    parser.add_argument("--test-vectors", type=int, metavar="N", help="write N test vectors to F.vectors.json as well")
    parser.add_argument(
        "--further-output",
        action="append",
        choices=get_args(FurtherOutput),
        help="what the file gives beside the action; may be said several times",
    )
    parser.add_argument(
        "--observations",
        metavar="O.npz",
        help="raw observations that training saw, .npy or .npz, for ranges and --further-output outside "
        "(default: what the record of the .zip's own .onnx says)",
    )
    parser.add_argument(
        "--format",
        type=_formats,
        metavar="NAME,...",
        help=f"formats in which the policy is written beside the .onnx: {', '.join(get_args(FormatName))}",
    )
    parser.add_argument("--c-max-bytes", type=int, metavar="N", help="the most bytes of weights that go into C")
    parser.add_argument(
        "--c-unproven", action="store_true", default=None, help="write C also where no compiler is there to prove it"
    )
    parser.add_argument("--target", choices=TARGETS, help="the program that has to take the file")
    add_loading(parser)
    parser.add_argument("--force", action="store_true", help="of several files, export also those with an .onnx")
    parser.add_argument("--json", action="store_true", help="what became of each file, as one JSON document")
    add_many(parser)
    parser.set_defaults(run=_run, check=functools.partial(_check, parser))


def _formats(text: str) -> tuple[FormatName, ...]:
    return tuple(ExportOptions(formats=cast("tuple[FormatName, ...]", tuple(text.split(",")))).formats)


_formats.__name__ = "formats"  # argparse names it in its message


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if bool(options.paths) == (options.model is not None):
        parser.error("name the .zip: one with --model, or any number of files and folders without it")
    for name, value in (("--c-max-bytes", options.c_max_bytes), ("--c-unproven", options.c_unproven)):
        if value is not None and "c" not in (options.format or ()):
            parser.error(f"{name} is for --format c")
    if options.model is not None or is_one_file(options.paths):
        return
    if options.output is not None:
        parser.error("with several files, there is no --output: each is written beside its .zip")
    if options.observations is not None:
        parser.error("with several files, there are no --observations: they belong to one model")
    if Loading.of(options).names_a_file:
        parser.error("with several files, --vecnormalize is auto or none: statistics belong to one model")


def _run(options: argparse.Namespace) -> None:
    named = {
        "opset_version": options.opset,
        "further_outputs": options.further_output,
        "test_vectors": options.test_vectors,
        "formats": options.format,
        "c_max_bytes": options.c_max_bytes,
        "c_unproven": options.c_unproven,
        "target": options.target,
    }
    asked = {name: value for name, value in named.items() if value is not None}
    export = functools.partial(
        _export, options=ExportOptions(**asked), loading=Loading.of(options), observations=options.observations
    )
    paths = options.paths or [options.model]
    if options.json or not (options.model or is_one_file(paths)):
        already_there = functools.partial(_already_there, asked=asked, loading=Loading.of(options))
        run_many(
            functools.partial(_export_found, export, None if options.force else already_there, output=options.output),
            paths,
            ZIP,
            options,
        )
        return
    report, origins = export(paths[0], _output(paths[0], options.output))
    say(str(report.validation))
    for origin in origins:
        say(printable(origin))
    say(printable(f"wrote {report.path} ({report.size:,} bytes)"))


def _output(zip_path: Path, output: str | None) -> str | Path:
    """Where to write the policy of a ``.zip``."""
    return zip_path.parent / POLICY.name(stem_of(zip_path)) if output is None else output


def _export(
    zip_path: Path, output: str | Path, *, options: ExportOptions, loading: Loading, observations: str | None
) -> _Exported:
    with required_for("sb3-clanker export"):
        from sb3_clanker.export.calls import onnx_path, write_policy
        from sb3_clanker.export.observed import resolve_ranges
        from sb3_clanker.policy_file.spaces import describe_space

    path = onnx_path(output)
    model, normalization = loading.load(zip_path)
    space = describe_space(model.policy.observation_space, "observation")
    ranges, origin = resolve_ranges(space, observations, zip_path, options)
    report = write_policy(model, path, normalization, zip_path, options, ranges)
    origins = [f"VecNormalize statistics: {normalization.origin}"]
    return report, [*origins, f"observation ranges: {origin}"] if ranges else origins


def _export_found(
    export: Callable[[Path, str | Path], _Exported],
    already_there: Callable[[Path, Path], PolicyMetadata | None] | None,
    found: Found,
    *,
    output: str | None,
) -> Done | None:
    """Export one of several; one that was found in a folder only where it has no policy yet, or an earlier one."""
    path = _output(found.path, output)
    if not found.named:
        if not holds_algorithm(found.path):
            return None
        there = None if already_there is None else already_there(found.path, Path(path))
        if there is not None:
            return _done(there, Path(path), "is there already")
    report, origins = export(found.path, path)
    return _done(report.metadata, report.path, "written", *origins)


def _done(metadata: PolicyMetadata, path: Path, what: str, *more: str) -> Done:
    policy, check = in_short(metadata), metadata.cross_check
    return Done(
        summary="; ".join((f"{path.name} {what}", policy.summary, *more)),
        figures={
            **policy.figures,
            "output": str(path),
            "written": what == "written",
            "n_observations": None if check is None else check.n_observations,
            "max_difference": None if check is None else check.max_difference,
        },
    )


def _already_there(zip_path: Path, path: Path, asked: Mapping[str, Any], loading: Loading) -> PolicyMetadata | None:
    """The policy of a ``.zip`` that lies where it would be written; None where an earlier one does, or none at all.

    :raises FileInTheWayError: something else lies there, or it lacks what is asked of it
    """
    if not os.path.lexists(path):
        return None
    try:
        metadata = read_metadata(path)
    except (ClankerError, OSError) as error:
        raise FileInTheWayError(path, "and is no undamaged policy of this package") from error
    record = metadata.checkpoint
    if record is None or record.algorithm_file is None or Path(record.algorithm_file.name).name != zip_path.name:
        raise FileInTheWayError(path, f"and does not say that it is of {zip_path.name}")
    if not identify(zip_path, record.algorithm_file):
        return None
    own, statistics = [each for each in own_statistics(zip_path) if is_file(each)], record.statistics_file
    if statistics and not any(identify(each, statistics) for each in (beside(path.parent, statistics), *own)):
        return None  # which are the right ones is then for the export to say
    if lacks := list(_lacks(path, metadata, asked, loading)):
        raise FileInTheWayError(path, " and ".join(lacks))
    guessed = metadata.normalization.status != "folded" and not record.together and loading.vecnormalize == "auto"
    if guessed and own:
        return None  # they came after it
    return metadata


def _lacks(path: Path, metadata: PolicyMetadata, asked: Mapping[str, Any], loading: Loading) -> Iterator[str]:
    """What a policy file does not have of what is asked of it."""
    if asked.get("opset_version", metadata.opset_version) != metadata.opset_version:
        yield f"with opset {metadata.opset_version}"
    told = {spec.name for spec in metadata.outputs}
    if lacking := [name for name in asked.get("further_outputs", ()) if not told & OUTPUTS[name]]:
        yield f"without the outputs of {', '.join(lacking)}"
    if "target" in asked and not check_target(metadata, asked["target"]).accepts:
        yield f"and {asked['target']} does not take it"
    if "test_vectors" in asked and state_of(path.with_name(VECTORS.name(path.stem)), VECTORS, metadata) != "matched":
        yield "without test vectors"
    for kind in KINDS:
        if kind.format in asked.get("formats", ()):
            name = kind.name(path.stem)
            if state_of(path.parent / name, kind, metadata) != "matched":
                yield f"without its {name}"
    if loading.vecnormalize == "none" and metadata.normalization.status != "none":
        yield f"and its normalization is {metadata.normalization.status}"
