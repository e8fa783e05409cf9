"""What several verbs take: how a saved model is loaded, with the statistics that belong to it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sb3_clanker.policy_file.reading import PolicyFile

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from sb3_clanker.sb3.normalization import Normalization

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where a verb adds its parser."""
TRUST = "Loading a .zip or a .pkl runs code that is in it: use files that you trust."


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add what is said of a saved model beside its name."""
    parser.add_argument(
        "--vecnormalize",
        default="auto",
        metavar="P.pkl|none",
        help="VecNormalize statistics, or none (default: those that are the .zip's own by name, or by its .onnx)",
    )
    parser.add_argument("--algo", help="the algorithm, where the .zip does not say, such as ppo")


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a saved model is loaded.

    :ivar vecnormalize: ``auto``, ``none``, or the path of statistics
    :ivar algo: the algorithm, None where it is recognised
    """

    vecnormalize: str
    algo: str | None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Loading:
        """As the arguments say."""
        return cls(vecnormalize=options.vecnormalize, algo=options.algo)

    @property
    def names_a_file(self) -> bool:
        """Whether it is for one model alone."""
        return self.vecnormalize not in ("auto", "none")

    def load(self, zip_path: Path, file: PolicyFile | None = None) -> tuple[BaseAlgorithm, Normalization]:
        """Load a model with its normalization; ``file`` as in :func:`resolve_normalization`."""
        from sb3_clanker.sb3.algorithms import load_algorithm
        from sb3_clanker.sb3.normalization import resolve_normalization

        model = load_algorithm(zip_path, self.algo)
        source = None if self.vecnormalize == "none" else self.vecnormalize
        return model, resolve_normalization(model, source, zip_path, file)
