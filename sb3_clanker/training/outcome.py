"""What became of the exports of a training, said to who watches it and to Stable-Baselines3's logger."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from stable_baselines3.common.logger import Logger

from sb3_clanker.export.publish import ExportReport
from sb3_clanker.run_folder.names import BEST, FINAL, Checkpoint

_logger = logging.getLogger("sb3_clanker")


@dataclass(frozen=True, kw_only=True)
class ExportFailure:
    """An export that failed during training.

    :ivar name: name of the file that was to be written
    :ivar num_timesteps: when
    :ivar error: what happened
    :ivar unmatched: names of files that were written all the same, and that the policy file there does not belong to
    """

    name: str
    num_timesteps: int
    error: Exception
    unmatched: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, num_timesteps: int, error: Exception, unmatched: tuple[str, ...]
    ) -> ExportFailure:
        """The failure of a checkpoint."""
        return cls(name=checkpoint.stem, num_timesteps=num_timesteps, error=error, unmatched=unmatched)

    def log(self) -> None:
        """Say that training goes on without it."""
        older = f" {self.name}.onnx is older than {' and '.join(self.unmatched)} beside it." if self.unmatched else ""
        _logger.error(
            "The export of %s.onnx at %d timesteps failed; training goes on. %s: %s%s",
            self.name,
            self.num_timesteps,
            type(self.error).__name__,
            self.error,
            older,
        )


def say_written(report: ExportReport) -> None:
    """Say what was written, where, and how well it is proven."""
    training, checkpoint = report.metadata.training, report.metadata.checkpoint
    kind = {BEST.stem: f"new best{_score(report)}", FINAL.stem: "end of training"}.get(report.path.stem, "checkpoint")
    beside = ", ".join(file.name for file in checkpoint.files) if checkpoint else ""
    _say(
        f"Wrote {report.path}: {kind} at {training.num_timesteps:,} timesteps, {report.size:,} bytes; "
        f"proven on {report.validation.cross_check}" + (f"; beside it {beside}" if beside else "")
    )


def sum_up(reports: Sequence[ExportReport], failures: Sequence[ExportFailure], *, verbose: int) -> None:
    """Say at the end of a training what became of its exports: of failures always, of the rest if it is wanted."""
    if failures:
        last = failures[-1]
        _logger.error(
            "%d of %d exports failed; the last was %s.onnx at %d timesteps: %s",
            len(failures),
            len(failures) + len(reports),
            last.name,
            last.num_timesteps,
            last.error,
        )
    if verbose < 1 or not (reports or failures):
        return
    _say(f"Policies written: {len(reports)}, failed: {len(failures)}.")
    for folder in dict.fromkeys(report.path.parent for report in reports):
        there = [report for report in reports if report.path.parent == folder]
        report = _last_best(there) or there[-1]
        _say(
            f"{folder}: {'best' if report.path.stem == BEST.stem else 'newest'} is {report.path.name}, "
            f"of {report.metadata.training.num_timesteps:,} timesteps{_score(report)}. "
            f'To run it: sb3_clanker.OnnxPolicy("{report.path.as_posix()}").predict(observation)'
        )


def record_exports(logger: Logger, reports: Sequence[ExportReport], failures: Sequence[ExportFailure]) -> None:
    """Give counts and figures to Stable-Baselines3's logger, which writes them when it next writes anything."""
    figures: dict[str, float | None] = {"exports": len(reports), "failures": len(failures)}
    if (best := _last_best(reports)) is not None:
        figures["best_mean_reward"] = best.metadata.training.mean_reward
    if reports:
        last = reports[-1]
        figures["last_timesteps"] = last.metadata.training.num_timesteps
        figures["size"] = last.size
        figures["export_time"] = sum(last.seconds.values())
        if (check := last.validation.cross_check) is not None:
            figures |= {"observations": check.n_observations, "ties": check.n_ties}
            figures["max_difference"] = check.max_difference
        if (latency := last.metadata.latency) is not None:
            figures |= {"latency_p50_ms": latency.p50_ms, "latency_p99_ms": latency.p99_ms}
    for name, figure in figures.items():
        if figure is not None:
            logger.record(f"onnx/{name}", figure)


def dump_exports(
    logger: Logger, num_timesteps: int, reports: Sequence[ExportReport], failures: Sequence[ExportFailure]
) -> None:
    """Have Stable-Baselines3's logger write them now: it writes nothing after the last rollout.

    What others have recorded by then it neither writes nor forgets, as without this.
    """
    others = {name: values for name, values in vars(logger).items() if name.startswith("name_to_")}
    try:
        for name, values in others.items():
            ours = copy.copy(values)
            ours.clear()
            setattr(logger, name, ours)
        logger.record("time/total_timesteps", num_timesteps, exclude="tensorboard")
        record_exports(logger, reports, failures)
        logger.dump(num_timesteps)
    except Exception as error:  # a training must not end because of it, whatever its formats are
        _logger.error("The logger of Stable-Baselines3 could not write the figures of the exports: %s", error)
    finally:
        vars(logger).update(others)


def _last_best(reports: Sequence[ExportReport]) -> ExportReport | None:
    return next((report for report in reversed(reports) if report.path.stem == BEST.stem), None)


def _score(report: ExportReport) -> str:
    mean_reward = report.metadata.training.mean_reward
    return "" if mean_reward is None else f", mean reward {mean_reward:.2f}"


def _say(line: str) -> None:
    """Show a line: in the log where that is shown, else as Stable-Baselines3 shows its own."""
    with suppress(Exception):  # nobody may read it any more, and training goes on
        if _is_shown(logging.INFO):
            _logger.info("%s", line)
        else:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            sys.stdout.flush()


def _is_shown(level: int) -> bool:
    """Whether anything shows what is logged at a level."""
    logger: logging.Logger | None = _logger
    handlers: list[logging.Handler] = []
    while logger is not None:
        handlers += logger.handlers
        logger = logger.parent if logger.propagate else None
    shows = (handler.level <= level and not isinstance(handler, logging.NullHandler) for handler in handlers)
    return _logger.isEnabledFor(level) and any(shows)
