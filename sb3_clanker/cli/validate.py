"""``sb3-clanker validate``: whether files are whole, belong to the files beside them, and do what they should."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sb3_clanker.cli.arguments import TRUST, Commands, Loading, add_loading
from sb3_clanker.cli.many import Done, add_many, in_short, is_one_file, read_found, run_many
from sb3_clanker.cli.text import say
from sb3_clanker.dependencies import required_for
from sb3_clanker.display import printable
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.documents import to_fields
from sb3_clanker.policy_file.reading import PolicyFile, read_policy_file
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.report import ValidationReport
from sb3_clanker.run_folder.identity import Partner, find_recorded, require_matched
from sb3_clanker.run_folder.names import POLICY, VECTORS, ZIP
from sb3_clanker.run_folder.search import Found
from sb3_clanker.runtime.check_vectors import VectorsReport, check_vectors
from sb3_clanker.runtime.policy import OnnxPolicy


def add_validate(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser(
        "validate",
        help="check that a .onnx is whole and belongs to the files beside it, and prove it again",
        description=f"Without --model and --vectors, nothing in the files is run. {TRUST}",
    )
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="POLICY.onnx", help="or a folder: every policy in it and in its folders"
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


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if is_one_file(options.paths):
        return
    for name, value in (("--vectors", options.vectors), ("--model", options.model)):
        if isinstance(value, Path):
            parser.error(f"with several files, {name} stands alone: each is held against its own, beside it")
    if Loading.of(options).names_a_file:
        parser.error("with several files, --vecnormalize is auto or none: statistics belong to one model")


def _run(options: argparse.Namespace) -> None:
    work = functools.partial(_validate, vectors=options.vectors, model=options.model, loading=Loading.of(options))
    if options.json or not is_one_file(options.paths):
        run_many(functools.partial(_validate_found, work), options.paths, POLICY, options)
        return
    for line in work(read_policy_file(options.paths[0])).lines():
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


def _validate_found(validate: Callable[[PolicyFile], _Checked], found: Found) -> Done | None:
    file = read_found(found)
    return None if file is None else validate(file).done()
