"""VecNormalize as a torch module: the statistics of a training, folded into the graph."""

from __future__ import annotations

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn

from sb3_clanker.sb3.statistics import Statistics


class Normalize(nn.Module):
    """``clip((observation - mean) / sqrt(variance + epsilon))`` in float32, as exact as float32 allows.

    VecNormalize computes in float64. Far from zero a float32 mean is too coarse, so it is kept in two parts: the
    observation and the first part are close, their difference is exact, and the second part puts the rest right.

    Source of the behaviour: ``VecNormalize._normalize_obs``,
    https://github.com/DLR-RM/stable-baselines3/blob/v2.9.2/stable_baselines3/common/vec_env/vec_normalize.py
    """

    mean_high: th.Tensor
    mean_low: th.Tensor
    deviation: th.Tensor
    clip_obs: th.Tensor

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        mean_high = statistics.mean.astype(np.float32)
        self.register_buffer("mean_high", th.as_tensor(mean_high))
        self.register_buffer("mean_low", th.as_tensor((statistics.mean - mean_high).astype(np.float32)))
        self.register_buffer("deviation", th.as_tensor(statistics.deviation.astype(np.float32)))
        self.register_buffer("clip_obs", th.tensor(statistics.clip_obs, dtype=th.float32))

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """Normalize raw observations, float32 of shape (batch, *shape)."""
        centered = (observation - self.mean_high) - self.mean_low
        return th.minimum(th.maximum(centered / self.deviation, -self.clip_obs), self.clip_obs)

    def of_zero(self) -> tuple[NDArray[np.float32], float]:
        """The raw observation that is normalized to zero, and how far from zero float32 leaves it."""
        raw = self.mean_high.numpy()
        return raw, float(np.abs(self(th.as_tensor(raw)).numpy()).max(initial=0.0))
