"""Reading a file: its bytes, and the record in them. Nothing in it is run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_clanker.errors import (
    ForeignFileError,
    MetadataError,
    MissingFileError,
    PolicyFileError,
    SchemaVersionError,
    UnreadableFileError,
)
from sb3_clanker.paths import is_file, local_path
from sb3_clanker.policy_file.consistency import contradictions
from sb3_clanker.policy_file.container import MalformedContainerError, split_container
from sb3_clanker.policy_file.documents import decode, parse_json
from sb3_clanker.policy_file.entries import CONTRACT_KEYS, RECORD_KEY, RESERVED_KEYS, SEAL_KEY, entry_problems
from sb3_clanker.policy_file.record import SCHEMA_VERSION, PolicyMetadata
from sb3_clanker.policy_file.seal import verified_digest
from sb3_clanker.public import public


def _from_first(record: dict[str, Any]) -> dict[str, Any]:
    """The first version knew the mean reward of the best alone, and of the environment no more than its classes.

    It also got a field without another version: ``followed``.
    """
    training, checkpoint = record.get("training"), record.get("checkpoint")
    if isinstance(checkpoint, dict):
        checkpoint = {"followed": False, **checkpoint}
    if isinstance(training, dict) and "mean_reward" in training:
        mean_reward = training["mean_reward"]
        evaluation = dict.fromkeys(("std_reward", "n_episodes", "deterministic")) | {
            "role": "best",
            "source": "evaluation",
            "num_timesteps": training.get("num_timesteps"),
            "mean_reward": mean_reward,
        }
        others = {key: value for key, value in training.items() if key != "mean_reward"}
        training = {**others, "evaluation": None if mean_reward is None else evaluation}
    return {**record, "environment_spec": None, "training": training, "checkpoint": checkpoint}


def _from_second(record: dict[str, Any]) -> dict[str, Any]:
    """The second version knew nothing of what training saw."""
    return {**record, "observation_ranges": None}


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_first, 2: _from_second}
"""For each version before this one, from the fields of such a record to those of the next version."""
_UNMISTAKABLE = (RECORD_KEY, SEAL_KEY, CONTRACT_KEYS[0])
"""Keys that no other package writes: with one of them, what lacks the record is damaged."""
_MAX_RECORD_LENGTH = 1 << 24
_MAX_FILE_SIZE = (1 << 31) - 1
"""Bytes of an ONNX file, by the format's own limit."""


@dataclass(frozen=True, kw_only=True)
class PolicyFile:
    """A policy file that was read and checked.

    :ivar data: its bytes
    :ivar metadata: what it says of itself
    :ivar body: the stretches of ``data`` that hold everything but metadata; None where they were not looked for
    :ivar path: where it lies, None for bytes in memory
    """

    data: bytes
    metadata: PolicyMetadata
    body: list[memoryview] | None = None
    path: Path | None = None


@public
def read_metadata(path: str | Path) -> PolicyMetadata:
    """Read what a file says of itself, and check that it is undamaged. Nothing in the file is run.

    :param path: an ``.onnx`` file of this package
    :raises MissingFileError: there is no such file
    :raises UnreadableFileError: it cannot be read
    :raises PolicyFileError: not an ONNX file, or changed after it was written
    :raises ForeignFileError: not one of this package
    :raises MetadataError: the record is damaged; a bad field is named
    :raises SchemaVersionError: the record is of a version that this reader does not know

    >>> read_metadata("runs/cartpole/best_model.onnx").training.num_timesteps  # doctest: +SKIP
    50000
    """
    return read_policy_file(path).metadata


def read_policy_file(path: str | Path) -> PolicyFile:
    """Read and check a policy file, for whoever needs more than its metadata; errors as in :func:`read_metadata`."""
    path = local_path(path)
    return parse(read_file(path), path)


def read_file(path: Path, what: str = "policy file", largest: int = _MAX_FILE_SIZE) -> bytes:
    """The bytes of a file; never of a pipe or a device, which need not end.

    :param what: what the file is to be, for the messages
    :param largest: how many bytes it may have
    :raises MissingFileError: there is no such file
    :raises UnreadableFileError: it cannot be read, or it is larger
    """
    if not is_file(path):
        raise MissingFileError(path, what)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size) if size <= largest else b""
    except OSError as error:
        raise UnreadableFileError(path, what, error.strerror or str(error)) from error
    if size > largest:
        raise UnreadableFileError(path, what, f"it has {size:,} bytes, and {largest:,} are the most")
    return data


def parse(data: bytes, path: Path | None = None) -> PolicyFile:
    """Read and check the record in the bytes of a file; errors as in :func:`read_metadata`."""
    try:
        body, entries = split_container(data)
    except MalformedContainerError as error:
        raise PolicyFileError(path, f"this is not an ONNX file, or it is damaged: {error}.") from error
    if RECORD_KEY not in entries:
        foreign = not any(key in entries for key in _UNMISTAKABLE)
        raise (ForeignFileError if foreign else PolicyFileError)(
            path, f"there is no record {RECORD_KEY!r} in it: not a policy of this package. Export it with sb3_clanker."
        )
    own = {key: value for key, value in entries.items() if key not in RESERVED_KEYS}
    digest = verified_digest(data, n_body=sum(map(len, body)))
    metadata = _decode(entries[RECORD_KEY], own, path) if digest else None
    if metadata is None or metadata.digest != digest:
        raise PolicyFileError(path, "the file was changed or damaged after it was proven. Export the policy again.")
    if problems := entry_problems(entries, metadata):
        raise MetadataError(path, problems)
    return PolicyFile(data=data, metadata=metadata, body=body, path=path)


def decode_record(record: str, path: Path | None = None) -> PolicyMetadata:
    """Read and check a record as JSON that holds the caller's entries too, as the files of other formats have it.

    :raises MetadataError: it is damaged
    :raises SchemaVersionError: it has a version that this reader does not know
    """
    return _decode(record, None, path)


def _decode(record: str, entries: dict[str, str] | None, path: Path | None) -> PolicyMetadata:
    """A record, with the caller's entries that stand beside it; None where they stand in it."""
    if len(record) > _MAX_RECORD_LENGTH:
        raise MetadataError(path, [f"record: expected at most {_MAX_RECORD_LENGTH} characters, got {len(record)}"])
    try:
        document = parse_json(record)
    except ValueError as error:
        raise MetadataError(path, [f"record: not JSON: {error}"]) from error
    if not isinstance(document, dict):
        raise MetadataError(path, [f"record: expected an object, got {type(document).__name__}"])
    version = document.get("schema_version")
    if type(version) is not int or (version != SCHEMA_VERSION and version not in UPGRADES):
        raise SchemaVersionError(path, version, SCHEMA_VERSION)
    for earlier in range(version, SCHEMA_VERSION):
        document = UPGRADES[earlier](document)
    beside = {} if entries is None else {"entries": entries}
    try:
        metadata = decode(PolicyMetadata, {**document, "schema_version": SCHEMA_VERSION, **beside})
    except ValueError as error:
        raise MetadataError(path, [str(error)]) from error
    if problems := contradictions(
        metadata.observation_space,
        metadata.action_space,
        metadata.inputs,
        metadata.outputs,
        metadata.predict_dtype,
        metadata.recurrent,
        metadata.sampling,
        metadata.observation_ranges,
    ):
        raise MetadataError(path, problems)
    return metadata
