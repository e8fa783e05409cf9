"""What several verbs take: a saved model, with the statistics that belong to it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sb3_clanker.policy_file.reading import PolicyFile

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from sb3_clanker.sb3.normalization import Normalization

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where a verb adds its parser."""
TRUST = "Loading a .zip or a .pkl runs code that is in it: use files that you trust."


def add_model(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the arguments of a saved model."""
    parser.add_argument("--model", type=Path, required=required, metavar="M.zip", help="what model.save() wrote")
    parser.add_argument(
        "--vecnormalize",
        default="auto",
        metavar="P.pkl|none",
        help="VecNormalize statistics, or none (default: those that are the .zip's own by name, or by its .onnx)",
    )
    parser.add_argument("--algo", help="the algorithm, where the .zip does not say, such as ppo")


def load_model(options: argparse.Namespace, file: PolicyFile | None = None) -> tuple[BaseAlgorithm, Normalization]:
    """Load what these arguments name; ``file`` as in :func:`resolve_normalization`."""
    from sb3_clanker.sb3.algorithms import load_algorithm
    from sb3_clanker.sb3.normalization import resolve_normalization

    model = load_algorithm(options.model, options.algo)
    source = None if options.vecnormalize == "none" else options.vecnormalize
    return model, resolve_normalization(model, source, options.model, file)
