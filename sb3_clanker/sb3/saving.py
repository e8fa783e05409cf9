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
from sb3_clanker.run_folder.names import REPLAY_BUFFER, STATISTICS, ZIP, FileKind
from sb3_clanker.run_folder.publication import Publication, Write


def to_save(
    model: BaseAlgorithm,
    vec_normalize: VecNormalize | None,
    with_replay_buffer: bool,
    save_buffer: Callable[[BufferedWriter, object], object] = save_to_pkl,
) -> dict[FileKind, Write]:
    """What writes each file of a training, in the formats of Stable-Baselines3.

    :param with_replay_buffer: whether the replay buffer is saved, where the algorithm has one
    """
    files: dict[FileKind, Write] = {ZIP: model.save}
    if vec_normalize is not None:
        files[STATISTICS] = lambda file: pickle.dump(vec_normalize, file)
    replay_buffer = getattr(model, "replay_buffer", None)
    if with_replay_buffer and replay_buffer is not None:
        files[REPLAY_BUFFER] = lambda file: save_buffer(file, replay_buffer)
    return files


def rehearse(folder: Path, model: BaseAlgorithm, vec_normalize: VecNormalize | None, with_replay_buffer: bool) -> None:
    """Save once, to files that get no name: what can never be saved shows before the first step.

    Of a replay buffer everything is tried but its arrays, which may be of more bytes than a disk has.

    :raises UnsavableTrainingError: something cannot be pickled
    :raises PublicationError: the files cannot be written
    """
    files = to_save(model, vec_normalize, with_replay_buffer, lambda file, buffer: _WithoutArrays(file).dump(buffer))
    with Publication(folder, durable=False) as publication:
        for kind, write in files.items():
            try:
                publication.stage("rehearsal", write)
            except PublicationError:
                raise
            except Exception as error:  # whatever the user's own objects make of being pickled
                raise UnsavableTrainingError(kind.holds, f"{type(error).__name__}: {error}") from error


class _WithoutArrays(pickle.Pickler):
    def persistent_id(self, obj: Any) -> str | None:
        return "array" if isinstance(obj, np.ndarray) and not obj.dtype.hasobject else None
