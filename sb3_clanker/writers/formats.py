"""Every format that a policy is written in."""

from __future__ import annotations

from sb3_clanker.writers.onnx import OnnxWriter
from sb3_clanker.writers.writer import Writer

FORMATS: dict[str, Writer] = {".onnx": OnnxWriter()}
"""By the suffix of its files, which is ``ExportOptions.suffix``."""
