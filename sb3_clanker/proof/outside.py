"""The output ``outside`` of a file, held against the ranges of its record: with numpy alone, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.errors import InferenceError
from sb3_clanker.policy_file.bounds import round_outward
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import LeafSpace, vectors
from sb3_clanker.policy_file.tensors import OUTSIDE
from sb3_clanker.proof.probes import Batch, as_batch, batch_size, by_key, take
from sb3_clanker.runtime.policy import OnnxPolicy

Rows: TypeAlias = NDArray[np.float32]
Bounds: TypeAlias = NDArray[np.float64]

_N_PROBES = 4
"""How many of the observations that all else is compared on."""


def outside_problem(policy: OnnxPolicy, observations: Batch, *, in_full: bool) -> str | None:
    """What is wrong where a file does not say what is outside as the ranges of its record have it.

    It is tried on the bounds and right beyond them, and where the graph is new, on what is no number too, so that every
    two components differ in an observation: none can stand in for another.

    :param observations: a batch of raw ones
    :param in_full: whether the graph is new, and not the bounds alone
    """
    spec = next((spec for spec in policy.metadata.outputs if spec.name == OUTSIDE), None)
    if spec is None:
        return None
    low, high = bounds(policy.metadata)
    probes = _flat(take(observations, slice(0, _N_PROBES)), policy.metadata)
    rows = np.concatenate([probes, *_around(low, high, in_full)])
    try:
        got = _ask(policy, observations, rows)
    except InferenceError:  # a component may be an index, say, for which the policy has no more than its space
        rows = _within_space(rows, policy.metadata)
        got = _ask(policy, observations, rows)
    expected = is_outside(rows, low, high)
    if got.shape != expected.shape or got.dtype != np.bool_:
        return f"{OUTSIDE} is {got.dtype} of shape {got.shape}, expected bool of shape {expected.shape}"
    wrong = np.argwhere(got != expected)
    if not wrong.size:
        return None
    row, component = wrong[0]
    name = spec.names[component] if spec.names else f"component {component}"
    said = "outside" if got[row, component] else "inside"
    return (
        f"{OUTSIDE} says that {name} is {said} at {rows[row, component]}, and by the record it is inside from "
        f"{low[component]} to {high[component]}"
    )


def expected_outside(observations: Batch, metadata: PolicyMetadata) -> NDArray[np.bool_]:
    """What a file must say of raw observations, of shape (n, n_components); (n, 0) where it says nothing of it."""
    if all(spec.name != OUTSIDE for spec in metadata.outputs):
        return np.zeros((batch_size(observations), 0), bool)
    return is_outside(_flat(observations, metadata), *bounds(metadata))


def is_outside(rows: Rows, low: Bounds, high: Bounds) -> NDArray[np.bool_]:
    """Which numbers are none, or so far beyond a bound that the next number of float32 is not within it either."""
    with np.errstate(over="ignore"):
        upwards, downwards = (np.nextafter(rows, np.float32(end)) for end in (np.inf, -np.inf))
    return (upwards <= low) | (downwards >= high) | np.isnan(rows)


def bounds(metadata: PolicyMetadata) -> tuple[Bounds, Bounds]:
    """The lowest and the highest value of each component that is inside; infinite where nothing was seen."""
    ranges = metadata.observation_ranges
    by_key = {} if ranges is None else {seen.key: seen for seen in ranges.ranges}
    margin = (None if ranges is None else ranges.margin) or 0.0
    lows, highs = [], []
    for key, leaf in _vectors(metadata).items():
        minimum, maximum = np.full((2, leaf.n_elements), [[-np.inf], [np.inf]])
        if key in by_key:
            lowest, highest = np.array(by_key[key].minimum), np.array(by_key[key].maximum)
            slack = margin * highest - margin * lowest
            minimum, maximum = lowest - slack, highest + slack
        lows.append(minimum)
        highs.append(maximum)
    return np.concatenate(lows), np.concatenate(highs)


def _around(low: Bounds, high: Bounds, in_full: bool) -> Iterator[Rows]:
    """Components on their bounds, which is inside, and right beyond."""
    numbers = np.arange(len(low))
    patterns = [numbers >= 0]
    if in_full:
        patterns += [numbers >> bit & 1 == 1 for bit in range(len(low).bit_length())]
    for bound, end in ((low, -np.inf), (high, np.inf)):
        edge = round_outward(bound, end)
        beyond = np.nextafter(edge, np.float32(end))
        for pattern in patterns:
            yield from (np.where(pattern, beyond, edge)[None], np.where(pattern, edge, beyond)[None])
            if in_full:
                yield np.where(pattern, np.float32(np.nan), edge)[None]


def _within_space(rows: Rows, metadata: PolicyMetadata) -> Rows:
    """Those that are numbers, within the bounds of the observation space."""
    low, high = (
        np.concatenate([leaf.bounds()[side].reshape(-1) for leaf in _vectors(metadata).values()]) for side in (0, 1)
    )
    return np.clip(rows[~np.isnan(rows).any(axis=1)], low, high).astype(np.float32)


def _ask(policy: OnnxPolicy, observations: Batch, rows: Rows) -> NDArray[np.generic]:
    """What a file says is outside, of observations with the components of these rows in them."""
    metadata = policy.metadata
    batch = dict(by_key(take(observations, np.arange(len(rows)) % batch_size(observations))))
    first = 0
    for key, leaf in _vectors(metadata).items():
        last = first + leaf.n_elements
        batch[key] = rows[:, first:last].reshape(-1, *leaf.shape)
        first = last
    return policy.outputs(as_batch(batch))[OUTSIDE]


def _flat(observations: Batch, metadata: PolicyMetadata) -> Rows:
    arrays = by_key(observations)
    parts = [arrays[key].reshape(-1, leaf.n_elements) for key, leaf in _vectors(metadata).items()]
    with np.errstate(over="ignore"):  # infinite in float32, as the file has it
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")


def _vectors(metadata: PolicyMetadata) -> dict[str | None, LeafSpace]:
    """The vectors in the order of the inputs."""
    leaves = vectors(metadata.observation_space)
    return {spec.key: leaves[spec.key] for spec in metadata.inputs if spec.role == "observation" and spec.key in leaves}
