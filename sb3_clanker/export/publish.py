"""How a policy is published, alone or with its checkpoint: staged, proven, named, timed and reported."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from types import MappingProxyType

from sb3_clanker.display import Shown
from sb3_clanker.export.exporter import Exporter, ProvenPolicy
from sb3_clanker.policy_file.record import CheckpointRecord, EvaluationRecord, ObservationRanges, PolicyMetadata
from sb3_clanker.public import public
from sb3_clanker.report import ValidationReport
from sb3_clanker.run_folder.identity import pair_with_file, pair_with_zip
from sb3_clanker.run_folder.names import POLICY, REPLAY_BUFFER, STATISTICS, VECTORS, ZIP, Checkpoint, FileKind
from sb3_clanker.run_folder.publication import Publication, Write, ensure_folder
from sb3_clanker.run_folder.retention import delete_stale


@public
@dataclass(frozen=True, kw_only=True, repr=False)
class ExportReport(Shown):
    """What an export did.

    :ivar path: the file
    :ivar size: its size in bytes
    :ivar seconds: duration of each stage: ``trace`` (about 0 where an earlier one served), ``fill``, ``validate`` and
        ``write``
    :ivar validation: what the proof measured
    :ivar metadata: what the file says of itself
    """

    _in_short = ("file", "size", "proven")

    path: Path
    size: int
    seconds: dict[str, float]
    validation: ValidationReport
    metadata: PolicyMetadata

    def facts(self) -> Iterator[tuple[str, str]]:
        yield "file", str(self.path)
        yield "size", f"{self.size:,} bytes"
        yield from self.metadata.facts()
        yield from (("seconds", f"{stage} {seconds:.3f}") for stage, seconds in self.seconds.items())


def to_write(proven: ProvenPolicy) -> dict[FileKind, Write]:
    """What writes each file of a policy that has passed its proof."""
    files: dict[FileKind, Write] = {POLICY: proven.write}
    if (vectors := proven.vectors) is not None:
        files[VECTORS] = lambda file: file.write(vectors)
    return files | {kind: functools.partial(_write, data) for kind, data in proven.further.items()}


def _write(data: bytes, file: BufferedWriter) -> None:
    file.write(data)


def publish(
    exporter: Exporter,
    folder: Path,
    checkpoint: Checkpoint,
    *,
    saved: Mapping[FileKind, Write] = MappingProxyType({}),
    there: Mapping[FileKind, Path] = MappingProxyType({}),
    record: CheckpointRecord | None = None,
    evaluation: EvaluationRecord | None = None,
    ranges: ObservationRanges | None = None,
    durable: bool,
    committed: Callable[[Publication, bool], None] | None = None,
) -> ExportReport:
    """Export a policy to files of a folder, together with those that are saved of its training.

    What is saved is staged first, and gets its names whatever becomes of the rest. Otherwise nothing is written unless
    all of it is.

    :param exporter: exports the policy
    :param folder: where to; made if need be
    :param checkpoint: names of the files
    :param saved: what writes each file of the training
    :param there: files of the checkpoint that another callback has just written
    :param record: the other files of the same instant where none is saved now, None where there are none
    :param evaluation: what made the policy the best, or else the last one before
    :param ranges: what training saw of observations, None where nobody kept it
    :param durable: whether to wait until the disk has the files
    :param committed: is called with what got its name, also where the export failed, and with whether that is all
    :return: what was done and measured
    :raises PublicationError: a file cannot be written
    """
    ensure_folder(folder)
    names, whole = checkpoint.files, False
    with Publication(folder, durable=durable) as publication:
        try:
            staged = _stage(publication, names, saved)
            if staged or there:
                record = _record(names, {**staged, **there}, followed=ZIP in there)
            run = folder.resolve().name if saved or there else None
            proven = exporter.export(
                evaluation=evaluation, checkpoint=record, ranges=ranges, name=checkpoint.stem, run=run
            )
            start = time.perf_counter()
            _stage(publication, names, to_write(proven))
            whole = True
        finally:
            if saved or whole:
                publication.commit()
            if whole:
                delete_stale(folder, checkpoint, proven.metadata)
            if committed is not None:
                committed(publication, whole)
    return ExportReport(
        path=folder / names[POLICY],
        size=proven.size,
        seconds={**proven.seconds, "write": time.perf_counter() - start},
        validation=proven.validation,
        metadata=proven.metadata,
    )


def _stage(
    publication: Publication, names: Mapping[FileKind, str], files: Mapping[FileKind, Write]
) -> dict[FileKind, Path]:
    """Stage files in the order of their kinds, which is that in which they will get their names."""
    return {kind: publication.stage(name, files[kind]) for kind, name in names.items() if kind in files}


def _record(names: Mapping[FileKind, str], files: Mapping[FileKind, Path], *, followed: bool) -> CheckpointRecord:
    """What the record of a policy says of the files that are written together with it."""
    statistics = files.get(STATISTICS)
    return CheckpointRecord(
        algorithm_file=pair_with_zip(files[ZIP], names[ZIP]),
        statistics_file=pair_with_file(statistics, names[STATISTICS]) if statistics else None,
        replay_buffer=REPLAY_BUFFER in files,
        together=True,
        followed=followed,
    )
