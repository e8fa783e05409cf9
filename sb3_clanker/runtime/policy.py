"""A policy from a file: ``predict`` as Stable-Baselines3 has it, without torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_clanker.display import Shown
from sb3_clanker.errors import (
    InferenceError,
    ObservationError,
    StochasticActionError,
)
from sb3_clanker.policy_file.reading import PolicyFile, parse, read_policy_file
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.tensors import OUTSIDE
from sb3_clanker.public import public
from sb3_clanker.runtime.encoding import (
    Array,
    Encoded,
    Observation,
    State,
    make_chooser,
    make_context_encoder,
    make_decoder,
    make_encoder,
)
from sb3_clanker.runtime.outside import OnOutside, OutsideLog, make_outside_log
from sb3_clanker.runtime.sampling import make_sampler
from sb3_clanker.runtime.session import Runner, one_line, open_session

if TYPE_CHECKING:
    from gymnasium import spaces

_NO_CONTEXT: dict[str, Any] = {"state": None, "episode_start": None, "action_masks": None}


@public
class OnnxPolicy(Shown):
    """A trained policy, loaded from an ``.onnx`` file of this package.

    ``predict`` takes and returns what Stable-Baselines3's own does, so the policy can stand where an algorithm is
    expected to predict, ``stable_baselines3.common.evaluation.evaluate_policy`` for one. Feed **raw** observations:
    normalization is in the graph.

    The session uses one thread and does not spin, so that a policy costs its caller nothing between two calls.

    :param path: the file
    :param on_outside: what to do where a component of an observation is outside of what training saw, by the file's own
        output ``outside``: ``"warn"`` names it, its value and what training saw in the log ``sb3_clanker``, at once and
        then at most once in a minute; ``"ignore"`` does nothing. It is a range check: it finds a wrong unit, and no
        sensor that is swapped, stuck or dead
    :raises OptionError: ``on_outside`` is neither, or the file does not tell what is outside
    :raises MissingFileError: there is no such file
    :raises UnreadableFileError: it cannot be read
    :raises PolicyFileError: not a policy of this package, or damaged, or not runnable
    :raises UnsafeGraphError: a graph that no policy needs, and that could be costly to load or read other files
    :ivar metadata: what the file says of itself

    >>> policy = OnnxPolicy("runs/cartpole/best_model.onnx")  # doctest: +SKIP
    >>> action, _ = policy.predict(np.zeros(4, dtype=np.float32))  # doctest: +SKIP
    """

    _in_short = PolicyMetadata._in_short
    metadata: PolicyMetadata

    def __init__(self, path: str | Path, *, on_outside: OnOutside = "ignore") -> None:
        file = read_policy_file(path)
        outside_log = make_outside_log(on_outside, file.metadata)
        self._load(open_session(file), file.metadata, outside_log)

    @classmethod
    def from_file(cls, file: PolicyFile) -> OnnxPolicy:
        """Load a policy from a file that was read already."""
        return cls.from_runner(open_session(file), file.metadata)

    @classmethod
    def from_bytes(cls, data: bytes, metadata: PolicyMetadata | None = None, *, trusted: bool = False) -> OnnxPolicy:
        """Load a policy from the bytes of a file.

        :param data: the bytes
        :param metadata: the record that belongs to them; None reads it from ``data`` and checks it
        :param trusted: whether the graph was loaded before, with other weights: it is neither screened nor optimized in
            full again, which takes longer than the few predictions that such a policy is for
        """
        file = parse(data) if metadata is None else PolicyFile(data=data, metadata=metadata)
        return cls.from_runner(open_session(file, trusted=trusted), file.metadata)

    @classmethod
    def from_runner(cls, runner: Runner, metadata: PolicyMetadata) -> OnnxPolicy:
        """A policy that is run by anything that takes the inputs of a record, and gives its outputs."""
        policy = cls.__new__(cls)
        policy._load(runner, metadata)
        return policy

    def _load(self, runner: Runner, metadata: PolicyMetadata, outside_log: OutsideLog | None = None) -> None:
        self.metadata = metadata
        self._outside_log = outside_log
        self._session = runner
        self._encode = make_encoder(metadata)
        self._encode_context = make_context_encoder(metadata)
        self._takes_masks = any(spec.role == "action_masks" for spec in metadata.inputs)
        self._choose = make_chooser(metadata)
        self._decode = make_decoder(metadata)
        self._outputs = [metadata.outputs[0].name, *(("h_out", "c_out") if metadata.recurrent else ())]
        self._outputs += [OUTSIDE] if outside_log else []
        self._sampled = [spec.name for spec in metadata.outputs if spec.name.startswith("action_")]
        self._sample = make_sampler(metadata)

    @functools.cached_property
    def rng(self) -> np.random.Generator:
        """Generator of random actions, for a file that can sample; replace it for a seeded one."""
        return np.random.default_rng()

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Space of the raw observations, built on demand (needs gymnasium)."""
        return self.metadata.observation_space.to_gymnasium()

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Space of the actions, built on demand (needs gymnasium)."""
        return self.metadata.action_space.to_gymnasium()

    def facts(self) -> Iterator[tuple[str, str]]:
        return self.metadata.facts()

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
        :param deterministic: must be true, unless the file outputs its distribution and so can sample
        :param action_masks: of a maskable policy, shape (n_choices,) or (n, n_choices), true for what is allowed; None
            allows everything
        :return: the action, ``metadata.predict_dtype`` of shape ``action_space.shape`` or ``(n, *action_space.shape)``,
            and the state for the next call
        :raises ObservationError: wrong shape, type or key, of the observation or of what goes with it; or a recurrent
            policy got a batch of none
        :raises StochasticActionError: ``deterministic`` is false, and the file cannot sample
        :raises InferenceError: the graph failed, which one of this package does not
        """
        if not deterministic and self._sample is None:
            raise StochasticActionError
        feed, batched = self._feed(observation, state, episode_start, action_masks)
        try:
            action, *next_state = self._session.run(self._outputs, feed)
            if self._outside_log is not None:
                self._outside_log.look(next_state.pop(), feed)
            if not deterministic and self._sample is not None:
                action = self._sample(
                    dict(zip(self._sampled, self._session.run(self._sampled, feed), strict=True)), self.rng
                )
            elif self._choose is not None:
                action = self._choose(action)
            return self._decode(action, batched), (tuple(next_state) if next_state else state)
        except Exception as error:  # onnxruntime has no root of its own errors; an output may be of any shape
            raise InferenceError(one_line(error)) from error

    def outputs(
        self,
        observation: Observation,
        state: State | None = None,
        episode_start: Array | None = None,
        action_masks: Array | None = None,
    ) -> dict[str, Array]:
        """Every output of the graph, by its name, always as a batch.

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
        action = outputs[self._outputs[0]]
        return self._decode(action if self._choose is None else self._choose(action), batched), state, outputs

    def inputs(
        self,
        observation: Observation,
        state: State | None = None,
        episode_start: Array | None = None,
        action_masks: Array | None = None,
    ) -> dict[str, Array]:
        """What goes into the graph, by the name of the input; parameters and errors as for :meth:`outputs`."""
        return self._feed(observation, state, episode_start, action_masks)[0]

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
            raise InferenceError(one_line(error)) from error

    def _feed(
        self, observation: Observation, state: State | None, episode_start: Array | None, action_masks: Array | None
    ) -> Encoded:
        encoded = self._encode(observation)
        if action_masks is not None and not self._takes_masks:
            raise ObservationError("This policy takes no action masks, got some.")
        if self._encode_context is not None:
            self._encode_context(encoded[0], state, episode_start, action_masks)
        return encoded
