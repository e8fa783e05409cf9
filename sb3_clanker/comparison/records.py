"""What differs in the records of two policies, field by field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sb3_clanker.display import short
from sb3_clanker.policy_file.documents import to_fields
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.report import RecordDifference

_OF_THE_FILE = ("schema_version", "checkpoint", "cross_check", "latency", "digest")
"""What belongs to one file alone: its bytes, its proof, and the files beside it."""
_NAMES = ("name", "key")
"""Fields by which one of several is known."""
_LONGEST_PATH, _LONGEST = 60, 40


def record_differences(first: PolicyMetadata, second: PolicyMetadata) -> Iterator[RecordDifference]:
    """The fields that differ, in the order of the record; what belongs to one file alone is left out."""
    for path, one, other in _differing(_comparable(first), _comparable(second), ""):
        texts = _texts(one, other)
        yield RecordDifference(path=short(path, _LONGEST_PATH), first=texts[0], second=texts[1])


def _comparable(metadata: PolicyMetadata) -> dict[str, Any]:
    fields: dict[str, Any] = to_fields(metadata)
    for name in _OF_THE_FILE:
        del fields[name]
    del fields["provenance"]["created"]
    return fields


def _differing(one: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Path and both values of what differs; a list of numbers or words is one value, as is a tensor that one lacks."""
    if one == other:
        return
    if _is_named(one) or _is_named(other):
        of_one, of_other = _by_name(one or ()), _by_name(other or ())
        for name in of_one | of_other:
            part, its, place = of_one.get(name), of_other.get(name), f"{path}[{name}]"
            if part is None or its is None:
                yield place, part, its
            else:
                yield from _differing(part, its, place)
    elif isinstance(one, dict) or isinstance(other, dict):
        one, other = one or {}, other or {}
        for name in one | other:
            yield from _differing(one.get(name), other.get(name), f"{path}.{name}" if path else name)
    else:
        yield path, one, other


def _is_named(value: Any) -> bool:
    """Whether it is several of a kind, such as the inputs."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], dict)


def _by_name(parts: Iterable[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {
        next((part[field] for field in _NAMES if part.get(field) is not None), number): part
        for number, part in enumerate(parts)
    }


def _texts(first: Any, second: Any) -> tuple[str, str]:
    """Two values in short: of long lists that are as long, how much of them differs, and where first."""
    texts = _text(first), _text(second)
    if max(map(len, texts)) <= _LONGEST:
        return texts
    lists = isinstance(first, (list, tuple)) and isinstance(second, (list, tuple))
    if lists and len(first) == len(second):
        places = [place for place, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]]
        one, other = _text(first[places[0]]), _text(second[places[0]])
        where = f"{len(places):,} of {len(first):,} differ, the first [{places[0]}]"
        return f"{where}: {short(one, _LONGEST)}", short(other, _LONGEST)
    return short(texts[0], _LONGEST), short(texts[1], _LONGEST)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(_text(part) for part in value.values() if part is not None)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:,}" if type(value) is int else str(value)
