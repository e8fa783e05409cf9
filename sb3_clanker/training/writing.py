"""What: the files of one checkpoint of a training, written together, and what is kept for them from step to step."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker.export.exporter import Exporter
from sb3_clanker.export.publish import ExportReport, publish
from sb3_clanker.policy_file.record import EvaluationRecord, ObservationRanges
from sb3_clanker.run_folder.names import BEST, FINAL, Checkpoint, FileKind
from sb3_clanker.run_folder.retention import Retention
from sb3_clanker.sb3.normalization import resolve_normalization
from sb3_clanker.sb3.saving import rehearse, to_save
from sb3_clanker.sb3.seen import SeenObservations
from sb3_clanker.training.place import Place, ranges_before


class CheckpointWriter:
    """Writes the checkpoints of one training.

    :param model: the algorithm
    :param exporter: exports its policy
    :param save_replay_buffer: whether numbered checkpoints include the replay buffer
    """

    def __init__(self, model: BaseAlgorithm, exporter: Exporter, *, save_replay_buffer: bool) -> None:
        self._model, self._exporter, self._save_replay_buffer = model, exporter, save_replay_buffer

    def rehearse(self, folder: Path) -> None:
        """Export and save once, unnamed; errors as of :func:`export_policy` and :func:`rehearse`."""
        self._exporter.export()
        vec_normalize = resolve_normalization(self._model, "auto").vec_normalize
        rehearse(folder, self._model, vec_normalize, self._save_replay_buffer)

    def write(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        evaluation: EvaluationRecord | None,
        retention: Retention,
        there: Mapping[FileKind, Path] = MappingProxyType({}),
        ranges: ObservationRanges | None = None,
    ) -> ExportReport:
        """Write one.

        :param evaluation: what made the policy the best, or else the last one before
        :param retention: counts those that are numbered, and wholly ours
        :param there: files of it that another callback has just written
        :param ranges: what training saw of observations, None where nobody kept it
        """
        if checkpoint == BEST:
            self._exporter.check_finite()  # the last good best is worth more than the .zip of a policy that diverged
        is_numbered = checkpoint not in (BEST, FINAL)
        vec_normalize = resolve_normalization(self._model, "auto").vec_normalize
        saved = to_save(self._model, vec_normalize, self._save_replay_buffer and is_numbered)
        count = functools.partial(retention.add, self._model.num_timesteps)
        return publish(
            self._exporter,
            folder,
            checkpoint,
            saved={kind: write for kind, write in saved.items() if kind not in there},
            there=there,
            evaluation=evaluation,
            ranges=ranges,
            durable=checkpoint == FINAL,
            committed=count if is_numbered and not there else None,
        )


def watch(model: BaseAlgorithm, places: Iterable[Place], seen: SeenObservations | None) -> SeenObservations:
    """Ranges of what a training sees from now on; what looks at each step is up to the caller.

    :param places: where lies what it may go on from
    :param seen: those of the ``learn()`` before, where it goes on with that
    """
    if seen is None:
        seen = SeenObservations(model, ranges_before(places, model.num_timesteps))
    seen.start(resolve_normalization(model, "auto"))
    return seen
