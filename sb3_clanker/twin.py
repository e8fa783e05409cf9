"""A copy on the CPU of a policy that lives on an accelerator.

There, sums are rounded otherwise than in onnxruntime, so that a tight comparison would mean nothing. The live policy is
not moved; its weights are copied into a twin that is made once. A twin goes stale where a policy keeps what it needs
beside its parameters and buffers, so it is held against the live policy before each use, loosely.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy

from sb3_clanker.actor import copy_policy
from sb3_clanker.compiled import uncompiled_name

LOOSE = 0.02
"""Difference that the arithmetic of an accelerator may make, in units of half the range of a Box."""
LOOSE_SHARE = 0.25
"""Share of discrete actions that it may change."""


def needs_twin(policy: BasePolicy) -> bool:
    """Whether a policy lives anywhere else than on the CPU."""
    return bool(policy.device.type != "cpu")


class CpuTwin:
    """A policy's twin on the CPU.

    :param policy: the live policy; it is never moved or changed
    """

    def __init__(self, policy: BasePolicy) -> None:
        self._live = policy
        self.policy = copy_policy(policy)

    def update(self) -> None:
        """Copy the live weights and buffers."""
        named = (*self._live.named_parameters(), *self._live.named_buffers())
        live = {uncompiled_name(name): tensor for name, tensor in named}
        with th.no_grad():
            for name, tensor in (*self.policy.named_parameters(), *self.policy.named_buffers()):
                tensor.copy_(live[name])

    def remake(self) -> None:
        """Make the copy anew, with whatever else the policy keeps."""
        self.policy = copy_policy(self._live)


def alike(one: NDArray[Any], other: NDArray[Any], space: spaces.Space[Any]) -> bool:
    """Whether two batches of actions are alike but for the arithmetic of an accelerator."""
    if not isinstance(space, spaces.Box):
        differs = (one != other).reshape(len(one), -1).any(axis=1)
        return bool(differs.mean() <= LOOSE_SHARE)
    half = np.maximum((space.high.astype(np.float64) - space.low) / 2, np.finfo(np.float32).tiny)
    return bool(np.nanmax(np.abs(one - other) / half, initial=0.0) <= LOOSE)
