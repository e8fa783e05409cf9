"""A policy from a file: ``predict`` as Stable-Baselines3 has it, with numpy and onnxruntime alone."""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sb3_clanker.errors import (
    InferenceError,
    ObservationError,
    PolicyFileError,
    StochasticActionError,
    UnsafeGraphError,
)
from sb3_clanker.paths import local_path
from sb3_clanker.policy_file.container import MalformedContainerError, split_container
from sb3_clanker.policy_file.record import PolicyMetadata, parse, read_file
from sb3_clanker.policy_file.spaces import DictSpace, LeafSpace, to_gymnasium
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec
from sb3_clanker.runtime.sampling import make_sampler
from sb3_clanker.runtime.screening import HostileGraphError, screen

if TYPE_CHECKING:
    from gymnasium import spaces

Array: TypeAlias = NDArray[Any]
Observation: TypeAlias = Array | Mapping[str, Array]
State: TypeAlias = tuple[Array, ...]

_Encoded: TypeAlias = tuple[dict[str, Array], bool]
_FOLDING_IS_LIMITED = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) >= (1, 27)
_NO_CONTEXT: dict[str, Any] = {"state": None, "episode_start": None, "action_masks": None}
_ONNX_TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)", "bool": "tensor(bool)"}


class Runner(Protocol):
    """What runs a graph, as a session of onnxruntime does."""

    def run(self, names: list[str], inputs: dict[str, Array], /) -> list[Array]:
        """The outputs of these names, for an array for each input."""


