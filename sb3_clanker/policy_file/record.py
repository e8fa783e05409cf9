"""The record in a file: what it holds, how it is written, how it is read and checked.

A file carries the nine flat keys of the clanker policy contract, the caller's own flat keys, and one further key,
``sb3_clanker``, with the record: one JSON document, :class:`PolicyMetadata`.

To change the record: add, rename or drop fields, raise ``SCHEMA_VERSION`` by one, and teach :func:`parse` to read
the version before. A reader refuses a version that it does not know.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from sb3_clanker.errors import (
    MetadataError,
    MissingFileError,
    OptionError,
    PolicyFileError,
    ReservedMetadataKeyError,
    SchemaVersionError,
    UnreadableFileError,
)
from sb3_clanker.paths import is_file, local_path
from sb3_clanker.policy_file.consistency import contradictions
from sb3_clanker.policy_file.container import MalformedContainerError, join_container, split_container
from sb3_clanker.policy_file.schema import from_json, parse_json, to_json
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace
from sb3_clanker.policy_file.tensors import Sampling, TensorSpec
from sb3_clanker.report import CrossCheckRecord, LatencyRecord

SCHEMA_VERSION = 1
CONTRACT_VERSION = "1.0.0"
RECORD_KEY = "sb3_clanker"
CONTRACT_KEYS = (
    "clanker_policy_version",
    "action_space",
    "action_transform",
    "action_scale",
    "action_offset",
    "training_framework",
    "recurrent",
    "deterministic_mode",
    "batch_inference",
)
RESERVED_KEYS = (*CONTRACT_KEYS, RECORD_KEY)

_MAX_RECORD_LENGTH = 1 << 24
_LARGE_BODY = 1 << 20
"""Bytes of a graph that are worth a thread of their own."""
_MAX_FILE_SIZE = (1 << 31) - 1
"""Bytes of an ONNX file, by the format's own limit."""
_NO_SEAL = '"seal": ""'
"""Stands once in a record without a seal: quotes in a text are escaped."""


@dataclass(frozen=True, kw_only=True)
class NormalizationRecord:
    """VecNormalize, as it stands in the graph.

    :ivar status: ``folded``: the graph normalizes, feed raw observations; ``none``: the policy was trained on raw
        observations; ``unknown``: nothing told, and the graph does not normalize
    :ivar keys: the keys of a Dict space that are normalized, empty for any other space
    :ivar clip_obs: largest absolute value after normalization
    :ivar epsilon: added to the variance
    """

    status: Literal["folded", "none", "unknown"]
    keys: tuple[str, ...] = ()
    clip_obs: float | None = None
    epsilon: float | None = None


@dataclass(frozen=True, kw_only=True)
class FrameStackRecord:
    """Frames that an observation consists of; a consumer stacks them itself, the newest last.

    :ivar key: the key of a Dict space, None for any other
    :ivar n_stack: how many frames
    :ivar axis: along which axis of one observation, counted from the last
    :ivar padding: what stands in place of frames before the first of an episode: one raw value for all elements of a
        frame, or one for each in row-major order
    :ivar padding_error: how far the padding, normalized in float32, is from the exact zero of the training
    """

    key: str | None
    n_stack: int
    axis: int
    padding: float | tuple[float, ...]
    padding_error: float


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How far training was.

    :ivar num_timesteps: environment steps taken
    :ivar mean_reward: mean episode reward of the evaluation that led to this file, None without one
    """

    num_timesteps: int
    mean_reward: float | None


@dataclass(frozen=True, kw_only=True)
class PairedFile:
    """A file that was written beside this one, from the same instant.

    :ivar name: its name, without a folder
    :ivar digest: ``zip:`` and the SHA-256 of its directory for a ``.zip``, else ``sha256:`` and that of its bytes
    """

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the file comes from.

    :ivar created: UTC time in ISO 8601
    :ivar versions: versions of Python and of the packages that took part
    :ivar algorithm_file: the ``.zip`` of Stable-Baselines3 that belongs to this file
    :ivar statistics_file: the VecNormalize statistics that belong to it
    :ivar together: whether these files were written together with this one, by :class:`OnnxCheckpointCallback`
    :ivar replay_buffer: whether the replay buffer of the same instant was too
    :ivar seal: ``sha256:`` and the digest of this record, taken with an empty seal; :attr:`PolicyMetadata.digest` is in
        it, so that it covers graph and weights as well
    """

    created: str
    versions: dict[str, str]
    algorithm_file: PairedFile | None = None
    statistics_file: PairedFile | None = None
    together: bool = False
    replay_buffer: bool = False
    seal: str = ""


