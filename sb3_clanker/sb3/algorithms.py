"""An algorithm from the ``.zip`` that Stable-Baselines3 saved.

Stable-Baselines3 does not write which algorithm a file holds. It is recognised by the class of the policy and by the
names of the attributes that were saved. Loading a ``.zip`` runs code that is in it: load only what you trust.
"""

from __future__ import annotations

import importlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_clanker.dependencies import CONTRIB, required_for
from sb3_clanker.errors import AlgorithmFileError, MissingDependencyError, MissingFileError, OptionError
from sb3_clanker.paths import is_file, local_path
from sb3_clanker.run_folder.identity import pair_with_zip
from sb3_clanker.sb3.compiled import uncompiled


@dataclass(frozen=True, kw_only=True)
class _Algorithm:
    """One algorithm, and how to recognize it by what it saved.

    :ivar module: where its class is
    :ivar policy: beginning of the module of its policy's class, or of a base class
    :ivar saved: attributes that only it saves among those with such a policy
    :ivar not_saved: attributes that it does not save
    """

    module: str
    policy: str
    saved: tuple[str, ...] = ()
    not_saved: tuple[str, ...] = ()


_SB3, _CONTRIB = "stable_baselines3", "sb3_contrib"
_ON_POLICY = f"{_SB3}.common.policies"

ALGORITHMS: Mapping[str, _Algorithm] = {
    "a2c": _Algorithm(module=f"{_SB3}.A2C", policy=_ON_POLICY, saved=("gae_lambda",), not_saved=("batch_size",)),
    "ars": _Algorithm(module=f"{_CONTRIB}.ARS", policy=f"{_CONTRIB}.ars", saved=("n_delta",)),
    "crossq": _Algorithm(module=f"{_CONTRIB}.CrossQ", policy=f"{_CONTRIB}.crossq"),
    "ddpg": _Algorithm(module=f"{_SB3}.DDPG", policy=f"{_SB3}.td3"),
    "dqn": _Algorithm(module=f"{_SB3}.DQN", policy=f"{_SB3}.dqn"),
    "maskable_ppo": _Algorithm(module=f"{_CONTRIB}.MaskablePPO", policy=f"{_CONTRIB}.common.maskable"),
    "ppo": _Algorithm(module=f"{_SB3}.PPO", policy=_ON_POLICY, saved=("clip_range", "n_epochs")),
    "ppo_lstm": _Algorithm(module=f"{_CONTRIB}.RecurrentPPO", policy=f"{_CONTRIB}.common.recurrent"),
    "qrdqn": _Algorithm(module=f"{_CONTRIB}.QRDQN", policy=f"{_CONTRIB}.qrdqn"),
    "sac": _Algorithm(module=f"{_SB3}.SAC", policy=f"{_SB3}.sac"),
    "td3": _Algorithm(module=f"{_SB3}.TD3", policy=f"{_SB3}.td3"),
    "tqc": _Algorithm(module=f"{_CONTRIB}.TQC", policy=f"{_CONTRIB}.tqc"),
    "trpo": _Algorithm(module=f"{_CONTRIB}.TRPO", policy=_ON_POLICY, saved=("cg_max_steps",)),
}
"""Every algorithm by the name that ``--algo`` takes, which is RL Zoo's."""

_WITHOUT_BUFFER: Mapping[str, Any] = {
    "buffer_size": 1,
    "optimize_memory_usage": False,
    "replay_buffer_class": None,
    "replay_buffer_kwargs": {},
}
"""A policy needs no replay buffer, which may be of many gigabytes, or need an environment (HER)."""

_OVERHEAD = 65_536
"""Bytes of a file beside the values of a tensor, by far more than they are."""

_MOST_UNPACKED = 64
"""How many times larger than its file what is in a ``.zip`` may be: Stable-Baselines3 does not compress at all."""

_ALWAYS_UNPACKED = 1 << 28
"""Bytes that may be in a ``.zip`` however small it is."""

_SAME_ACTOR = {frozenset({"td3", "ddpg"}): "td3"}
"""Algorithms that no file can distinguish, and that share policy and actor to the last line."""


def load_algorithm(path: str | Path, algo: str | None = None) -> BaseAlgorithm:
    """Load an algorithm to the CPU, without an environment. This runs code that is in the file.

    :param path: the ``.zip``
    :param algo: a name of :data:`ALGORITHMS`; None recognises the algorithm
    :raises MissingFileError: there is no such file
    :raises AlgorithmFileError: it is damaged, not from Stable-Baselines3, or its algorithm cannot be known
    :raises OptionError: there is no such algorithm
    :raises MissingDependencyError: the algorithm is of sb3-contrib, which is not installed
    """
    path = local_path(path)
    if algo is not None and algo not in ALGORITHMS:
        raise OptionError("algo", algo, f"one of {', '.join(ALGORITHMS)}")
    data = _read(path)
    cls = _import_class(algo or _recognise(path, data))
    try:
        model = cls.load(path, device="cpu", custom_objects=dict(_WITHOUT_BUFFER))
        model.num_timesteps = int(model.num_timesteps)
    except Exception as error:  # whatever the file makes Stable-Baselines3 raise
        raise AlgorithmFileError(
            path, f"{cls.__name__} cannot load it ({type(error).__name__}: {error})", "Is it of another algorithm?"
        ) from error
    return model


