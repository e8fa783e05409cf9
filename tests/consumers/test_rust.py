"""The Rust source of examples/rust, which is not compiled here: held to the schemas of what it reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "examples" / "rust" / "src"
READ = {
    "record": {"schema_version", "inputs", "outputs", "digest"},
    "tensor": {"name", "dtype", "shape", "role"},
    "vectors": {"format_version", "digest", "outputs", "cases"},
    "case": {"inputs", "outputs"},
    "output": {"name", "atol", "rtol"},
}
"""What the source takes from the JSON of a policy file and of its test vectors."""


class Schema:
    """A part of one of the schemas in docs/."""

    def __init__(self, root: Any, part: Any) -> None:
        self._root = root
        while "$ref" in part:
            part = root["$defs"][part["$ref"].rsplit("/", 1)[-1]]
        self._part = part

    @classmethod
    def read(cls, name: str) -> Schema:
        root = json.loads((ROOT / "docs" / f"{name}.schema.json").read_text())
        return cls(root, root)

    @property
    def fields(self) -> set[str]:
        return set(self._part["properties"])

    def field(self, name: str) -> Schema:
        return Schema(self._root, self._part["properties"][name])

    @property
    def item(self) -> Schema:
        return Schema(self._root, self._part["items"])

    def accepts(self, value: Any) -> bool:
        document = {"$defs": self._root.get("$defs", {}), **self._part}
        return bool(jsonschema.Draft202012Validator(document).is_valid(value))


RECORD, VECTORS = Schema.read("policy-record"), Schema.read("test-vectors")
THERE_ARE: Mapping[str, set[str]] = {
    "record": RECORD.fields,
    "tensor": RECORD.field("inputs").item.fields & RECORD.field("outputs").item.fields,
    "vectors": VECTORS.fields,
    "case": VECTORS.field("cases").item.fields,
    "output": VECTORS.field("outputs").item.fields,
}


@pytest.fixture
def library() -> str:
    return (SOURCES / "lib.rs").read_text()


@pytest.fixture
def program() -> str:
    return (SOURCES / "main.rs").read_text()


def _fields_read(library: str, program: str) -> dict[str, set[str]]:
    """What the sources index with a text, by what the indexed variable holds."""
    fields: dict[str, set[str]] = {}
    for source, spec in ((library, "tensor"), (program, "output")):
        owners = {"record": "record", "spec": spec, "vectors": "vectors", "case": "case"}
        found = re.findall(r'(\w+)\["(\w+)"\]', source) + [
            ("spec", key) for key in re.findall(r'text\("(\w+)"', source)
        ]
        for variable, field in found:
            fields.setdefault(owners[variable], set()).add(field)
    return fields


def _unknown(library: str, program: str) -> dict[str, set[str]]:
    """The fields among them that no schema has."""
    read = _fields_read(library, program)
    return {owner: unknown for owner, fields in read.items() if (unknown := fields - THERE_ARE[owner])}


def test_reads_fields_that_there_are(library: str, program: str) -> None:
    assert _fields_read(library, program) == READ
    assert _unknown(library, program) == {}


def test_a_field_that_there_is_not_would_be_noticed(library: str, program: str) -> None:
    assert _unknown(library.replace('spec["shape"]', 'spec["size"]'), program) == {"tensor": {"size"}}
    assert _unknown(library, program.replace('case["inputs"]', 'case["input"]')) == {"case": {"input"}}


def test_knows_the_versions(library: str, program: str) -> None:
    for schema, field, source in ((RECORD, "schema_version", library), (VECTORS, "format_version", program)):
        version, *_ = re.findall(rf'{field}"\] == (\d+)', source)
        assert schema.field(field).accepts(int(version))
        assert not schema.field(field).accepts(int(version) + 1)


def test_knows_the_state_and_the_types(library: str) -> None:
    role, dtype = (RECORD.field("inputs").item.field(name) for name in ("role", "dtype"))
    roles = set(re.findall(r'"(\w+_state|episode_start)"', library))
    assert roles == {"hidden_state", "cell_state", "episode_start"}
    assert all(role.accepts(name) for name in roles)
    assert not role.accepts("state")
    types = set(re.findall(r'"(\w+)" => \w+::datum_type', library))
    assert types == {"float32", "uint8", "bool"}
    assert all(dtype.accepts(name) for name in types)
    assert all(VECTORS.field("inputs").item.field("dtype").accepts(name) for name in types)
