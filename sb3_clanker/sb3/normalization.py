"""Which VecNormalize statistics belong to a policy, and where they come from."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker.errors import (
    ClankerError,
    MissingFileError,
    NormalizationError,
    OptionError,
    UnknownNormalizationWarning,
    UnmatchedFilesError,
)
from sb3_clanker.errors.warnings import warn
from sb3_clanker.paths import is_file
from sb3_clanker.policy_file.reading import PolicyFile, read_policy_file
from sb3_clanker.policy_file.record import NormalizationRecord, PairedFile, PolicyMetadata
from sb3_clanker.run_folder.identity import beside, identify, pair_with_file
from sb3_clanker.run_folder.names import POLICY, other_statistics, own_statistics, stem_of
from sb3_clanker.sb3.statistics import Statistics, collect_statistics
from sb3_clanker.sb3.wrappers import FrameStack, frame_stacks

_logger = logging.getLogger("sb3_clanker")
_SAY = "(vec_normalize= in Python, --vecnormalize on the command line)"
_NAME_THEM = f"Name the statistics, or say that there were none {_SAY}"
_TAKE_OR_NAME = f"Take all files from the same instant, or name the statistics {_SAY}."

NormalizationSource: TypeAlias = VecNormalize | str | PathLike[str] | None
"""A VecNormalize, the path of saved statistics, ``"auto"``, or None for certainly none."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """The normalization that a policy was trained with.

    :ivar vec_normalize: the wrapper, or None
    :ivar known: whether it is certain
    :ivar file: the file that the statistics were read from, None where they are live
    :ivar stacks: how frames are stacked, by key or under None
    :ivar origin: where the statistics come from and why, in words
    """

    vec_normalize: VecNormalize | None
    known: bool = True
    file: PairedFile | None = None
    stacks: Mapping[str | None, FrameStack] = field(default_factory=dict)
    origin: str = field(default="", compare=False)

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
    model: BaseAlgorithm,
    source: NormalizationSource,
    zip_path: Path | None = None,
    policy_file: PolicyFile | None = None,
) -> Normalization:
    """Find the normalization of a policy.

    A file is the policy's own by its name, or by the record of the ``.onnx`` beside the ``.zip``. Any other is used
    only where the caller names it.

    :param model: the algorithm
    :param source: what the caller said
    :param zip_path: the ``.zip`` that the model came from, if it is known
    :param policy_file: a file that was read already; if it is the ``.onnx`` beside the ``.zip``, that is not read again
    :raises OptionError: ``source`` is none of what it may be
    :raises MissingFileError: the statistics that were named are not there
    :raises NormalizationError: the file holds no statistics, or there must be some and there are none
    :raises UnmatchedFilesError: the ``.onnx`` beside the ``.zip`` proves that the statistics are not of its instant
    """
    env = model.get_env()
    stacks = frame_stacks(env)
    if source is None:
        return Normalization(vec_normalize=None, stacks=stacks, origin="none, as was said")
    if isinstance(source, VecNormalize):
        return Normalization(vec_normalize=source, stacks=stacks, origin="those of the VecNormalize that was passed")
    if source != "auto":
        if not isinstance(source, (str, PathLike)):
            raise OptionError("vec_normalize", source, '"auto", a VecNormalize, the path of saved statistics, or None')
        return _from_file(Path(source), "which was named", stacks)
    if env is not None:
        return Normalization(
            vec_normalize=model.get_vec_normalize_env(), stacks=stacks, origin="those of the model's environment"
        )
    found = _find(zip_path, policy_file) if zip_path else None
    if found is not None:
        return found
    others = [path for path in other_statistics(zip_path) if is_file(path)] if zip_path else []
    warn(
        UnknownNormalizationWarning(
            "It is unknown whether this policy was trained with VecNormalize: the model has no environment, and no "
            f"statistics {'of that name ' if others else ''}lie beside its .zip. "
            + "".join(f"{path} may be of any policy, and is not used. " for path in others)
            + f"The file will expect observations as the policy saw them. {_NAME_THEM}."
        )
    )
    return Normalization(vec_normalize=None, known=False, origin="none: nothing says whether there were any")


def _find(zip_path: Path, policy_file: PolicyFile | None) -> Normalization | None:
    """The normalization of a ``.zip`` by what lies beside it, None where nothing says."""
    own = next((path for path in own_statistics(zip_path) if is_file(path)), None)
    policy_path = zip_path.with_name(POLICY.name(stem_of(zip_path)))
    try:
        if policy_file is None or policy_file.path != policy_path:
            policy_file = read_policy_file(policy_path)
    except (ClankerError, OSError):  # there is none, or none that says anything
        policy_file = None
    recorded = None if policy_file is None else _by_record(policy_file.metadata, policy_path, zip_path, own)
    return recorded or (None if own is None else _from_file(own, "by its name"))


def _by_record(record: PolicyMetadata, policy_path: Path, zip_path: Path, own: Path | None) -> Normalization | None:
    """The normalization of a ``.zip`` by the record of the ``.onnx`` beside it, None where that says nothing."""
    files, status = record.checkpoint, record.normalization.status
    zip_file = None if files is None else files.algorithm_file
    of_zip = zip_file is not None and identify(zip_path, zip_file)
    if files is not None and zip_file is not None and files.statistics_file is not None:
        candidates = [path for path in (own,) if path is not None]
        if of_zip:
            candidates += [beside(zip_path.parent, files.statistics_file), *other_statistics(zip_path)]
        matched = next((path for path in candidates if identify(path, files.statistics_file)), None)
        if of_zip and matched is not None:
            return _from_file(matched, f"by the record of {policy_path.name}")
        if of_zip and own is not None:
            raise UnmatchedFilesError(policy_path, [own.name], _TAKE_OR_NAME)
        if not of_zip and matched is not None:  # where neither is the one, both are newer
            raise UnmatchedFilesError(policy_path, [zip_path.name], _TAKE_OR_NAME)
    if own is None and status == "folded":
        trained = zip_path.name if of_zip else f"an earlier {zip_path.name}"
        raise NormalizationError(
            f"{policy_path}: by its record, {trained} was trained with VecNormalize, and its statistics are not "
            f"there. {_NAME_THEM}."
        )
    if of_zip and status == "none" and files is not None and files.together:
        return Normalization(vec_normalize=None, origin=f"none, by the record of {policy_path.name}")
    return None


def load_statistics(path: Path) -> VecNormalize:
    """Load statistics that ``VecNormalize.save`` wrote. The file is a pickle: load only what you trust.

    :raises MissingFileError: there is no such file
    :raises NormalizationError: it holds no VecNormalize
    """
    if not is_file(path):
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


def _from_file(path: Path, why: str, stacks: Mapping[str | None, FrameStack] = MappingProxyType({})) -> Normalization:
    _logger.info("VecNormalize statistics: %s, %s.", path, why)
    return Normalization(
        vec_normalize=load_statistics(path), file=pair_with_file(path), stacks=stacks, origin=f"{path}, {why}"
    )
