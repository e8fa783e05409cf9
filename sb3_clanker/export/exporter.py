"""The exporter: the core that callback, :func:`export_policy` and command line share."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

import numpy as np
from msgspec.structs import replace
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker.actor.actor import Actor
from sb3_clanker.actor.normalize import Normalize
from sb3_clanker.errors import ClankerError, NoVectorsWarning, UnsupportedPolicyError, ValidationError
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.container import join_container
from sb3_clanker.policy_file.entries import contract_entries
from sb3_clanker.policy_file.record import (
    CheckpointRecord,
    FrameStackRecord,
    PolicyMetadata,
    Provenance,
    TrainingRecord,
)
from sb3_clanker.policy_file.seal import Hashing, seal
from sb3_clanker.policy_file.vectors import encode_vectors
from sb3_clanker.proof.answers import write_vectors
from sb3_clanker.proof.probes import Probes, take
from sb3_clanker.proof.reference import Reference
from sb3_clanker.proof.stages import prove
from sb3_clanker.proof.subject import Subject
from sb3_clanker.report import LatencyRecord, ValidationReport
from sb3_clanker.runtime.check_vectors import check_vectors
from sb3_clanker.runtime.latency import measure_latency
from sb3_clanker.runtime.policy import OnnxPolicy
from sb3_clanker.sb3.compiled import uncompiled
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.sb3.statistics import collect_statistics
from sb3_clanker.sb3.wrappers import wrapper_names
from sb3_clanker.targets.check import require_target
from sb3_clanker.writers.onnx import FilledGraph, Graph

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

    :ivar parts: its bytes, as stretches
    :ivar metadata: what it says of itself
    :ivar validation: what the proof measured
    :ivar seconds: duration of each stage
    :ivar vectors: its test vectors, if they were asked for
    """

    parts: tuple[bytes | memoryview, ...]
    metadata: PolicyMetadata
    validation: ValidationReport
    seconds: dict[str, float]
    vectors: bytes | None

    @property
    def data(self) -> bytes:
        """Its bytes."""
        return b"".join(self.parts)

    @property
    def size(self) -> int:
        """How many they are."""
        return sum(map(len, self.parts))

    def write(self, file: BinaryIO) -> None:
        """Write its bytes to an open file."""
        file.writelines(self.parts)


class Exporter:
    """Exports one algorithm, as often as needed; its graph is traced once.

    :param model: the algorithm; it is never changed
    :param normalization: what it was trained with
    :param options: options of every export
    """

    def __init__(self, model: BaseAlgorithm, normalization: Normalization, options: ExportOptions) -> None:
        self._subject, self._options = Subject(model, normalization, options), options
        self._graph: Graph | None = None
        self._baked_in: Hashable = None
        self._dtype: str | None = None

    def check_finite(self) -> None:
        """Refuse a policy that has diverged; see :meth:`Subject.check_finite`."""
        self._subject.check_finite()

    def export(self, *, mean_reward: float | None = None, checkpoint: CheckpointRecord | None = None) -> ProvenPolicy:
        """Export the policy as it is now, and prove it.

        The policy is traced again where anything but its weights has changed since, or where it cannot be told; and
        once more where a file from an earlier trace fails its proof all the same.

        :param mean_reward: of the evaluation that led to this export
        :param checkpoint: the other files of the same instant, None where there are none
        """
        with typed_errors(self._subject.model), self._subject.untouched():
            return self._export(mean_reward, checkpoint)

    def _export(
        self, mean_reward: float | None, checkpoint: CheckpointRecord | None, *, anew: bool = False
    ) -> ProvenPolicy:
        seconds: dict[str, float] = {}
        subject, options = self._subject, self._options
        subject.check()
        actor = subject.actor()
        require_target(actor, options.target)
        tensors, graph = actor.tensors(), self._graph
        subject.check_finite(tensors)
        with _timed(seconds, "trace"):
            now = subject.baked_in(actor)
            fresh = anew or graph is None or now is None or now != self._baked_in or not graph.fits(tensors)
            if graph is None or fresh:
                graph, self._dtype = Graph(subject.copied_actor(now), options.opset_version), None
        reference, probes = subject.reference(actor), subject.probes(in_full=fresh)
        metadata = self._describe(
            actor,
            graph.ir_version,
            self._predict_dtype(reference, probes),
            TrainingRecord(
                num_timesteps=int(subject.model.num_timesteps),
                mean_reward=mean_reward if mean_reward is not None and np.isfinite(mean_reward) else None,
            ),
            checkpoint,
        )
        with _timed(seconds, "fill"):
            filled = graph.fill(tensors, join_container(b"", contract_entries(metadata)))
            hashing = Hashing(filled.body)
        with _timed(seconds, "validate"):
            try:
                report = prove(filled, metadata, reference, probes, options, in_full=fresh)
            except ValidationError:
                if fresh:
                    raise
                return self._export(mean_reward, checkpoint, anew=True)
            self._graph, self._baked_in = graph, now  # kept only once it has been proven in full
            latency = self._latency(filled, metadata, probes)
            tail, metadata = seal(replace(metadata, cross_check=report.cross_check, latency=latency), hashing)
        vectors = None
        if options.test_vectors is not None:
            with _timed(seconds, "vectors"):
                vectors = self._vectors(filled, metadata, reference, options.test_vectors)
        return ProvenPolicy(
            parts=(*filled.published, tail), metadata=metadata, validation=report, seconds=seconds, vectors=vectors
        )

    def _describe(
        self,
        actor: Actor,
        ir_version: int,
        predict_dtype: str,
        training: TrainingRecord,
        checkpoint: CheckpointRecord | None,
    ) -> PolicyMetadata:
        """The record, but for what the proof will tell."""
        model, normalization = self._subject.model, self._subject.normalization
        policy = uncompiled(model.policy)
        return PolicyMetadata(
            algorithm=type(model).__name__,
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
            normalization=normalization.record(),
            frame_stacks=_frame_stack_records(normalization),
            environment=wrapper_names(model.get_env()),
            control_period=self._options.control_period,
            training=training,
            provenance=Provenance(created=datetime.now(UTC).isoformat(timespec="seconds"), versions=dict(_versions())),
            checkpoint=checkpoint,
            entries=dict(self._options.metadata),
        )

    def _vectors(self, filled: FilledGraph, metadata: PolicyMetadata, reference: Reference, count: int) -> bytes | None:
        """Test vectors, which the file itself agrees with."""
        policy = OnnxPolicy.from_bytes(b"".join(filled.published), metadata)
        probes = self._subject.probes(in_full=True, n_samples=2 * count)
        vectors = write_vectors(policy, reference, probes, count, self._options)
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

    def _latency(self, filled: FilledGraph, metadata: PolicyMetadata, probes: Probes) -> LatencyRecord | None:
        limit = self._options.max_latency_ms
        if limit is None:
            return None
        policy = OnnxPolicy.from_bytes(b"".join(filled.published), metadata)
        return measure_latency(policy, take(probes.observations, 0), limit)


@contextmanager
def typed_errors(model: BaseAlgorithm) -> Iterator[None]:
    """Turn whatever a policy's own code raises while it is exported into an error of this package.

    :raises UnsupportedPolicyError: it raised something
    """
    try:
        yield
    except (ClankerError, MemoryError, Warning):  # a warning is an error only where the caller made it one
        raise
    except Exception as error:
        raise UnsupportedPolicyError(
            type(uncompiled(model.policy)).__qualname__,
            f"{type(error).__name__}: {error}",
            "See whether model.predict() works on a raw observation; if it does, this is a mistake of sb3_clanker.",
        ) from error


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
