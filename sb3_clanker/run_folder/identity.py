"""Which files belong together: whether a file is the one that the record of a policy file speaks of."""

from __future__ import annotations

import hashlib
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sb3_clanker.errors import AlgorithmFileError, ClankerError, MissingFileError, UnmatchedFilesError
from sb3_clanker.paths import is_file
from sb3_clanker.policy_file.record import PairedFile, PolicyMetadata
from sb3_clanker.run_folder.names import Checkpoint, FileKind

State = Literal["matched", "missing", "other", "unknown"]
"""It is the one; there is none; it is of another instant, or damaged; no digest shows whether it is the one."""


@dataclass(frozen=True, kw_only=True)
class Partner:
    """A file that the record of a policy file names.

    :ivar path: where it should lie: beside the policy file
    :ivar state: whether it is the one
    """

    path: Path
    state: State


def state_of(path: Path, kind: FileKind, metadata: PolicyMetadata) -> State:
    """Whether a file, whatever it is called, is of one instant with the policy file of a record.

    :param path: where it lies
    :param kind: what it is to be
    :param metadata: the record
    """
    said = recorded(kind, metadata)
    if said is True:
        return "unknown"
    if not is_file(path):
        return "missing"
    if isinstance(said, PairedFile):
        return "matched" if identify(path, said) else "other"
    with suppress(ClankerError, OSError, ValueError):  # ValueError: whatever is in a file of another kind
        if kind.policy_digest is not None and kind.policy_digest(path) == metadata.digest:
            return "matched"
    return "other"


def recorded(kind: FileKind, metadata: PolicyMetadata) -> PairedFile | bool | None:
    """What a record says of a kind of file; see :attr:`FileKind.recorded`."""
    return None if metadata.checkpoint is None else kind.recorded(metadata.checkpoint)


def find_recorded(path: Path, metadata: PolicyMetadata) -> dict[FileKind, Path]:
    """Where the files should lie that were written with a policy file, as its record says.

    :param path: the policy file
    :param metadata: its record
    """
    found = {}
    for kind, name in Checkpoint(path.stem).files.items():
        if said := recorded(kind, metadata):
            found[kind] = beside(path.parent, said) if isinstance(said, PairedFile) else path.with_name(name)
    return found


def find_partners(path: Path, metadata: PolicyMetadata) -> tuple[Partner, ...]:
    """Look beside a policy file for the files that its record names by their digests. Nothing in them is run.

    :param path: the policy file
    :param metadata: its record
    """
    files = find_recorded(path, metadata).items()
    partners = (Partner(path=file, state=state_of(file, kind, metadata)) for kind, file in files)
    return tuple(partner for partner in partners if partner.state != "unknown")


def require_matched(path: Path, metadata: PolicyMetadata) -> tuple[Partner, ...]:
    """The partners of a policy file, none of another instant.

    :raises UnmatchedFilesError: one is
    """
    partners = find_partners(path, metadata)
    if others := [partner.path.name for partner in partners if partner.state == "other"]:
        raise UnmatchedFilesError(path, others)
    return partners


def require_whole(path: Path, metadata: PolicyMetadata) -> dict[FileKind, Path]:
    """The files that were written with a policy file, all of them there.

    :raises UnmatchedFilesError: one is of another instant
    :raises MissingFileError: one is not there
    """
    require_matched(path, metadata)
    files = find_recorded(path, metadata)
    for file in files.values():
        if not is_file(file):
            raise MissingFileError(file, f"file, and {path.name} belongs to it")
    return files


def beside(folder: Path, file: PairedFile) -> Path:
    """Where a file that a record names should lie: in the folder, whatever a stranger's record says."""
    return folder / Path(file.name).name


def identify(path: Path, file: PairedFile) -> bool:
    """Whether a file is the one that a record names, whatever it is called."""
    try:
        found = pair_with_zip(path) if file.digest.startswith("zip:") else pair_with_file(path)
    except (AlgorithmFileError, OSError, ValueError):  # ValueError: a name that no file can have
        return False
    return found.digest == file.digest


def pair_with_zip(path: Path, name: str | None = None) -> PairedFile:
    """Identify a ``.zip`` by the names, sizes and CRC-32 of its members, without reading their content again.

    :param path: where it lies
    :param name: the name to record, if it is about to get another
    :raises AlgorithmFileError: it is not a whole zip file
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise AlgorithmFileError(
            path, f"this is not a zip file, or it is damaged ({error})", "Save the model again."
        ) from error
    if min((entry.header_offset for entry in entries), default=0) > 0:  # cut off within a zip that is in the zip
        raise AlgorithmFileError(path, "it is damaged: its end is missing", "Save the model again.")
    members = [(entry.filename, entry.CRC, entry.file_size) for entry in entries]
    return PairedFile(name=name or path.name, digest=f"zip:{hashlib.sha256(repr(members).encode()).hexdigest()}")


def pair_with_file(path: Path, name: str | None = None) -> PairedFile:
    """Identify a file by its SHA-256, however large it is."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 18):
            digest.update(chunk)
    return PairedFile(name=name or path.name, digest=f"sha256:{digest.hexdigest()}")
