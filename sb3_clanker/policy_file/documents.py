"""JSON documents as frozen Structs: written and read strictly, and their JSON Schema.

``msgspec`` reads, checks and describes; here stands what it takes and we do not: NaN and infinity, a key that stands
twice, a field that is not there.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from typing import Any, TypeVar

import msgspec

from sb3_clanker.display import printable

DIALECT = "https://json-schema.org/draft/2020-12/schema"

T = TypeVar("T", bound=msgspec.Struct)

_LONGEST = 200
"""Characters of a path, or of what is wrong there: a hostile document has names of any length."""
_AT = " - at `$"
"""Stands between what is wrong and where, in the words of msgspec."""
_BESIDE = ("entries",)
"""Fields that stand beside the document, not in it."""
_VERSIONS = ("schema_version", "format_version")
"""Fields that have one value, which a reader must know."""
_FIELD = re.compile(r":ivar (\w+): (.*?)(?=\n\s*:|\Z)", re.DOTALL)


def to_fields(value: object) -> Any:
    """A Struct as what ``json.dumps`` takes."""
    return msgspec.to_builtins(value, enc_hook=_to_builtin)


def encode(value: object, indent: int | None = None) -> str:
    """A Struct as JSON.

    :raises ValueError: a number in it is NaN or infinite
    """
    return json.dumps(to_fields(value), allow_nan=False, indent=indent)


def parse_json(text: str | bytes) -> object:
    """Parse JSON, and nothing but JSON: no NaN, no Infinity, no key twice in one object.

    :raises ValueError: it is none, or it is nested without end
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_to_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def decode(cls: type[T], document: object) -> T:
    """Read a Struct from parsed JSON; every field must be there, and no other.

    :raises ValueError: it does not fit; the first field that does not is named by its path
    """
    try:
        decoded = msgspec.convert(document, cls)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(_AT)
        raise ValueError(_located(path.rstrip("`"), problem[:1].lower() + problem[1:])) from error
    _check(document, to_fields(decoded))
    return decoded


def json_schema(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema, draft 2020-12, of a document; every Struct within it is a definition of its own.

    What the fields mean is taken from the docstrings.
    """
    definitions: dict[str, Any] = dict(sorted(msgspec.json.schema(cls)["$defs"].items()))
    for definition in definitions.values():
        text = definition["description"]
        definition["description"] = _in_json(text.partition("\n")[0])
        meanings = {name: _in_json(" ".join(meaning.split())) for name, meaning in _FIELD.findall(text)}
        properties = {name: of_field for name, of_field in definition["properties"].items() if name not in _BESIDE}
        for name, of_field in properties.items():
            default = of_field.pop("default", None)
            properties[name] = ({"description": meanings[name]} if name in meanings else {}) | (
                {"const": default} if name in _VERSIONS else of_field
            )
        definition |= {"properties": properties, "required": list(properties)}
    return {"$schema": DIALECT, **definitions.pop(cls.__name__), "$defs": definitions}


def _to_builtin(value: object) -> float:
    """A float64 of numpy is a float, but not to msgspec."""
    if not isinstance(value, float):
        raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
    return float(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _to_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for index, key in enumerate(keys) if entries.pop(key, keys) is keys)
        raise ValueError(f"the key {reprlib.repr(twice)} stands twice in an object")
    return entries


def _check(given: Any, whole: Any, path: str = "") -> None:
    """Refuse what msgspec takes: no value for a field that has a default, and a number that no float64 holds."""
    if isinstance(whole, dict):
        for key, value in whole.items():
            if key not in given:
                raise ValueError(_located(path, f"object missing required field `{key}`"))
            _check(given[key], value, f"{path}.{key}")
    elif isinstance(whole, tuple) and whole and isinstance(whole[0], dict):
        for index, (item, value) in enumerate(zip(given, whole, strict=True)):
            _check(item, value, f"{path}[{index}]")
    elif any(infinity in (whole if isinstance(whole, tuple) else (whole,)) for infinity in (math.inf, -math.inf)):
        raise ValueError(_located(path, "number out of range"))  # json makes infinity of too large an exponent


def _located(path: str, problem: str) -> str:
    path, problem = path.lstrip(".")[:_LONGEST], problem[:_LONGEST]
    return printable(f"{path}: {problem}" if path else problem)


def _in_json(text: str) -> str:
    """A docstring's words as those who read JSON know them."""
    return re.sub(r"\bNone\b", "null", text.replace("``", "`"))
