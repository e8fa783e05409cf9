"""What Stable-Baselines3 saves of a training, and whether it can."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker.errors import PublicationError, UnsavableTrainingError
from sb3_clanker.policy_file.record import CheckpointRecord
from sb3_clanker.run_folder.publication import Generation, Publication, pair_with_file, pair_with_zip


def stage_training(
    publication: Publication,
    generation: Generation,
    model: BaseAlgorithm,
    vec_normalize: VecNormalize | None,
    with_replay_buffer: bool,
) -> CheckpointRecord:
    """Stage the ``.zip``, the statistics and the replay buffer, in the formats of Stable-Baselines3.

    :return: what the record of the policy says of them
    :raises PublicationError: one cannot be written; those before it are staged
    """
    zip_name = f"{generation.stem}.zip"
    zip_file = pair_with_zip(publication.stage(zip_name, model.save), zip_name)
    statistics_file = None
    if vec_normalize is not None:
        staged = publication.stage(generation.statistics, lambda file: pickle.dump(vec_normalize, file))
        statistics_file = pair_with_file(staged, generation.statistics)
    if with_replay_buffer:
        publication.stage(generation.replay_buffer, lambda file: save_to_pkl(file, replay_buffer_of(model)))
    return CheckpointRecord(
        algorithm_file=zip_file, statistics_file=statistics_file, replay_buffer=with_replay_buffer, together=True
    )


def replay_buffer_of(model: BaseAlgorithm) -> object:
    """The replay buffer of an algorithm, None where it has none."""
    return getattr(model, "replay_buffer", None)


def rehearse(folder: Path, model: BaseAlgorithm, vec_normalize: VecNormalize | None, with_replay_buffer: bool) -> None:
    """Save once, to files that get no name: what can never be saved shows before the first step.

    Of a replay buffer everything is tried but its arrays, which may be of more bytes than a disk has.

    :raises UnsavableTrainingError: something cannot be pickled
    :raises PublicationError: the files cannot be written
    """
    parts: list[tuple[str, Callable[[BufferedWriter], object]]] = [("The algorithm", model.save)]
    if vec_normalize is not None:
        parts.append(("VecNormalize", lambda file: pickle.dump(vec_normalize, file)))
    if with_replay_buffer:
        parts.append(("The replay buffer", lambda file: _WithoutArrays(file).dump(replay_buffer_of(model))))
    with Publication(folder, durable=False) as publication:
        for what, write in parts:
            try:
                publication.stage("rehearsal", write)
            except PublicationError:
                raise
            except Exception as error:  # whatever the user's own objects make of being pickled
                raise UnsavableTrainingError(what, f"{type(error).__name__}: {error}") from error


class _WithoutArrays(pickle.Pickler):
    def persistent_id(self, obj: Any) -> str | None:
        return "array" if isinstance(obj, np.ndarray) and not obj.dtype.hasobject else None
