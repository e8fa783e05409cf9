"""The proof: a file is compared with Stable-Baselines3's own ``predict`` before it gets its name.

Four stages, each with its figures: ``structure`` (onnx's checker), ``contract``, ``runtime`` (a session in
onnxruntime) and ``cross_check``. The first that fails ends the proof with an error that carries the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_clanker.contract import contract_problems
from sb3_clanker.errors import ValidationError
from sb3_clanker.metadata import CrossCheckRecord, PolicyMetadata
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy import OnnxPolicy
from sb3_clanker.probes import Batch, Probes, batch_size, take
from sb3_clanker.reference import Reference

_N_SINGLE = 3
"""How many observations are also tried one at a time, without a batch dimension."""


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage of the proof.

    :ivar name: ``structure``, ``contract``, ``runtime`` or ``cross_check``
    :ivar passed: whether the file passed it
    :ivar seconds: how long it took
    :ivar detail: what was found, in words
    """

    name: str
    passed: bool
    seconds: float
    detail: str


@dataclass(kw_only=True)
class ValidationReport:
    """What a proof measured.

    :ivar stages: the stages in order, up to the first that failed
    :ivar cross_check: the figures of the comparison, None where it was not reached
    """

    stages: list[StageReport] = field(default_factory=list)
    cross_check: CrossCheckRecord | None = None

    @property
    def passed(self) -> bool:
        """Whether every stage was reached and passed."""
        return len(self.stages) == 4 and all(stage.passed for stage in self.stages)

    def __str__(self) -> str:
        return "\n".join(
            f"{'ok    ' if stage.passed else 'FAILED'} {stage.name:<12} {1e3 * stage.seconds:7.1f} ms  {stage.detail}"
            for stage in self.stages
        )


def prove(
    data: bytes, metadata: PolicyMetadata, reference: Reference, probes: Probes, options: ExportOptions
) -> ValidationReport:
    """Prove that a file does what the policy does.

    :param data: the bytes of the file
    :param metadata: the record that belongs to them
    :param reference: Stable-Baselines3's own ``predict``
    :param probes: what to try
    :param options: tolerances
    :return: the report of a proof that passed
    :raises ValidationError: a stage failed; the error carries the report
    """
    report = ValidationReport()
    with _stage(report, "structure") as note:
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model, full_check=True)
        note(f"{len(model.graph.node)} nodes, {len(data):,} bytes")
    with _stage(report, "contract") as note:
        if problems := contract_problems(model, metadata):
            raise _RefusedError("; ".join(problems))
        note(f"opset {metadata.opset_version}, IR version {metadata.ir_version}")
    with _stage(report, "runtime") as note:
        policy = OnnxPolicy.from_bytes(data, metadata)
        note("loaded by onnxruntime")
    with _stage(report, "cross_check") as note:
        comparison = _Comparison(policy, reference, options)
        report.cross_check = _cross_check(comparison, probes, options)
        summary = _describe(report.cross_check)
        if report.cross_check.n_mismatches:
            raise _RefusedError(f"the file and Stable-Baselines3 disagree: {summary}; {comparison.example}")
        if report.cross_check.n_nonfinite >= len(probes):
            raise _RefusedError(f"Stable-Baselines3 itself gives no finite action: {summary}")
        note(summary)
    return report


class _RefusedError(Exception):
    """A stage found the file wanting; its message is the finding."""


@contextmanager
def _stage(report: ValidationReport, name: str) -> Iterator[Callable[[str], None]]:
    """Time one stage, note what it found, and turn whatever it raises into a refusal that carries the report."""
    notes: list[str] = []
    start = time.perf_counter()
    try:
        yield notes.append
    except Exception as error:  # whatever a checker, a runtime or a policy raises, the file is not proven
        report.stages.append(
            StageReport(name=name, passed=False, seconds=time.perf_counter() - start, detail=str(error))
        )
        raise ValidationError(f"The file failed its proof at the stage {name}: {error}", report) from error
    seconds = time.perf_counter() - start
    report.stages.append(StageReport(name=name, passed=True, seconds=seconds, detail="; ".join(notes)))


def _cross_check(comparison: _Comparison, probes: Probes, options: ExportOptions) -> CrossCheckRecord:
    """Compare on every probe: as one batch, and some as a batch of one and singly."""
    comparison.add(probes.observations)
    for index in np.unique(np.linspace(0, len(probes) - 1, _N_SINGLE).astype(int)):
        one = take(probes.observations, slice(index, index + 1))
        comparison.add(one)
        comparison.add_single(one)
    return CrossCheckRecord(
        n_observations=len(probes),
        n_seen=probes.n_seen,
        max_difference=comparison.max_difference,
        n_mismatches=comparison.n_mismatches,
        n_ties=comparison.n_ties,
        n_nonfinite=comparison.n_nonfinite,
        atol=options.atol,
        rtol=options.rtol,
    )


