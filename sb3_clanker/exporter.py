"""The exporter: the core that callback, :func:`export_policy` and command line share."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, BinaryIO

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from sb3_clanker.actor import Actor, copy_policy, make_actor, masked_choices
from sb3_clanker.compiled import uncompiled, uncompiled_name
from sb3_clanker.container import join_container
from sb3_clanker.environment import warn_of_inner_normalization, wrapper_names
from sb3_clanker.errors import NonFiniteWeightsError, NoVectorsWarning, UnsupportedPolicyError, ValidationError
from sb3_clanker.expectation import write_vectors
from sb3_clanker.further import Further
from sb3_clanker.graph import Graph
from sb3_clanker.latency import measure_latency
from sb3_clanker.metadata import (
    FrameStackRecord,
    Hashing,
    PairedFile,
    PolicyMetadata,
    Provenance,
    TrainingRecord,
    contract_entries,
    seal,
)
from sb3_clanker.normalization import Normalize, Statistics, collect_statistics
from sb3_clanker.observation import warn_of_lost_precision
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy import OnnxPolicy
from sb3_clanker.probes import Batch, Probes, draw_observations, gather_probes, take
from sb3_clanker.reference import Reference, seen_observations
from sb3_clanker.report import LatencyRecord, ValidationReport
from sb3_clanker.statistics import Normalization
from sb3_clanker.targets import require_target
from sb3_clanker.twin import CpuTwin, alike, needs_twin
from sb3_clanker.validation import prove
from sb3_clanker.vectors import check_vectors, encode_vectors

_N_TWIN = 16
"""How many observations a twin is held against the live policy on."""
_PACKAGES = (
    "sb3-clanker",
    "stable-baselines3",
    "sb3-contrib",
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "numpy",
    "gymnasium",
)


@dataclass(frozen=True, kw_only=True)
class ProvenPolicy:
    """A file that passed its proof and has no name yet.

    :ivar head: its graph and the contract's entries, which are what was proven
    :ivar tail: the caller's entries and the record, which tell of the proof
    :ivar metadata: what it says of itself
    :ivar validation: what the proof measured
    :ivar seconds: duration of each stage
    :ivar vectors: its test vectors, if they were asked for
    """

    head: bytes
    tail: bytes
    metadata: PolicyMetadata
    validation: ValidationReport
    seconds: dict[str, float]
    vectors: bytes | None

    @property
    def data(self) -> bytes:
        """Its bytes."""
        return self.head + self.tail

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.head) + len(self.tail)

    def write(self, file: BinaryIO) -> None:
        """Write its bytes to an open file."""
        file.writelines((self.head, self.tail))


class Exporter:
    """Exports one algorithm, as often as needed; its graph is traced once.

    :param model: the algorithm; it is never changed
    :param normalization: what it was trained with
    :param options: options of every export
    """

    def __init__(self, model: BaseAlgorithm, normalization: Normalization, options: ExportOptions) -> None:
        check_algorithm(model)
        self._model, self._normalization, self._options = model, normalization, options
        self._n_samples = options.n_samples or _n_samples(sum(map(th.Tensor.numel, model.policy.parameters())))
        self._graph: Graph | None = None
        self._actor: Actor | None = None
        self._drawn: dict[int, Batch] = {}
        self._dtype: str | None = None
        self._twin: CpuTwin | None = None
        warn_of_inner_normalization(model.get_env())

    def export(
        self,
        *,
        mean_reward: float | None = None,
        algorithm_file: PairedFile | None = None,
        statistics_file: PairedFile | None = None,
        together: bool = False,
        replay_buffer: bool = False,
    ) -> ProvenPolicy:
        """Export the policy as it is now, and prove it.

        Where a file from an earlier trace fails its proof, the policy has changed in a way that no weight tells of:
        it is traced again, once.

        :param mean_reward: of the evaluation that led to this export
        :param algorithm_file: the ``.zip`` of the same instant
        :param statistics_file: the VecNormalize statistics of the same instant
        :param together: whether these files are written together with this one
        :param replay_buffer: whether the replay buffer of the same instant is too
        """
        provenance = Provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=dict(_versions()),
            algorithm_file=algorithm_file,
            statistics_file=statistics_file,
            together=together,
            replay_buffer=replay_buffer,
        )
        traced_before = self._graph is not None
        try:
            return self._export(mean_reward, provenance)
        except ValidationError:
            if not traced_before:
                raise
            self._graph = None
            return self._export(mean_reward, provenance)

    def _export(self, mean_reward: float | None, provenance: Provenance) -> ProvenPolicy:
        seconds: dict[str, float] = {}
        policy, statistics = self._model.policy, self._normalization.statistics()
        warn_of_lost_precision(policy.observation_space, statistics)
        actor = self._live_actor(statistics)
        require_target(actor, self._options.target)
        self.check_finite()
        tensors = actor.tensors()
        graph = self._graph
        fresh = graph is None or not graph.reusable or not graph.fits(tensors)
        with _timed(seconds, "trace"):
            if graph is None or fresh:
                copied = make_actor(copy_policy(policy), statistics, self._options)
                graph = Graph(copied, self._options.opset_version)
        reference, probes = self.reference(actor.further), self.probes()
        metadata = self._describe(
            actor,
            graph.ir_version,
            self._predict_dtype(reference, probes),
            TrainingRecord(
                num_timesteps=int(self._model.num_timesteps),
                mean_reward=mean_reward if mean_reward is not None and np.isfinite(mean_reward) else None,
            ),
            provenance,
        )
        with _timed(seconds, "fill"):
            entries = join_container(b"", contract_entries(metadata))
            head = graph.fill(tensors, entries)
            hashing = Hashing(memoryview(head)[: -len(entries)])
        with _timed(seconds, "validate"):
            report = prove(head, metadata, reference, probes, self._options, in_full=fresh)
            self._graph = graph  # kept only once it has been proven in full
            latency = self._latency(head, metadata, probes)
            tail, metadata = seal(replace(metadata, cross_check=report.cross_check, latency=latency), hashing)
        vectors = None
        if self._options.test_vectors is not None:
            with _timed(seconds, "vectors"):
                vectors = self._vectors(head, metadata, reference, self._options.test_vectors)
        return ProvenPolicy(
            head=head, tail=tail, metadata=metadata, validation=report, seconds=seconds, vectors=vectors
        )

    def _describe(
        self, actor: Actor, ir_version: int, predict_dtype: str, training: TrainingRecord, provenance: Provenance
    ) -> PolicyMetadata:
        """The record, but for what the proof will tell."""
        policy = uncompiled(self._model.policy)
        return PolicyMetadata(
            algorithm=type(self._model).__name__,
            policy_class=f"{type(policy).__module__}.{type(policy).__qualname__}",
            observation_space=actor.observation_space,
            action_space=actor.action_space,
            inputs=actor.inputs,
            outputs=actor.outputs,
            predict_dtype=predict_dtype,
            recurrent=actor.recurrent,
            sampling=actor.further.sampling,
            opset_version=self._options.opset_version,
            ir_version=ir_version,
            normalization=self._normalization.record(),
            frame_stacks=_frame_stack_records(self._normalization),
            environment=wrapper_names(self._model.get_env()),
            control_period=self._options.control_period,
            training=training,
            provenance=provenance,
            entries=dict(self._options.metadata),
        )

    def _live_actor(self, statistics: dict[str | None, Statistics]) -> Actor:
        """The actor of the live policy, made anew only where statistics may have moved on."""
        if self._actor is None or self._actor.policy is not self._model.policy or statistics:
            self._actor = make_actor(self._model.policy, statistics, self._options)
        return self._actor

    def _vectors(self, head: bytes, metadata: PolicyMetadata, reference: Reference, count: int) -> bytes | None:
        """Test vectors, which the file itself agrees with."""
        policy = OnnxPolicy.from_bytes(head, metadata)
        vectors = write_vectors(policy, reference, self.probes(2 * count), count, self._options)
        if vectors is None:
            warnings.warn(
                "No test vectors are written: there is no observation on which the policy gives a firm answer. "
                "Train it further.",
                NoVectorsWarning,
                stacklevel=2,
            )
            return None
        check_vectors(policy, vectors)
        return encode_vectors(vectors)

    def _predict_dtype(self, reference: Reference, probes: Probes) -> str:
        """The type of the actions that Stable-Baselines3 returns, asked once."""
        if self._dtype is None:
            self._dtype = str(reference.predict(take(probes.observations, slice(0, 1))).action.dtype)
        return self._dtype

    def _latency(self, head: bytes, metadata: PolicyMetadata, probes: Probes) -> LatencyRecord | None:
        limit = self._options.max_latency_ms
        if limit is None:
            return None
        policy = OnnxPolicy.from_bytes(head, metadata)
        return measure_latency(policy, take(probes.observations, 0), limit)

    def check_finite(self) -> None:
        """Refuse a policy that has diverged, in whichever of its networks.

        In a buffer, infinity may well be meant (a mask, a bound), and anything in one that is not saved.

        :raises NonFiniteWeightsError: it has
        """
        policy = self._model.policy
        for name, parameter in policy.named_parameters():
            if not np.isfinite(_total(parameter)) and not parameter.isfinite().all():  # a sum may overflow
                raise NonFiniteWeightsError(uncompiled_name(name))
        saved = policy.state_dict()
        for name, buffer in policy.named_buffers():
            if name in saved and buffer.is_floating_point() and np.isnan(_total(buffer)) and buffer.isnan().any():
                raise NonFiniteWeightsError(uncompiled_name(name), buffer=True)

    def reference(self, further: Further | None = None) -> Reference:
        """Stable-Baselines3's own ``predict`` on raw observations; on the CPU, wherever the policy is."""
        if not needs_twin(self._model.policy):
            return self._ask(self._model, further)
        if self._twin is None:
            self._twin = CpuTwin(self._model.policy)
        self._twin.update()
        sample = take(self.probes().observations, slice(0, _N_TWIN))
        live, copied = (self._ask(predictor).predict(sample).action for predictor in (self._model, self._twin.policy))
        if not alike(live, copied, self._model.policy.action_space):
            self._twin.remake()
        return self._ask(self._twin.policy, further)

    def _ask(self, predictor: BaseAlgorithm | BasePolicy, further: Further | None = None) -> Reference:
        normalization = self._normalization
        return Reference(self._model, predictor, normalization.vec_normalize, normalization.stacks, further)

    def probes(self, n_samples: int | None = None) -> Probes:
        """Raw observations to try; None chooses their number."""
        policy, vec_normalize = self._model.policy, self._normalization.vec_normalize
        n_samples = n_samples or self._n_samples
        seen = seen_observations(self._model, vec_normalize, n_samples)
        return gather_probes(self._draw(n_samples), seen, masked_choices(policy))

    def _draw(self, n_samples: int) -> Batch:
        """Random observations: the same at each export, unless statistics have moved on."""
        space, statistics = self._model.policy.observation_space, self._normalization.statistics()
        if statistics:
            return draw_observations(space, statistics, n_samples)
        if n_samples not in self._drawn:
            self._drawn[n_samples] = draw_observations(space, statistics, n_samples)
        return self._drawn[n_samples]


