"""What an interruption left in a folder: finished where its parts are all there, else deleted."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from sb3_clanker.errors import ClankerError
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.run_folder.identity import recorded, state_of
from sb3_clanker.run_folder.names import POLICY, REPLAY_BUFFER, TEMPORARY, ZIP, Checkpoint, FileKind
from sb3_clanker.run_folder.publication import check_subfolder
from sb3_clanker.run_folder.retention import delete_stale

_logger = logging.getLogger("sb3_clanker")


def recover(folder: Path) -> None:
    """Finish a publication that was interrupted after its first file had got its name, and delete what else is staged.

    :param folder: a folder that nobody else writes to
    """
    staged = [path for path in folder.glob(f"{TEMPORARY}*.tmp") if path.is_file()]
    for path in staged:
        with suppress(ClankerError, OSError, ValueError):  # ValueError: a record of names that no file can have
            if not _begins_like(path, REPLAY_BUFFER):  # which may be of more bytes than there is memory
                _finish(folder, path, read_metadata(path), staged)
    for path in staged:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _finish(folder: Path, policy: Path, record: PolicyMetadata, staged: list[Path]) -> None:
    """Give the files of a checkpoint the names that they did not get, all of them or none.

    :param policy: the staged policy file, which gets its name last
    """
    if record.checkpoint is None or record.checkpoint.algorithm_file is None:
        return
    zip_name = record.checkpoint.algorithm_file.name
    checkpoint = Checkpoint(Path(zip_name).stem)
    if zip_name != checkpoint.files[ZIP] or state_of(folder / zip_name, ZIP, record) != "matched":
        return  # not even its first part had been published
    late: list[tuple[Path, Path]] = []
    for kind, name in checkpoint.files.items():
        state = state_of(folder / name, kind, record)
        if state == "unknown" and not _has_its_name(folder / name, kind, staged):
            _logger.warning(
                "%s: the publication of %s was interrupted before its %s had its name: go on from another.",
                folder,
                zip_name,
                kind.holds.removeprefix("The "),
            )
            return
        if state in ("matched", "unknown"):
            continue
        source = next((path for path in staged if state_of(path, kind, record) == "matched"), None)
        if source is not None:
            late.append((source, folder / name))
        elif recorded(kind, record):
            return
    late.append((policy, folder / checkpoint.files[POLICY]))
    for _, target in late:
        check_subfolder(target, folder)
    for source, target in late:
        target.parent.mkdir(exist_ok=True)
        source.replace(target)
    delete_stale(folder, checkpoint, record)
    _logger.warning("%s: finished the publication of %s, which had been interrupted.", folder, target.name)


def _has_its_name(path: Path, kind: FileKind, staged: list[Path]) -> bool:
    """Whether a file without a digest has got its name: then none that begins like it is staged."""
    return path.is_file() and not any(_begins_like(each, kind) for each in staged)


def _begins_like(path: Path, kind: FileKind) -> bool:
    with path.open("rb") as file:
        return file.read(len(kind.magic)) == kind.magic
