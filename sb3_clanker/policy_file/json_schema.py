"""JSON Schema of what a policy file says of itself, made from the dataclasses that write and read it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from typing import Any, Literal

from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.vectors import TestVectors

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Document = Literal["record", "vectors"]

_CLASSES: dict[Document, type] = {"record": PolicyMetadata, "vectors": TestVectors}
_BESIDE = {"entries"}
"""Fields that stand beside the record, not in it."""
_VERSIONS = {"schema_version", "format_version"}
"""Fields that have one value, which a reader must know."""
_SCALARS: dict[object, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_FIELD = re.compile(r":ivar (\w+): (.*?)(?=\n:|\Z)", re.DOTALL)


def document_schema(document: Document) -> dict[str, Any]:
    """The schema of a document, as ``json.dumps`` takes it.

    :param document: ``record``, the JSON under the key ``sb3_clanker`` of a policy file; ``vectors``, a file of test
        vectors
    """
    return json_schema(_CLASSES[document])


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema, draft 2020-12, of a dataclass; every dataclass within it is a definition of its own.

    :param cls: a dataclass with the annotations that :mod:`sb3_clanker.policy_file.schema` understands
    """
    definitions: dict[str, Any] = {}
    root = _of_dataclass(cls, definitions)
    return {"$schema": DIALECT, "title": cls.__name__, **root, "$defs": dict(sorted(definitions.items()))}


def _of_dataclass(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    annotations = typing.get_type_hints(cls)
    text = inspect.getdoc(cls) or ""
    meanings = {name: _in_json(" ".join(meaning.split())) for name, meaning in _FIELD.findall(text)}
    properties = {}
    for field in dataclasses.fields(cls):
        if field.name not in _BESIDE:
            schema = {"const": field.default} if field.name in _VERSIONS else _of(annotations[field.name], definitions)
            meaning = {"description": meanings[field.name]} if field.name in meanings else {}
            properties[field.name] = meaning | schema
    return {
        "description": _in_json(text.partition("\n")[0]),
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _in_json(text: str) -> str:
    """A docstring's words as those who read JSON know them."""
    return re.sub(r"\bNone\b", "null", text.replace("``", "`"))


def _of(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(alternative, definitions) for alternative in arguments]}
    if origin is Literal:
        return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if dataclasses.is_dataclass(annotation):
        name = typing.cast("type", annotation).__name__
        if name not in definitions:
            definitions[name] = {}  # in its place before what it refers to
            definitions[name] = _of_dataclass(annotation, definitions)
        return {"$ref": f"#/$defs/{name}"}
    return {"type": _SCALARS[annotation]}
