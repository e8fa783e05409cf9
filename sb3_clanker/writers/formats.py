"""Every format that a policy is written in."""

from __future__ import annotations

import importlib

from sb3_clanker.formats.format import FormatName
from sb3_clanker.writers.further import FurtherWriter
from sb3_clanker.writers.onnx import OnnxWriter
from sb3_clanker.writers.writer import Writer

FORMATS: dict[str, Writer] = {".onnx": OnnxWriter()}
"""The first, which proves all others, by the suffix of its files, which is ``ExportOptions.suffix``."""

FURTHER_FORMATS: dict[FormatName, str] = {
    "torchscript": "sb3_clanker.writers.torchscript:TorchScriptWriter",
    "weights": "sb3_clanker.writers.weights:WeightsWriter",
}
"""Those beside it: module and class, which is imported when it is asked for."""


def further_writer(name: FormatName) -> FurtherWriter:
    """A new writer of a format."""
    module, _, cls = FURTHER_FORMATS[name].partition(":")
    writer: FurtherWriter = getattr(importlib.import_module(module), cls)()
    return writer
