"""A copy on the CPU of a policy that lives on an accelerator.

There, sums are rounded otherwise than in onnxruntime, so that a tight comparison would mean nothing. The live policy is
not moved; the file is made of the twin and held against it. Weights are copied into the twin at each export. It is made
anew where anything else may have changed, and is held against the live policy, loosely, before each use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy

from sb3_clanker.errors import UnsupportedPolicyError
from sb3_clanker.policy_file.spaces import describe_space
from sb3_clanker.proof.reference import Prediction
from sb3_clanker.sb3.compiled import uncompiled_name
from sb3_clanker.sb3.copying import copy_policy
from sb3_clanker.sb3.standard import settings, space_bounds

LOOSE = 0.02
"""Difference that the arithmetic of an accelerator may make, in units of half the range of a Box, or of the largest
score."""
LOOSE_SHARE = 0.25
"""Share of discrete actions that it may change, where their scores are not known."""


def needs_twin(policy: BasePolicy) -> bool:
    """Whether a policy lives anywhere else than on the CPU."""
    return bool(policy.device.type != "cpu")


class CpuTwin:
    """A policy's twin on the CPU.

    :param policy: the live policy; it is never moved or changed
    :ivar policy: the twin
    """

    def __init__(self, policy: BasePolicy) -> None:
        self._live = policy
        self.policy = copy_policy(policy)
        self._settings = _settings(policy)

    def is_of(self, policy: BasePolicy) -> bool:
        """Whether a policy differs from the one that was copied in its parameters and buffers alone."""
        return policy is self._live and settings(policy) is not None and self._settings == _settings(policy)

    def update(self) -> None:
        """Copy the live weights and buffers."""
        named = (*self._live.named_parameters(), *self._live.named_buffers())
        live = {uncompiled_name(name): tensor for name, tensor in named}
        with th.no_grad():
            for name, tensor in (*self.policy.named_parameters(), *self.policy.named_buffers()):
                tensor.copy_(live[name])


def require_alike(live: Prediction, copied: Prediction, policy: BasePolicy) -> float:
    """Hold a policy's twin against it, loosely.

    :return: how far they are apart: in units of half the range of a Box, else in units of the largest score, or the
        share of choices that differ
    :raises UnsupportedPolicyError: farther than the arithmetic of an accelerator explains
    """
    space = describe_space(policy.action_space, "action")
    if space.is_continuous:
        low, high = space.bounds()
        half = np.maximum((high - low) / 2, np.finfo(np.float32).tiny)
        apart, most = _largest(np.abs(live.action - copied.action) / half), LOOSE
    elif live.scores:
        (one,), (other,) = live.scores, copied.scores
        apart, most = _largest(np.abs(one - other)) / (_largest(np.abs(one)) or 1.0), LOOSE
    else:
        differs = (live.action != copied.action).reshape(len(live.action), -1).any(axis=1)
        apart, most = float(differs.mean()), LOOSE_SHARE
    if not apart <= most:
        raise UnsupportedPolicyError(
            type(policy).__qualname__,
            f"a copy of it on the CPU acts otherwise (by {apart:.2g}; arithmetic explains {most:.2g})",
            "It must keep all that it needs where pickle finds it, and act alike on every device.",
        )
    return apart


def _settings(policy: BasePolicy) -> tuple[object, object]:
    return space_bounds(policy), settings(policy)


def _largest(values: NDArray[Any]) -> float:
    """The largest of some values, those aside that are no numbers."""
    return float(np.nanmax(values, initial=0.0))
