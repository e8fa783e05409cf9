"""How a card says numbers and texts: short, and whatever a stranger's record holds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from sb3_clanker.display import printable

_MINUS = "\u2212"
_LONGEST = 90
_LONG = 10**15


def number(value: float | None, digits: int = 4) -> str:
    """A number for people: a true minus sign, thousands apart, no digit that says nothing."""
    if value is None or value != value:
        return "none"
    if isinstance(value, int):
        return f"{value:,}".replace("-", _MINUS) if abs(value) < _LONG else "beyond 10^15"
    if math.isinf(value):
        return f"{_MINUS if value < 0 else ''}\u221e"
    if abs(value) >= 1e7 or 0 < abs(value) < 1e-4:
        text = re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.{min(digits, 3)}g}")
    elif abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", _MINUS)


def with_spread(mean: float, deviation: float) -> str:
    """A mean with its standard deviation, none of its digits below those that this one shows."""
    if math.isfinite(mean) and 1e-9 < deviation < 1e9:
        mean = round(mean, max(2 - math.floor(math.log10(deviation)), 0)) or 0.0  # no minus before a zero
    return f"{number(mean)} ± {number(deviation, 3)}"


def milliseconds(value: float) -> tuple[str, str]:
    """A time with its unit, as people say it."""
    return (number(1e3 * value, 3), "µs") if value < 0.1 else (number(value, 3), "ms")


def count(n: int, thing: str, things: str | None = None) -> str:
    """So many of a thing: ``1 step``, ``2,000 steps``."""
    return f"{number(n)} {thing if n == 1 else things or f'{thing}s'}"


def size(n_bytes: int) -> str:
    """A size in bytes, as people say it."""
    if n_bytes < 1000:
        return count(n_bytes, "byte")
    kilobytes = n_bytes / 1000
    return f"{number(kilobytes, 3)} kB" if kilobytes < 1000 else f"{number(kilobytes / 1000, 3)} MB"


def short(text: str, longest: int = _LONGEST) -> str:
    """A text of bounded length in one line, without what would steer whoever shows it."""
    cut = printable(text[: longest + 1])
    return cut if len(cut) <= longest else f"{cut[: longest - 1]}\u2026"


def listing(texts: Iterable[str]) -> str:
    """Things in a sentence: ``a, b and c``."""
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last
