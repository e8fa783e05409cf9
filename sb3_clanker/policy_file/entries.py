"""The flat metadata entries beside the record: those of the clanker policy contract, and the caller's own."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sb3_clanker.errors import OptionError, ReservedMetadataKeyError
from sb3_clanker.policy_file.dialects import dialect_of
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.record import PolicyMetadata

CONTRACT_VERSION = "1.0.0"
RECORD_KEY = "sb3_clanker"
SEAL_KEY = "sb3_clanker_seal"
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
RESERVED_KEYS = (*CONTRACT_KEYS, RECORD_KEY, SEAL_KEY)


def contract_entries(metadata: PolicyMetadata) -> dict[str, str]:
    """The nine flat keys of the clanker policy contract, every value a string; none in a file that does not keep it."""
    if not dialect_of(metadata.outputs).is_contract:
        return {}
    dim = metadata.action_space.n_elements
    values = (
        CONTRACT_VERSION,
        encode(metadata.action_space),
        "none",  # clipping and unscaling are in the graph
        json.dumps([1.0] * dim),
        json.dumps([0.0] * dim),
        "stable-baselines3",
        json.dumps(metadata.recurrent),
        "false",
        "true",
    )
    return dict(zip(CONTRACT_KEYS, values, strict=True))


def entry_problems(entries: Mapping[str, str], metadata: PolicyMetadata) -> list[str]:
    """One line for every key of the contract that is not as the record has it."""
    return [
        f"{key}: expected {_excerpt(expected)}, got {_excerpt(entries.get(key))}"
        for key, expected in contract_entries(metadata).items()
        if entries.get(key) != expected
    ]


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


def _excerpt(text: str | None) -> str:
    return repr(text) if text is None or len(text) <= 200 else f"{text[:200]!r}..."


def _is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can carry."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
