"""Weights: ``NAME.safetensors``, which the page :mod:`sb3_clanker.formats.forward` runs in numpy alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_clanker.errors import PolicyFileError
from sb3_clanker.formats.forward import DTYPES, NumpyPolicy, WeightsError
from sb3_clanker.policy_file.documents import parse_json
from sb3_clanker.policy_file.reading import decode_record, read_file
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.runtime.session import Array, Runner, one_line

METADATA, GRAPH, RECORD, SEAL = "__metadata__", "graph", "sb3_clanker", "seal"
"""Where the format of safetensors has metadata; and ours in it: JSON, JSON, and a SHA-256."""
_NO_SEAL = 64 * "0"
_ALIGNMENT = 8


def join(tensors: Mapping[str, Array], entries: Mapping[str, str]) -> bytes:
    """The bytes of a file, sealed: the same for the same content, which the library's are not."""
    header: dict[str, object] = {METADATA: {SEAL: _NO_SEAL, **entries}}
    codes = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
    chunks, end = [], 0
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):  # so all are aligned
        chunks.append(np.ascontiguousarray(array).tobytes())
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": codes[array.dtype], "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += -len(text) % _ALIGNMENT * b" "
    data = b"".join([len(text).to_bytes(8, "little"), text, *chunks])
    return data.replace(_NO_SEAL.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def read_record(data: bytes, path: Path | None = None) -> PolicyMetadata:
    """The record in the bytes of a file.

    :raises PolicyFileError: there is none, or the file was changed after it was written
    :raises MetadataError: the record is damaged
    :raises SchemaVersionError: the record has a version that this reader does not know
    """
    try:
        header: Any = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        record, digits = (header[METADATA][key] for key in (RECORD, SEAL))
        unsealed = data.replace(digits.encode(), _NO_SEAL.encode(), 1)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PolicyFileError(path, "these are no weights of a policy of this package, or they are damaged.") from error
    if hashlib.sha256(unsealed).hexdigest() != digits or not isinstance(record, str):
        raise PolicyFileError(path, "the file was changed or damaged after it was proven. Export the policy again.")
    return decode_record(record, path)


def policy_digest(path: Path) -> str:
    """The digest of the policy file that a file belongs to."""
    return read_record(read_file(path, "file of weights"), path).digest


def open_policy(data: bytes) -> Runner:
    """Load a file, for the forward pass in numpy.

    :raises PolicyFileError: as for :func:`read_record`; or its graph is not what its record says, or cannot be run
    """
    record = read_record(data)
    try:
        policy = NumpyPolicy(data)
    except WeightsError as error:
        raise PolicyFileError(None, one_line(error)) from error
    inputs = {spec.name: (spec.dtype, list(spec.shape)) for spec in record.inputs}
    if policy.inputs != inputs or policy.outputs != [spec.name for spec in record.outputs]:
        raise PolicyFileError(None, "the inputs and outputs of its graph are not those that its record says.")
    return policy
