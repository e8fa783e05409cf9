"""Every field of the record is held against the other's, and what differs is named by its path, in short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sb3_clanker import PolicyMetadata, read_metadata
from sb3_clanker.comparison.records import record_differences
from sb3_clanker.policy_file.record import (
    CheckpointRecord,
    EnvironmentRecord,
    EvaluationRecord,
    FrameStackRecord,
    NormalizationRecord,
    ObservationRange,
    ObservationRanges,
)
from sb3_clanker.policy_file.tensors import TensorSpec

VERSIONS = Path(__file__).parents[1] / "policy_file"


@pytest.fixture(scope="module")
def metadata() -> PolicyMetadata:
    (newest,) = (path for path in VERSIONS.rglob("version_2.onnx"))
    return read_metadata(newest)


def _found(first: PolicyMetadata, second: PolicyMetadata) -> dict[str, str]:
    return {difference.path: str(difference) for difference in record_differences(first, second)}


def _ranges(maximum: tuple[float, ...], n_observations: int = 9) -> ObservationRanges:
    zeros = (0.0,) * len(maximum)
    ranges = ObservationRange(
        key=None, minimum=zeros, maximum=maximum, mean=zeros, deviation=zeros, quantiles=((0.0,) * 7,) * len(maximum)
    )
    return ObservationRanges(n_observations=n_observations, ranges=(ranges,))


def test_a_record_does_not_differ_from_itself(metadata: PolicyMetadata) -> None:
    assert _found(metadata, metadata) == {}


def test_what_belongs_to_one_file_alone_is_left_out(metadata: PolicyMetadata) -> None:
    provenance = replace(metadata.provenance, created="2001-01-01T00:00:00+00:00")
    other = replace(
        metadata,
        digest="sha256:0",
        checkpoint=CheckpointRecord(together=True),
        cross_check=None,
        latency=None,
        provenance=provenance,
    )
    assert _found(metadata, other) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"algorithm": "A2C"}, {"algorithm": "{algorithm} -> A2C"}),
        ({"control_period": 0.05}, {"control_period": "- -> 0.05"}),
        (
            {"normalization": NormalizationRecord(status="folded", keys=("a",), clip_obs=5.0, epsilon=1e-8)},
            {
                "normalization.status": "none -> folded",
                "normalization.keys": "[] -> [a]",
                "normalization.clip_obs": "- -> 5",
                "normalization.epsilon": "- -> 1e-08",
            },
        ),
        (
            {"frame_stacks": (FrameStackRecord(key=None, n_stack=4, axis=-1, padding=0.0, padding_error=0.0),)},
            {"frame_stacks[0]": "- -> 4, -1, 0, 0"},
        ),
        (
            {"environment_spec": EnvironmentRecord(id="A-v1", kwargs={"drift": 1.5, "wide": True})},
            {
                "environment_spec.id": "- -> A-v1",
                "environment_spec.kwargs.drift": "- -> 1.5",
                "environment_spec.kwargs.wide": "- -> True",
                "environment_spec.omitted": "- -> []",
            },
        ),
        ({"entries": {"robot": "arm"}}, {"entries.robot": "- -> arm"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_field_is_named_by_its_path(
    metadata: PolicyMetadata, change: dict[str, Any], expected: dict[str, str]
) -> None:
    cleared: dict[str, Any] = {
        "normalization": NormalizationRecord(status="none"),
        "frame_stacks": (),
        "environment_spec": None,
        "control_period": None,
        "entries": {},
    }
    first = replace(metadata, **cleared)
    found = _found(first, replace(first, **change))
    assert found == {path: text.format(algorithm=metadata.algorithm) for path, text in expected.items()}
    turned = {path: " -> ".join(reversed(text.split(" -> "))) for path, text in found.items()}
    assert _found(replace(first, **change), first) == turned


def test_training_versions_and_evaluations(metadata: PolicyMetadata) -> None:
    evaluation = EvaluationRecord(role="best", num_timesteps=10**7, mean_reward=123.45678)
    training = replace(metadata.training, num_timesteps=10**7, evaluation=evaluation)
    provenance = replace(metadata.provenance, versions={**metadata.provenance.versions, "torch": "9.9"})
    found = _found(metadata, replace(metadata, training=training, provenance=provenance))
    assert found["training.num_timesteps"].endswith(" -> 10,000,000")
    assert found["training.evaluation.mean_reward"].endswith(" -> 123.457")
    assert found["provenance.versions.torch"].endswith(" -> 9.9")


def test_a_tensor_that_one_lacks_is_one_difference(metadata: PolicyMetadata) -> None:
    value = TensorSpec(name="value", dtype="float32", shape=("batch", 1), role="further", meaning="of the state")
    assert _found(metadata, replace(metadata, outputs=(*metadata.outputs, value))) == {
        "outputs[value]": "- -> value, float32, [batch, 1], further, of ..."
    }
    action = replace(metadata.outputs[0], names=("push",))
    assert _found(metadata, replace(metadata, outputs=(action, *metadata.outputs[1:]))) == {
        "outputs[action].names": "- -> [push]"
    }


def test_of_long_lists_it_is_told_how_much_differs(metadata: PolicyMetadata) -> None:
    first, second = [0.0] * 40, [0.0] * 40
    second[7], second[30] = 1.5, -2.0
    first_record = replace(metadata, observation_ranges=_ranges(tuple(first)))
    second_record = replace(metadata, observation_ranges=_ranges(tuple(second), 1_000_000))
    assert _found(first_record, second_record) == {
        "observation_ranges.n_observations": "9 -> 1,000,000",
        "observation_ranges.ranges[0].maximum": "2 of 40 differ, the first [7]: 0 -> 1.5",
    }
