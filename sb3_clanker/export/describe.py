"""The record of a file: what it says of itself."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import platform
from datetime import datetime, timezone

from msgspec.structs import replace

from sb3_clanker.actor.normalize import Normalize
from sb3_clanker.policy_file.record import (
    CheckpointRecord,
    EvaluationRecord,
    FrameStackRecord,
    ObservationRanges,
    PolicyMetadata,
    Provenance,
    TrainingRecord,
)
from sb3_clanker.proof.subject import Instant
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.sb3.statistics import collect_statistics
from sb3_clanker.writers.opset import oldest_ir_version

_PACKAGES = (
    *("sb3-clanker", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy"),
    *("torch", "onnx", "onnxscript", "onnxruntime"),
)


def describe(
    now: Instant,
    predict_dtype: str,
    evaluation: EvaluationRecord | None,
    checkpoint: CheckpointRecord | None,
    ranges: ObservationRanges | None,
) -> PolicyMetadata:
    """The record, but for what its proof will find.

    :param now: the policy
    :param predict_dtype: the type of the actions that Stable-Baselines3 returns
    :param evaluation: what made the policy the best, or else the last one before
    :param checkpoint: the other files of the same instant
    :param ranges: what training saw of observations
    """
    actor, options = now.actor, now.options
    return PolicyMetadata(
        algorithm=now.algorithm,
        policy_class=f"{type(now.policy).__module__}.{type(now.policy).__qualname__}",
        observation_space=actor.observation_space,
        action_space=actor.action_space,
        inputs=actor.inputs,
        outputs=actor.outputs,
        predict_dtype=predict_dtype,
        recurrent=actor.recurrent,
        sampling=actor.extra.sampling,
        opset_version=options.opset_version,
        ir_version=oldest_ir_version(options.opset_version),
        normalization=now.normalization.record(),
        frame_stacks=_frame_stack_records(now.normalization),
        environment=now.environment,
        environment_spec=now.environment_spec,
        control_period=options.control_period,
        observation_ranges=replace(ranges, margin=actor.outside.margin) if ranges and actor.outside else ranges,
        training=TrainingRecord(num_timesteps=now.num_timesteps, evaluation=evaluation and _finite(evaluation)),
        provenance=Provenance(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"), versions=dict(_versions())
        ),
        checkpoint=checkpoint,
        entries=dict(options.metadata),
    )


def _finite(evaluation: EvaluationRecord) -> EvaluationRecord:
    """An evaluation without what JSON cannot say."""
    numbers = {name: getattr(evaluation, name) for name in ("mean_reward", "std_reward")}
    unknown = {name: None for name, value in numbers.items() if value is not None and not math.isfinite(value)}
    return replace(evaluation, **unknown)


def _frame_stack_records(normalization: Normalization) -> tuple[FrameStackRecord, ...]:
    """What a consumer must know to stack frames.

    Stable-Baselines3 pads with zeros; where it does so after normalization, the raw value that is normalized to zero
    takes their place.
    """
    frames = collect_statistics(normalization.vec_normalize)  # of single frames
    records = []
    for key, stack in normalization.stacks.items():
        padding: float | tuple[float, ...] = 0.0
        error = 0.0
        if stack.after_normalization and key in frames:
            raw, error = Normalize(frames[key]).of_zero()
            padding = tuple(raw.reshape(-1).tolist())
        records.append(
            FrameStackRecord(key=key, n_stack=stack.n_stack, axis=stack.axis, padding=padding, padding_error=error)
        )
    return tuple(records)


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
