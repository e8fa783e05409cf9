"""Policy files with any record, as a stranger may write them, and what is on a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import html5lib
from msgspec.structs import replace

from sb3_clanker import read_metadata
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.record import SCHEMA_VERSION, PolicyMetadata
from sb3_clanker.policy_file.seal import stamp

EXAMPLE = Path(__file__).parents[1] / "policy_file" / f"version_{SCHEMA_VERSION}.onnx"
"""A small policy with nearly every field of its record filled: a Dict of a vector and a choice, one action."""


def rewrite(path: Path, source: Path = EXAMPLE, metadata: PolicyMetadata | None = None, **fields: Any) -> Path:
    """Write a file of the same graph with other fields in its record, as sound by its digest as before."""
    body, _ = split_container(source.read_bytes())
    path.write_bytes(stamp(b"".join(body), replace(metadata or read_metadata(source), **fields)))
    return path


def parse(card: str) -> Element:
    """The elements of a card, which must be valid HTML."""
    document: Element = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(card)
    return document


def text_of(element: Element) -> str:
    """All text in an element."""
    return "".join(element.itertext())


def section(document: Element, name: str) -> str:
    """The text of a section, by its id, in one line."""
    for each in document.iter("section"):
        if each.get("aria-labelledby") == name:
            return " ".join(" ".join(each.itertext()).split())
    raise LookupError(name)
