"""What a proof measured, and what a comparison found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from sb3_clanker.display import Shown
from sb3_clanker.public import public


class CrossCheckRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the comparison with Stable-Baselines3's own ``predict`` measured.

    :ivar n_observations: observations compared
    :ivar n_seen: how many of them training had really seen
    :ivar max_difference: largest difference; Box actions in units of half their range, or of the largest one used
    :ivar max_score_difference: largest difference of the scores that actions come from (logits, Q-values, a mean before
        it is clipped or squashed), in units of the largest; None where the policy has none
    :ivar twin_difference: of a policy on an accelerator, whose copy on the CPU the file was compared with: how far the
        two are apart, for Box actions in units of half their range, else in units of the largest score, or the share of
        choices that differ; None on the CPU
    :ivar n_mismatches: observations on which the actions differ by more than the tolerance
    :ivar n_ties: observations on which they differ by no more than Stable-Baselines3's own actions do when its
        weights change in their last digit: near-ties of scores, not counted as mismatches
    :ivar n_nonfinite: observations on which Stable-Baselines3 itself gives no finite action, not compared
    :ivar atol: absolute tolerance
    :ivar rtol: relative tolerance
    """

    n_observations: int
    n_seen: int
    max_difference: float
    max_score_difference: float | None = None
    twin_difference: float | None = None
    n_mismatches: int
    n_ties: int
    n_nonfinite: int
    atol: float
    rtol: float

    def __str__(self) -> str:
        counts = {"mismatches": self.n_mismatches, "ties": self.n_ties}
        others = "".join(f", {count} {name}" for name, count in counts.items() if count)
        return f"{self.n_observations} observations, largest difference {self.max_difference:.2g}{others}"


class LatencyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long one prediction took, measured because the caller asked for a promise.

    :ivar p50_ms: median, in milliseconds
    :ivar p99_ms: 99th percentile, in milliseconds
    :ivar limit_ms: what was promised of the 99th percentile
    :ivar processor: what it was measured on
    """

    p50_ms: float
    p99_ms: float
    limit_ms: float
    processor: str


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage of the proof.

    :ivar name: ``structure`` and ``contract``, which are of ONNX, ``runtime`` or ``cross_check``; then those of further
        formats, such as ``torchscript``
    :ivar passed: whether the file passed it
    :ivar seconds: how long it took
    :ivar detail: what was found, in words
    """

    name: str
    passed: bool
    seconds: float
    detail: str


@dataclass(frozen=True, kw_only=True)
class FormatReport:
    """What the proof of a format beside ONNX measured.

    :ivar size: bytes of its files
    :ivar cross_check: the figures of the comparison with Stable-Baselines3's own ``predict``
    :ivar n_vectors: test vectors that it agrees with, None where none were asked for
    :ivar latency: how long a prediction takes, None where no promise was asked for, or none is measured in this format
    """

    size: int
    cross_check: CrossCheckRecord
    n_vectors: int | None = None
    latency: LatencyRecord | None = None


@dataclass(frozen=True, kw_only=True)
class RecordDifference:
    """A field of the record that is not the same in both.

    :ivar path: where it stands in the record, such as ``training.num_timesteps`` or ``inputs[obs].shape``
    :ivar first: its value in the first, in short; ``-`` where it has none
    :ivar second: its value in the second
    """

    path: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first} -> {self.second}"


@public
@dataclass(kw_only=True, repr=False)
class ValidationReport(Shown):
    """What a proof measured.

    :ivar stages: the stages in order, up to the first that failed
    :ivar cross_check: the figures of the comparison, None where it was not reached
    :ivar formats: those of each format beside ONNX, by its name
    """

    _in_short = ("proof", "compared")

    stages: list[StageReport] = field(default_factory=list)
    cross_check: CrossCheckRecord | None = None
    formats: dict[str, FormatReport] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every stage was reached and passed."""
        reached = [stage.name for stage in self.stages]
        return "cross_check" in reached and all(stage.passed for stage in self.stages)

    def facts(self) -> Iterator[tuple[str, str]]:
        failed = "".join(f" at {stage.name}" for stage in self.stages if not stage.passed)
        yield "proof", "passed" if self.passed else f"FAILED{failed}" if failed else "not finished"
        if self.cross_check is not None:
            yield "compared", str(self.cross_check)
        for stage in self.stages:
            yield stage.name, f"{'ok' if stage.passed else 'FAILED'}, {1e3 * stage.seconds:.1f} ms: {stage.detail}"

    def __str__(self) -> str:
        return "\n".join(
            f"{'ok    ' if stage.passed else 'FAILED'} {stage.name:<12} {1e3 * stage.seconds:7.1f} ms  {stage.detail}"
            for stage in self.stages
        )
