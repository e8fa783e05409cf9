"""What a checkpoint costs: export, proof and write of an .onnx, beside Stable-Baselines3's own save()."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks import models
from benchmarks.harness import Row, ratio_row, report, side_by_side, time_row
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.options import ExportOptions
from sb3_clanker.run_folder.publication import Publication
from sb3_clanker.sb3.normalization import resolve_normalization
from sb3_clanker.sb3.standard import is_standard

REPEATS = 25


def _measure(name: str, model: BaseAlgorithm, folder: Path) -> list[Row]:
    standard = is_standard(model.policy)  # where it is not, finding hidden state has its price
    exporter = Exporter(model, resolve_normalization(model, "auto"), ExportOptions())

    number = itertools.count()  # a checkpoint has a name of its own

    def checkpoint() -> None:
        proven = exporter.export()
        with Publication(folder, durable=False) as publication:
            publication.stage(f"{name}_{next(number)}_steps.onnx", proven.write)
            publication.commit()

    def save() -> None:
        model.save(folder / f"{name}_{next(number)}_steps.zip")

    seconds = side_by_side({"onnx": checkpoint, "zip": save}, REPEATS)
    return [
        time_row(f"{name}: model.save()", seconds["zip"]),
        time_row(f"{name}: export, proof and write", seconds["onnx"]),
        ratio_row(f"{name}: checkpoint / save", seconds["onnx"], seconds["zip"], at_most=1.0 if standard else None),
    ]


def _against_torch(model: Any) -> list[Row]:
    """torch.onnx.export at its defaults, of the same actor's network."""
    exporter = Exporter(model, resolve_normalization(model, "auto"), ExportOptions())

    class Network(th.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = model.policy

        def forward(self, observation: th.Tensor) -> th.Tensor:
            logits: th.Tensor = self.policy.action_net(self.policy.mlp_extractor.forward_actor(observation))
            return logits

    network, example = Network(), th.zeros(2, 4)
    seconds = side_by_side(
        {
            "torch": lambda: th.onnx.export(network, (example,), verbose=False),
            "export": exporter.export,
        },
        5,
    )
    return [
        time_row("torch.onnx.export of the network alone", seconds["torch"]),
        ratio_row("torch.onnx.export / export and proof", seconds["torch"], seconds["export"], at_least=100),
    ]


def main() -> None:
    """Measure and report."""
    rows: list[Row] = []
    for make in (models.ppo_mlp, models.ppo_own_extractor, models.sac, models.dqn, models.ppo_cnn, models.dqn_cnn):
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure(make.__name__, make(), Path(folder))
    report("checkpoint", [*rows, *_against_torch(models.ppo_mlp())])


if __name__ == "__main__":
    main()
