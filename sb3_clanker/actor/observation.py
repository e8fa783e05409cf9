"""From the inputs of a file to what Stable-Baselines3's ``obs_to_tensor`` hands to a policy.

One input for each leaf of the observation space. uint8 for images, unless floats from 0 to 1 are asked for; float32 for
everything else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

from sb3_clanker.actor.normalize import Normalize
from sb3_clanker.errors import NormalizationError, PrecisionError, PrecisionWarning
from sb3_clanker.errors.warnings import warn
from sb3_clanker.policy_file.dialects import CONTRACT, Dialect
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace, describe_space
from sb3_clanker.policy_file.tensors import BATCH, LARGEST_BYTE, Layout, TensorSpec
from sb3_clanker.sb3.statistics import Statistics
from sb3_clanker.targets.clankers import IMAGE

OBSERVATION = "obs"
RESERVED_NAMES = (
    *(OBSERVATION, "action", "action_masks", "h_in", "c_in", "h_out", "c_out", "episode_start"),
    *("action_mean", "action_std", "action_logits", "value", "q_values", "outside"),
    *("action_low", "action_high", "action_range"),
)
"""What the other inputs, the outputs, and the weights without a dot in their name are called."""

_WORTH_A_WARNING = 1e-3
"""Rounding, in standard deviations, that moves actions by 1 % of their range at most, and few choices."""
_WRONG = 1e-2
"""Rounding that moves 1 in 6 actions by more than 1 % of their range, some by 10 %, and 1 in 250 discrete choices."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ObservationInput(nn.Module):
    """One leaf of the observation space: from an input tensor to what the policy gets.

    :param key: its key in a Dict space, or None
    :param name: name of the input
    :param space: space of the leaf, as the policy has it
    :param statistics: what VecNormalize knows of it, or None
    :param channels_last: whether an image is passed as height, width, channels
    :param unit_images: whether an image is passed as float32 from 0 to 1, each byte divided by 255
    :param flat: whether anything but an image is passed as a row of numbers
    :ivar spec: what the input is
    """

    def __init__(
        self,
        key: str | None,
        name: str,
        space: LeafSpace,
        statistics: Statistics | None,
        channels_last: bool,
        unit_images: bool = False,
        flat: bool = False,
    ) -> None:
        super().__init__()
        self._space = space
        of_bytes = is_image(space)
        self._transposes = channels_last and (of_bytes or _is_float_image(space))
        self.normalize = None if statistics is None else Normalize(statistics)
        self.spec = _spec(key, name, space, of_bytes, self._transposes, of_bytes and unit_images, flat)
        self._reshapes = self.spec.layout is None and self.spec.shape[1:] != space.shape

    def forward(self, tensor: th.Tensor) -> th.Tensor:
        """What ``obs_to_tensor`` makes of raw observations, normalized."""
        if self.spec.divisor is not None:  # the bytes that training saw, truncated as where it was trained
            tensor = (tensor.clamp(0.0, 1.0) * self.spec.divisor).floor().to(th.uint8)
        if self._transposes:
            tensor = tensor.permute(0, 3, 1, 2)
        if self._reshapes:
            tensor = tensor.reshape(-1, *self._space.shape)
        if self.normalize is not None:
            return self.normalize(tensor)  # type: ignore[no-any-return]
        return tensor.to(th.int64) if self._space.is_categorical else tensor


def observation_inputs(
    space: ObservationSpace,
    statistics: Mapping[str | None, Statistics],
    channels_last: bool,
    unit_images: bool = False,
    dialect: Dialect = CONTRACT,
) -> list[ObservationInput]:
    """One input for each leaf of an observation space.

    :param space: the policy's observation space
    :param statistics: what VecNormalize knows, by key or under None
    :param channels_last: whether images are passed as height, width, channels
    :param unit_images: whether images are passed as float32 from 0 to 1, in place of uint8; one alone is ``image`` then
    :param dialect: how the file is laid out
    :raises NormalizationError: the statistics do not fit the space
    """
    leaves = space.leaves()
    _check_statistics(statistics, leaves)
    names = _input_names(leaves, dialect)
    if unit_images and None in leaves and is_image(leaves[None]):
        names[None] = IMAGE
    return [
        ObservationInput(key, names[key], leaf, statistics.get(key), channels_last, unit_images, dialect.flat)
        for key, leaf in leaves.items()
    ]


def is_image(space: LeafSpace) -> bool:
    """Whether Stable-Baselines3 takes observations for images; for none but bytes, and to build a space takes time."""
    return space.dtype == "uint8" and is_image_space(space.to_gymnasium())