def _frame_stack_records(normalization: Normalization) -> tuple[FrameStackRecord, ...]:
    """What a consumer must know to stack frames.

    Stable-Baselines3 pads with zeros; where it does so after normalization, the raw value that is normalized to zero
    takes their place.
    """
    frames = collect_statistics(normalization.vec_normalize)  # of single frames
    records = []
    for key, stack in normalization.stacks.items():
        padding: float | tuple[float, ...] = 0.0
        error = 0.0
        if stack.after_normalization and key in frames:
            raw, error = Normalize(frames[key]).of_zero()
            padding = tuple(raw.reshape(-1).tolist())
        records.append(
            FrameStackRecord(key=key, n_stack=stack.n_stack, axis=stack.axis, padding=padding, padding_error=error)
        )
    return tuple(records)


def check_algorithm(model: object) -> None:
    """Refuse what is no Stable-Baselines3 algorithm.

    :raises UnsupportedPolicyError: it is none, or it has no policy yet
    """
    if not isinstance(model, BaseAlgorithm):
        raise UnsupportedPolicyError(
            type(model).__qualname__, "it is not a Stable-Baselines3 algorithm", "Pass the model, such as PPO(...)."
        )
    if getattr(model, "policy", None) is None:
        raise UnsupportedPolicyError(
            type(model).__qualname__, "it has no policy yet", "Make it with _init_setup_model=True, the default."
        )


def _total(tensor: th.Tensor) -> np.floating[Any]:
    """The sum of a tensor: quick, and wakes no thread."""
    with np.errstate(over="ignore", invalid="ignore"):
        total: np.floating[Any] = np.add.reduce(tensor.detach().cpu().float().numpy(), axis=None)
    return total


def _n_samples(n_parameters: int) -> int:
    """Many observations for a small network, few for a large one: the proof costs what the network costs."""
    return int(np.clip(1_000_000 // max(n_parameters, 1), 2, 64))


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
