"""Files as a stranger may write them: with any entries, and a seal that is that of the bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sb3_clanker.policy_file.container import join_container

SEAL_KEY = "sb3_clanker_seal"


def resealed(body: bytes, entries: Mapping[str, str]) -> bytes:
    """A file of these parts, with a valid seal, as anybody can compute one.

    :param body: a graph
    :param entries: metadata entries; a seal among them is left out
    """
    others = {key: value for key, value in entries.items() if key != SEAL_KEY}
    data = join_container(body, {**others, SEAL_KEY: 64 * "0"})[:-64]
    return data + hashlib.sha256(data).hexdigest().encode()