def check_precision(space: spaces.Space[Any], statistics: Mapping[str | None, Statistics]) -> None:
    """Warn of observations that lie so far from zero, for how little they vary, that float32 hardly distinguishes them.

    Only normalization can notice: without it, a policy itself gets float32.

    :raises PrecisionError: actions would be wrong
    """
    for key, leaf in describe_space(space, "observation").leaves().items():
        of_key = statistics.get(key)
        if of_key is None:
            continue
        dtype = np.dtype(leaf.dtype if of_key.latest is None else of_key.latest.dtype)
        if np.can_cast(dtype, np.float32):
            continue
        lost, really_lost = _lost(of_key, np.issubdtype(dtype, np.integer))
        if really_lost > _WRONG:
            raise PrecisionError(key, really_lost)
        if lost > _WORTH_A_WARNING:
            where = "The observation" if key is None else f"The observation key {key!r}"
            warn(
                PrecisionWarning(
                    f"{where} is {dtype} and lies so far from zero that float32, the type of the file's input, rounds "
                    f"it by {lost:.1g} of its standard deviation. Subtract a constant in the environment."
                )
            )


def _lost(statistics: Statistics, whole: bool) -> tuple[float, float]:
    """By how much float32 rounds observations around their mean, at most, in standard deviations.

    :param whole: whether they are whole numbers, of which float32 holds those below 2**24
    :return: of all dimensions, and of those that it was seen to round: it may hold a constant exactly
    """
    reach = np.abs(statistics.mean) + statistics.deviation
    spacing = np.spacing(reach.astype(np.float32)).astype(np.float64)
    lost = np.where(spacing > (1.0 if whole else 0.0), spacing / 2 / statistics.deviation, 0.0)
    really_lost, latest = lost, statistics.latest
    if latest is not None:
        off = np.abs(latest.astype(np.float64) - latest.astype(np.float32)) / statistics.deviation
        really_lost = np.where((off > _WORTH_A_WARNING).any(axis=0), lost, 0.0)
    return float(lost.max(initial=0.0)), float(really_lost.max(initial=0.0))


def _input_names(keys: Iterable[str | None], dialect: Dialect) -> dict[str | None, str]:
    """A name for each key: the key itself, unless it is taken or not fit for a name in every consumer's language."""
    names: dict[str | None, str] = {}
    keys = list(keys)
    plain = {key for key in keys if key is not None and _is_plain(key, dialect)}
    taken = set(plain)
    for key in keys:
        if key is None:
            names[key] = OBSERVATION
        elif key in plain:
            names[key] = key
        else:
            stem = name = "obs_" + re.sub(r"[^A-Za-z0-9_]", "_", key)
            count = 1
            while name in taken:
                count += 1
                name = f"{stem}_{count}"
            taken.add(name)
            names[key] = name
    return names


def _is_plain(key: str, dialect: Dialect) -> bool:
    if dialect.flat and key == OBSERVATION:
        return True
    reserved = (*RESERVED_NAMES, dialect.action, *(dialect.echo or ()))
    return bool(_PLAIN_NAME.fullmatch(key)) and key not in reserved


def _is_float_image(space: LeafSpace) -> bool:
    """Whether a Box looks like an image of floats with its channels first, as VecNormalize makes them."""
    is_float = np.issubdtype(np.dtype(space.dtype), np.floating)
    return is_float and len(space.shape) == 3 and int(np.argmin(space.shape)) == 0


def _spec(
    key: str | None, name: str, space: LeafSpace, of_bytes: bool, transposes: bool, takes_unit: bool, flat: bool
) -> TensorSpec:
    shape, meaning = space.input_shape, space.observation_meaning
    layout: Layout | None = None
    if transposes or of_bytes:
        layout = "channels_last" if transposes else "channels_first"
        shape = (*shape[1:], shape[0]) if transposes else shape
        meaning = "raw image, 0 to 255" if of_bytes else "raw image"
        meaning = "image from 0 to 1: each byte divided by 255" if takes_unit else meaning
    elif flat:
        shape = (math.prod(space.shape),)
        meaning += ", flattened in row-major order" if len(space.shape) > 1 else ""
    return TensorSpec(
        name=name,
        dtype="uint8" if of_bytes and not takes_unit else "float32",
        shape=(BATCH, *shape),
        role="observation",
        key=key,
        layout=layout,
        divisor=LARGEST_BYTE if takes_unit else None,
        meaning=meaning,
    )


def _check_statistics(statistics: Mapping[str | None, Statistics], leaves: Mapping[str | None, LeafSpace]) -> None:
    for key, of_key in statistics.items():
        where = "the observation" if key is None else f"the observation key {key!r}"
        if key not in leaves:
            raise NormalizationError(
                f"The VecNormalize statistics are for {where}, which the policy does not have: it observes "
                f"{'one array' if None in leaves else sorted(map(str, leaves))}. Pass the statistics that were saved "
                "with this policy."
            )
        expected = leaves[key].shape
        if of_key.mean.shape != expected:
            raise NormalizationError(
                f"The VecNormalize statistics for {where} have the shape {of_key.mean.shape}, and the policy observes "
                f"{expected}. Pass the statistics that were saved with this policy."
            )
