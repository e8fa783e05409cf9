"""Folders of finished trainings, and records as a stranger may write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import OnnxCheckpointCallback, read_metadata
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.record import CheckpointRecord, PairedFile
from sb3_clanker.policy_file.seal import stamp
from tests.worlds import make_model

LOCK = ".sb3_clanker-lock"


class NoExporter:
    """Stands in for the exporter where only Stable-Baselines3's own files matter: quick, and every export fails."""

    def __init__(self, *args: object) -> None: ...

    def check_finite(self) -> None: ...

    def export(self, **kwargs: object) -> None:
        if kwargs:
            raise RuntimeError("nothing is exported here")


def names(folder: Path) -> list[str]:
    """What lies in a folder, the lock aside."""
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, the lock aside."""
    return {name: (folder / name).read_bytes() for name in names(folder) if (folder / name).is_file()}


def train(folder: Path, timesteps: int = 40, model: BaseAlgorithm | None = None, **kwargs: Any) -> BaseAlgorithm:
    """Train a small algorithm, with checkpoints after 20 steps each."""
    model = model or make_model(normalize=True)
    model.learn(timesteps, callback=OnnxCheckpointCallback(folder, **{"save_freq": 20} | kwargs))
    return model


def checkpoint_files(steps: int, *kinds: str, prefix: str = "rl_model") -> list[str]:
    """Names of the files of a checkpoint: ``.zip`` and ``.onnx``, and of further kinds."""
    named = {
        "vecnormalize": f"{prefix}_vecnormalize_{steps}_steps.pkl",
        "replay_buffer": f"{prefix}_replay_buffer_{steps}_steps.pkl",
        "vectors": f"{prefix}_{steps}_steps.vectors.json",
    }
    return [f"{prefix}_{steps}_steps.zip", f"{prefix}_{steps}_steps.onnx", *(named[kind] for kind in kinds)]


def flip(path: Path, position: int | None = None) -> None:
    """Change one byte of a file, the middle one by default."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 0xFF
    path.write_bytes(data)


def restamp(path: Path, target: Path | None = None, **checkpoint: PairedFile | bool | None) -> None:
    """Write a policy file with another checkpoint in its record, as sound by its digest as before."""
    body, _ = split_container(path.read_bytes())
    metadata = read_metadata(path)
    changed: Any = checkpoint
    metadata = replace(metadata, checkpoint=replace(metadata.checkpoint or CheckpointRecord(), **changed))
    (target or path).write_bytes(stamp(b"".join(body), metadata))
