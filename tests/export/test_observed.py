"""Ranges for an export outside of a training: by observations of the caller, or by the record of an earlier file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_clanker import ClankerError, ExportOptions, export_policy, read_metadata, validate_policy
from sb3_clanker.cli.arguments import Loading
from sb3_clanker.cli.export import _already_there
from sb3_clanker.cli.main import main
from sb3_clanker.errors import FileInTheWayError, MissingFileError, ObservationError, ObservationFileError, OptionError
from sb3_clanker.export.observed import resolve_ranges
from sb3_clanker.policy_file.spaces import ObservationSpace, describe_space
from tests.worlds import BOX_OBSERVATION, draw, make_model

OUTSIDE = ExportOptions(further_outputs=("outside",))
BOX = describe_space(BOX_OBSERVATION, "observation")
DICT = describe_space(
    spaces.Dict({"arm": BOX_OBSERVATION, "eye": spaces.Box(0, 255, (3, 36, 36), np.uint8), "gear": spaces.Discrete(3)}),
    "observation",
)
SEEN = np.array([[1.0, 0.0, -2.0], [2.0, 0.5, 2.0], [-1.0, 0.25, 0.0]])

Capture = pytest.CaptureFixture[str]


def _ends(space: ObservationSpace, observations: Any) -> Any:
    ranges, origin = resolve_ranges(space, observations, None, OUTSIDE)
    assert ranges is not None
    assert f"{ranges.n_observations:,} observations" in origin
    return [(each.key, each.minimum, each.maximum) for each in ranges.ranges]


def test_observations_of_the_caller_say_what_training_saw(tmp_path: Path) -> None:
    of_seen = [(None, (-1.0, 0.0, -2.0), (2.0, 0.5, 2.0))]
    np.save(tmp_path / "seen.npy", SEEN)
    assert _ends(BOX, SEEN) == _ends(BOX, SEEN.tolist()) == of_seen
    assert _ends(BOX, tmp_path / "seen.npy") == _ends(BOX, str(tmp_path / "seen.npy")) == of_seen
    assert _ends(DICT, {"arm": SEEN}) == [("arm", (-1.0, 0.0, -2.0), (2.0, 0.5, 2.0))]


@pytest.mark.parametrize(
    ("space", "observations", "message"),
    [
        (BOX, SEEN[:, :2], r"The observations must be numbers of the shape \(n, 3\), got float64 of \(3, 2\)\."),
        (BOX, SEEN[0], r"must be numbers of the shape \(n, 3\), got float64 of \(3,\)\."),
        (BOX, [["a", "b", "c"]], r"must be numbers of the shape \(n, 3\), got <U1 of \(1, 3\)\."),
        (BOX, [[1.0], [2.0, 3.0]], "The observations are not an array: "),
        (BOX, {"arm": SEEN}, r"The observations must be one array, got \['arm'\]\."),
        (DICT, SEEN, r"must be a mapping with the keys \['arm', 'eye', 'gear'\], got one array\."),
        (DICT, {"leg": SEEN, "arm": SEEN}, r"must be a mapping with the keys .*, got \['arm', 'leg'\]\."),
        (DICT, {"arm": SEEN[0]}, r"The observations of the key 'arm' must be numbers of the shape \(n, 3\)"),
        (
            BOX,
            np.full((2, 3), np.nan),
            "no ranges: there is no vector in them, or none is finite.",
        ),
        (BOX, np.zeros((0, 3)), "The observations have no ranges"),
        (describe_space(spaces.Discrete(3), "observation"), np.zeros(2), "The observations have no ranges"),
    ],
)
def test_what_are_no_observations_is_refused(space: ObservationSpace, observations: Any, message: str) -> None:
    with pytest.raises(ObservationError, match=message) as caught:
        resolve_ranges(space, observations, None, OUTSIDE)
    assert isinstance(caught.value, ClankerError)


def test_a_file_without_observations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no such file of observations"):
        resolve_ranges(BOX, tmp_path / "nothing.npy", None, OUTSIDE)
    (tmp_path / "text.npy").write_text("0.1 0.2 0.3")
    with pytest.raises(ObservationFileError, match=r"text\.npy: "):
        resolve_ranges(BOX, tmp_path / "text.npy", None, OUTSIDE)


def test_without_ranges_a_file_cannot_tell_what_is_outside(tmp_path: Path) -> None:
    message = (
        r"further_outputs=\['outside'\] cannot be used: expected for 'outside' what training saw of observations: "
        r"train with OnnxCheckpointCallback, which keeps it, or give raw ones \(observations= in Python, "
        r"--observations on the command line\)\."
    )
    with pytest.raises(OptionError, match=message):
        export_policy(make_model(), tmp_path / "policy.onnx", options=OUTSIDE)
    assert list(tmp_path.iterdir()) == []
    assert resolve_ranges(BOX, None, None, ExportOptions()) == (None, "none")
    assert resolve_ranges(BOX, None, tmp_path / "none.zip", ExportOptions()) == (None, "none")


def test_a_policy_is_exported_with_observations_and_again_with_its_own_record(tmp_path: Path, capsys: Capture) -> None:
    model, seen = make_model(), draw(BOX_OBSERVATION, np.random.default_rng(0), 100)
    model.save(tmp_path / "policy.zip")
    np.save(tmp_path / "seen.npy", seen)
    words = ["export", str(tmp_path / "policy.zip"), "--vecnormalize", "none", "--further-output", "outside"]
    assert main(words) == 1
    assert "further_outputs=['outside'] cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "policy.onnx").exists()

    assert main([*words, "--observations", str(tmp_path / "seen.npy")]) == 0
    assert "observation ranges: those of 100 observations in seen.npy\n" in capsys.readouterr().out
    first = read_metadata(tmp_path / "policy.onnx").observation_ranges
    assert first is not None
    assert (first.n_observations, first.margin) == (100, 0.1)
    assert first.ranges[0].maximum == tuple(seen.max(axis=0).tolist())
    assert validate_policy(tmp_path / "policy.onnx", model, vec_normalize=None).passed

    options = ExportOptions(further_outputs=("outside", "value"), outside_margin=0.5)
    report = export_policy(model, tmp_path / "policy.onnx", vec_normalize=None, options=options)
    again = report.metadata.observation_ranges
    assert again is not None
    assert (again.ranges, again.margin) == (first.ranges, 0.5)
    assert main(["validate", str(tmp_path / "policy.onnx"), "--model", "--vecnormalize", "none"]) == 0


def test_the_record_of_another_policy_says_nothing(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path / "policy.zip")
    path = tmp_path / "policy.onnx"
    export_policy(model, path, vec_normalize=None, observations=draw(BOX_OBSERVATION, np.random.default_rng(0), 9))
    assert resolve_ranges(BOX, None, tmp_path / "policy.zip", OUTSIDE).ranges == read_metadata(path).observation_ranges
    loading = Loading(vecnormalize="none", algo=None)
    with pytest.raises(FileInTheWayError, match="without the outputs of outside"):
        _already_there(tmp_path / "policy.zip", path, {"further_outputs": ["outside"]}, loading)
    assert _already_there(tmp_path / "policy.zip", path, {}, loading) is not None
    unwanted = ExportOptions(observation_ranges=False)
    assert resolve_ranges(BOX, None, tmp_path / "policy.zip", unwanted) == (None, "none")
    shutil.copy(tmp_path / "policy.zip", tmp_path / "copy.zip")
    shutil.copy(path, tmp_path / "copy.onnx")
    assert resolve_ranges(BOX, None, tmp_path / "copy.zip", OUTSIDE).ranges is not None
    model.learn(16)
    model.save(tmp_path / "policy.zip")
    with pytest.raises(OptionError, match="for 'outside' what training saw of observations"):
        resolve_ranges(BOX, None, tmp_path / "policy.zip", OUTSIDE)


def test_observations_are_of_one_model(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(tmp_path), "--observations", "seen.npy"])
    assert caught.value.code == 2
    assert "with several files, there are no --observations: they belong to one model" in capsys.readouterr().err
