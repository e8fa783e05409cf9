"""What each format beside ONNX adds to an export: written, opened again and proven."""

from __future__ import annotations

from typing import get_args

from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks import models
from benchmarks.harness import Row, report, side_by_side, time_row
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.formats.format import FormatName
from sb3_clanker.options import ExportOptions
from sb3_clanker.sb3.normalization import resolve_normalization

REPEATS = 15


def _measure(name: str, model: BaseAlgorithm) -> list[Row]:
    """Exports with live weights into what was traced before, as in a training."""
    normalization = resolve_normalization(model, "auto")
    exporters = {"onnx": Exporter(model, normalization, ExportOptions())}
    for each in get_args(FormatName):
        exporters[each] = Exporter(model, normalization, ExportOptions(formats=(each,)))
    seconds = side_by_side({each: exporter.export for each, exporter in exporters.items()}, REPEATS)
    rows = [time_row(f"{name}: the .onnx alone", seconds["onnx"])]
    for each in get_args(FormatName):
        added = [one - other for one, other in zip(seconds[each], seconds["onnx"], strict=True)]
        proven = exporters[each].export()
        size = sum(map(len, proven.further.values()))
        rows += [
            time_row(f"{name}: {each} adds", added),
            Row(what=f"{name}: {each}, files", value=size / 1e3, unit="kB"),
        ]
    return rows


def main() -> None:
    """Measure and report."""
    rows: list[Row] = []
    for make in (models.ppo_mlp, models.sac, models.dqn_cnn):
        rows += _measure(make.__name__, make())
    report("formats", rows)


if __name__ == "__main__":
    main()
