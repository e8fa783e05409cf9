"""Random actions from the distribution that a file outputs, with numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.policy_file.bounds import round_inward
from sb3_clanker.policy_file.record import PolicyMetadata

Sampler: TypeAlias = Callable[[Mapping[str, NDArray[Any]], np.random.Generator], NDArray[Any]]
"""From the further outputs of a file and a generator to actions, float of shape (batch, action_dim)."""


def make_sampler(metadata: PolicyMetadata) -> Sampler | None:
    """What draws actions as Stable-Baselines3 does with ``deterministic=False``; None without a distribution."""
    if metadata.sampling in ("gaussian", "squashed_gaussian"):
        low, high = (
            round_inward(bound.reshape(-1), inside)
            for bound, inside in zip(metadata.action_space.bounds(), (np.inf, -np.inf), strict=True)
        )
        return _squashed_gaussian(low, high) if metadata.sampling == "squashed_gaussian" else _gaussian(low, high)
    if metadata.sampling == "bernoulli":
        return _bernoulli
    if metadata.sampling == "categorical":
        return _categorical(metadata.action_space.choices)
    return None


def _gaussian(low: NDArray[Any], high: NDArray[Any]) -> Sampler:
    return lambda outputs, rng: np.clip(_normal(outputs, rng), low, high)


def _squashed_gaussian(low: NDArray[Any], high: NDArray[Any]) -> Sampler:
    return lambda outputs, rng: np.clip(low + 0.5 * (np.tanh(_normal(outputs, rng)) + 1.0) * (high - low), low, high)


def _normal(outputs: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> NDArray[Any]:
    mean, std = outputs["action_mean"], outputs["action_std"]
    drawn: NDArray[Any] = mean + std * rng.standard_normal(mean.shape, dtype=np.float32)
    return drawn


def _bernoulli(outputs: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> NDArray[Any]:
    logits = outputs["action_logits"].astype(np.float64)
    return (rng.logistic(size=logits.shape) < logits).astype(np.float32)


def _categorical(choices: tuple[int, ...]) -> Sampler:
    """The largest of the log-probabilities, each with Gumbel noise, is a draw from them."""
    edges = np.cumsum(choices)[:-1]

    def sample(outputs: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> NDArray[Any]:
        logits = outputs["action_logits"]
        noisy = logits + rng.gumbel(size=logits.shape)
        return np.stack([part.argmax(axis=1) for part in np.split(noisy, edges, axis=1)], axis=1)

    return sample
