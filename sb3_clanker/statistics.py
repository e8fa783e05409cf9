"""Which VecNormalize statistics belong to a policy, and where they come from."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker.artifact import pair_with_file, statistics_candidates
from sb3_clanker.environment import FrameStack, frame_stacks
from sb3_clanker.errors import MissingFileError, NormalizationError, OptionError, UnknownNormalizationWarning
from sb3_clanker.metadata import NormalizationRecord, PairedFile
from sb3_clanker.normalization import Statistics, collect_statistics

NormalizationSource: TypeAlias = VecNormalize | str | PathLike[str] | None
"""A VecNormalize, the path of saved statistics, ``"auto"``, or None for certainly none."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """The normalization that a policy was trained with.

    :ivar vec_normalize: the wrapper, or None
    :ivar known: whether it is certain (False: nothing told)
    :ivar file: the file that the statistics were read from, None where they are live
    :ivar stacks: how frames are stacked, by key or under None
    """

    vec_normalize: VecNormalize | None
    known: bool = True
    file: PairedFile | None = None
    stacks: Mapping[str | None, FrameStack] = field(default_factory=dict)

    def statistics(self) -> dict[str | None, Statistics]:
        """What VecNormalize knows, by key or under None; empty where observations stay raw."""
        return collect_statistics(self.vec_normalize, self.stacks)

    def record(self) -> NormalizationRecord:
        """What stands in the metadata."""
        statistics = self.statistics()
        if not statistics:
            return NormalizationRecord(status="none" if self.known else "unknown")
        first = next(iter(statistics.values()))
        return NormalizationRecord(
            status="folded",
            keys=tuple(key for key in statistics if key is not None),
            clip_obs=first.clip_obs,
            epsilon=first.epsilon,
        )


def resolve_normalization(
    model: BaseAlgorithm, source: NormalizationSource, zip_path: Path | None = None
) -> Normalization:
    """Find the normalization of a policy.

    :param model: the algorithm
    :param source: what the caller said
    :param zip_path: the ``.zip`` that the model came from, if it is known
    :raises OptionError: ``source`` is none of what it may be
    :raises MissingFileError: the statistics that were named are not there
    :raises NormalizationError: the file holds no statistics
    """
    env = model.get_env()
    stacks = frame_stacks(env)
    if source is None or isinstance(source, VecNormalize):
        return Normalization(vec_normalize=source, stacks=stacks)
    if source != "auto":
        if not isinstance(source, (str, PathLike)):
            raise OptionError("vec_normalize", source, '"auto", a VecNormalize, the path of saved statistics, or None')
        return _from_file(Path(source), stacks)
    if env is not None:
        return Normalization(vec_normalize=model.get_vec_normalize_env(), stacks=stacks)
    for candidate in statistics_candidates(zip_path) if zip_path else ():
        if os.path.isfile(candidate):  # noqa: PTH113 - false, not an error, for a name that no file can have
            return _from_file(candidate, stacks)
    warnings.warn(
        "It is unknown whether this policy was trained with VecNormalize: the model has no environment, and no "
        "statistics lie beside its .zip. The file will expect observations as the policy saw them. Name the "
        "statistics, or say that there were none (vec_normalize= in Python, --vecnormalize on the command line).",
        UnknownNormalizationWarning,
        stacklevel=3,
    )
    return Normalization(vec_normalize=None, known=False)


def load_statistics(path: Path) -> VecNormalize:
    """Load statistics that ``VecNormalize.save`` wrote. The file is a pickle: load only what you trust.

    :raises MissingFileError: there is no such file
    :raises NormalizationError: it holds no VecNormalize
    """
    if not os.path.isfile(path):  # noqa: PTH113 - false, not an error, for a name that no file can have
        raise MissingFileError(path, "file of VecNormalize statistics")
    try:
        with path.open("rb") as file:
            loaded = pickle.load(file)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise NormalizationError(
            f"{path}: these are no VecNormalize statistics, or they are damaged ({type(error).__name__}: {error}). "
            "Save them with VecNormalize.save()."
        ) from error
    if not isinstance(loaded, VecNormalize):
        raise NormalizationError(
            f"{path}: expected VecNormalize statistics, got {type(loaded).__name__}. "
            "Save them with VecNormalize.save()."
        )
    return loaded


def _from_file(path: Path, stacks: Mapping[str | None, FrameStack]) -> Normalization:
    return Normalization(vec_normalize=load_statistics(path), file=pair_with_file(path), stacks=stacks)