class _Comparison:
    """Differences between the file's actions and the policy's, collected over several calls."""

    def __init__(self, policy: OnnxPolicy, reference: Reference, options: ExportOptions) -> None:
        self._policy, self._reference, self._options = policy, reference, options
        self._unit: NDArray[np.float64] | None = None
        self.max_difference = 0.0
        self.n_mismatches = self.n_ties = self.n_nonfinite = 0
        self.example = ""

    def add(self, observation: Batch) -> None:
        """Compare on a batch of observations."""
        self._compare(self._policy.predict(observation)[0], self._reference.predict(observation), observation)

    def add_single(self, batch: Batch) -> None:
        """Compare on a batch of one, passed without its batch dimension."""
        observation = take(batch, 0)
        self._compare(self._policy.predict(observation)[0], self._reference.predict(observation), batch)

    def _compare(self, got: NDArray[Any], expected: NDArray[Any], batch: Batch) -> None:
        if (got.shape, got.dtype) != (expected.shape, expected.dtype):
            raise _RefusedError(
                f"predict returns {got.dtype} of shape {got.shape}, and Stable-Baselines3 {expected.dtype} of shape "
                f"{expected.shape}"
            )
        n = batch_size(batch)
        got, expected = got.reshape(n, -1), expected.reshape(n, -1)
        if self._unit is None:
            self._unit = _unit(self._reference.action_space, expected)
        finite = np.isfinite(expected).all(axis=1)
        self.n_nonfinite += n - int(np.count_nonzero(finite))
        difference = np.abs(got.astype(np.float64) - expected) / self._unit
        allowed = self._options.atol + self._options.rtol * np.abs(expected) / self._unit
        wrong = np.flatnonzero(finite & ~(difference <= allowed).all(axis=1))
        if len(wrong):
            ties = self._ties(take(batch, wrong), got[wrong], expected[wrong], allowed[wrong] * self._unit)
            self.n_ties += int(np.count_nonzero(ties))
            finite[wrong[ties]] = False
            if len(mismatches := wrong[~ties]):
                self.n_mismatches += len(mismatches)
                worst = mismatches[np.argmax(difference[mismatches].max(axis=1))]
                self.example = f"for one, {got[worst].tolist()} in place of {expected[worst].tolist()}"
        self.max_difference = max(self.max_difference, float(difference[finite].max(initial=0.0)))

    def _ties(
        self, batch: Batch, got: NDArray[Any], expected: NDArray[Any], allowed: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which of these rows Stable-Baselines3 itself cannot tell apart in float32.

        :param allowed: tolerance, in units of the actions
        """
        perturbed = self._reference.perturbed(batch).reshape(-1, *got.shape)
        if isinstance(self._reference.action_space, spaces.Box):
            own = np.abs(perturbed - expected).max(axis=0)
            explained = np.abs(got - expected) <= allowed + own
        else:
            explained = (got == expected) | (got == perturbed).any(axis=0)
        rows: NDArray[np.bool_] = explained.all(axis=1)
        return rows


def _unit(space: spaces.Space[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """What a difference is measured in, for each element of an action.

    One step of a discrete action; half the range of a Box, or the largest action where the policy uses less of it:
    a motor of ±1000 N that is never driven beyond ±5 is compared in units of 5.
    """
    if not isinstance(space, spaces.Box):
        return np.ones(1)
    half = (space.high.astype(np.float64) - space.low.astype(np.float64)).reshape(-1) / 2
    used = np.nan_to_num(np.abs(expected.astype(np.float64)), posinf=0.0).max(axis=0)
    unit: NDArray[np.float64] = np.minimum(np.where(half > 0, half, 1.0), np.maximum(used, 1.0))
    return unit


def _describe(record: CrossCheckRecord) -> str:
    parts = [f"{record.n_observations} observations ({record.n_seen} seen in training)"]
    parts.append(f"largest difference {record.max_difference:.2g}")
    parts += [f"{record.n_mismatches} mismatches"] if record.n_mismatches else []
    parts += [f"{record.n_ties} ties in float32"] if record.n_ties else []
    parts += [f"{record.n_nonfinite} without a finite reference"] if record.n_nonfinite else []
    return ", ".join(parts)