@dataclass(frozen=True, kw_only=True)
class PolicyMetadata:
    """Everything that a file says of itself.

    :ivar schema_version: version of this record
    :ivar algorithm: class name of the algorithm, such as ``PPO``
    :ivar policy_class: full name of the policy's class
    :ivar observation_space: space of one raw observation
    :ivar action_space: space of one action
    :ivar inputs: inputs of the graph, in order
    :ivar outputs: outputs of the graph, in order
    :ivar predict_dtype: numpy's name of the element type in which ``predict`` returns actions
    :ivar recurrent: whether the policy carries a state from step to step
    :ivar sampling: how an action is drawn from the distribution that the file tells, None where it tells none
    :ivar opset_version: ONNX opset of the graph
    :ivar ir_version: ONNX IR version of the file
    :ivar normalization: VecNormalize, as it stands in the graph
    :ivar frame_stacks: frames that observations consist of, empty where they are not stacked by VecFrameStack
    :ivar environment: class names of the training environment and its wrappers, outermost first
    :ivar control_period: seconds from one action to the next, None where the caller gave none
    :ivar training: how far training was
    :ivar provenance: where the file comes from
    :ivar cross_check: what the proof measured
    :ivar latency: how long a prediction takes, None where no promise was asked for
    :ivar digest: ``sha256:`` and the digest of graph and weights: of all bytes of the file but its metadata entries
    :ivar entries: the caller's own flat keys (beside the record, not in it)
    """

    schema_version: int = SCHEMA_VERSION
    algorithm: str
    policy_class: str
    observation_space: ObservationSpace
    action_space: LeafSpace
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    predict_dtype: str
    recurrent: bool
    sampling: Sampling | None = None
    opset_version: int
    ir_version: int
    normalization: NormalizationRecord
    frame_stacks: tuple[FrameStackRecord, ...] = ()
    environment: tuple[str, ...] = ()
    control_period: float | None = None
    training: TrainingRecord
    provenance: Provenance
    cross_check: CrossCheckRecord | None = None
    latency: LatencyRecord | None = None
    digest: str = ""
    entries: dict[str, str] = field(default_factory=dict)


def contract_entries(metadata: PolicyMetadata) -> dict[str, str]:
    """The nine flat keys of the clanker policy contract, every value a string."""
    dim = metadata.action_space.n_elements
    values = (
        CONTRACT_VERSION,
        json.dumps(to_json(metadata.action_space)),
        "none",  # clipping and unscaling are in the graph
        json.dumps([1.0] * dim),
        json.dumps([0.0] * dim),
        "stable-baselines3",
        json.dumps(metadata.recurrent),
        "false",
        "true",
    )
    return dict(zip(CONTRACT_KEYS, values, strict=True))


def check_entries(entries: object) -> Mapping[str, str]:
    """Check the caller's own entries.

    :raises OptionError: not a mapping of strings to strings
    :raises ReservedMetadataKeyError: a key is kept for the format
    """
    if not isinstance(entries, Mapping) or not all(
        _is_text(key) and key and _is_text(value) for key, value in entries.items()
    ):
        raise OptionError("metadata", entries, "a mapping of non-empty strings to strings")
    for key in entries:
        if key in RESERVED_KEYS:
            raise ReservedMetadataKeyError(key, RESERVED_KEYS)
    return entries


def stamp(body: bytes, metadata: PolicyMetadata) -> bytes:
    """Append the metadata to a graph.

    :param body: a serialized ``ModelProto`` without metadata entries; it stands in the result byte for byte
    :param metadata: the record; its digest and seal are computed here
    """
    return join_container(body, contract_entries(metadata)) + seal(metadata, Hashing([body]))[0]


class Hashing:
    """The digest of a graph, computed beside other work where the graph is large.

    :param body: the stretches of a serialized ``ModelProto`` without metadata entries
    """

    def __init__(self, body: Sequence[bytes | memoryview]) -> None:
        self._body = body
        self._digest = ""
        self._thread: threading.Thread | None = None
        if sum(map(len, body)) < _LARGE_BODY:
            self._run()
        else:
            self._thread = threading.Thread(target=self._run)
            self._thread.start()

    def _run(self) -> None:
        self._digest = _digest(self._body)

    def result(self) -> str:
        """The digest, as it stands in the record."""
        if self._thread is not None:
            self._thread.join()
        return self._digest


