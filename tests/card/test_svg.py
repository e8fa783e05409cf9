"""Pictures: everything in them is escaped, and any number has a place."""

from __future__ import annotations

import math

import pytest

from sb3_clanker.card.svg import Scale, element, path, picture, steps_of, text
from sb3_clanker.card.wording import count, milliseconds, number, short, size, with_spread


def test_everything_is_escaped() -> None:
    nasty = "</text><script>\"'&"
    escaped = "&lt;/text&gt;&lt;script&gt;&#34;&#39;&amp;"
    assert text(1, 2, nasty) == f'<text x="1" y="2">{escaped}</text>'
    assert picture(10, 5.25, nasty) == (
        f'<svg viewBox="0 0 10 5.2" role="img" aria-label="{escaped}"><title>{escaped}</title></svg>'
    )
    assert element("g", text(0, 0, "a"), class_="b") == '<g class="b"><text x="0" y="0">a</text></g>'


def test_a_line_is_interrupted_where_there_is_no_number() -> None:
    assert path([(0, 0), (1, 1), (2, math.nan), (3, 3), (4, math.inf), (1e300, 5)], "line") == (
        '<path d="M0 0L1 1M3 3M100000 5" class="line"></path>'
    )
    assert steps_of([(0.0, 1.0), (2.0, 3.0)]) == [(0, 1), (1, 1), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (-0.21, 0.21, [-0.2, -0.1, 0, 0.1, 0.2]),
        (0.0, 28000.0, [0, 5000, 10000, 15000, 20000, 25000]),
        (5.0, 5.0, [4.5, 4.6, 4.7, 4.8, 4.9, 5.0, 5.1, 5.2, 5.3, 5.4, 5.5][::2]),
        (-1e300, 1e300, []),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    found = Scale.over(low, high, 0, 100).ticks(6)
    if low < high:
        assert found == pytest.approx(ticks)
    assert len(found) <= 6


@pytest.mark.parametrize(("low", "high"), [(-1.7e308, 1.7e308), (0.0, 5e-324), (1e308, 1e308), (3.0, -3.0)])
def test_any_numbers_have_a_place(low: float, high: float) -> None:
    scale = Scale.over(low, high, 10, 20)
    assert all(math.isfinite(scale(value)) for value in (low, high, 0.0))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (-1.5, "\u22121.5"),
        (1234567.0, "1,234,567"),
        (12345678.0, "1.23e7"),
        (0.00001234, "1.23e\u22125"),
        (1e-5, "1e\u22125"),
        (math.inf, "\u221e"),
        (-math.inf, "\u2212\u221e"),
        (math.nan, "none"),
        (None, "none"),
        (-1234, "\u22121,234"),
        (10**400, "beyond 10^15"),
    ],
)
def test_numbers_are_said_as_people_do(value: float | None, said: str) -> None:
    assert number(value) == said


def test_figures_are_said_as_people_do() -> None:
    assert (count(1, "step"), count(2000, "step")) == ("1 step", "2,000 steps")
    assert (size(999), size(23_596), size(6_747_000)) == ("999 bytes", "23.6 kB", "6.75 MB")
    assert (milliseconds(0.0115), milliseconds(2.5)) == (("11.5", "\u00b5s"), ("2.5", "ms"))
    assert with_spread(0.000304, 0.63) == "0 \u00b1 0.63"
    assert with_spread(-145.26, 44.84) == "\u2212145.3 \u00b1 44.8"
    assert short("a\nb\u202e" + 100 * "c", 12) == "a\\nb\\u202ecc\u2026"[:11] + "\u2026"
