"""Observations as the inputs of a graph, and its output as actions: decided once for a policy, from its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.errors import ObservationError
from sb3_clanker.policy_file.dialects import dialect_of
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import LeafSpace
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec

Array: TypeAlias = NDArray[Any]
Observation: TypeAlias = Array | Mapping[str, Array]
State: TypeAlias = tuple[Array, ...]
Encoded: TypeAlias = tuple[dict[str, Array], bool]
"""The inputs of a graph, and whether the observation was a batch."""


def make_encoder(metadata: PolicyMetadata) -> Callable[[Observation], Encoded]:
    """What turns an observation into the inputs of the graph, decided once."""
    spaces, observed = metadata.observation_space.leaves(), [s for s in metadata.inputs if s.role == "observation"]
    leaves: dict[Any, Callable[[Any], Encoded]] = {spec.key: _leaf_encoder(spec, spaces[spec.key]) for spec in observed}
    if None in leaves:
        return leaves[None]

    def encode(observation: Observation) -> Encoded:
        if not isinstance(observation, Mapping) or set(observation) != set(leaves):
            got = sorted(map(str, observation)) if isinstance(observation, Mapping) else type(observation).__name__
            raise ObservationError(f"The observation must be a mapping with the keys {sorted(leaves)}, got {got}.")
        feed: dict[str, Array] = {}
        batched = False
        for key, encode_leaf in leaves.items():
            leaf, leaf_batched = encode_leaf(observation[key])
            feed.update(leaf)
            batched |= leaf_batched
        if len({len(leaf) for leaf in feed.values()}) > 1:
            sizes = {name: len(leaf) for name, leaf in feed.items()}
            raise ObservationError(f"The observations of all keys must be equally many, got {sizes}.")
        return feed, batched

    return encode


def _leaf_encoder(spec: TensorSpec, space: LeafSpace) -> Callable[[Any], Encoded]:
    name, single, rank = spec.name, space.shape, len(space.shape)
    dtype = np.dtype(spec.dtype if spec.divisor is None else np.uint8)
    divisor = None if spec.divisor is None else np.float32(spec.divisor)
    tensor_shape = tuple(-1 if dim == BATCH else int(dim) for dim in spec.shape)
    same_shape = tensor_shape[1:] == single
    transposed = None if spec.layout is None else (*single[1:], single[0])  # the other layout of an image
    channels_last = spec.layout == "channels_last"
    kinds = "u" if dtype == np.uint8 else "biuf"

    def encode(observation: Any) -> Encoded:
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], Mapping):
            raise ObservationError("Got a pair of observation and info, as env.reset() returns: pass the observation.")
        try:
            array = np.asarray(observation)
        except ValueError as error:
            raise ObservationError(f"The observation for input {name!r} is not an array: {error}") from error
        shape = array.shape
        batched = len(shape) != rank
        if (shape[1:] if batched else shape) != single:
            if (shape[1:] if batched else shape) == transposed:
                return encode(np.moveaxis(array, -1, -3))
            raise ObservationError(
                f"The observation for input {name!r} must have the shape {single}, or (n, *{single}) for a batch, "
                f"got {shape}."
            )
        if array.dtype != dtype:
            if array.dtype.kind not in kinds or (kinds == "u" and array.dtype.itemsize > 1):
                raise ObservationError(f"The observation for input {name!r} must be {dtype}, got {array.dtype}.")
            with np.errstate(over="ignore"):  # infinite in float32, as torch has it
                array = array.astype(dtype)
        if divisor is not None:
            array = array / divisor
        if not batched:
            array = array[None]
        if channels_last:
            return {name: np.ascontiguousarray(np.moveaxis(array, -3, -1))}, batched
        return {name: array if same_shape else array.reshape(tensor_shape)}, batched

    return encode


def make_context_encoder(
    metadata: PolicyMetadata,
) -> Callable[[dict[str, Array], State | None, Array | None, Array | None], None] | None:
    """What adds to the inputs of the graph masks, the state of a recurrent policy, or what is not looked at."""
    shapes = {spec.role: spec.shape for spec in metadata.inputs}
    unused = [spec for spec in metadata.inputs if spec.role == "unused"]
    observation = next(spec.name for spec in metadata.inputs if spec.role == "observation")

    def add_masks(feed: dict[str, Array], _: State | None, __: Array | None, action_masks: Array | None) -> None:
        n, n_choices = len(feed[observation]), int(shapes["action_masks"][1])
        masks = np.ones((n, n_choices), bool) if action_masks is None else _to_array(action_masks, np.bool_)
        if masks is None or masks.size != n * n_choices:
            raise ObservationError(
                f"The action masks for {n} observations must have the shape ({n}, {n_choices}), got {_shape(masks)}."
            )
        feed["action_masks"] = masks.reshape(n, n_choices)

    def add_state(feed: dict[str, Array], state: State | None, episode_start: Array | None, _: Array | None) -> None:
        n, (n_layers, width) = len(feed[observation]), shapes["hidden_state"][::2]
        if n == 0:  # onnxruntime ends the process, and Stable-Baselines3 raises too
            raise ObservationError("A recurrent policy needs at least one observation, got a batch of none.")
        expected = (int(n_layers), n, int(width))
        if state is None:
            feed["h_in"] = feed["c_in"] = np.zeros(expected, np.float32)
        else:
            parts = [_to_array(part, np.float32) for part in state]
            if [part is not None and part.shape for part in parts] != [expected, expected]:
                got = " and ".join(_shape(part) for part in parts)
                raise ObservationError(
                    f"The state for {n} observations must be two arrays of the shape {expected}, got {got or 'none'}."
                )
            feed["h_in"], feed["c_in"] = (part for part in parts if part is not None)
        starts = np.zeros(n, np.float32) if episode_start is None else _to_array(episode_start, np.float32)
        if starts is None or starts.shape != (n,):
            raise ObservationError(
                f"episode_start for {n} observations must have the shape ({n},), got {_shape(starts)}."
            )
        feed["episode_start"] = starts

    def add_unused(feed: dict[str, Array], _: State | None, __: Array | None, ___: Array | None) -> None:
        n = len(feed[observation])
        feed.update({spec.name: np.zeros((n, *map(int, spec.shape[1:])), np.float32) for spec in unused})

    if "action_masks" in shapes:
        return add_masks
    if unused:
        return add_unused
    return add_state if metadata.recurrent else None


def _to_array(value: object, dtype: type[np.generic]) -> Array | None:
    """An array of a type, or None where a value is none."""
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError):
        return None


def _shape(array: Array | None) -> str:
    return "no array of numbers" if array is None else str(array.shape)


def make_decoder(metadata: PolicyMetadata) -> Callable[[Array, bool], Array]:
    """What turns the output of the graph into actions as Stable-Baselines3 returns them, decided once."""
    dtype, single = np.dtype(metadata.predict_dtype), metadata.action_space.shape
    many = (-1, *single)
    if dtype == np.float32:
        return lambda action, batched: action.reshape(many if batched else single)
    return lambda action, batched: action.reshape(many if batched else single).astype(dtype)


def make_chooser(metadata: PolicyMetadata) -> Callable[[Array], Array] | None:
    """What finds the choices in an output that has a number for each; None where it has the choices themselves.

    In each dimension of the action it is the index of the first of the largest numbers, and 0 where none is above 0: so
    the plugin of godot_rl_agents reads them, which begins with both at 0.
    """
    choices = metadata.action_space.choices
    if not (choices and dialect_of(metadata.outputs).one_hot):
        return None
    ends = np.cumsum(choices)[:-1]

    def choose(scores: Array) -> Array:
        parts = np.split(np.maximum(scores, 0.0), ends, axis=1)
        return np.stack([part.argmax(axis=1) for part in parts], axis=1).astype(np.float32)

    return choose
