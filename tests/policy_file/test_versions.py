"""A file of each version of the record, which the reader reads today and goes on reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_clanker import OnnxPolicy, PolicyMetadata, read_metadata
from sb3_clanker.errors import SchemaVersionError
from sb3_clanker.policy_file import reading
from sb3_clanker.policy_file.record import SCHEMA_VERSION

FOLDER = Path(__file__).parent
FIRST = FOLDER / "version_1.onnx"
NEWEST = FOLDER / f"version_{SCHEMA_VERSION}.onnx"
OBSERVATION = {"arm": np.array([0.5, -0.5], np.float32), "mode": np.array(1)}


def test_there_is_a_file_of_every_version() -> None:
    names = [f"version_{version}.onnx" for version in range(1, SCHEMA_VERSION + 1)]
    assert sorted(path.name for path in FOLDER.glob("version_*.onnx")) == names, "make version writes one"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("version_*.onnx")), ids=lambda path: path.stem)
def test_the_file_of_each_version_is_read_and_runs(path: Path) -> None:
    metadata = read_metadata(path)
    assert metadata.schema_version == SCHEMA_VERSION
    assert metadata.algorithm == "PPO"
    assert metadata.checkpoint is not None
    assert metadata.entries == {"robot": "arm-3"}
    action, _ = OnnxPolicy(path).predict(OBSERVATION)
    assert action.shape == (1,)


def test_of_the_first_version_all_is_kept_that_it_knew() -> None:
    entry = {"training": {"num_timesteps": 7, "mean_reward": 1.5}, "checkpoint": {"together": True, "followed": True}}
    upgraded = reading.UPGRADES[1]({"algorithm": "PPO", **entry})
    evaluation = upgraded["training"]["evaluation"]
    assert upgraded["training"]["num_timesteps"] == evaluation["num_timesteps"] == 7
    assert (evaluation["role"], evaluation["source"], evaluation["mean_reward"]) == ("best", "evaluation", 1.5)
    assert upgraded["checkpoint"] == entry["checkpoint"]
    alone = reading.UPGRADES[1]({"training": {"num_timesteps": 7, "mean_reward": None}, "checkpoint": None})
    assert alone == {
        "training": {"num_timesteps": 7, "evaluation": None},
        "checkpoint": None,
        "environment_spec": None,
    }


def test_of_the_second_version_all_is_kept_and_nothing_made_up() -> None:
    assert reading.UPGRADES[2]({"algorithm": "PPO"}) == {"algorithm": "PPO", "observation_ranges": None}
    assert read_metadata(FOLDER / "version_2.onnx").observation_ranges is None
    ranges = read_metadata(FOLDER / "version_3.onnx").observation_ranges
    assert ranges is not None
    assert [each.key for each in ranges.ranges] == ["arm"]


class _NextMetadata(PolicyMetadata, frozen=True, kw_only=True):
    """The record of the next version: ``site`` is new, and ``control_period`` is in milliseconds."""

    site: str


def _upgrade(record: dict[str, Any]) -> dict[str, Any]:
    period = record["control_period"]
    return {**record, "control_period": None if period is None else 1e3 * period, "site": "unknown"}


@pytest.fixture
def bumped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package after its next change of the record: the Struct, the version, and one step for the reader."""
    monkeypatch.setattr(reading, "PolicyMetadata", _NextMetadata)
    monkeypatch.setattr(reading, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setitem(reading.UPGRADES, SCHEMA_VERSION, _upgrade)


@pytest.mark.usefixtures("bumped")
def test_the_reader_of_the_next_version_reads_a_file_of_the_first() -> None:
    metadata = read_metadata(FIRST)
    assert isinstance(metadata, _NextMetadata)
    assert (metadata.schema_version, metadata.site, metadata.control_period) == (SCHEMA_VERSION + 1, "unknown", 20.0)
    action, _ = OnnxPolicy(FIRST).predict(OBSERVATION)
    assert action.shape == (1,)


@pytest.mark.usefixtures("bumped")
def test_the_next_reader_refuses_what_it_has_no_step_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(reading.UPGRADES, SCHEMA_VERSION)
    with pytest.raises(SchemaVersionError, match=r"of the record is unknown.* Export the policy again"):
        read_metadata(NEWEST)


def test_this_reader_refuses_a_file_of_the_next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SCHEMA_VERSION", SCHEMA_VERSION - 1)
    with pytest.raises(SchemaVersionError, match=r"of the record is unknown.* Upgrade sb3-clanker"):
        read_metadata(NEWEST)
