"""The seal: the last metadata entry, over every byte of the file before it.

Its value is the SHA-256 of all that stands before its own 64 digits, so that ``head -c -64 FILE | sha256sum`` equals
``tail -c 64 FILE``. One pass over a file gives both of its hashes: what is hashed when the graph ends is
:attr:`PolicyMetadata.digest`, and what is hashed when the digits begin is the seal.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from sb3_clanker.policy_file.container import join_container
from sb3_clanker.policy_file.documents import encode, to_fields
from sb3_clanker.policy_file.entries import RECORD_KEY, SEAL_KEY, contract_entries
from sb3_clanker.policy_file.record import PolicyMetadata

if TYPE_CHECKING:
    from hashlib import _Hash

_LARGE_BODY = 1 << 20
"""Bytes of a graph that are worth a thread of their own."""
_N_DIGITS = 64
_OPENING = join_container(b"", {SEAL_KEY: _N_DIGITS * "0"})[:-_N_DIGITS]
"""What stands before the digits."""


class Hashing:
    """The hash of a graph, computed beside other work where the graph is large.

    :param body: the stretches of a serialized ``ModelProto`` without metadata entries
    """

    def __init__(self, body: Sequence[bytes | memoryview]) -> None:
        self._body = body
        self._hash = hashlib.sha256()
        self._thread: threading.Thread | None = None
        if sum(map(len, body)) < _LARGE_BODY:
            self._run()
        else:
            self._thread = threading.Thread(target=self._run)
            self._thread.start()

    def _run(self) -> None:
        for stretch in self._body:
            self._hash.update(stretch)

    def result(self) -> _Hash:
        """The hash, to go on with."""
        if self._thread is not None:
            self._thread.join()
        return self._hash.copy()


def stamp(body: bytes, metadata: PolicyMetadata) -> bytes:
    """Append the metadata to a graph.

    :param body: a serialized ``ModelProto`` without metadata entries; it stands in the result byte for byte
    :param metadata: the record; its digest is computed here
    """
    return join_container(body, contract_entries(metadata)) + seal(metadata, Hashing([body]))[0]


def seal(metadata: PolicyMetadata, hashing: Hashing) -> tuple[bytes, PolicyMetadata]:
    """What follows graph and contract entries in a file, and the record in it, its digest set; see :func:`stamp`.

    :param metadata: the record
    :param hashing: the hash of the graph
    :raises ValueError: a number in the record is NaN or infinite
    """
    hashed = hashing.result()
    metadata = msgspec.structs.replace(metadata, digest=_digest(hashed))
    document = to_fields(metadata)
    entries = document.pop("entries")
    tail = join_container(b"", {**entries, RECORD_KEY: encode(document)}) + _OPENING
    hashed.update(join_container(b"", contract_entries(metadata)) + tail)
    return tail + hashed.hexdigest().encode(), metadata


def verified_digest(data: bytes, n_body: int) -> str | None:
    """The digest of the graph in a file, None where the seal is not that of the bytes before it.

    :param data: the bytes of the file
    :param n_body: how many of them are not metadata; in a file of this package they stand first
    """
    view = memoryview(data)
    hashed = hashlib.sha256(view[:n_body])
    digest = _digest(hashed)
    hashed.update(view[n_body:-_N_DIGITS])
    return digest if data.endswith(_OPENING + hashed.hexdigest().encode()) else None


def _digest(hashed: _Hash) -> str:
    return f"sha256:{hashed.hexdigest()}"
