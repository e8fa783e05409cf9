"""What VecNormalize knows of observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker.errors import NormalizationError
from sb3_clanker.sb3.wrappers import FrameStack


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What VecNormalize knows of one observation.

    :ivar mean: float64, shape of the observation
    :ivar variance: float64, shape of the observation
    :ivar epsilon: added to the variance
    :ivar clip_obs: largest absolute value after normalization
    :ivar latest: raw observations that it saw last, shape (n, *shape), in their own type; None where it saw none
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    epsilon: float
    clip_obs: float
    latest: NDArray[Any] | None = None

    @property
    def deviation(self) -> NDArray[np.float64]:
        """What VecNormalize divides by."""
        return np.asarray(np.sqrt(self.variance + self.epsilon))


def collect_statistics(
    vec_normalize: VecNormalize | None, stacks: Mapping[str | None, FrameStack] = MappingProxyType({})
) -> dict[str | None, Statistics]:
    """The statistics of each observation that is normalized, by its key in a Dict space, or under None.

    Empty where there is no VecNormalize, or where it leaves observations alone (``norm_obs=False``).

    :param stacks: how frames are stacked; where that happens after VecNormalize, its statistics are repeated
    :raises NormalizationError: they are damaged, or have diverged
    """
    if vec_normalize is None or not vec_normalize.norm_obs:
        return {}
    running: Any = vec_normalize.obs_rms  # a dict for a Dict space, whatever its annotation says
    latest: Any = vars(vec_normalize).get("old_obs")  # getattr would look in what it wraps
    keys: list[str | None] = [None]
    if isinstance(running, dict):
        keys = list(vec_normalize.norm_obs_keys or ())
    else:
        running, latest = {None: running}, None if latest is None else {None: latest}

    def repeated(values: NDArray[Any], key: str | None) -> NDArray[Any]:
        stack = stacks.get(key)
        if stack is None or not stack.after_normalization:
            return values
        return np.concatenate([values] * stack.n_stack, axis=stack.axis)

    try:
        found = {
            key: Statistics(
                mean=repeated(np.array(running[key].mean, dtype=np.float64), key),
                variance=repeated(np.array(running[key].var, dtype=np.float64), key),
                epsilon=float(vec_normalize.epsilon),
                clip_obs=float(vec_normalize.clip_obs),
                latest=None if latest is None else repeated(latest[key], key),
            )
            for key in keys
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of a pickle that somebody changed
        raise NormalizationError(
            f"These VecNormalize statistics are damaged ({error}). Save them with VecNormalize.save()."
        ) from error
    for key, statistics in found.items():
        variance = statistics.variance + statistics.epsilon
        if not (np.isfinite(statistics.mean).all() and np.isfinite(variance).all() and (variance > 0).all()):
            raise NormalizationError(
                f"The VecNormalize statistics for {'the observation' if key is None else f'the key {key!r}'} hold "
                "values that are infinite, negative or not a number: the environment gave such observations. Find "
                "out where they come from, and go back to the last good checkpoint."
            )
    return found
