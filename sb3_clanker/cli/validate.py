"""``sb3-clanker validate``: whether files are whole, belong to the files beside them, and do what they should."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from sb3_clanker.cli.arguments import TRUST, Commands, Loading, add_loading
from sb3_clanker.cli.many import Done, add_many, in_short, is_one_file, read_found, run_many
from sb3_clanker.cli.text import say
from sb3_clanker.dependencies import required_for
from sb3_clanker.display import printable
from sb3_clanker.errors import ClankerError, UnmatchedFilesError
from sb3_clanker.formats.format import FormatName, open_format
from sb3_clanker.options import ExportOptions
from sb3_clanker.paths import is_file, is_folder
from sb3_clanker.policy_file.documents import to_fields
from sb3_clanker.policy_file.reading import PolicyFile, read_file, read_metadata, read_policy_file
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.report import ValidationReport
from sb3_clanker.run_folder.identity import Partner, find_recorded, require_matched
from sb3_clanker.run_folder.names import KINDS, POLICY, VECTORS, ZIP, FileKind, kind_that_runs
from sb3_clanker.run_folder.search import Found
from sb3_clanker.runtime.check_vectors import VectorsReport, check_format, check_vectors
from sb3_clanker.runtime.policy import OnnxPolicy


def add_validate(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser(
        "validate",
        help="check that a .onnx is whole and belongs to the files beside it, and prove it again",
        description=f"Without --model and --vectors, nothing in the files is run. {TRUST} "
        "So does running a policy in another format than .onnx.",
    )
    parser.add_argument(
        "paths",
        type=_path,
        nargs="+",
        metavar="POLICY.onnx",
        help="or a folder: every .onnx in it and in its folders; or a policy in another format, such as F_torchscript",
    )
    parser.add_argument(
        "--vectors",
        type=Path,
        nargs="?",
        const=True,
        metavar="F.vectors.json",
        help="test vectors (default: the file's own, beside it); needs no torch",
    )
    parser.add_argument(
        "--model",
        type=Path,
        nargs="?",
        const=True,
        metavar="M.zip",
        help="prove it again, against what model.save() wrote (default: the file's own, beside it)",
    )
    add_loading(parser)
    parser.add_argument("--json", action="store_true", help="what was found of each file, as one JSON document")
    add_many(parser)
    parser.set_defaults(run=_run, check=functools.partial(_check, parser))


def _path(text: str) -> Path:
    """A file or a folder as it was named; the folder of a format stands for the file that runs."""
    path = Path(text)
    for kind in KINDS:
        folder, _, name = kind.suffix.rpartition("/")
        if folder and path.name.endswith(folder) and kind == kind_that_runs(Path(name)) and is_folder(path):
            return path / name
    return path


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.model is not None and any(map(kind_that_runs, options.paths)):
        parser.error("--model is for a .onnx, which proves its other formats by --vectors")
    if is_one_file(options.paths):
        return
    for name, value in (("--vectors", options.vectors), ("--model", options.model)):
        if isinstance(value, Path):
            parser.error(f"with several files, {name} stands alone: each is held against its own, beside it")
    if Loading.of(options).names_a_file:
        parser.error("with several files, --vecnormalize is auto or none: statistics belong to one model")


def _run(options: argparse.Namespace) -> None:
    vectors = options.vectors
    work = functools.partial(_validate, vectors=vectors, model=options.model, loading=Loading.of(options))
    if options.json or not is_one_file(options.paths):
        run_many(functools.partial(_validate_found, work, vectors=vectors), options.paths, POLICY, options)
        return
    (path,) = options.paths
    kind = kind_that_runs(path)
    checked = work(read_policy_file(path)) if kind is None else _validate_format(path, kind, vectors)
    for line in checked.lines():
        say(printable(line))


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """What was found out about a file."""

    file: PolicyFile
    partners: tuple[Partner, ...]
    vectors: VectorsReport | None = None
    model: Path | None = None
    proof: ValidationReport | None = None
    origin: str = ""

    def lines(self) -> Iterator[str]:
        """All of it, for people."""
        yield f"{self.file.path} is undamaged"
        for partner in self.partners:
            yield f"{partner.path} " + ("belongs to it" if partner.state == "matched" else "is not there to compare")
        if self.vectors is not None:
            yield f"it agrees with {self.vectors.n_cases} test vectors, within {self.vectors.max_difference:.2g}"
        if self.proof is not None:
            yield from str(self.proof).splitlines()
            yield f"VecNormalize statistics: {self.origin}"
            yield f"it equals {self.model}"

    def done(self) -> Done:
        """All of it, for a table and for programs."""
        policy = in_short(self.file.metadata)
        parts = [policy.summary]
        for state, text in (("matched", "{} beside it"), ("missing", "{} not there to compare")):
            if n_files := sum(partner.state == state for partner in self.partners):
                parts.append(text.format(f"{n_files} file{'s' * (n_files > 1)}"))
        if self.vectors is not None:
            parts.append(f"{self.vectors.n_cases} test vectors within {self.vectors.max_difference:.2g}")
        if self.model is not None:
            parts.append(f"equals {self.model.name}")
        return Done(
            summary="; ".join(parts),
            figures={
                **policy.figures,
                "partners": {partner.path.name: partner.state for partner in self.partners},
                "vectors": to_fields(self.vectors),
                "proof": to_fields(self.proof),
            },
        )


def _validate(
    file: PolicyFile, *, vectors: Path | Literal[True] | None, model: Path | Literal[True] | None, loading: Loading
) -> _Checked:
    """Check a file; of ``vectors`` and ``model``, true is the file's own."""
    path, metadata = file.path or Path(), file.metadata
    partners = require_matched(path, metadata)
    if vectors is True:
        vectors = path.with_name(VECTORS.name(path.stem))
    if model is True:
        model = find_recorded(path, metadata).get(ZIP, path.with_name(ZIP.name(path.stem)))
    checked = None if vectors is None else check_vectors(OnnxPolicy.from_file(file), read_vectors(vectors))
    if model is None:
        return _Checked(file=file, partners=partners, vectors=checked)
    with required_for("sb3-clanker validate --model"):
        from sb3_clanker.export.calls import check_policy

    algorithm, normalization = loading.load(model, file)
    proof = check_policy(file.data, metadata, algorithm, normalization, ExportOptions())
    return _Checked(
        file=file, partners=partners, vectors=checked, model=model, proof=proof, origin=normalization.origin
    )


