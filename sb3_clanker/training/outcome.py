"""What became of the exports of a training, said in its log and in Stable-Baselines3's logger."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from stable_baselines3.common.logger import Logger

from sb3_clanker.export.publish import ExportReport

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


def sum_up(reports: Sequence[ExportReport], failures: Sequence[ExportFailure]) -> None:
    """Say at the end of a training how many of its exports failed, if any did."""
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


def record_exports(logger: Logger, reports: Sequence[ExportReport], failures: Sequence[ExportFailure]) -> None:
    """Give counts and figures to Stable-Baselines3's logger."""
    logger.record("onnx/exports", len(reports))
    logger.record("onnx/failures", len(failures))
    if reports:
        last = reports[-1]
        logger.record("onnx/export_time", sum(last.seconds.values()))
        if last.validation.cross_check is not None:
            logger.record("onnx/max_difference", last.validation.cross_check.max_difference)
