"""How a thing that a caller holds shows itself: in one line, and in a notebook as a table."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator
from typing import ClassVar

_LONGEST = 200
_MOST_ROWS = 50


class Shown:
    """Shows itself by facts, which may come from a stranger's file.

    :cvar _in_short: labels of the facts that stand in its ``repr``
    """

    __slots__ = ()
    _in_short: ClassVar[tuple[str, ...]] = ()

    def facts(self) -> Iterator[tuple[str, str]]:
        """What there is to know of it: labels, which may come more than once, and texts, what matters most first."""
        yield from ()

    def __repr__(self) -> str:
        first: dict[str, str] = {}
        for label, text in self.facts():
            first.setdefault(label, text)
        texts = (short(first[label]) for label in self._in_short if label in first)
        return f"<{type(self).__name__}: {'; '.join(texts)}>"

    def _repr_html_(self) -> str:
        """A table for a notebook, in its own colours. It is text to MathJax too."""
        facts = self.facts()
        rows = [
            f"<tr>{_cell('th', label)}{_cell('td', text)}</tr>" for label, text in itertools.islice(facts, _MOST_ROWS)
        ]
        if n_more := sum(1 for _ in facts):
            rows.append(f"<tr>{_cell('th', '...')}{_cell('td', f'{n_more} more')}</tr>")
        caption = f"<caption>{type(self).__name__}</caption>"
        return f'<table class="tex2jax_ignore mathjax_ignore">{caption}{"".join(rows)}</table>'


def printable(text: str) -> str:
    """A text from a file, without what would steer a terminal or cannot be written."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def short(text: object, longest: int = _LONGEST) -> str:
    """The beginning of a text, which may be a stranger's and of any length, as one that can be printed."""
    whole = str(text)
    shown = printable(whole[:longest])  # which may have become longer
    return shown if len(whole) <= longest and len(shown) <= longest else f"{shown[:longest]}..."


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="text-align: left">{html.escape(short(text))}</{tag}>'
