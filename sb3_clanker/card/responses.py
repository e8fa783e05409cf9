"""What a policy answers: across the range of one component at a time, and on observations drawn from all ranges."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.card.components import ActionPart, Component, TypicalObservations, sees_images, size_of_observation
from sb3_clanker.observations.drawn import draw_from_ranges
from sb3_clanker.runtime.policy import OnnxPolicy

MOST_PANELS = 24
"""How many response curves stand on a card."""
MOST_LINES = 6
"""How many choices have a line of their own in a response curve."""
_N_VALUES = 33
_N_DRAWN, _FEWEST_DRAWN = 2000, 50
_N_DRAWN_AT_ONCE = 1 << 20
_SECONDS = 0.8
"""How long the policy is asked, for all curves."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """The answers across the range of a component, all others at their median.

    :ivar component: the component
    :ivar values: its values, shape (n,)
    :ivar actions: the actions, shape (n, width of an action)
    :ivar scores: probabilities or Q-values of the choices, shape (n, choices); None where the file has none
    """

    component: Component
    values: NDArray[np.float64]
    actions: NDArray[np.float64]
    scores: NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One response curve.

    :ivar component: what changes
    :ivar part: the number of the action that answers; None where scores of its choices do
    :ivar values: values of the component, shape (n,)
    :ivar lines: the answers, shape (lines, n)
    :ivar low: the lowest that an answer may be
    :ivar high: the highest
    :ivar influence: by how much of that the answers change, 0 to 1
    """

    component: Component
    part: ActionPart | None
    values: NDArray[np.float64]
    lines: NDArray[np.float64]
    low: float
    high: float
    influence: float


def score_name(policy: OnnxPolicy) -> str | None:
    """What the file says of each choice, None where it says nothing, or an action is no single choice."""
    space, names = policy.metadata.action_space, {spec.name for spec in policy.metadata.outputs}
    if len(space.choices) != 1 or space.shape:
        return None
    is_categorical = "action_logits" in names and policy.metadata.sampling == "categorical"
    return "probability" if is_categorical else "Q-value" if "q_values" in names else None


def respond(policy: OnnxPolicy, components: Sequence[Component], observations: TypicalObservations) -> list[Response]:
    """Ask a policy across the range of each component, in order, for as long as a card may take."""
    answers, end = [], time.monotonic() + _SECONDS
    for component in components:
        if not component.is_known:
            continue
        values = component.values(_N_VALUES)
        batch = observations.many(len(values), {(component.key, component.index): values})
        action, _, outputs = policy.predict_and_outputs(batch)
        scores = {"probability": "action_logits", "Q-value": "q_values"}.get(score_name(policy) or "")
        told = outputs[scores].astype(np.float64) if scores else None
        answers.append(
            Response(
                component=component,
                values=values,
                actions=action.reshape(len(values), -1).astype(np.float64),
                scores=np.exp(told) if told is not None and scores == "action_logits" else told,
            )
        )
        if time.monotonic() > end:
            break
    return answers


def choose_panels(answers: Sequence[Response], parts: Sequence[ActionPart]) -> tuple[list[Panel], int]:
    """The curves that stand on a card, and how many there are in all.

    Where there are too many, the most influential are taken, the most influential first.
    """
    if any(answer.scores is not None for answer in answers):
        panels = [_of_scores(answer, answer.scores) for answer in answers if answer.scores is not None]
        return _most_influential(panels), len(panels)
    n_all = len(answers) * len(parts)
    influences = np.array([_influences(answer, parts) for answer in answers]).reshape(len(answers), len(parts)).T
    order = np.argsort(-influences, axis=None, kind="stable")[:MOST_PANELS] if n_all > MOST_PANELS else range(n_all)
    places = (divmod(int(place), len(answers)) for place in order)
    return [_of_part(answers[j], i, parts[i], float(influences[i, j])) for i, j in places], n_all


def draw_actions(policy: OnnxPolicy, components: Sequence[Component]) -> NDArray[np.float64] | None:
    """Actions on observations drawn from the ranges, each component on its own; None where not all ranges are known."""
    metadata = policy.metadata
    n = min(_N_DRAWN, _N_DRAWN_AT_ONCE // max(size_of_observation(metadata), 1))
    are_known = bool(components) and all(component.is_known for component in components)
    if sees_images(metadata) or not are_known or n < _FEWEST_DRAWN:
        return None
    drawn = draw_from_ranges(metadata.observation_space, metadata.observation_ranges, n, seed=0)
    return policy.predict(drawn)[0].reshape(n, -1).astype(np.float64)


def _of_scores(answer: Response, scores: NDArray[np.float64]) -> Panel:
    lines = scores[:, :MOST_LINES].T
    finite = lines[np.isfinite(lines)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0  # probabilities
    return Panel(
        component=answer.component,
        part=None,
        values=answer.values,
        lines=lines,
        low=low,
        high=high,
        influence=_spread(lines) / ((high - low) or 1.0),
    )


def _of_part(answer: Response, index: int, part: ActionPart, influence: float) -> Panel:
    return Panel(
        component=answer.component,
        part=part,
        values=answer.values,
        lines=answer.actions[None, :, index],
        low=part.low,
        high=part.high,
        influence=influence,
    )


def _influences(answer: Response, parts: Sequence[ActionPart]) -> NDArray[np.float64]:
    """By how much of its range each number of the action changes; of choices, how often it is another."""
    actions = answer.actions[:, : len(parts)]
    finite = actions[np.isfinite(actions).all(axis=1)]
    ranges = np.array([(part.high - part.low) or 1.0 for part in parts])
    if not len(finite):
        return np.zeros(len(parts))
    is_other = (finite != finite[len(finite) // 2]).mean(axis=0)
    is_choice = np.array([bool(part.choices) for part in parts])
    return np.asarray(np.where(is_choice, is_other, np.ptp(finite, axis=0) / ranges), dtype=np.float64)


def _most_influential(panels: list[Panel]) -> list[Panel]:
    if len(panels) <= MOST_PANELS:
        return panels
    return sorted(panels, key=lambda panel: -panel.influence)[:MOST_PANELS]


def _spread(lines: NDArray[np.float64]) -> float:
    """How far the line goes up and down that goes furthest."""
    finite = lines[:, np.isfinite(lines).all(axis=0)]
    return float(np.ptp(finite, axis=1).max()) if finite.size else 0.0
