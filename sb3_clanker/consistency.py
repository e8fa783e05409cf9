"""Whether a record contradicts itself: spaces, inputs and outputs that do not fit each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sb3_clanker.tensors import (
    BATCH,
    BoxSpace,
    DictSpace,
    DiscreteSpace,
    LeafSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
    ObservationSpace,
    Sampling,
    TensorSpec,
    action_dim,
)

_STATE = {"h_in", "c_in", "episode_start", "h_out", "c_out"}
_LARGEST = 1 << 26
"""Elements of one observation or action: far beyond any real one, and small enough to be allocated without harm."""
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
) -> list[str]:
    """One line for every contradiction, beginning with the field's path; empty for a sound record."""
    spaces = {"observation_space": observation_space, "action_space": action_space}
    problems = [f"{path}: {problem}" for path, space in spaces.items() for problem in _in_space(space)]
    if not _is_number(predict_dtype):
        problems.append(f"predict_dtype: expected the name of a type of numbers, got {predict_dtype!r}")
    if not problems:
        problems += [f"inputs: {problem}" for problem in _in_inputs(observation_space, inputs)]
        problems += [f"outputs: {problem}" for problem in _in_outputs(action_space, outputs)]
        names = {spec.name for spec in (*inputs, *outputs)}
        if recurrent != (names >= _STATE):
            problems.append(f"recurrent: it is {recurrent}, which does not fit the inputs and outputs")
        if sampling is not None and not _can_sample(sampling, action_space, names):
            problems.append(f"sampling: {sampling!r} does not fit the action space and the outputs")
    return problems


def _can_sample(sampling: Sampling, space: LeafSpace, names: set[str]) -> bool:
    if sampling in ("gaussian", "squashed_gaussian"):
        return isinstance(space, BoxSpace) and {"action_mean", "action_std"} <= names
    return not isinstance(space, BoxSpace) and "action_logits" in names


def _in_space(space: ObservationSpace) -> Iterator[str]:
    if isinstance(space, DictSpace):
        for key, leaf in space.spaces.items():
            yield from (f"key {key!r}: {problem}" for problem in _in_space(leaf))
        return
    if any(dim < 0 for dim in space.shape) or math.prod(space.shape) > _LARGEST:
        yield f"the shape {list(space.shape)[:4]} is none of an observation or action"
        return
    if not _is_number(space.dtype):
        yield f"{space.dtype!r} is no type of numbers"
    size = math.prod(space.shape)
    if isinstance(space, BoxSpace):
        for bound in (space.low, space.high):
            if isinstance(bound, tuple) and len(bound) != size:
                yield f"there are {len(bound)} bounds for {size} elements"
    elif isinstance(space, DiscreteSpace):
        if space.n < 1 or space.shape:
            yield f"n is {space.n} and the shape {list(space.shape)}, expected n of at least 1 and no shape"
    elif isinstance(space, MultiDiscreteSpace):
        if (len(space.nvec),) != space.shape or any(n < 1 for n in space.nvec):
            yield f"nvec does not fit the shape {list(space.shape)}"
    elif isinstance(space, MultiBinarySpace):
        expected = space.n if isinstance(space.n, tuple) else (space.n,)
        if expected != space.shape:
            yield f"n does not fit the shape {list(space.shape)}"


def _in_inputs(space: ObservationSpace, inputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    leaves: dict[str | None, LeafSpace] = {}
    leaves.update(space.spaces.items() if isinstance(space, DictSpace) else [(None, space)])
    specs = [spec for spec in inputs if spec.role == "observation"]
    observed = {spec.key: spec for spec in specs}
    if set(observed) != set(leaves) or len(specs) != len(leaves):
        yield "they are not one for each observation"
        return
    for key, leaf in leaves.items():
        spec, shape = observed[key], (1,) if isinstance(leaf, DiscreteSpace) else leaf.shape
        if spec.layout == "channels_last":
            shape = (*shape[1:], *shape[:1])
        misplaced = spec.layout is not None and len(leaf.shape) != 3
        if misplaced or spec.shape != (BATCH, *shape) or spec.dtype not in ("float32", "uint8"):
            yield f"{spec.name!r} is {spec.dtype} {list(spec.shape)}, which does not fit its space"


def _in_outputs(space: LeafSpace, outputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    expected = ("action", "float32", (BATCH, action_dim(space)))
    if not outputs or (outputs[0].name, outputs[0].dtype, outputs[0].shape) != expected:
        yield "the first is not the action"


def _is_number(dtype: str) -> bool:
    return dtype in _NUMBERS
