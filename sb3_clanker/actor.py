"""The actor: the whole of ``predict(raw observation, deterministic=True)`` as one torch module.

It calls the policy's own ``_predict`` and adds what ``predict`` does around it: normalization and conversion of the
observation before, unscaling or clipping of the action after. No policy is written anew here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TypeVar

import cloudpickle
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

from sb3_clanker.errors import NormalizationError, UnsupportedPolicyError, UnsupportedSpaceError
from sb3_clanker.normalization import Normalize, Statistics
from sb3_clanker.tensors import BATCH, DictSpace, LeafSpace, TensorSpec, action_dim, describe_space

PolicyT = TypeVar("PolicyT", bound=BasePolicy)

OBSERVATION = "obs"
ACTION = "action"


class Actor(nn.Module):
    """A feed-forward policy as a function from raw observations to final actions.

    The policy is referred to, not copied, and left as it is.

    :param policy: the policy of a Stable-Baselines3 algorithm
    :param statistics: what VecNormalize knows, by key of a Dict space or under None; empty for raw observations
    :ivar inputs: inputs of ``forward``, in order
    :ivar outputs: its outputs, in order
    :raises UnsupportedPolicyError: ``predict`` is not Stable-Baselines3's own, so that tracing would miss what it does
    :raises UnsupportedSpaceError: a space has no place in the file format
    :raises NormalizationError: the statistics do not fit the observation space
    """

    action_low: th.Tensor
    action_high: th.Tensor
    action_range: th.Tensor

    def __init__(self, policy: BasePolicy, statistics: Mapping[str | None, Statistics]) -> None:
        super().__init__()
        _check_predict(policy)
        self.policy = policy
        self.observation_space = describe_space(policy.observation_space, "observation")
        action_space = describe_space(policy.action_space, "action")
        if isinstance(action_space, DictSpace):  # refused by describe_space; this tells the type checker
            raise UnsupportedSpaceError("action", str(policy.action_space), "an action cannot be a Dict")
        self.action_space: LeafSpace = action_space
        self.action_dim = action_dim(action_space)
        self.normalized_keys = tuple(key for key in statistics if key is not None)

        leaves = _leaves(policy.observation_space)
        _check_statistics(statistics, leaves)
        self.inputs = tuple(_observation_spec(key, leaf) for key, leaf in leaves.items())
        self.outputs = (_action_spec(policy.action_space, self.action_dim),)
        self.normalization = nn.ModuleDict(
            {str(i): Normalize(statistics[spec.key]) for i, spec in enumerate(self.inputs) if spec.key in statistics}
        )
        self._prepare = [_preparation(leaf) for leaf in leaves.values()]
        if isinstance(policy.action_space, spaces.Box):
            low, high = policy.action_space.low.reshape(-1), policy.action_space.high.reshape(-1)
            self.register_buffer("action_low", th.as_tensor(_inward(low, np.inf)))
            if policy.squash_output:
                self.register_buffer("action_range", th.as_tensor((high - low).astype(np.float32)))
            else:
                self.register_buffer("action_high", th.as_tensor(_inward(high, -np.inf)))

    def forward(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """Choose actions.

        :param inputs: one tensor for each of :attr:`inputs`
        :return: one tensor for each of :attr:`outputs`
        """
        return (self._finish(self.policy._predict(self._observe(inputs), deterministic=True)),)

    def _observe(self, inputs: tuple[th.Tensor, ...]) -> th.Tensor | dict[str, th.Tensor]:
        """The observation as ``obs_to_tensor`` hands it to ``_predict``."""
        observation = {}
        for index, prepare in enumerate(self._prepare):
            tensor = inputs[index]
            if str(index) in self.normalization:
                tensor = self.normalization[str(index)](tensor)
            observation[self.inputs[index].key or OBSERVATION] = prepare(tensor)
        return observation if isinstance(self.observation_space, DictSpace) else observation[OBSERVATION]

    def _finish(self, action: th.Tensor) -> th.Tensor:
        """The action as ``predict`` returns it, flattened."""
        action = action.reshape(-1, self.action_dim)
        if isinstance(self.policy.action_space, spaces.Box):
            if self.policy.squash_output:
                return self.action_low + 0.5 * (action + 1.0) * self.action_range
            return th.minimum(th.maximum(action, self.action_low), self.action_high)
        return action.to(th.float32)

    def example_inputs(self) -> tuple[th.Tensor, ...]:
        """A batch of two zero observations: a batch of one would freeze the batch dimension in a trace."""
        return tuple(
            th.zeros([2 if dim == BATCH else int(dim) for dim in spec.shape], dtype=getattr(th, spec.dtype))
            for spec in self.inputs
        )

    def tensors(self) -> dict[str, th.Tensor]:
        """Every parameter and buffer by name, live, not copied."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}


