"""What training saw of observations, for an export outside of one: by those of the caller, or by an earlier file."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from sb3_clanker.errors import ClankerError, ObservationError, OptionError
from sb3_clanker.observations.files import read_observations
from sb3_clanker.observations.ranges import Ranges
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import ObservationRanges
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace
from sb3_clanker.policy_file.tensors import OUTSIDE
from sb3_clanker.run_folder.identity import identify
from sb3_clanker.run_folder.names import POLICY, stem_of

ObservationSource: TypeAlias = str | PathLike[str] | NDArray[Any] | Mapping[str, NDArray[Any]] | None
"""Raw observations, rows first, by key of a Dict space; or the path of a ``.npy`` or ``.npz`` with them."""


class Observed(NamedTuple):
    """What training saw.

    :ivar ranges: its ranges, None where nothing says
    :ivar origin: where they come from, in words
    """

    ranges: ObservationRanges | None
    origin: str


def resolve_ranges(
    space: ObservationSpace, observations: ObservationSource, zip_path: Path | None, options: ExportOptions
) -> Observed:
    """Find what training saw of observations.

    :param space: the policy's observation space
    :param observations: what the caller gave
    :param zip_path: the ``.zip`` of the policy, if it is known. The ``.onnx`` beside it that belongs to it says what
        its training saw
    :raises ObservationError: the observations are none of this space, or none of them is finite
    :raises ObservationFileError: those of a file are not
    :raises OptionError: the file has to tell what is outside of what training saw, and nothing says what that is
    """
    if observations is not None:
        return _of_observations(space, observations)
    recorded = _recorded(zip_path) if zip_path is not None and options.observation_ranges else None
    if recorded is None and OUTSIDE in options.further_outputs:
        raise OptionError(
            "further_outputs",
            list(options.further_outputs),
            f"for {OUTSIDE!r} what training saw of observations: train with OnnxCheckpointCallback, which keeps it, or "
            "give raw ones (observations= in Python, --observations on the command line)",
        )
    return recorded or Observed(None, "none")


def _of_observations(space: ObservationSpace, observations: Any) -> Observed:
    if isinstance(observations, (str, PathLike)):
        path = Path(observations)
        given, where = read_observations(path, space), f" in {path.name}"
    else:
        given, where = observations, ""
    arrays: Mapping[Any, Any] = given if isinstance(given, Mapping) else {None: given}
    leaves, ranges = space.leaves(), Ranges(space)
    if not set(ranges.keys) <= set(arrays) <= set(leaves):
        got = sorted(map(str, arrays)) if isinstance(given, Mapping) else "one array"
        expected = "one array" if None in leaves else f"a mapping with the keys {sorted(map(str, leaves))}"
        raise ObservationError(f"The observations must be {expected}, got {got}.")
    checked = {key: _checked(arrays[key], leaves[key], key) for key in ranges.keys}
    if len({len(rows) for rows in checked.values()}) > 1:
        sizes = {key: len(rows) for key, rows in checked.items()}
        raise ObservationError(f"The observations of all keys must be equally many, got {sizes}.")
    if checked:
        ranges.add(checked)
    record = ranges.record()
    if record is None:
        raise ObservationError("The observations have no ranges: there is no vector in them, or none is finite.")
    return Observed(record, f"those of {record.n_observations:,} observations{where}")


def _checked(observations: Any, leaf: LeafSpace, key: str | None) -> NDArray[Any]:
    where = "The observations" if key is None else f"The observations of the key {key!r}"
    try:
        rows = np.asarray(observations)
    except ValueError as error:
        raise ObservationError(f"{where} are not an array: {error}") from error
    if rows.shape[1:] != leaf.shape or rows.ndim == 0 or rows.dtype.kind not in "biuf":
        shape = ", ".join(["n", *map(str, leaf.shape)])
        raise ObservationError(f"{where} must be numbers of the shape ({shape}), got {rows.dtype} of {rows.shape}.")
    return rows


def _recorded(zip_path: Path) -> Observed | None:
    """What the ``.onnx`` beside a ``.zip`` says, if it belongs to it."""
    path = zip_path.with_name(POLICY.name(stem_of(zip_path)))
    try:
        metadata = read_metadata(path)
    except (ClankerError, OSError):  # there is none, or none that says anything
        return None
    checkpoint, ranges = metadata.checkpoint, metadata.observation_ranges
    if checkpoint is None or checkpoint.algorithm_file is None or ranges is None:
        return None
    if not identify(zip_path, checkpoint.algorithm_file):
        return None
    origin = f"those of {ranges.n_observations:,} observations, by the record of {path.name}"
    return Observed(replace(ranges, margin=None), origin)
