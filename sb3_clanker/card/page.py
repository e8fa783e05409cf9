"""What stands on a card, section by section, ready for the template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sb3_clanker.card import facts, learning, plots
from sb3_clanker.card.components import (
    LARGEST,
    ActionPart,
    Component,
    TypicalObservations,
    action_parts,
    components_of,
    count_components,
    sees_images,
    size_of_observation,
)
from sb3_clanker.card.facts import Row
from sb3_clanker.card.replay import Played
from sb3_clanker.card.responses import (
    MOST_LINES,
    Panel,
    Response,
    choose_panels,
    draw_actions,
    respond,
    score_name,
)
from sb3_clanker.card.usage import of_usage, usages
from sb3_clanker.card.wording import count, milliseconds, number, short, size, with_spread
from sb3_clanker.policy_file.reading import PolicyFile
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.runtime.latency import processor, time_predictions
from sb3_clanker.runtime.policy import OnnxPolicy

_MOST_RANGES = 64
_MOST_HISTOGRAMS = 12
_MOST_CHOICES = 32
_SECONDS_OF_LATENCY = 0.15


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A small picture of several.

    :ivar heading: what it is of
    :ivar picture: the picture
    """

    heading: str
    picture: Markup


@dataclass(frozen=True, kw_only=True)
class Small:
    """Small pictures side by side.

    :ivar cells: the pictures
    :ivar legend: how each line is drawn, where there are several
    :ivar caption: what they show
    """

    cells: list[Cell]
    caption: str
    legend: list[tuple[Markup, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Share:
    """How often a choice was made.

    :ivar name: the choice
    :ivar share: the part of all, in words
    :ivar bar: the same as a bar
    """

    name: str
    share: str
    bar: Markup


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How often each choice was made, of one number of an action."""

    heading: str
    rows: list[Share]


@dataclass(frozen=True, kw_only=True)
class RangeRow:
    """The range of a component, in words and as a picture."""

    name: str
    unit: str
    low: str
    high: str
    mean: str
    strip: Markup | None


def make_page(file: PolicyFile, path: Path, run_folder: Path, played: Played | None) -> dict[str, Any]:
    """Everything that the template shows.

    :param file: the policy file
    :param path: where it lies
    :param run_folder: where the log of its evaluations may lie
    :param played: episodes that were played for the card
    """
    metadata, policy = file.metadata, OnnxPolicy.from_file(file)
    can_run = size_of_observation(metadata) <= LARGEST
    components, parts = components_of(metadata) if can_run else [], action_parts(metadata)
    answers, drawn, latency = list[Response](), None, None
    if can_run:
        observations = TypicalObservations(metadata, components)
        answers = respond(policy, components, observations)
        drawn = draw_actions(policy, components) if played is None else None
        latency = time_predictions(policy, observations.single(), 300, _SECONDS_OF_LATENCY)
    return {
        "title": facts.title(metadata),
        "digest": metadata.digest,
        "lede": list(_lede(metadata, played)),
        "figures": list(_figures(metadata, len(file.data), latency, played)),
        "replay": played.replay if played else None,
        "inputs": [facts.tensor(spec) for spec in metadata.inputs[: facts.MOST_ROWS]],
        "outputs": [facts.tensor(spec) for spec in metadata.outputs[: facts.MOST_ROWS]],
        "n_more_inputs": max(len(metadata.inputs) - facts.MOST_ROWS, 0),
        "usages": usages(path.name, metadata, components),
        "of_usage": list(of_usage(metadata, components)),
        "learning": _learning(path, run_folder, metadata),
        "responses": _responses(metadata, answers, parts, policy),
        "why_no_responses": _why_none(components, can_run=can_run),
        "actions": _actions(played.actions if played else drawn, parts),
        "actions_of": _actions_of(metadata, played),
        "why_no_actions": _why_no_actions(metadata),
        "ranges": [_range_row(component) for component in components[:_MOST_RANGES]],
        "has_strips": any(component.seen for component in components[:_MOST_RANGES]),
        "ranges_caption": _ranges_caption(metadata, components),
        "speed": list(_speed(metadata, len(file.data), latency)),
        "proof": list(facts.proof(metadata)),
        "provenance": list(facts.provenance(metadata)),
        "files": list(facts.files(path, metadata, len(file.data))),
        "limits": list(facts.limits(metadata, components, was_played=played is not None)),
    }


def _lede(metadata: PolicyMetadata, played: Played | None) -> Iterator[str]:
    """What the policy does, in sentences."""
    spec, steps = metadata.environment_spec, metadata.training.num_timesteps
    where = f" for {short(spec.id, 60)}" if spec else ""
    kind = "recurrent " if metadata.recurrent and "Recurrent" not in metadata.algorithm else ""
    article = "An" if (kind or metadata.algorithm)[:1].upper() in "AEIO" else "A"
    yield f"{article} {kind}{short(metadata.algorithm, 40)} policy{where}, trained for {count(steps, 'timestep')}."
    if played is not None:
        yield f"In {count(len(played.returns), 'episode')}, played for this card, it earned {_earned(played)}."
    said = facts.returns(metadata)
    if said is not None:
        yield f"{said}."
    elif played is None:
        yield "How good it is, nobody has measured."


def _figures(
    metadata: PolicyMetadata, n_bytes: int, latency: NDArray[np.float64] | None, played: Played | None
) -> Iterator[tuple[str, str, str]]:
    """The figures that stand first: what, how much, and of what."""
    evaluation, check = metadata.training.evaluation, metadata.cross_check
    if played is not None:
        earned = _earned(played)
        mean, spread = earned.split(" ", 1) if np.isfinite(played.returns).all() else ("unknown", earned)
        yield "return", mean, f"{spread}, {len(played.returns)} played"
    elif evaluation is not None and evaluation.mean_reward is not None:
        mean, _, spread = facts.mean_and_spread(evaluation).partition(" ")
        yield "return", mean, spread
    else:
        yield "return", "unknown", "not evaluated" if evaluation is None else "no finite number"
    yield "trained", number(metadata.training.num_timesteps), "timesteps"
    value, unit = size(n_bytes).split(" ", 1)
    yield "size", value, unit
    if latency is not None and len(latency):
        value, unit = milliseconds(float(np.median(latency)))
        yield "latency", value, f"{unit}, median"
    if check is not None:
        passed = check.n_mismatches == 0
        yield "proof", "passed" if passed else "not passed", f"{number(check.n_observations)} observations"
    else:
        yield "proof", "none", ""


def _earned(played: Played) -> str:
    if not np.isfinite(played.returns).all():
        return "no finite number"
    return with_spread(float(np.mean(played.returns)), float(np.std(played.returns)))


def _learning(path: Path, run_folder: Path, metadata: PolicyMetadata) -> dict[str, Any] | None:
    records = learning.records_beside(path, metadata)
    found = learning.read_log(run_folder, metadata) or learning.of_records(list(records.values()))
    if found is None:
        return None
    marks = list(learning.marks(path, records))
    label = plots.describe_curve(found)
    episodes = "" if found.n_episodes is None else f" of {count(found.n_episodes, 'episode')}"
    band = " The band is one standard deviation." if len(found.means) > 1 and found.deviations.any() else ""
    return {
        "wide": plots.learning_curve(found, marks, plots.WIDE, label),
        "narrow": plots.learning_curve(found, marks, plots.NARROW, label),
        "caption": f"Mean return of each evaluation{episodes} over timesteps of training, from {found.source}.{band} "
        + (
            "Ticks on the axis are policies that lie beside this one, which is the triangle."
            if len(marks) > 1
            else "The triangle on the axis is this policy."
        ),
    }


def _responses(
    metadata: PolicyMetadata, answers: Sequence[Response], parts: Sequence[ActionPart], policy: OnnxPolicy
) -> Small | None:
    panels, n_all = choose_panels(answers, parts)
    if not panels:
        return None
    kind = score_name(policy)
    choices = parts[0].choices if kind else ()
    several = len(parts) > 1 and kind is None
    cells = [
        Cell(
            heading=panel.component.label + (f" \u2192 {panel.part.name}" if several and panel.part else ""),
            picture=plots.response_curve(panel, choices),
        )
        for panel in panels
    ]
    legend = [(plots.line_sample(i), name) for i, name in enumerate(choices[:MOST_LINES])] if kind else []
    return Small(cells=cells, legend=legend, caption=" ".join(_of_responses(metadata, answers, panels, n_all, kind)))


def _of_responses(
    metadata: PolicyMetadata, answers: Sequence[Response], panels: Sequence[Panel], n_all: int, kind: str | None
) -> Iterator[str]:
    """The caption of response curves."""
    what = {
        None: "The action",
        "probability": "The probability of each choice",
        "Q-value": "The Q-value of each choice",
    }
    others = "at their median"
    if not all(answer.component.seen for answer in answers) or count_components(metadata) > len(answers):
        others = "at a typical value: their median where training kept it, else the middle of their bounds, or zero"
    yield f"{what[kind]} as one component of the observation goes through its range, all others {others}."
    if any(answer.component.seen for answer in answers):
        yield "The thick part of the axis holds 90 % of what training saw, the notch is its median."
    if metadata.recurrent:
        yield "The state is that of an episode's first step."
    if any(spec.role == "action_masks" for spec in metadata.inputs):
        yield "All choices are allowed."
    if any(spec.layout for spec in metadata.inputs):
        yield "Images are uniformly grey."
    if n_all > len(panels):
        left_out = number(n_all - len(panels))
        yield f"These are the {len(panels)} most influential curves of {number(n_all)}; {left_out} are left out."
    if (n_left := count_components(metadata) - len(answers)) > 0:
        yield f"{count(n_left, 'component')} of the observation {'was' if n_left == 1 else 'were'} not looked at."


def _why_none(components: Sequence[Component], *, can_run: bool) -> str:
    if not can_run:
        return "Its observations are too large for a card."
    if not components:
        return "It sees images alone, which have no components to draw a curve over."
    return "Nobody kept what training saw, and the bounds of its observations are infinite: there is no range to draw."


def _actions(actions: NDArray[np.float64] | None, parts: Sequence[ActionPart]) -> dict[str, Any] | None:
    if actions is None or not len(actions):
        return None
    cells, shares = list[Cell](), list[Shares]()
    for index, part in enumerate(parts[:_MOST_HISTOGRAMS]):
        values = actions[:, index]
        if not part.choices:
            cells.append(Cell(heading=part.label, picture=plots.histogram(part, values)))
            continue
        counted = np.bincount(np.clip(values, 0, len(part.choices) - 1).astype(int), minlength=len(part.choices))
        rows = [
            Share(name=name, share=plots.percent(n / len(values)), bar=plots.bar(n / len(values)))
            for name, n in zip(part.choices[:_MOST_CHOICES], counted.tolist(), strict=False)
        ]
        shares.append(Shares(heading=part.label, rows=rows))
    left_out = max(len(parts) - _MOST_HISTOGRAMS, 0)
    return {"cells": cells, "shares": shares, "n_left_out": left_out, "n": number(len(actions))}


def _actions_of(metadata: PolicyMetadata, played: Played | None) -> str:
    if played is not None:
        return f"of the {count(len(played.returns), 'episode')} that were played for this card"
    how = ", each the first of an episode" if metadata.recurrent else ""
    if any(spec.role == "action_masks" for spec in metadata.inputs):
        how = ", all choices allowed"
    of = "from the ranges below, each component on its own: no two of them depend on each other"
    return f"on observations drawn {of}{how}"


def _why_no_actions(metadata: PolicyMetadata) -> str:
    why = "It sees images" if sees_images(metadata) else "Not all ranges of its observations are known"
    return f"{why}, so that none can be drawn at random. With episodes of an environment, their actions stand here."


def _range_row(component: Component) -> RangeRow:
    seen = component.seen
    low, high = ((number(v, 3) if component.is_known else "unbounded") for v in (component.low, component.high))
    return RangeRow(
        name=component.name,
        unit=component.unit,
        low=low,
        high=high,
        mean=with_spread(seen.mean, seen.deviation) if seen else "",
        strip=plots.quantile_strip(component),
    )


def _ranges_caption(metadata: PolicyMetadata, components: Sequence[Component]) -> str:
    n_all, ranges = count_components(metadata), metadata.observation_ranges
    more = f" The first {_MOST_RANGES} of {number(n_all)} components." if n_all > _MOST_RANGES else ""
    if not n_all:
        return "It sees images alone, of which no ranges are kept."
    if ranges is None or not any(component.seen for component in components):
        return f"Bounds of the observation space: nobody kept what training saw.{more}"
    if not all(component.seen for component in components):
        more = f" Rows without a mean have the bounds of the observation space.{more}"
    return (
        f"What training saw in {count(ranges.n_observations, 'raw observation')}. In each strip the thin line goes "
        "from the smallest to the largest, the thick one holds 90 %, the box half of them, and the dot is the median."
        f"{more}"
    )


def _speed(metadata: PolicyMetadata, n_bytes: int, latency: NDArray[np.float64] | None) -> Iterator[Row]:
    yield "size of the file", f"{size(n_bytes)} ({n_bytes:,} bytes)"
    if latency is not None and len(latency):
        median, p99 = (" ".join(milliseconds(float(value))) for value in np.percentile(latency, [50, 99]))
        yield "one prediction, median", median
        yield "99 of 100 within", p99
        how = f"{count(len(latency), 'call')} of OnnxPolicy.predict on a single observation, when this card was made"
        yield "measured", f"{how}, on one thread of: {short(processor(), 80)}"
    if (promised := metadata.latency) is not None:
        limit, median, p99 = (
            " ".join(milliseconds(each)) for each in (promised.limit_ms, promised.p50_ms, promised.p99_ms)
        )
        found = f"then the median was {median}, and 99 of 100 within {p99}, on {short(promised.processor, 80)}"
        yield "promised at export", f"99 of 100 within {limit}; {found}"
    if metadata.control_period is not None:
        yield "control period of the training", f"{number(metadata.control_period)} s"
