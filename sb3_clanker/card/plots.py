"""The pictures of a card. Ink where there is data, no colour that says anything, a text for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sb3_clanker.card.components import ActionPart, Component
from sb3_clanker.card.learning import Evaluations, Mark
from sb3_clanker.card.responses import Panel
from sb3_clanker.card.svg import Scale, box, dot, element, line, path, picture, steps_of, text
from sb3_clanker.card.wording import count, number

_CHARACTER = 6.2
"""Width of a character, about, at the size of a label."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The size of a picture; two of one picture are for a wide and a narrow page.

    :ivar n_ticks: how many ticks its axis has room for
    """

    width: float
    height: float
    n_ticks: int


WIDE, NARROW = Frame(width=680, height=270, n_ticks=8), Frame(width=340, height=230, n_ticks=4)
_PANEL = Frame(width=200, height=130, n_ticks=3)


def learning_curve(evaluations: Evaluations, marks: Sequence[Mark], frame: Frame, label: str) -> Markup:
    """Returns over timesteps, their spread as a band, checkpoints as ticks under it."""
    times, means = evaluations.timesteps, evaluations.means
    low, high = means - evaluations.deviations, means + evaluations.deviations
    ends = [*times, *(mark.timesteps for mark in marks)]
    vertical = Scale.over(float(low.min()), float(high.max()), frame.height - 52, 14)
    ticks = vertical.ticks(5)
    left = 12 + _CHARACTER * max((len(number(tick)) for tick in ticks), default=3)
    x = Scale.over(min(0.0, *ends), max(ends), left, frame.width - 14)
    points = [(x(t), vertical(m)) for t, m in zip(times, means, strict=True)]
    band = [(x(t), vertical(value)) for t, value in zip(times, high, strict=True)]
    band += [(x(t), vertical(value)) for t, value in zip(times[::-1], low[::-1], strict=True)]
    shapes = [
        *(line(left - 4, vertical(tick), frame.width - 14, vertical(tick), "grid") for tick in ticks),
        *(text(left - 8, vertical(tick) + 3.5, number(tick), anchor="end") for tick in ticks),
        *([path(band, "band", is_closed=True)] if len(points) > 1 else []),
        path(points, "line"),
        *(dot(px, py, 2.2, "dot") for px, py in points if len(points) <= 40),
    ]
    if len(points) == 1:
        shapes.append(line(points[0][0], vertical(float(low[0])), points[0][0], vertical(float(high[0])), "line"))
    bottom = frame.height - 46
    for tick in x.ticks(frame.n_ticks):
        shapes.append(text(x(tick), frame.height - 4, _steps(tick), anchor=_anchor(x(tick), left, frame.width)))
    shapes.append(line(x(float(times.min())), bottom, x(float(times.max())), bottom, "axis"))
    shapes += _marks(marks, x, bottom, left, frame.width)
    return picture(frame.width, frame.height, label, *shapes)


def _marks(marks: Sequence[Mark], x: Scale, bottom: float, left: float, width: float) -> list[Markup]:
    """Ticks for checkpoints; a triangle and a word for this one and for those that have names."""
    shapes, taken = [], list[tuple[float, float]]()
    for mark in sorted(marks, key=lambda mark: (not mark.is_this, mark.label == "")):
        at = x(mark.timesteps)
        shapes.append(line(at, bottom - 4, at, bottom + 4, "mark this" if mark.is_this else "mark"))
        word = f"{mark.label} (this policy)" if mark.is_this and mark.label != "this policy" else mark.label
        if not word:
            continue
        if mark.is_this:
            triangle = [(at, bottom + 3), (at - 5, bottom + 11), (at + 5, bottom + 11)]
            shapes.append(path(triangle, "fill", is_closed=True))
        half = _CHARACTER * len(word) / 2
        middle = min(max(at, left + half), width - 14 - half)
        if all(middle + half < start or end < middle - half for start, end in taken):
            taken.append((middle - half, middle + half))
            shapes.append(text(middle, bottom + 23, word, "this" if mark.is_this else "", "middle"))
    return shapes


def response_curve(panel: Panel, choices: Sequence[str]) -> Markup:
    """What the policy answers across the range of one component; thick below it, where 90 % of it lay.

    :param choices: names of the choices, where the lines are their scores
    """
    component, part = panel.component, panel.part
    top, bottom, left, right = 16.0, _PANEL.height - 30, 8.0, _PANEL.width - 8
    x, y = Scale.over(component.low, component.high, left, right), Scale.over(panel.low, panel.high, bottom, top)
    has_steps = component.is_whole or (part is not None and bool(part.choices))
    shapes = [line(left, y(end), right, y(end), "grid") for end in (panel.low, panel.high)]
    for number_of_line, answers in enumerate(panel.lines):
        points = [(x(value), y(answer)) for value, answer in zip(panel.values, answers, strict=True)]
        shapes.append(path(steps_of(points) if has_steps else points, f"line style{number_of_line}"))
    shapes += _range_frame(component, x, bottom + 7)
    low, high = number(component.low, 3), number(component.high, 3)
    shapes += [
        text(left, top - 3, _answer(panel.high, part), "small"),
        text(left, bottom - 3, _answer(panel.low, part), "small"),
        text(left, _PANEL.height - 6, low),
        text(right, _PANEL.height - 6, high, anchor="end"),
    ]
    what = "the choice" if part is None else part.label
    first, last = (_in_words(panel, index, choices) for index in (0, -1))
    label = f"{what} as {component.label} goes from {low} to {high}: {first} at first, {last} at last"
    return picture(_PANEL.width, _PANEL.height, label, *shapes)


def _answer(value: float, part: ActionPart | None) -> str:
    """An answer on an axis: the name of a choice, or a number."""
    if part is not None and part.choices and 0 <= value < len(part.choices):
        return part.choices[int(value)]
    return number(value, 3)


def _in_words(panel: Panel, index: int, choices: Sequence[str]) -> str:
    """What a curve says at one of its ends, for those who do not see it."""
    if panel.part is not None:
        return _answer(float(panel.lines[0, index]), panel.part)
    return choices[int(np.argmax(panel.lines[:, index]))]


def _range_frame(component: Component, x: Scale, y: float) -> list[Markup]:
    """An axis that ends where the data do; thick where 90 % of them lie, with a notch at the median."""
    shapes = [line(x(component.low), y, x(component.high), y, "axis")]
    if (seen := component.seen) is not None:
        shapes.append(line(x(seen.at(0.05)), y, x(seen.at(0.95)), y, "thick"))
        shapes.append(line(x(seen.at(0.5)), y - 4, x(seen.at(0.5)), y + 4, "mark"))
    return shapes


def line_sample(index: int) -> Markup:
    """How the line of a choice is drawn, for a legend."""
    return element(
        "svg", line(1, 5, 33, 5, f"line style{index}"), viewBox="0 0 34 10", class_="sample", aria_hidden="true"
    )


def histogram(part: ActionPart, actions: NDArray[np.float64]) -> Markup:
    """How often an action of numbers has which value, between its bounds."""
    finite = actions[np.isfinite(actions)]
    x = Scale.over(part.low, part.high, 8, _PANEL.width - 8)
    counts, edges = np.histogram(np.clip(finite, x.low, x.high), bins=24, range=(x.low, x.high))
    bottom = _PANEL.height - 26
    y = Scale.over(0.0, float(counts.max(initial=1)), bottom, 8)
    shapes = [
        box(x(edges[i]) + 0.4, y(n), x(edges[i + 1]) - x(edges[i]) - 0.8, bottom - y(n), "bar")
        for i, n in enumerate(counts.tolist())
        if n
    ]
    shapes += [
        line(8, bottom + 2, _PANEL.width - 8, bottom + 2, "axis"),
        text(8, _PANEL.height - 6, number(part.low, 3)),
        text(_PANEL.width - 8, _PANEL.height - 6, number(part.high, 3), anchor="end"),
    ]
    at_bounds = float(np.mean((finite <= part.low) | (finite >= part.high))) if len(finite) else 0.0
    label = f"{part.label}: {percent(at_bounds)} of the actions lie at a bound"
    if len(finite):
        label += f", the median is {number(float(np.median(finite)), 3)}"
    return picture(_PANEL.width, _PANEL.height, label, *shapes)


def bar(share: float) -> Markup:
    """A share of all, as the length of a bar; the number stands beside it."""
    return element(
        "svg",
        box(0, 2, 200, 8, "rest"),
        box(0, 2, 200 * share, 8, "bar"),
        viewBox="0 0 200 12",
        class_="share",
        aria_hidden="true",
        preserveAspectRatio="none",
    )


def quantile_strip(component: Component) -> Markup | None:
    """Where what training saw of a component lay: a line for all of it, a gap for the middle half, a dot the median."""
    seen = component.seen
    if seen is None or not seen.quantiles[0] < seen.quantiles[-1]:
        return None
    x = Scale.over(seen.quantiles[0], seen.quantiles[-1], 4, 176)
    label = (
        f"90 % between {number(seen.at(0.05), 3)} and {number(seen.at(0.95), 3)}, "
        f"half between {number(seen.at(0.25), 3)} and {number(seen.at(0.75), 3)}, median {number(seen.at(0.5), 3)}"
    )
    return picture(
        180,
        16,
        label,
        line(x(seen.quantiles[0]), 8, x(seen.quantiles[-1]), 8, "axis"),
        line(x(seen.at(0.05)), 8, x(seen.at(0.95)), 8, "thick"),
        box(x(seen.at(0.25)), 4, max(x(seen.at(0.75)) - x(seen.at(0.25)), 1), 8, "half"),
        dot(x(seen.at(0.5)), 8, 3, "dot"),
        class_="strip",
    )


def percent(share: float) -> str:
    """A share of all, as people say it."""
    if 0 < share < 0.01:
        return "under 1 %"
    return "over 99 %" if 0.99 < share < 1 else f"{share:.0%}".replace("%", " %")


def describe_curve(evaluations: Evaluations) -> str:
    """A learning curve in words."""
    means, times = evaluations.means, evaluations.timesteps
    best = int(means.argmax())
    return (
        f"Mean return over timesteps: {count(len(means), 'evaluation')}, from {number(float(means[0]))} at "
        f"{_steps(float(times[0]))} to {number(float(means[-1]))} at {_steps(float(times[-1]))} timesteps, "
        f"the highest {number(float(means[best]))} at {_steps(float(times[best]))}"
    )


def _steps(value: float) -> str:
    """A number of timesteps, as an axis has it."""
    for name, unit in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= unit and abs(value) < 1e10:
            return f"{number(value / unit, 3)} {name}"
    return number(value)


def _anchor(x: float, left: float, width: float) -> str:
    return "start" if x < left + 12 else "end" if x > width - 34 else "middle"