class OnnxPolicy:
    """A trained policy, loaded from an ``.onnx`` file of this package.

    ``predict`` takes and returns what Stable-Baselines3's own does, so the policy can stand where an algorithm is
    expected to predict, ``stable_baselines3.common.evaluation.evaluate_policy`` for one. Feed **raw** observations:
    normalization is in the graph.

    The session uses one thread and does not spin, so that a policy costs its caller nothing between two calls.

    :param path: the file
    :raises MissingFileError: there is no such file
    :raises UnreadableFileError: it cannot be read
    :raises PolicyFileError: not a policy of this package, or damaged, or not runnable
    :raises UnsafeGraphError: a graph that no policy needs, and that could be costly to load or read other files
    :ivar metadata: what the file says of itself

    >>> policy = OnnxPolicy("runs/cartpole/best_model.onnx")  # doctest: +SKIP
    >>> action, _ = policy.predict(np.zeros(4, dtype=np.float32))  # doctest: +SKIP
    """

    metadata: PolicyMetadata

    def __init__(self, path: str | Path) -> None:
        path = local_path(path)
        data = read_file(path)
        metadata = parse(data, path)
        self._load(open_session(data, metadata, path), metadata)

    @classmethod
    def from_bytes(cls, data: bytes, metadata: PolicyMetadata | None = None, *, trusted: bool = False) -> OnnxPolicy:
        """Load a policy from the bytes of a file.

        :param data: the bytes
        :param metadata: the record that belongs to them; None reads it from ``data`` and checks it
        :param trusted: whether the graph was loaded before, with other weights: it is neither screened nor optimized in
            full again, which takes longer than the few predictions that such a policy is for
        """
        metadata = parse(data) if metadata is None else metadata
        return cls.from_runner(open_session(data, metadata, trusted=trusted), metadata)

    @classmethod
    def from_runner(cls, runner: Runner, metadata: PolicyMetadata) -> OnnxPolicy:
        """A policy that is run by anything else that takes the inputs of a record, and gives its outputs."""
        policy = cls.__new__(cls)
        policy._load(runner, metadata)
        return policy

    def _load(self, runner: Runner, metadata: PolicyMetadata) -> None:
        self.metadata = metadata
        self._session = runner
        self._encode = _encoder(metadata)
        self._encode_further = _further_encoder(metadata)
        self._decode = _decoder(metadata)
        self._outputs = ["action", "h_out", "c_out"] if metadata.recurrent else ["action"]
        self._sampled = [spec.name for spec in metadata.outputs if spec.name.startswith("action_")]
        self._sample = make_sampler(metadata)

    @functools.cached_property
    def rng(self) -> np.random.Generator:
        """Generator of random actions, for a file that can sample; replace it for a seeded one."""
        return np.random.default_rng()

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Space of the raw observations, built on demand (needs gymnasium)."""
        return to_gymnasium(self.metadata.observation_space)

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Space of the actions, built on demand (needs gymnasium)."""
        return to_gymnasium(self.metadata.action_space)

    def predict(
        self,
        observation: Observation,
        state: State | None = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
        action_masks: Array | None = None,
    ) -> tuple[Array, State | None]:
        """Choose the action for one observation or a batch of them.

        Sources of the behaviour: ``BasePolicy.predict``,
        https://github.com/DLR-RM/stable-baselines3/blob/v2.9.2/stable_baselines3/common/policies.py, and those of
        RecurrentPPO and MaskablePPO in sb3-contrib.

        :param observation: raw observation of the shape of ``observation_space``, or a batch of n with one leading
            dimension; a mapping of such arrays for a Dict space
        :param state: of a recurrent policy, what the last call returned: two arrays, float32 of shape (n_layers, n,
            width); None before the first. Any other policy returns it unchanged.
        :param episode_start: of a recurrent policy, shape (n,), true where the state must be reset first; None nowhere
        :param deterministic: must be true, unless the file tells its distribution and so can sample
        :param action_masks: of a maskable policy, shape (n_choices,) or (n, n_choices), true for what is allowed; None
            allows everything
        :return: the action, ``metadata.predict_dtype`` of shape ``action_space.shape`` or ``(n, *action_space.shape)``,
            and the state for the next call
        :raises ObservationError: wrong shape, type or key, of the observation or of what goes with it
        :raises StochasticActionError: ``deterministic`` is false, and the file cannot sample
        :raises InferenceError: the graph failed, which one of this package does not
        """
        if not deterministic and self._sample is None:
            raise StochasticActionError
        feed, batched = self._feed(observation, state, episode_start, action_masks)
        try:
            action, *next_state = self._session.run(self._outputs, feed)
            if not deterministic and self._sample is not None:
                action = self._sample(
                    dict(zip(self._sampled, self._session.run(self._sampled, feed), strict=True)), self.rng
                )
            return self._decode(action, batched), (tuple(next_state) if next_state else state)
        except Exception as error:  # onnxruntime has no root of its own errors; an output may be of any shape
            raise InferenceError(_one_line(error)) from error

    def outputs(
        self,
        observation: Observation,
        state: State | None = None,
        episode_start: Array | None = None,
        action_masks: Array | None = None,
    ) -> dict[str, Array]:
        """Everything that the file tells, by the name of the output, always as a batch.

        :return: ``action``, the state of a recurrent policy, and what was asked for with
            ``ExportOptions(further_outputs=...)``; ``metadata.outputs`` says what each is
        :raises ObservationError: as for :meth:`predict`, whose other parameters these are
        """
        return self.run(self.inputs(observation, state, episode_start, action_masks))

    def predict_and_outputs(
        self, observation: Observation, **context: Any
    ) -> tuple[Array, State | None, dict[str, Array]]:
        """What :meth:`predict` and :meth:`outputs` return, from one run of the graph; for a proof.

        :param context: what else :meth:`outputs` takes, by name
        """
        feed, batched = self._feed(observation, **_NO_CONTEXT | context)
        outputs = self.run(feed)
        state = (outputs["h_out"], outputs["c_out"]) if self.metadata.recurrent else context.get("state")
        return self._decode(outputs["action"], batched), state, outputs

    def inputs(
        self,
        observation: Observation,
        state: State | None = None,
        episode_start: Array | None = None,
        action_masks: Array | None = None,
    ) -> dict[str, Array]:
        """What goes into the graph, by the name of the input; parameters and errors as for :meth:`outputs`."""
        feed, _ = self._feed(observation, state, episode_start, action_masks)
        return feed

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on its own inputs, as any other consumer of the file does.

        :param inputs: an array for each of ``metadata.inputs``, of its type and shape, by name
        :return: an array for each of ``metadata.outputs``, by name
        :raises InferenceError: the inputs are not those of the graph, or it failed
        """
        names = [spec.name for spec in self.metadata.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # as in predict
            raise InferenceError(_one_line(error)) from error

    def _feed(
        self, observation: Observation, state: State | None, episode_start: Array | None, action_masks: Array | None
    ) -> _Encoded:
        encoded = self._encode(observation)
        if self._encode_further is not None:
            self._encode_further(encoded[0], state, episode_start, action_masks)
        elif action_masks is not None:
            raise ObservationError("This policy takes no action masks, got some.")
        return encoded


def open_session(data: bytes, metadata: PolicyMetadata, path: Path | None = None, *, trusted: bool = False) -> Runner:
    """Load the graph of a file; parameters and errors as for :class:`OnnxPolicy`."""
    try:
        foldable = trusted or screen(split_container(data)[0], is_limited=_FOLDING_IS_LIMITED)
    except (HostileGraphError, MalformedContainerError) as error:
        raise UnsafeGraphError(path, str(error)) from error
    options = onnxruntime.SessionOptions()
    if trusted:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.load_model_format", "ONNX")  # its own format was not screened
    largest_constant = str(max(len(data), 1 << 20))
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", largest_constant)
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what is wrong is said by the error, in one line
    try:
        session: Runner = onnxruntime.InferenceSession(
            data,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=None if foldable else ["ConstantFolding"],
        )
    except Exception as error:  # onnxruntime has no root of its own errors, and leaks others on damaged files
        raise PolicyFileError(path, f"onnxruntime cannot load it: {_one_line(error)}") from error
    _check_signature(session, metadata, path)
    return session


def _check_signature(session: Any, metadata: PolicyMetadata, path: Path | None) -> None:
    """Hold the record against the graph; a digest tells damage, not a record that was made up."""
    for kind, values, specs in (
        ("inputs", session.get_inputs(), metadata.inputs),
        ("outputs", session.get_outputs(), metadata.outputs),
    ):
        try:
            found = [(value.name, value.type, tuple(value.shape)) for value in values]
        except UnicodeDecodeError as error:
            raise PolicyFileError(path, f"a name among the {kind} of the graph is not UTF-8.") from error
        expected = [(spec.name, _ONNX_TYPES.get(spec.dtype), spec.shape) for spec in specs]
        if found != expected:
            found_text, expected_text = reprlib.repr(found), reprlib.repr(expected)
            raise PolicyFileError(
                path, f"the {kind} of the graph are {found_text}, and the record says {expected_text}."
            )


def _one_line(error: Exception) -> str:
    """The beginning of an error of onnxruntime, which may hold as much as the file did."""
    return " ".join(str(error)[:1000].split())


def _encoder(metadata: PolicyMetadata) -> Callable[[Observation], _Encoded]:
    """What turns an observation into the inputs of the graph, decided once."""
    space = metadata.observation_space
    inputs = [spec for spec in metadata.inputs if spec.role == "observation"]
    if not isinstance(space, DictSpace):
        return _leaf_encoder(inputs[0], space)

    leaves = {spec.key: _leaf_encoder(spec, space.spaces[spec.key]) for spec in inputs if spec.key is not None}

    def encode(observation: Observation) -> _Encoded:
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


def _leaf_encoder(spec: TensorSpec, space: LeafSpace) -> Callable[[Any], _Encoded]:
    name, single, rank = spec.name, space.shape, len(space.shape)
    dtype = np.dtype(spec.dtype if spec.divisor is None else np.uint8)
    divisor = None if spec.divisor is None else np.float32(spec.divisor)
    tensor_shape = tuple(-1 if dim == BATCH else int(dim) for dim in spec.shape)
    same_shape = tensor_shape[1:] == single
    transposed = None if spec.layout is None else (*single[1:], single[0])  # the other layout of an image
    channels_last = spec.layout == "channels_last"
    kinds = "u" if dtype == np.uint8 else "biuf"

    def encode(observation: Any) -> _Encoded:
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


def _further_encoder(
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

    def add_state(
        feed: dict[str, Array], state: State | None, episode_start: Array | None, action_masks: Array | None
    ) -> None:
        if action_masks is not None:
            raise ObservationError("This policy takes no action masks, got some.")
        n, (n_layers, _, width) = len(feed[observation]), shapes["hidden_state"]
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

    def add_unused(feed: dict[str, Array], _: State | None, __: Array | None, action_masks: Array | None) -> None:
        if action_masks is not None:
            raise ObservationError("This policy takes no action masks, got some.")
        n = len(feed[observation])
        feed.update({spec.name: np.zeros((n, int(spec.shape[1])), np.float32) for spec in unused})

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


def _decoder(metadata: PolicyMetadata) -> Callable[[Array, bool], Array]:
    """What turns the output of the graph into actions as Stable-Baselines3 returns them, decided once."""
    dtype, single = np.dtype(metadata.predict_dtype), metadata.action_space.shape
    many = (-1, *single)
    if dtype == np.float32:
        return lambda action, batched: action.reshape(many if batched else single)
    return lambda action, batched: action.reshape(many if batched else single).astype(dtype)
