"""Whether a record contradicts itself: spaces, inputs and outputs that do not fit each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from sb3_clanker.policy_file.dialects import Dialect, dialect_of
from sb3_clanker.policy_file.record import QUANTILES, ObservationRange, ObservationRanges
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace, vectors
from sb3_clanker.policy_file.tensors import BATCH, LARGEST_BYTE, OUTSIDE, Sampling, TensorSpec

_LARGEST = 1 << 26
"""Elements of one observation or state: far beyond any real one, and small enough to be allocated without harm."""
_LARGEST_ACTION = 1 << 20
"""Elements of one action: a file holds a text with a number for each, which is made anew to check it."""
_LARGEST_NUMBER = float(np.finfo(np.float32).max)
_MOST_OBSERVATIONS = 1 << 53
"""The most that can be counted in a float64, in which they are averaged."""
_MAX_RANK = 31
"""Dimensions of one observation or action: with the batch, the most that numpy has."""
_NUMBERS = {"bool", "float16", "float32", "float64"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


def contradictions(
    observation_space: ObservationSpace,
    action_space: LeafSpace,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    predict_dtype: str,
    recurrent: bool = False,
    sampling: Sampling | None = None,
    ranges: ObservationRanges | None = None,
) -> list[str]:
    """One line for every contradiction, beginning with the field's path; empty for a sound record."""
    spaces = {"observation_space": observation_space, "action_space": action_space}
    problems = [f"{path}: {problem}" for path, space in spaces.items() for problem in _in_space(space)]
    if not problems and action_space.n_elements > _LARGEST_ACTION:
        problems.append(f"action_space: an action of {action_space.n_elements:,} elements is none")
    if predict_dtype not in _NUMBERS:
        problems.append(f"predict_dtype: expected the name of a type of numbers, got {predict_dtype!r}")
    if not problems:
        dialect = dialect_of(outputs)
        problems += [f"inputs: {problem}" for problem in _in_inputs(observation_space, inputs, dialect)]
        problems += [f"inputs: {problem}" for problem in _in_unused(inputs, dialect)]
        names = [spec.name for spec in (*inputs, *outputs)]
        problems += [f"inputs or outputs: {name[:60]!r} is no name" for name in names if not name.isprintable()]
        problems += [f"outputs: {problem}" for problem in _in_outputs(action_space, outputs, dialect)]
        problems += [f"outputs: {problem}" for problem in _in_outside(observation_space, outputs)]
        if not problems and not (_carry_state(inputs, outputs) if recurrent else _carry_no_state(inputs)):
            problems.append(f"recurrent: it is {recurrent}, which does not fit the inputs and outputs")
        if sampling is not None and not _can_sample(sampling, action_space, outputs):
            problems.append(f"sampling: {sampling!r} does not fit the action space and the outputs")
        if ranges is not None:
            problems += [f"observation_ranges: {problem}" for problem in _in_ranges(ranges, observation_space)]
    return problems


