"""Which files belong together: the ``.zip`` and the statistics that the record of an ``.onnx`` names, by digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sb3_clanker.errors import CheckpointError, UnmatchedFilesError
from sb3_clanker.paths import is_file
from sb3_clanker.policy_file.record import PairedFile, PolicyMetadata
from sb3_clanker.run_folder.publication import pair_with_file, pair_with_zip


@dataclass(frozen=True, kw_only=True)
class Partner:
    """A file that the record of a policy file names.

    :ivar path: where it should lie: beside the policy file
    :ivar state: ``matched``: it is the one; ``missing``; ``other``: a file of that name, of another instant or damaged
    """

    path: Path
    state: Literal["matched", "missing", "other"]


def find_partners(path: Path, metadata: PolicyMetadata) -> tuple[Partner, ...]:
    """Look for the ``.zip`` and the statistics of a policy file beside it. Nothing in them is run.

    :param path: the policy file
    :param metadata: its record
    """
    files = metadata.checkpoint.files if metadata.checkpoint else ()
    found = ((beside(path.parent, file), file) for file in files)
    return tuple(Partner(path=partner, state=_state(partner, file)) for partner, file in found)


def require_matched(path: Path, metadata: PolicyMetadata) -> tuple[Partner, ...]:
    """The partners of a policy file, none of another instant.

    :raises UnmatchedFilesError: one is
    """
    partners = find_partners(path, metadata)
    if others := [partner.path.name for partner in partners if partner.state == "other"]:
        raise UnmatchedFilesError(path, others)
    return partners


def beside(folder: Path, file: PairedFile) -> Path:
    """Where a file that a record names should lie: in the folder, whatever a stranger's record says."""
    return folder / Path(file.name).name


def identify(path: Path, file: PairedFile) -> bool:
    """Whether a file is the one that a record speaks of, whatever it is called."""
    try:
        found = pair_with_zip(path) if file.digest.startswith("zip:") else pair_with_file(path)
    except (CheckpointError, OSError, ValueError):  # ValueError: a name that no file can have
        return False
    return found.digest == file.digest


def _state(path: Path, file: PairedFile) -> Literal["matched", "missing", "other"]:
    if not is_file(path):
        return "missing"
    return "matched" if identify(path, file) else "other"