def seal(metadata: PolicyMetadata, hashing: Hashing) -> tuple[bytes, PolicyMetadata]:
    """What follows graph and contract entries in a file, and the record in it, digest and seal set; see :func:`stamp`.

    :param metadata: the record
    :param hashing: the digest of the graph
    """
    metadata = replace(metadata, digest=hashing.result(), provenance=replace(metadata.provenance, seal=""))
    record = _encode(metadata)
    seal = _digest([record.encode()])
    record = record.replace(_NO_SEAL, json.dumps({"seal": seal})[1:-1])
    tail = join_container(b"", {**metadata.entries, RECORD_KEY: record})
    return tail, replace(metadata, provenance=replace(metadata.provenance, seal=seal))


def read_metadata(path: str | Path) -> PolicyMetadata:
    """Read what a file says of itself, and check that it is undamaged. Nothing in the file is run.

    :param path: an ``.onnx`` file of this package
    :raises MissingFileError: there is no such file
    :raises UnreadableFileError: it cannot be read
    :raises PolicyFileError: not an ONNX file, not one of this package, or changed after it was written
    :raises MetadataError: the record is damaged; every bad field is named
    :raises SchemaVersionError: the record is of a version that this reader does not know

    >>> read_metadata("runs/cartpole/best_model.onnx").training.num_timesteps  # doctest: +SKIP
    50000
    """
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


def parse(data: bytes, path: Path | None = None) -> PolicyMetadata:
    """Read and check the record in the bytes of a file; errors as in :func:`read_metadata`."""
    try:
        body, entries = split_container(data)
    except MalformedContainerError as error:
        raise PolicyFileError(path, f"this is not an ONNX file, or it is damaged: {error}.") from error
    if RECORD_KEY not in entries:
        raise PolicyFileError(
            path, f"there is no record {RECORD_KEY!r} in it: not a policy of this package. Export it with sb3_clanker."
        )
    record = entries.pop(RECORD_KEY)
    metadata = _decode(record, {key: value for key, value in entries.items() if key not in CONTRACT_KEYS}, path)
    seal = metadata.provenance.seal
    if metadata.digest != _digest(body) or seal != _digest([record.replace(seal, "", 1).encode()]):
        raise PolicyFileError(path, "the file was changed or damaged after it was proven. Export the policy again.")
    if problems := contradictions(
        metadata.observation_space,
        metadata.action_space,
        metadata.inputs,
        metadata.outputs,
        metadata.predict_dtype,
        metadata.recurrent,
        metadata.sampling,
    ):
        raise MetadataError(path, problems)
    expected = contract_entries(metadata)
    problems = [
        f"{key}: expected {_excerpt(expected[key])}, got {_excerpt(entries.get(key))}"
        for key in CONTRACT_KEYS
        if entries.get(key) != expected[key]
    ]
    if problems:
        raise MetadataError(path, problems)
    return metadata


def _excerpt(text: str | None) -> str:
    return repr(text) if text is None or len(text) <= 200 else f"{text[:200]!r}..."


def _is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can carry."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _encode(metadata: PolicyMetadata) -> str:
    document = to_json(metadata)
    del document["entries"]
    return json.dumps(document, allow_nan=False)


def _decode(record: str, entries: dict[str, str], path: Path | None) -> PolicyMetadata:
    if len(record) > _MAX_RECORD_LENGTH:
        raise MetadataError(path, [f"record: expected at most {_MAX_RECORD_LENGTH} characters, got {len(record)}"])
    try:
        document = parse_json(record)
    except ValueError as error:
        raise MetadataError(path, [f"record: not JSON: {error}"]) from error
    if not isinstance(document, dict):
        raise MetadataError(path, [f"record: expected an object, got {type(document).__name__}"])
    version = document.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise SchemaVersionError(path, version, SCHEMA_VERSION)
    problems: list[str] = []
    metadata = from_json(PolicyMetadata, {**document, "entries": entries}, problems)
    if metadata is None:
        raise MetadataError(path, problems)
    return metadata


def _digest(stretches: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for stretch in stretches:
        digest.update(stretch)
    return f"sha256:{digest.hexdigest()}"
