"""Pictures as SVG in a page: escaped, coloured by its style sheet, with a text for those who do not see them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element; a trailing underscore of an attribute's name is none of it, any other is a hyphen."""
    pairs = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_attribute(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{pairs}>{''.join(map(escape, children))}</{tag}>")  # noqa: S704 - all of it is escaped


def picture(width: float, height: float, label: str, *children: object, class_: str | None = None) -> Markup:
    """A picture that is as wide as its place.

    :param label: what it shows, in words
    """
    return element(
        "svg",
        element("title", label),
        *children,
        class_=class_,
        viewBox=f"0 0 {_coordinate(width)} {_coordinate(height)}",
        role="img",
        aria_label=label,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("path", d=f"M{_coordinate(x1)} {_coordinate(y1)}L{_coordinate(x2)} {_coordinate(y2)}", class_=class_)


def path(points: Iterable[Point], class_: str, *, is_closed: bool = False) -> Markup:
    """A line through points, interrupted where one is no number."""
    steps: list[str] = []
    is_down = False
    for x, y in points:
        is_number = math.isfinite(x) and math.isfinite(y)
        if is_number:
            steps.append(f"{'L' if is_down else 'M'}{_coordinate(x)} {_coordinate(y)}")
        is_down = is_number
    return element("path", d="".join(steps) + "Z" * (is_closed and bool(steps)), class_=class_)


def steps_of(points: Sequence[Point]) -> list[Point]:
    """The corners of a line that changes only half-way between points, as an action of choices does."""
    corners: list[Point] = []
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        corners += [(x, y), ((x + next_x) / 2, y), ((x + next_x) / 2, next_y)]
    return corners + list(points[-1:])


def dot(x: float, y: float, radius: float, class_: str) -> Markup:
    """A dot."""
    return element("circle", cx=_coordinate(x), cy=_coordinate(y), r=_coordinate(radius), class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    """A rectangle."""
    return element(
        "rect",
        x=_coordinate(x),
        y=_coordinate(y),
        width=_coordinate(max(width, 0)),
        height=_coordinate(max(height, 0)),
        class_=class_,
    )


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Markup:
    """A text, its baseline at y."""
    return element(
        "text",
        content,
        x=_coordinate(x),
        y=_coordinate(y),
        class_=class_ or None,
        text_anchor=None if anchor == "start" else anchor,
    )


@dataclass(frozen=True)
class Scale:
    """Where numbers lie in a picture.

    :ivar low: the number at ``start``
    :ivar high: the number at ``end``
    :ivar start: a coordinate
    :ivar end: another
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, low: float, high: float, start: float, end: float) -> Scale:
        """One that has room, also where all numbers are the same."""
        if not low / 2 < high / 2:
            room = abs(low) * 0.1 or 1.0
            low, high = low - room, high + room
        return cls(low, high, start, end)

    def __call__(self, value: float) -> float:
        part = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)  # the difference may be no float64
        return self.start + part * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round numbers within it: multiples of 1, 2 or 5 times a power of ten."""
        span = self.high / 2 - self.low / 2
        if not 1e-300 < span < 1e300:
            return []
        for exponent in range(math.floor(math.log10(span)) - 1, math.floor(math.log10(span)) + 3):
            for factor in (1, 2, 5):
                step = factor * 10.0**exponent
                first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
                if last - first < most:
                    return [
                        round(i * step, 12 - exponent) if abs(exponent) < 12 else i * step
                        for i in range(first, last + 1)
                    ]
        return []


def _coordinate(value: float) -> str:
    value = min(max(value, -1e5), 1e5) if math.isfinite(value) else 0.0
    return f"{value:.1f}".removesuffix(".0")


def _attribute(value: object) -> str:
    return _coordinate(value) if isinstance(value, float) else str(value)
