"""The exporter: the core that callback, :func:`export_policy` and command line share."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import torch as th
from msgspec.structs import replace
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker.errors import NoVectorsWarning, UnsupportedPolicyError, ValidationError
from sb3_clanker.errors.warnings import warn
from sb3_clanker.export.describe import describe
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.entries import contract_entries
from sb3_clanker.policy_file.record import CheckpointRecord, EvaluationRecord, ObservationRanges, PolicyMetadata
from sb3_clanker.policy_file.seal import Hashing
from sb3_clanker.policy_file.vectors import TestVectors, encode_vectors
from sb3_clanker.proof.answers import write_vectors
from sb3_clanker.proof.probes import Probes, take
from sb3_clanker.proof.reference import Reference
from sb3_clanker.proof.stages import FormatProof, open_policy, prove
from sb3_clanker.proof.subject import Instant, Subject
from sb3_clanker.report import ValidationReport
from sb3_clanker.run_folder.names import FileKind
from sb3_clanker.runtime.check_vectors import check_vectors
from sb3_clanker.runtime.latency import measure_latency
from sb3_clanker.runtime.policy import OnnxPolicy
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.writers.formats import FORMATS, further_writer
from sb3_clanker.writers.further import Original
from sb3_clanker.writers.writer import Template


@dataclass(frozen=True, kw_only=True)
class ProvenPolicy:
    """A file that passed its proof and has no name yet.

    :ivar parts: its bytes, as stretches
    :ivar metadata: what it says of itself
    :ivar validation: what the proof measured
    :ivar seconds: duration of each stage
    :ivar vectors: its test vectors, if they were asked for
    :ivar further: its files in further formats, if they were asked for
    """

    parts: tuple[bytes | memoryview, ...]
    metadata: PolicyMetadata
    validation: ValidationReport
    seconds: dict[str, float]
    vectors: bytes | None
    further: Mapping[FileKind, bytes]

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


class _Traced(NamedTuple):
    """What was traced, what it holds beside weights, and the type of the actions that Stable-Baselines3 returns."""

    template: Template
    baked_in: Hashable
    predict_dtype: str


class Exporter:
    """Exports one algorithm, as often as needed; it is traced once.

    :param model: the algorithm; it is never changed
    :param normalization: what it was trained with
    :param options: options of every export
    """

    def __init__(self, model: BaseAlgorithm, normalization: Normalization, options: ExportOptions) -> None:
        self._subject, self._options = Subject(model, normalization, options), options
        self._writer = FORMATS[options.suffix]
        self._further = [further_writer(name) for name in options.formats]
        self._traced: _Traced | None = None

    def check_finite(self) -> None:
        """Refuse a policy that has diverged; see :meth:`Subject.check_finite`."""
        self._subject.check_finite()

    def export(
        self,
        *,
        evaluation: EvaluationRecord | None = None,
        checkpoint: CheckpointRecord | None = None,
        ranges: ObservationRanges | None = None,
        name: str = "policy",
        run: str | None = None,
    ) -> ProvenPolicy:
        """Export the policy as it is now, and prove it.

        The policy is traced again where anything but its weights has changed since, or where that cannot be known; and
        once more where a file from an earlier trace fails its proof all the same.

        :param evaluation: what made the policy the best, or else the last one before
        :param checkpoint: the other files of the same instant, None where there are none
        :param ranges: what training saw of observations, None where nobody kept it
        :param name: of its files, without a suffix, for formats that say it
        :param run: name of the training, likewise; None is that of the files
        """
        start = time.perf_counter()
        while True:
            with self._subject.now(self._is_known) as now:
                try:
                    return self._export(now, start, evaluation, checkpoint, ranges, name, run or name)
                except ValidationError:
                    if now.in_full:
                        raise
            self._traced = None  # so that the next is in full

    def _export(
        self,
        now: Instant,
        start: float,
        evaluation: EvaluationRecord | None,
        checkpoint: CheckpointRecord | None,
        ranges: ObservationRanges | None,
        name: str,
        run: str,
    ) -> ProvenPolicy:
        writer, options = self._writer, self._options
        now.actor.see(ranges)
        now.check()
        for further in self._further:
            further.refuse(now.actor, options)
        known = None if now.in_full else self._traced
        template = known.template if known else writer.trace(now.copied_actor(), options)
        seconds = {"trace": time.perf_counter() - start}
        reference, first = now.reference(), take(now.probes.observations, slice(0, 1))
        dtype = known.predict_dtype if known else str(reference.predict(first).action.dtype)
        metadata = describe(now, dtype, evaluation, checkpoint, ranges)
        with _timed(seconds, "fill"):
            filled = template.fill(now.tensors, contract_entries(metadata))
            hashing = Hashing(filled.body)
        with _timed(seconds, "validate"):
            report = prove(writer, filled, metadata, reference, now.probes, options, in_full=now.in_full)
            self._traced = _Traced(template, now.baked_in, dtype)  # kept only once it has been proven in full
            latency = None
            if options.max_latency_ms is not None:
                policy = open_policy(writer, b"".join(filled.published), metadata)
                latency = measure_latency(policy, take(now.probes.observations, 0), options.max_latency_ms)
            parts, metadata = writer.stamp(
                filled, replace(metadata, cross_check=report.cross_check, latency=latency), hashing
            )
        vectors = None
        if now.vector_probes is not None and options.test_vectors is not None:
            with _timed(seconds, "vectors"):
                policy = open_policy(writer, b"".join(filled.published), metadata)
                vectors = _vectors(policy, reference, now.vector_probes, options.test_vectors, options)
        files: dict[FileKind, bytes] = {}
        if self._further:
            original = Original(
                name=name,
                run=run,
                data=b"".join(parts),
                metadata=metadata,
                tensors=now.tensors,
                copied_actor=now.copied_actor,
                in_full=now.in_full,
            )
            proof = FormatProof(report, metadata, reference, now.probes, options, vectors, in_full=now.in_full)
            for further in self._further:
                with _timed(seconds, further.format):
                    files |= proof.prove(further, further.write(original))
        return ProvenPolicy(
            parts=tuple(parts),
            metadata=metadata,
            validation=report,
            seconds=seconds,
            vectors=None if vectors is None else encode_vectors(vectors),
            further=files,
        )

    def _is_known(self, tensors: Mapping[str, th.Tensor], baked_in: Hashable) -> bool:
        """See :data:`IsKnown`."""
        if self._traced is None or baked_in is None or baked_in != self._traced.baked_in:
            return False
        return self._traced.template.fits(tensors)


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


def _vectors(
    policy: OnnxPolicy, reference: Reference, probes: Probes, count: int, options: ExportOptions
) -> TestVectors | None:
    """Test vectors, which the file itself agrees with."""
    vectors = write_vectors(policy, reference, probes, count, options)
    if vectors is None:
        warn(
            NoVectorsWarning(
                "No test vectors are written: there is no observation on which the policy gives a firm answer. "
                "Train it further."
            )
        )
        return None
    check_vectors(policy, vectors)
    return vectors


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
