"""Observations come from files of numpy as they were saved; whatever else a file holds is a typed error."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_clanker.errors import ClankerError, MissingFileError, ObservationFileError, UnreadableFileError
from sb3_clanker.observations import files
from sb3_clanker.observations.files import read_observations
from sb3_clanker.policy_file.spaces import (
    BoxSpace,
    DictSpace,
    DiscreteSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
    ObservationSpace,
)

ARM = BoxSpace(shape=(3,), dtype="float32", low=-1.0, high=1.0)
CAMERA = BoxSpace(shape=(3, 8, 6), dtype="uint8", low=0.0, high=255.0)
WORLD = DictSpace(spaces={"arm": ARM, "camera": CAMERA, "mode": DiscreteSpace(n=3)})
ROWS = np.random.default_rng(0).normal(size=(5, 3))


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def save(folder: Path, content: bytes | dict[str, Any] | Any) -> Path:
    path = folder / "observations.bin"  # the name says nothing
    if isinstance(content, dict):
        with path.open("wb") as file:
            np.savez(file, **content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else npy(content))
    return path


@pytest.mark.parametrize(
    "rows", [ROWS, ROWS.astype(np.float32), np.asfortranarray(ROWS), ROWS.astype(">f8"), [[1, 2, 3]]]
)
def test_rows_of_one_array_come_in_the_type_of_the_space(rows: Any, tmp_path: Path) -> None:
    read = read_observations(save(tmp_path, rows), ARM)
    assert isinstance(read, np.ndarray)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.asarray(rows).astype(np.float32))


def test_one_array_may_lie_in_an_archive_of_any_name(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", observations=ROWS)
    np.testing.assert_array_equal(read_observations(str(tmp_path / "a.npz"), ARM), ROWS.astype(np.float32))


def test_a_dict_space_is_read_by_key(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 6), np.uint8)
    for image in (pixels, np.moveaxis(pixels, 1, -1)):  # channels first or last
        content = {"mode": [[0], [1], [2], [0], [1]], "camera": image, "arm": ROWS}
        read = read_observations(save(tmp_path, content), WORLD)
        assert isinstance(read, dict)
        assert list(read) == ["arm", "camera", "mode"]
        np.testing.assert_array_equal(read["camera"], pixels)
        assert read["mode"].tolist() == [0, 1, 2, 0, 1]
        assert str(read["mode"].dtype) == "int64"


def test_values_outside_of_a_box_are_observations_all_the_same(tmp_path: Path) -> None:
    assert read_observations(save(tmp_path, 100 * ROWS), ARM) is not None


PLAIN = {"arm": ROWS, "camera": np.zeros((5, 3, 8, 6), np.uint8), "mode": np.zeros(5)}
BINARY, CHOICES = MultiBinarySpace(n=3, shape=(3,)), MultiDiscreteSpace(nvec=(2, 3, 4), shape=(3,))
REFUSED: dict[str, tuple[ObservationSpace, Any, str]] = {
    "one observation alone": (ARM, ROWS[0], r"must have the shape \(n, 3\) with n of at least 1, got \(3,\)"),
    "no observation": (ARM, ROWS[:0], r"must have the shape \(n, 3\) with n of at least 1, got \(0, 3\)"),
    "another shape": (ARM, ROWS[:, :2], r"the observations must have the shape \(n, 3\)"),
    "a number": (ARM, 3.0, r"got \(\)"),
    "an array for a Dict": (
        WORLD,
        ROWS,
        r"an array for each of \['arm', 'camera', 'mode'\], in a .npz, got one without",
    ),
    "a key that is missing": (WORLD, {"arm": ROWS}, r"got \['arm'\]"),
    "two arrays for one": (ARM, {"a": ROWS, "b": ROWS}, r"expected one array, got \['a', 'b'\]"),
    "not equally many": (WORLD, PLAIN | {"mode": [1, 2]}, r"equally many, got \{'arm': 5, 'camera': 5, 'mode': 2\}"),
    "floats for an image": (WORLD, PLAIN | {"camera": np.zeros((5, 3, 8, 6))}, "'camera' are images and must be uint8"),
    "no such category": (WORLD, PLAIN | {"mode": [0, 1, 2, 3, 0]}, "row 3 of the observations of 'mode' holds 3"),
    "a category and a half": (
        WORLD,
        PLAIN | {"mode": [0, 1.5, 2, 1, 0]},
        "row 1 .* holds 1.5, which is no value of Disc",
    ),
    "neither 0 nor 1": (BINARY, [[0, 1, 2]], "row 0 .* holds 2, which is no value of MultiBinary"),
    "below the first": (CHOICES, [[0, 1, -1]], "row 0 .* holds -1"),
    "no number": (ARM, [[0, 0, 0], [0, np.nan, 0]], "row 1 of the observations holds nan, which is no value of Box"),
    "infinite": (ARM, [[0, 0, np.inf]], "holds inf"),
    "infinite in float32": (ARM, [[0, 0, 1e39]], r"holds 1e\+39"),
    "texts": (ARM, np.array([["a", "b", "c"]]), "an array of <U1, expected one of numbers"),
    "complex numbers": (ARM, ROWS + 1j, "expected one of numbers"),
    "a record array": (ARM, np.zeros(3, [("a", "f4")]), "expected one of numbers"),
    "pickled objects": (ARM, np.array([[{}, {}, {}]], object), "an array of object, expected one of numbers"),
    "nothing": (ARM, b"", "it is no .npy and no .npz, or it is damaged"),
    "a text": (ARM, b"1,2,3\n", "it is no .npy and no .npz"),
    "a header alone": (ARM, npy(ROWS)[:40], "or it is damaged"),
    "a part": (ARM, npy(ROWS)[:-1], "or it is damaged"),
    "one byte too many": (ARM, npy(ROWS) + b"\0", "or it is damaged"),
    "an empty archive": (ARM, {}, r"expected one array, got \[\]"),
}


@pytest.mark.parametrize(("space", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused(space: ObservationSpace, content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ObservationFileError, match=message) as raised:
        read_observations(save(tmp_path, content), space)
    assert raised.value.path == tmp_path / "observations.bin"


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "run",)

    for content in ({"a": np.array([Hostile()], object)}, np.array([Hostile()], object)):
        with pytest.raises(ObservationFileError, match="expected one of numbers"):
            read_observations(save(tmp_path, content), ARM)
    assert not (tmp_path / "run").exists()


def test_a_file_that_claims_or_unpacks_to_more_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = npy(ROWS).replace(b"(5, 3)", b"(5e9,)"[:6].replace(b"5e9", b"999"))
    with pytest.raises(ObservationFileError, match="or it is damaged"):
        read_observations(save(tmp_path, claims), ARM)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999, 3), }"
    with pytest.raises(ObservationFileError, match="or it is damaged"):
        read_observations(save(tmp_path, header.ljust(127) + b"\n" + bytes(24)), ARM)
    monkeypatch.setattr(files, "_LARGEST", 10_000)
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.zeros((1_000, 3))))
    assert bomb.stat().st_size < 1_000
    with pytest.raises(ObservationFileError, match="unpacked it has 24,128 bytes, and 10,000 are the most"):
        read_observations(bomb, ARM)
    with pytest.raises(UnreadableFileError, match=r"24,128 bytes, and 10,000 are the most"):
        read_observations(save(tmp_path, np.zeros((1_000, 3))), ARM)


def test_a_file_that_is_not_there_or_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"there is no such file of observations"):
        read_observations(tmp_path / "none.npy", ARM)
    with pytest.raises(MissingFileError, match=r"there is no such file of observations"):
        read_observations(tmp_path, ARM)


@pytest.mark.parametrize("name", ["npy", "npz"])
def test_whatever_byte_is_changed_it_is_read_or_a_typed_error(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", a=ROWS)
    whole = npy(ROWS) if name == "npy" else (tmp_path / "whole.npz").read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "damaged"
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.integers(0, len(whole) if rng.random() < 0.3 else 128)] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_observations(path, ARM)
        except ClankerError:
            refused += 1
    assert refused > 50
