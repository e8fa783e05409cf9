"""Raw observations from a file of numpy: ``.npy``, or ``.npz`` by key. Nothing in it is run: pickles are refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.errors import ObservationFileError
from sb3_clanker.paths import local_path
from sb3_clanker.policy_file.reading import read_file
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace

Observations: TypeAlias = NDArray[Any] | dict[str, NDArray[Any]]
"""A batch of raw observations, as ``predict`` takes it: one array of shape (n, *shape), or one for each key."""

_WHAT = "file of observations"
_LARGEST = 1 << 30
"""Bytes of a file, and of the arrays in it."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_observations(path: str | Path, space: ObservationSpace) -> Observations:
    """Read raw observations, and check that a policy can have observed them.

    :param path: ``.npy`` with one array, rows first; or ``.npz`` with an array for each key of a Dict space (its only
        one, for any other space). Stacked frames as the policy takes them; of an image, channels may come first or last
    :param space: the policy's observation space, ``read_metadata(...).observation_space``
    :return: all of them, in the type of the space; at least one
    :raises MissingFileError: there is no such file
    :raises UnreadableFileError: it cannot be read, or is larger than 1 GiB
    :raises ObservationFileError: it is damaged, or holds something else
    :raises RemotePathError: it is a URL
    """
    path = local_path(path)
    data = read_file(path, _WHAT, _LARGEST)
    arrays: dict[Any, NDArray[Any]] = _arrays(data, path)
    leaves = space.leaves()
    if None in leaves and len(arrays) == 1:
        arrays = {None: next(iter(arrays.values()))}
    if arrays.keys() != leaves.keys():
        expected = "one array" if None in leaves else f"an array for each of {sorted(map(str, leaves))}, in a .npz"
        got = "one without a key" if None in arrays else f"{sorted(arrays)[:5]}"
        raise ObservationFileError(path, f"expected {expected}, got {got}")
    read = {key: _checked(arrays[key], leaf, key, path) for key, leaf in leaves.items()}
    if len(counts := {key: len(rows) for key, rows in read.items()}) > 1 and len(set(counts.values())) > 1:
        raise ObservationFileError(path, f"the observations of all keys must be equally many, got {counts}")
    return as_batch(read)


def as_batch(arrays: Mapping[str | None, NDArray[Any]]) -> Observations:
    """A batch from arrays by key, or the one under None."""
    return arrays[None] if None in arrays else {str(key): rows for key, rows in arrays.items()}


def _arrays(data: bytes, path: Path) -> dict[Any, NDArray[Any]]:
    """The arrays in a file: by key, or the only one under None."""
    try:
        if data.startswith(b"\x93NUMPY"):
            return {None: _array(data)}
        return {name.removesuffix(".npy"): _array(member) for name, member in _members(data)}
    except Exception as error:  # a damaged file makes zipfile and numpy raise whatever they come upon
        problem = f"it is no .npy and no .npz, or it is damaged ({error or type(error).__name__})"
        raise ObservationFileError(path, problem) from error


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > _LARGEST:  # what zipfile unpacks is no more than it says here
            raise ValueError(f"unpacked it has {size:,} bytes, and {_LARGEST:,} are the most")
        for name in archive.namelist():
            yield name, archive.read(name)


def _array(data: bytes) -> NDArray[Any]:
    """An array of numbers; its memory is that of the bytes, whatever its header asks for."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format is for none of numbers")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype}, expected one of numbers")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _checked(rows: NDArray[Any], leaf: LeafSpace, key: str | None, path: Path) -> NDArray[Any]:
    """Rows of one leaf in its own type."""
    where = "the observations" if key is None else f"the observations of {key!r}"
    shape, got = leaf.shape, rows.shape
    if leaf.is_image and len(got) == 4 and got[1:] != shape and got[1:] == (*shape[1:], shape[0]):
        rows = np.moveaxis(rows, -1, 1)
    if shape == () and got[1:] == (1,):
        rows = rows[:, 0]
    if rows.shape[1:] != shape or not rows.ndim or not len(rows):
        expected = f"(n, {', '.join(map(str, shape))})" if shape else "(n,)"
        raise ObservationFileError(path, f"{where} must have the shape {expected} with n of at least 1, got {got}")
    dtype = np.dtype(leaf.dtype)
    if leaf.is_image and rows.dtype != np.uint8:
        raise ObservationFileError(path, f"{where} are images and must be uint8, got {rows.dtype}")
    with np.errstate(all="ignore"):
        wrong = ~np.isfinite(rows.astype(np.float32))
        if not leaf.is_continuous:
            low, high = leaf.bounds()
            wrong |= (rows < low) | (rows > high)
        cast = rows.astype(dtype)
        if dtype.kind in "iub":
            wrong |= cast != rows
    if wrong.any():
        row = int(np.argmax(wrong.reshape(len(rows), -1).any(axis=1)))
        value = rows[row][wrong[row]].flat[0]
        raise ObservationFileError(path, f"row {row} of {where} holds {value}, which is no value of {leaf}")
    return np.ascontiguousarray(cast)