def _carry_state(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether a state goes in beside the observation, and out beside the action."""
    further = [(spec.name, spec.role, spec.dtype, spec.shape) for spec in inputs if spec.role != "observation"]
    next_state = [(spec.name, spec.role, spec.dtype, spec.shape) for spec in outputs[1:3]]
    shape = further[0][3] if further else ()
    if len(shape) != 3 or shape[1] != BATCH or not _is_allocatable((shape[0], shape[2])):
        return False
    h_in, c_in, h_out, c_out = (
        (f"{letter}_{suffix}", role, "float32", shape)
        for suffix in ("in", "out")
        for letter, role in (("h", "hidden_state"), ("c", "cell_state"))
    )
    episode_start = ("episode_start", "episode_start", "float32", (BATCH,))
    return further == [h_in, c_in, episode_start] and next_state == [h_out, c_out]


def _carry_no_state(inputs: tuple[TensorSpec, ...]) -> bool:
    """Whether nothing goes in beside the observation but masks."""
    further = [spec for spec in inputs if spec.role not in ("observation", "unused")]
    return not further or (
        [(spec.name, spec.role, spec.dtype) for spec in further] == [("action_masks", "action_masks", "bool")]
        and further[0].shape[:1] == (BATCH,)
        and len(further[0].shape) == 2
        and _is_allocatable(further[0].shape[1:])
    )


def _can_sample(sampling: Sampling, space: LeafSpace, outputs: tuple[TensorSpec, ...]) -> bool:
    needed = {"action_mean", "action_std"} if sampling in ("gaussian", "squashed_gaussian") else {"action_logits"}
    shapes = {spec.name: spec.shape for spec in outputs}
    return sampling in space.widths and all(shapes.get(name) == (BATCH, space.widths[sampling]) for name in needed)


def _is_allocatable(shape: tuple[int | str, ...], largest: int = _LARGEST) -> bool:
    """Whether an array of a shape is one that can be made; found without multiplying huge numbers."""
    dims = [dim for dim in shape if isinstance(dim, int) and 0 <= dim <= largest]
    return len(dims) == len(shape) <= _MAX_RANK and math.prod(dims) <= largest


def _in_space(space: ObservationSpace) -> Iterator[str]:
    for key, leaf in space.leaves().items():
        yield from (problem if key is None else f"key {key!r}: {problem}" for problem in _in_leaf(leaf))


def _in_leaf(space: LeafSpace) -> Iterator[str]:
    if not _is_allocatable(space.shape):
        yield f"the shape {list(space.shape)[:4]} is none of an observation or action"
        return
    if space.dtype not in _NUMBERS:
        yield f"{space.dtype!r} is no type of numbers"
    yield from space.contradictions()


def _in_inputs(space: ObservationSpace, inputs: tuple[TensorSpec, ...], dialect: Dialect) -> Iterator[str]:
    leaves = space.leaves()
    specs = [spec for spec in inputs if spec.role == "observation"]
    observed = {spec.key: spec for spec in specs}
    if not leaves or set(observed) != set(leaves) or len(specs) != len(leaves):
        yield "they are not one for each observation"
        return
    for key, leaf in leaves.items():
        spec, shape = observed[key], (math.prod(leaf.shape),) if dialect.flat else leaf.input_shape
        if spec.layout == "channels_last":
            shape = (*shape[1:], *shape[:1])
        misplaced = spec.layout is not None and (dialect.flat or len(leaf.shape) != 3)
        if misplaced or spec.shape != (BATCH, *shape) or spec.dtype not in ("float32", "uint8"):
            yield f"{spec.name!r} is {spec.dtype} {list(spec.shape)}, which does not fit its space"
        takes_unit = spec.layout is not None and spec.dtype == "float32" and leaf.dtype == "uint8"
        if spec.divisor != (LARGEST_BYTE if takes_unit else None):
            yield f"{spec.name!r} has the divisor {spec.divisor}, which does not fit its space and type"


def _in_unused(inputs: tuple[TensorSpec, ...], dialect: Dialect) -> Iterator[str]:
    for spec in inputs:
        if spec.role != "observation" and spec.divisor is not None:
            yield f"{spec.name!r} has a divisor, and is no observation"
        is_echoed = dialect.echo is not None and spec.name == dialect.echo[0]
        is_row = spec.dtype == "float32" and spec.shape[:1] == (BATCH,) and len(spec.shape) == 2 - is_echoed
        if spec.role == "unused" and not (is_row and _is_allocatable(spec.shape[1:])):
            expected = "['batch']" if is_echoed else "['batch', n]"
            yield f"{spec.name!r} is {spec.dtype} {list(spec.shape)[:4]}, expected float32 {expected}"


def _in_outputs(space: LeafSpace, outputs: tuple[TensorSpec, ...], dialect: Dialect) -> Iterator[str]:
    expected = (dialect.action, "float32", (BATCH, dialect.action_width(space)))
    actions = [(spec.name, spec.dtype, spec.shape) for spec in outputs if spec.role == "action"]
    echo = [(spec.name, spec.dtype, spec.shape) for spec in outputs if spec.role == "unused"]
    if echo != [(name, "float32", (BATCH,)) for name in (dialect.echo or ())[1:]]:
        yield "they do not give back what goes in to come out again"
    if actions != [expected] or outputs[0].name != dialect.action:
        yield "the first is not the action"


def _in_outside(space: ObservationSpace, outputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    n = sum(leaf.n_elements for leaf in vectors(space).values())
    for spec in outputs:
        named = n if spec.names is None else len(spec.names)
        if spec.name == OUTSIDE and (spec.dtype, spec.shape, named) != ("bool", (BATCH, n), n):
            yield f"{OUTSIDE!r} is {spec.dtype} {list(spec.shape)[:4]} with {named} names, expected bool ['batch', {n}]"


def _in_ranges(ranges: ObservationRanges, space: ObservationSpace) -> Iterator[str]:
    if not 1 <= ranges.n_observations <= _MOST_OBSERVATIONS:
        yield f"n_observations is none of 1 to {_MOST_OBSERVATIONS}"
    if ranges.margin is not None and ranges.margin < 0:
        yield f"the margin {ranges.margin} is below 0"
    leaves, keys = vectors(space), [each.key for each in ranges.ranges]
    if keys != list(leaves):
        yield f"they are of {len(keys)} vectors, and the observation has {len(leaves)}, or others"
        return
    for index, each in enumerate(ranges.ranges):
        yield from (f"ranges[{index}]: {problem}" for problem in _in_range(each, leaves[each.key].n_elements))


def _in_range(each: ObservationRange, width: int) -> Iterator[str]:
    lists = (each.minimum, each.maximum, each.mean, each.deviation, each.quantiles)
    if any(len(values) != width for values in lists) or any(len(row) != len(QUANTILES) for row in each.quantiles):
        yield f"it does not have {width} components in each list, and {len(QUANTILES)} quantiles of each"
        return
    ordered = np.column_stack([each.minimum, each.quantiles, each.maximum])
    if not (np.abs(ordered) <= _LARGEST_NUMBER).all():
        yield "a value is beyond float32, the type of an observation"
    elif not (ordered[:, :-1] <= ordered[:, 1:]).all():
        yield "minimum, quantiles and maximum are not in their order"
    elif not ((ordered[:, 0] <= each.mean) & (each.mean <= ordered[:, -1])).all():
        yield "a mean is not between minimum and maximum"
    if min(each.deviation) < 0 or max(each.deviation) > 2 * _LARGEST_NUMBER:
        yield "a deviation is none"
