"""Proven ONNX policies from Stable-Baselines3.

The reading side, :class:`OnnxPolicy` and :func:`read_metadata`, needs numpy, onnxruntime and msgspec alone; the
training side is imported when one of its names is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sb3_clanker.dependencies import READING, required_for
from sb3_clanker.errors import *

with required_for("sb3_clanker", READING):
    from sb3_clanker.card.card import policy_card as policy_card
    from sb3_clanker.comparison.policies import PolicyComparison as PolicyComparison
    from sb3_clanker.comparison.policies import compare_policies as compare_policies
    from sb3_clanker.options import ExportOptions as ExportOptions
    from sb3_clanker.policy_file.reading import read_metadata as read_metadata
    from sb3_clanker.policy_file.record import PolicyMetadata as PolicyMetadata
    from sb3_clanker.report import ValidationReport as ValidationReport
    from sb3_clanker.runtime.policy import OnnxPolicy as OnnxPolicy
    from sb3_clanker.targets.check import TargetReport as TargetReport
    from sb3_clanker.targets.check import check_target as check_target

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sb3_clanker.actor.module import PolicyModule as PolicyModule
    from sb3_clanker.export.calls import export_policy as export_policy
    from sb3_clanker.export.calls import policy_module as policy_module
    from sb3_clanker.export.calls import validate_policy as validate_policy
    from sb3_clanker.export.publish import ExportReport as ExportReport
    from sb3_clanker.training.callback import OnnxCheckpointCallback as OnnxCheckpointCallback
    from sb3_clanker.training.resume import load_checkpoint as load_checkpoint
else:
    _TRAINING_SIDE = {
        "ExportReport": "export.publish",
        "OnnxCheckpointCallback": "training.callback",
        "PolicyModule": "actor.module",
        "export_policy": "export.calls",
        "load_checkpoint": "training.resume",
        "policy_module": "export.calls",
        "validate_policy": "export.calls",
    }
    _here = [name for name, value in vars().items() if getattr(value, "__module__", "") == __name__]
    __all__ = sorted([*_here, *_TRAINING_SIDE])

    def __getattr__(name: str) -> object:
        if name in _TRAINING_SIDE:
            with required_for(name):
                return getattr(importlib.import_module(f"sb3_clanker.{_TRAINING_SIDE[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return __all__