@dataclass(frozen=True, kw_only=True)
class _CheckedFormat:
    """What was found out about a file of a format beside ONNX."""

    path: Path
    digest: str
    partners: tuple[Path, ...] = ()
    vectors: VectorsReport | None = None

    def lines(self) -> Iterator[str]:
        """All of it, for people."""
        yield f"{self.path} is undamaged"
        yield f"it is the policy with the digest {self.digest}"
        yield from (f"{path} belongs to it" for path in self.partners)
        if self.vectors is not None:
            yield f"it agrees with {self.vectors.n_cases} test vectors, within {self.vectors.max_difference:.2g}"

    def done(self) -> Done:
        """All of it, for a table and for programs."""
        n_cases = "" if self.vectors is None else f"; {self.vectors.n_cases} test vectors"
        within = "" if self.vectors is None else f" within {self.vectors.max_difference:.2g}"
        return Done(
            summary=f"of {self.digest[:19]}{n_cases}{within}",
            figures={
                "digest": self.digest,
                "partners": {path.name: "matched" for path in self.partners},
                "vectors": to_fields(self.vectors),
            },
        )


def _validate_format(path: Path, kind: FileKind, vectors: Path | Literal[True] | None) -> _CheckedFormat:
    """Check a file of a format beside ONNX; parameters as for :func:`_validate`."""
    data = read_file(path)
    digest = cast("Callable[[Path], str]", kind.policy_digest)(path)
    named = path if path.as_posix().endswith(kind.suffix) else path.absolute()  # as from within its own folder
    stem = named.as_posix().removesuffix(kind.suffix)
    partners = tuple(_partners(stem, kind, digest))
    if others := [partner.name for partner, matches in partners if not matches]:
        raise UnmatchedFilesError(path, others)
    checked = None
    if vectors is not None:
        read = read_vectors(Path(VECTORS.name(stem)) if vectors is True else vectors)
        checked = check_format(open_format(cast("FormatName", kind.format), data), digest, read)
    return _CheckedFormat(path=path, digest=digest, partners=tuple(path for path, _ in partners), vectors=checked)


def _partners(stem: str, kind: FileKind, digest: str) -> Iterator[tuple[Path, bool]]:
    """The ``.onnx`` and the files of the same format beside a file, and whether each is of the same policy."""
    for other in KINDS:
        path = Path(f"{stem}{other.suffix}")
        if other == kind or (other != POLICY and other.format != kind.format) or not is_file(path):
            continue
        try:
            found = read_metadata(path).digest if other.policy_digest is None else other.policy_digest(path)
        except (ClankerError, OSError, ValueError):
            found = ""
        yield path, found == digest


def _validate_found(
    validate: Callable[[PolicyFile], _Checked], found: Found, *, vectors: Path | Literal[True] | None
) -> Done | None:
    if (kind := kind_that_runs(found.path)) is not None:
        return _validate_format(found.path, kind, vectors).done()
    file = read_found(found)
    return None if file is None else validate(file).done()
