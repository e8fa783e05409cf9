"""The proof: a file is compared with Stable-Baselines3's own ``predict`` before it gets its name.

First the stages of the format, of ONNX ``structure`` (onnx's checker) and ``contract``; then those of every format,
``runtime`` (what it runs in) and ``cross_check``. The first that fails ends the proof with an error that carries the
report.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from sb3_clanker.errors import MissingDependencyError, ValidationError
from sb3_clanker.formats.format import open_format
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import LeafSpace
from sb3_clanker.policy_file.tensors import OUTSIDE
from sb3_clanker.policy_file.vectors import TestVectors
from sb3_clanker.proof.outside import outside_problem
from sb3_clanker.proof.probes import Batch, Probes, batch_size, take
from sb3_clanker.proof.reference import Prediction, Reference
from sb3_clanker.proof.truncation import truncation_problem
from sb3_clanker.report import CrossCheckRecord, FormatReport, StageReport, ValidationReport
from sb3_clanker.run_folder.names import FileKind, running_kind
from sb3_clanker.runtime.check_vectors import check_vectors
from sb3_clanker.runtime.latency import measure_latency
from sb3_clanker.runtime.policy import OnnxPolicy
from sb3_clanker.writers.further import FurtherWriter
from sb3_clanker.writers.scores import SCORES
from sb3_clanker.writers.writer import Filled, RefusedError, Writer

_logger = logging.getLogger("sb3_clanker")

_N_ENVS = 16
"""How many environments a recurrent policy is stepped in."""
_SEED = 20_260_103
_LARGEST_SLACK = 1e-2
"""The most that float precision can excuse, in units of the comparison."""
_SCORE_SLACK = 10.0
"""How much more than actions the scores may differ: sums of many terms, of which an action shows little."""
_STAND_IN = 1e6
"""Values from here on stand for infinity, as -1e8 does in the logits of what a mask forbids; they set no unit."""


def prove(
    writer: Writer,
    filled: Filled,
    metadata: PolicyMetadata,
    reference: Reference,
    probes: Probes,
    options: ExportOptions,
    *,
    in_full: bool,
) -> ValidationReport:
    """Prove that a file does what the policy does.

    :param writer: of its format
    :param filled: the file, and the same with its scores
    :param metadata: the record that belongs to it
    :param reference: Stable-Baselines3's own ``predict``
    :param probes: what to try
    :param options: tolerances
    :param in_full: whether the graph is new. It is then proven as it is, and once more with its scores. Else only its
        weights are new: it is proven with its scores alone, a reader takes it as it took it before, and a single
        observation is held against its row in the batch, not a ``predict`` of its own
    :return: the report of a proof that passed
    :raises ValidationError: a stage failed; the error carries the report
    """
    report = ValidationReport()
    files = []
    if filled.scores is not None:
        files.append((filled.data, replace(metadata, outputs=(*metadata.outputs, filled.scores))))
    if filled.scores is None or in_full:
        files.insert(0, (b"".join(filled.published), metadata))
    data, described = files[0]
    findings = writer.check(data, described, in_full=in_full)
    for stage in writer.stages:
        with _stage(report, stage) as note:
            note(next(findings))
    with _stage(report, "runtime") as note:
        policies = [open_policy(writer, data, described, trusted=not in_full) for data, described in files]
        note(f"loaded by {writer.runtime}")
    with _stage(report, "cross_check") as note:
        for policy in policies:
            comparison = _Comparison(policy, reference, options)
            report.cross_check = _cross_check(comparison, probes, options, in_full)
            summary = comparison.require_alike(report.cross_check)
        problem = truncation_problem(policies[0], probes.observations)
        if problem := problem or outside_problem(policies[0], probes.observations, in_full=in_full):
            raise RefusedError(problem)
        note(summary)
    return report


class FormatProof:
    """What proves the formats beside a proven ``.onnx``, each opened again from its own bytes.

    :param report: of that file; gets a stage for each format, of its name, and its figures
    :param metadata: the record of that file, sealed
    :param vectors: test vectors that each must agree with too, None where there are none

    The other parameters are those of :func:`prove`.
    """

    def __init__(
        self,
        report: ValidationReport,
        metadata: PolicyMetadata,
        reference: Reference,
        probes: Probes,
        options: ExportOptions,
        vectors: TestVectors | None,
        *,
        in_full: bool,
    ) -> None:
        self._report, self._metadata, self._reference, self._probes = report, metadata, reference, probes
        self._options, self._vectors, self._in_full = options, vectors, in_full

    def prove(self, writer: FurtherWriter, files: Mapping[FileKind, bytes]) -> Mapping[FileKind, bytes]:
        """Prove one.

        :param files: what it wrote, by kind; of these, the first in ``KINDS`` runs
        :return: the files; unproven, with a warning in the log, where nothing here can run them and that was asked for
        :raises ValidationError: they do not do what the policy does; the error carries the report
        :raises LatencyError: they are slower than was promised
        :raises MissingDependencyError: what runs them is not installed
        """
        vectors, options = self._vectors, self._options
        if problem := writer.unproven(options):
            _logger.warning("The files of the format %s are not proven: %s.", writer.format, problem)
            return files
        with _stage(self._report, writer.format) as note:
            runner = open_format(writer.format, files[running_kind(writer.format)])
            policy = OnnxPolicy.from_runner(runner, self._metadata)
            comparison = _Comparison(policy, self._reference, options)
            check = _cross_check(comparison, self._probes, options, self._in_full)
            note(comparison.require_alike(check))
            problem = truncation_problem(policy, self._probes.observations)
            if problem := problem or outside_problem(policy, self._probes.observations, in_full=self._in_full):
                raise RefusedError(problem)
            if vectors is not None:
                note(f"{check_vectors(policy, vectors).n_cases} test vectors")
        latency = None
        if options.max_latency_ms is not None and writer.is_timed:
            latency = measure_latency(policy, take(self._probes.observations, 0), options.max_latency_ms)
        self._report.formats[writer.format] = FormatReport(
            size=sum(map(len, files.values())),
            cross_check=check,
            n_vectors=None if vectors is None else len(vectors.cases),
            latency=latency,
        )
        return files


def open_policy(writer: Writer, data: bytes, metadata: PolicyMetadata, *, trusted: bool = False) -> OnnxPolicy:
    """A file to ask for actions; parameters as for :meth:`Writer.open`."""
    return OnnxPolicy.from_runner(writer.open(data, metadata, trusted=trusted), metadata)


@contextmanager
def _stage(report: ValidationReport, name: str) -> Iterator[Callable[[str], None]]:
    """Time one stage, note what it found, and turn whatever it raises into a refusal that carries the report."""
    notes: list[str] = []
    start = time.perf_counter()
    try:
        yield notes.append
    except MissingDependencyError:
        raise
    except Exception as error:  # whatever a checker, a runtime or a policy raises, the file is not proven
        report.stages.append(
            StageReport(name=name, passed=False, seconds=time.perf_counter() - start, detail=str(error))
        )
        raise ValidationError(f"The file failed its proof at the stage {name}: {error}", report) from error
    seconds = time.perf_counter() - start
    report.stages.append(StageReport(name=name, passed=True, seconds=seconds, detail="; ".join(notes)))


def _cross_check(comparison: _Comparison, probes: Probes, options: ExportOptions, in_full: bool) -> CrossCheckRecord:
    """Compare on every probe as a batch, and on the first alone, without a batch dimension."""
    observations, masks = probes.observations, probes.action_masks
    known: Prediction | None = None
    if comparison.recurrent:
        _roll_out(comparison, observations)
    else:
        expected = comparison.add(observations, **_masked(masks))
        extra, scores = (tuple(part[:1] for part in parts) for parts in (expected.extra, expected.scores))
        known = Prediction(expected.action[0], None, extra, scores)
    first = take(observations, slice(0, 1))
    comparison.add(first, single=True, known=None if in_full else known, **_masked(None if masks is None else masks[0]))
    return CrossCheckRecord(
        n_observations=len(probes),
        n_seen=probes.n_seen,
        max_difference=comparison.max_difference,
        max_score_difference=comparison.max_score_difference,
        twin_difference=comparison.apart,
        n_mismatches=comparison.n_mismatches,
        n_ties=comparison.n_ties,
        n_nonfinite=comparison.n_nonfinite,
        atol=options.atol,
        rtol=options.rtol,
    )


def _roll_out(comparison: _Comparison, observations: Batch) -> None:
    """Several environments step by step, with random resets; each step starts from the reference's own state."""
    generator = np.random.default_rng(_SEED)
    n, state = batch_size(observations), None
    for start in range(0, n, _N_ENVS):
        rows = np.arange(start, start + _N_ENVS) % n
        resets = generator.random(_N_ENVS) < 0.2
        step = take(observations, rows)
        state = comparison.add(step, state=state, episode_start=resets if start else None).state