def class_of(path: Path, name: str) -> type[BaseAlgorithm]:
    """The class of an algorithm by its name; one of the user's own is not taken for what it derives from.

    :param path: the ``.zip``
    :param name: what the class was called when it was saved
    :raises AlgorithmFileError: it is one of the user's own
    :raises MissingDependencyError: it is of sb3-contrib, which is not installed
    """
    standard = {algorithm.module.rpartition(".")[2]: algo for algo, algorithm in ALGORITHMS.items()}
    if name not in standard:
        raise AlgorithmFileError(
            path, f"it is of {name}, which is no algorithm of Stable-Baselines3", f"Pass algorithm={name}."
        )
    return _import_class(standard[name])


def holds_policy_of(path: Path, model: BaseAlgorithm) -> bool:
    """Whether a ``.zip`` holds the very weights of a model. Runs no code of the file, nor unpacks more than these."""
    live = uncompiled(model.policy).state_dict()  # as Stable-Baselines3 saves it
    try:
        most = sum(tensor.nbytes + _OVERHEAD for tensor in live.values() if isinstance(tensor, th.Tensor)) + _OVERHEAD
        saved = _read_weights(path, most)
        return set(saved) == set(live) and all(th.equal(saved[name], live[name].cpu()) for name in live)
    except Exception:  # anything else than a readable .zip is not the file of this model
        return False


def _read_weights(path: Path, most: int) -> Any:
    """The weights in a ``.zip``, which are of so many bytes at most, packed and unpacked."""
    if not is_file(path):  # a pipe may never end
        raise MissingFileError(path, ".zip of Stable-Baselines3")
    with zipfile.ZipFile(path) as archive, archive.open("policy.pth") as member:
        content = member.read(most + 1)  # what the directory says of its size need not be true
    with zipfile.ZipFile(io.BytesIO(content)) as weights:  # torch's files are zip files too
        if len(content) > most or sum(entry.file_size for entry in weights.infolist()) > most:
            raise AlgorithmFileError(path, "its weights are of another size", "Save the model again.")
    return th.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _read(path: Path) -> dict[str, Any]:
    if not is_file(path):
        raise MissingFileError(path, ".zip of Stable-Baselines3")
    pair_with_zip(path)  # refuses what is no whole zip file
    with zipfile.ZipFile(path) as archive:
        unpacked, packed = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if unpacked > max(_MOST_UNPACKED * packed, _ALWAYS_UNPACKED):
        raise AlgorithmFileError(
            path, f"what is in it takes {unpacked:,} bytes, and the file itself {packed:,}", "Save the model again."
        )
    try:
        data, _, _ = load_from_zip_file(path, device="cpu")
    except ImportError as error:
        if (error.name or "").split(".")[0] == "sb3_contrib":
            raise MissingDependencyError("sb3-contrib", "The algorithm in this file", CONTRIB) from error
        raise AlgorithmFileError(
            path,
            f"it needs a module that cannot be imported ({error})",
            "Run where the policy's class can be imported.",
        ) from error
    except Exception as error:  # whatever a damaged member makes zipfile, json, pickle or torch raise
        raise AlgorithmFileError(
            path, f"it is damaged ({type(error).__name__}: {error})", "Save the model again."
        ) from error
    if not data or "policy_class" not in data:
        raise AlgorithmFileError(
            path, "it was not written by a Stable-Baselines3 algorithm", "Pass what model.save() wrote."
        )
    return data


def _recognise(path: Path, data: Mapping[str, Any]) -> str:
    modules = [base.__module__ for base in getattr(data["policy_class"], "__mro__", ())]
    found = {
        name
        for name, algorithm in ALGORITHMS.items()
        if any(module.startswith(algorithm.policy) for module in modules)
        and all(attribute in data for attribute in algorithm.saved)
        and not any(attribute in data for attribute in algorithm.not_saved)
    }
    # Policies of sb3-contrib derive from those of Stable-Baselines3: the more particular algorithm is meant.
    particular = {name for name in found if ALGORITHMS[name].policy != _ON_POLICY} or found
    if same := _SAME_ACTOR.get(frozenset(particular)):
        return same
    if len(particular) != 1:
        what = f"it may be of {' or '.join(sorted(particular))}" if particular else "its algorithm cannot be recognised"
        raise AlgorithmFileError(path, what, f"Pass --algo, one of {', '.join(ALGORITHMS)}.")
    return particular.pop()


def _import_class(name: str) -> type[BaseAlgorithm]:
    module, _, attribute = ALGORITHMS[name].module.rpartition(".")
    with required_for(f"The algorithm {attribute}", CONTRIB):
        cls: type[BaseAlgorithm] = getattr(importlib.import_module(module), attribute)
    return cls