def copy_policy(policy: PolicyT) -> PolicyT:
    """Copy a policy to the CPU, whatever state training has left it in.

    By pickling: ``copy.deepcopy`` refuses the tensors that training leaves in distributions.
    """
    buffer = io.BytesIO()
    th.save(policy, buffer, pickle_module=cloudpickle)
    buffer.seek(0)
    copy: PolicyT = th.load(buffer, map_location="cpu", weights_only=False)
    return copy


def _check_predict(policy: BasePolicy) -> None:
    if type(policy).predict is not BasePolicy.predict:
        raise UnsupportedPolicyError(
            type(policy).__qualname__,
            "it overrides predict(), and what it does there would be missing from the file",
            "Move that code into _predict(), which is traced.",
        )


def _leaves(space: spaces.Space[object]) -> dict[str | None, spaces.Space[object]]:
    if isinstance(space, spaces.Dict):
        return dict(space.spaces.items())
    return {None: space}


def _check_statistics(
    statistics: Mapping[str | None, Statistics], leaves: Mapping[str | None, spaces.Space[object]]
) -> None:
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


def _observation_spec(key: str | None, space: spaces.Space[object]) -> TensorSpec:
    image = is_image_space(space)
    shape = space.shape or ()
    if isinstance(space, spaces.Discrete):
        shape, meaning = (1,), f"index of the category, a whole number from 0 to {space.n - 1}"
    elif isinstance(space, spaces.MultiDiscrete):
        meaning = "index of each category, whole numbers"
    elif isinstance(space, spaces.MultiBinary):
        meaning = "0 or 1 for each element"
    else:
        meaning = "raw image, channels first, 0 to 255" if image else "raw observation"
    return TensorSpec(
        name=OBSERVATION if key is None else key,
        dtype="uint8" if image else "float32",
        shape=(BATCH, *shape),
        role="observation",
        key=key,
        meaning=meaning,
    )


def _action_spec(space: spaces.Space[object], dim: int) -> TensorSpec:
    meaning = {
        spaces.Discrete: "index of the action, a whole number",
        spaces.MultiDiscrete: "index of each action, whole numbers",
        spaces.MultiBinary: "0 or 1 for each element",
    }.get(type(space), "the action, within its bounds, flattened in row-major order")
    return TensorSpec(name=ACTION, dtype="float32", shape=(BATCH, dim), role="action", key=None, meaning=meaning)


def _preparation(space: spaces.Space[object]) -> Callable[[th.Tensor], th.Tensor]:
    """What turns an input tensor into what ``obs_to_tensor`` makes of an observation of ``space``."""
    if isinstance(space, spaces.Discrete):
        return lambda tensor: tensor.reshape(-1).to(th.int64)
    if isinstance(space, spaces.MultiDiscrete):
        return lambda tensor: tensor.to(th.int64)
    return lambda tensor: tensor


def _inward(bound: NDArray[np.generic], inside: float) -> NDArray[np.float32]:
    """A bound in float32, rounded to the inside: no action leaves a space whose bounds float32 cannot carry."""
    rounded = bound.astype(np.float32)
    outside = rounded.astype(bound.dtype) < bound if inside > 0 else rounded.astype(bound.dtype) > bound
    return np.where(outside, np.nextafter(rounded, np.float32(inside)), rounded)
