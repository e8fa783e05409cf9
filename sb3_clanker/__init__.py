"""Proven ONNX policies from Stable-Baselines3.

The reading side, :class:`OnnxPolicy` and :func:`read_metadata`, needs numpy, onnxruntime and msgspec alone; the
training side is imported when one of its names is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sb3_clanker.errors import ClankerError, ClankerWarning, UnknownNormalizationWarning, ValidationError
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.runtime.policy import OnnxPolicy
from sb3_clanker.targets.check import TargetReport, check_target

if TYPE_CHECKING:
    from sb3_clanker.export.calls import ExportReport, export_policy, validate_policy
    from sb3_clanker.options import ExportOptions
    from sb3_clanker.report import ValidationReport
    from sb3_clanker.training.callback import OnnxCheckpointCallback
    from sb3_clanker.training.resume import load_checkpoint

__version__ = "0.1.0"

__all__ = [
    "ClankerError",
    "ClankerWarning",
    "ExportOptions",
    "ExportReport",
    "OnnxCheckpointCallback",
    "OnnxPolicy",
    "PolicyMetadata",
    "TargetReport",
    "UnknownNormalizationWarning",
    "ValidationError",
    "ValidationReport",
    "check_target",
    "export_policy",
    "load_checkpoint",
    "read_metadata",
    "validate_policy",
]

_TRAINING_SIDE = {
    "ExportOptions": "options",
    "ExportReport": "export.calls",
    "OnnxCheckpointCallback": "training.callback",
    "ValidationReport": "report",
    "export_policy": "export.calls",
    "load_checkpoint": "training.resume",
    "validate_policy": "export.calls",
}


def __getattr__(name: str) -> object:
    if name in _TRAINING_SIDE:
        return getattr(importlib.import_module(f"sb3_clanker.{_TRAINING_SIDE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