def _masked(masks: NDArray[np.bool_] | None) -> dict[str, Any]:
    return {} if masks is None else {"action_masks": masks}


class _Comparison:
    """Differences between the file and the policy, collected over several calls.

    What a call returns is compared row by row, one row for each observation: the elements of its action, then those of
    its next state, of the extra outputs and of the scores, if there are any.
    """

    def __init__(self, policy: OnnxPolicy, reference: Reference, options: ExportOptions) -> None:
        self._policy, self._reference, self._options = policy, reference, options
        names = [spec.name for spec in policy.metadata.outputs if spec.role == "further"]
        self._scores = [name for name in names if name == SCORES]
        self._extra = [name for name in names if name not in (SCORES, OUTSIDE)]
        self.recurrent = policy.metadata.recurrent
        self.apart = reference.apart
        self._unit: NDArray[np.float64] = np.empty(0)
        self.max_difference = 0.0
        self.max_score_difference: float | None = None
        self.n_mismatches = self.n_ties = self.n_nonfinite = 0
        self.example = ""

    def add(self, batch: Batch, *, single: bool = False, known: Prediction | None = None, **context: Any) -> Prediction:
        """Compare on a batch, or on its only observation passed without a batch dimension.

        :param known: what the policy does, where that was asked before
        :return: what the policy does
        """
        observation = take(batch, 0) if single else batch
        expected = self._reference.predict(observation, **context) if known is None else known
        got = self._predict(observation, context)
        if (got.action.shape, got.action.dtype) != (expected.action.shape, expected.action.dtype):
            raise RefusedError(
                f"predict returns {got.action.dtype} of shape {got.action.shape}, and Stable-Baselines3 "
                f"{expected.action.dtype} of shape {expected.action.shape}"
            )
        if not (got.scores and expected.scores):
            got, expected = got._replace(scores=()), expected._replace(scores=())
        self._compare(batch, context, got, expected)
        return expected

    def require_alike(self, check: CrossCheckRecord) -> str:
        """What was found, in words.

        :raises RefusedError: the file differs from the policy, or nothing could be compared
        """
        summary = _describe(check)
        if check.n_mismatches:
            raise RefusedError(f"the file and Stable-Baselines3 disagree: {summary}; {self.example}")
        if check.n_nonfinite >= check.n_observations:
            raise RefusedError(f"Stable-Baselines3 itself gives no finite action: {summary}")
        return summary

    def _predict(self, observation: Batch, context: dict[str, Any]) -> Prediction:
        if not self._extra and not self._scores:
            return Prediction(*self._policy.predict(observation, **context))
        action, state, outputs = self._policy.predict_and_outputs(observation, **context)
        extra, scores = (tuple(outputs[name] for name in names) for names in (self._extra, self._scores))
        return Prediction(action, state, extra, scores)

    def _compare(self, batch: Batch, context: dict[str, Any], answer: Prediction, reference: Prediction) -> None:
        n = batch_size(batch)
        got, expected = rows(answer, n), rows(reference, n)
        first_score = expected.shape[1] - sum(part[0].size for part in reference.scores)
        if not self._unit.size:
            self._unit = comparison_unit(self._reference.action_space, expected)
            self._unit[first_score:] = self._unit[first_score:].max(initial=0.0)
        finite = np.isfinite(expected).all(axis=1)
        self.n_nonfinite += int(np.count_nonzero(~finite))
        difference = np.abs(got - expected) / self._unit
        allowed = self._options.atol + self._options.rtol * np.abs(expected) / self._unit
        allowed[:, first_score:] *= _SCORE_SLACK
        wrong = finite & ~(difference <= allowed).all(axis=1)
        if wrong.any():
            ties = wrong & self._explained(batch, context, got / self._unit, expected / self._unit, allowed)
            self.n_ties += int(np.count_nonzero(ties))
            finite &= ~ties
            if (mismatches := np.flatnonzero(wrong & ~ties)).size:
                self.n_mismatches += len(mismatches)
                worst = mismatches[np.argmax(difference[mismatches].max(axis=1))]
                self.example = f"for one, {_shorten(got[worst])} in place of {_shorten(expected[worst])}"
        self.max_difference = max(self.max_difference, float(difference[finite, :first_score].max(initial=0.0)))
        if reference.scores:
            largest = float(difference[finite, first_score:].max(initial=0.0))
            self.max_score_difference = max(self.max_score_difference or 0.0, largest)

    def _explained(
        self,
        batch: Batch,
        context: dict[str, Any],
        got: NDArray[np.float64],
        expected: NDArray[np.float64],
        allowed: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Which rows differ by no more than Stable-Baselines3 itself does when weights change in their last digit.

        Nothing excuses a policy that does not repeat itself, or a large difference of a Box action. Everything is in
        units of the comparison.
        """

        def answered(prediction: Prediction) -> NDArray[np.float64]:
            return rows(prediction, batch_size(batch))[:, : expected.shape[1]] / self._unit

        repeats = (np.abs(answered(self._reference.predict(batch, **context)) - expected) <= allowed).all(axis=1)
        perturbed = np.stack([answered(other) for other in self._reference.perturbed(batch, **context)])
        reached = (got == perturbed).any(axis=0) | (got == expected)
        slack = np.minimum(np.abs(perturbed - expected).max(axis=0), _LARGEST_SLACK)
        within = np.abs(got - expected) <= allowed + slack
        explained: NDArray[np.bool_] = repeats & np.where(self._exact(got.shape[1]), reached, within).all(axis=1)
        return explained

    def _exact(self, width: int) -> NDArray[np.bool_]:
        """Which elements of a row are choices, with nothing between them."""
        exact = np.zeros(width, bool)
        space = self._reference.action_space
        exact[: space.n_elements] = not space.is_continuous
        return exact


def rows(prediction: Prediction, n: int) -> NDArray[np.float64]:
    """What a policy answers to n observations, one row each: action, next state, extra outputs, and scores."""
    state = (np.moveaxis(part, 1, 0).reshape(n, -1) for part in prediction.state or ())
    scores = (part.reshape(n, -1) for part in prediction.scores)
    parts = [prediction.action.reshape(n, -1), *state, *prediction.extra, *scores]
    return np.concatenate(parts, axis=1, dtype=np.float64)


def comparison_unit(space: LeafSpace, expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a difference is measured in, for each element of a row.

    One step of a choice; half the range of a Box, or the largest action where the policy uses less of it: a motor of
    ±1000 N that is never driven beyond ±5 is compared in units of 5. For the rest, the largest value, at least 1.
    """
    dim = space.n_elements
    magnitude = np.abs(expected)
    magnitude[~(magnitude < _STAND_IN)] = 0.0
    unit: NDArray[np.float64] = np.maximum(magnitude.max(axis=0), 1.0)
    if space.is_continuous:
        low, high = space.bounds()
        half = (high - low).reshape(-1) / 2
        unit[:dim] = np.minimum(np.where(half > 0, half, 1.0), unit[:dim])
    else:
        unit[:dim] = 1.0
    return unit


def _shorten(row: NDArray[np.float64]) -> str:
    return np.array2string(row, threshold=8, edgeitems=3)


def _describe(record: CrossCheckRecord) -> str:
    parts = [f"{record.n_observations} observations ({record.n_seen} seen in training)"]
    parts.append(f"largest difference {record.max_difference:.2g}")
    if record.max_score_difference is not None:
        parts.append(f"{record.max_score_difference:.2g} in the scores")
    parts += [f"{record.n_mismatches} mismatches"] if record.n_mismatches else []
    parts += [f"{record.n_ties} ties in float32"] if record.n_ties else []
    parts += [f"{record.n_nonfinite} without a finite reference"] if record.n_nonfinite else []
    return ", ".join(parts)
