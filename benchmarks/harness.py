"""Measure alternatives side by side, and print and store what was measured."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path("runs/benchmarks")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    :ivar what: what was measured
    :ivar value: median of the repeated runs
    :ivar unit: of ``value``
    :ivar spread: lowest and highest of the runs
    :ivar target: what it should be, in words; empty for a figure that only informs
    :ivar met: whether it is, None without a target
    """

    what: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    target: str = ""
    met: bool | None = None


def side_by_side(
    alternatives: Mapping[str, Callable[[], object]], repeats: int, inner: int = 1
) -> dict[str, list[float]]:
    """Seconds that each alternative takes, one after the other in each round, so that noise falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for call in alternatives.values():
        call()
    for _ in range(repeats):
        for name, call in alternatives.items():
            start = time.perf_counter()
            for _ in range(inner):
                call()
            seconds[name].append((time.perf_counter() - start) / inner)
    return seconds


def time_row(what: str, seconds: Sequence[float]) -> Row:
    """A duration in milliseconds."""
    scaled = [1e3 * value for value in seconds]
    return Row(what=what, value=statistics.median(scaled), unit="ms", spread=(min(scaled), max(scaled)))


def ratio_row(
    what: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    """The ratio of two medians; its spread is that of the middle half of the ratios round by round."""
    ratios = sorted(one / other for one, other in zip(above, below, strict=True))
    value = statistics.median(above) / statistics.median(below)
    quarter = len(ratios) // 4
    target = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}" if at_least is not None else ""
    met = value <= at_most if at_most is not None else value >= at_least if at_least is not None else None
    return Row(what=what, value=value, unit="x", spread=(ratios[quarter], ratios[-1 - quarter]), target=target, met=met)


def report(name: str, rows: Sequence[Row]) -> None:
    """Print a table and write it as JSON."""
    print(f"\n{name} ({platform.processor() or platform.machine()}, Python {platform.python_version()})")
    width = max(len(row.what) for row in rows)
    for row in rows:
        spread = "" if row.spread is None else f"[{row.spread[0]:.3g} to {row.spread[1]:.3g}]"
        verdict = "" if row.met is None else f"{row.target}: {'met' if row.met else 'MISSED'}"
        print(f"  {row.what:<{width}}  {row.value:10.4g} {row.unit:<4} {spread:<22} {verdict}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
