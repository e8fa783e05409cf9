"""The actor: the whole of ``predict(raw observation, deterministic=True)`` as one torch module.

It calls the policy's own ``_predict`` and adds what ``predict`` does around it: normalization and conversion of the
observation before, unscaling or clipping of the action after. No policy is written anew here. There are three of them:
:class:`Actor` for feed-forward policies, :class:`MaskableActor` and :class:`RecurrentActor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_clanker.actor.extra_outputs import extra_outputs
from sb3_clanker.actor.labels import label_action, label_observations
from sb3_clanker.actor.observation import observation_inputs
from sb3_clanker.actor.outside import Outside
from sb3_clanker.errors import UnsupportedPolicyError
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.bounds import round_inward
from sb3_clanker.policy_file.dialects import ONE_HOT
from sb3_clanker.policy_file.record import ObservationRanges
from sb3_clanker.policy_file.spaces import describe_space
from sb3_clanker.policy_file.tensors import BATCH, OUTSIDE, TensorSpec
from sb3_clanker.sb3.compiled import uncompiled, uncompiled_name
from sb3_clanker.sb3.statistics import Statistics
from sb3_clanker.targets.check import dialect_for, feeds_unit_images, unused_inputs

_MASKABLE = "sb3_contrib.common.maskable.policies"
_RECURRENT = "sb3_contrib.common.recurrent.policies"


class Actor(nn.Module):
    """A policy as a function from raw observations to final actions.

    The policy is referred to, not copied, and left as it is; :func:`make_actor` chooses the class.

    :param policy: the policy of a Stable-Baselines3 algorithm
    :param statistics: what VecNormalize knows, by key of a Dict space or under None; empty for raw observations
    :param options: options of the export
    :ivar inputs: inputs of ``forward``, in order
    :ivar outputs: its outputs, in order
    :raises UnsupportedPolicyError: ``predict``, or what it calls beside ``_predict``, is not Stable-Baselines3's own,
        so that tracing would miss what it does
    :raises UnsupportedSpaceError: a space has no place in the file format
    :raises NormalizationError: the statistics do not fit the observation space
    """

    recurrent = False

    action_low: th.Tensor
    action_high: th.Tensor
    action_range: th.Tensor

    def __init__(self, policy: BasePolicy, statistics: Mapping[str | None, Statistics], options: ExportOptions) -> None:
        super().__init__()
        check_predict(policy)
        self.policy = policy
        self.observation_space = describe_space(policy.observation_space, "observation")
        self.action_space = describe_space(policy.action_space, "action")
        self.action_dim = self.action_space.n_elements

        self.dialect = dialect = dialect_for(options.target)
        leaves = observation_inputs(
            self.observation_space, statistics, options.channels_last, feeds_unit_images(options.target), dialect
        )
        self.observation = nn.ModuleList(leaves)
        observed = label_observations([leaf.spec for leaf in leaves], self.observation_space, options)
        echo = dialect.echo_specs()
        self.inputs = (*observed, *self._further_inputs(), *unused_inputs(options.target, observed), *echo[:1])
        self._one_hot = dialect.one_hot and not self.action_space.is_continuous
        shape = (BATCH, dialect.action_width(self.action_space))
        meaning = ONE_HOT if self._one_hot else self.action_space.action_meaning
        action = TensorSpec(name=dialect.action, dtype="float32", shape=shape, role="action", meaning=meaning)
        asked = tuple(options.further_outputs)
        self.outside = Outside(observed, self.observation_space, options.outside_margin) if OUTSIDE in asked else None
        self.extra = extra_outputs(policy, asked, self.action_space, self.recurrent)
        action = label_action(action, self.action_space, options)
        outside = (self.outside.spec,) if self.outside else ()
        self.outputs = (action, *self._next_state(), *echo[1:], *self.extra.specs, *outside)
        if self.action_space.is_continuous:
            box: Any = policy.action_space  # in its own type, as in unscale_action
            low, high = box.low.reshape(-1), box.high.reshape(-1)
            self.register_buffer("action_low", th.as_tensor(round_inward(low, np.inf)))
            self.register_buffer("action_high", th.as_tensor(round_inward(high, -np.inf)))
            if policy.squash_output:
                self.register_buffer("action_range", th.as_tensor((high - low).astype(np.float32)))

    def forward(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """Choose actions.

        :param inputs: one tensor for each of :attr:`inputs`
        :return: one tensor for each of :attr:`outputs`
        """
        observation = self._observe(inputs)
        context = self._context(*inputs[len(self.observation) :])
        outputs = self._act(observation, context)
        echo = (inputs[-1].clone(),) if self.dialect.echo else ()
        outside = (self.outside(inputs),) if self.outside else ()
        return (*outputs, *echo, *self.extra.compute(self.policy, observation, context), *outside)

    def _context(self, *_: th.Tensor) -> dict[str, Any]:
        """What the policy's methods take beside the observation."""
        return {}

    def _act(self, observation: th.Tensor | dict[str, th.Tensor], context: dict[str, Any]) -> tuple[th.Tensor, ...]:
        return (self._finish(self.policy._predict(observation, deterministic=True, **context)),)

    def _observe(self, inputs: tuple[th.Tensor, ...]) -> th.Tensor | dict[str, th.Tensor]:
        """The observation as ``obs_to_tensor`` hands it to ``_predict``."""
        tensors: list[th.Tensor] = [leaf(tensor) for leaf, tensor in zip(self.observation, inputs, strict=False)]
        by_key = {spec.key: tensor for spec, tensor in zip(self.inputs, tensors, strict=False)}
        return by_key[None] if None in by_key else {str(key): tensor for key, tensor in by_key.items()}

    def _finish(self, action: th.Tensor) -> th.Tensor:
        """The action as ``predict`` returns it, flattened.

        Unscaling rounds, and so may leave the bounds by a digit, as it does in ``predict``; here it may not.
        """
        action = action.reshape(-1, self.action_dim)
        if not self.action_space.is_continuous:
            action = action.to(th.float32)
            return self._to_one_hot(action) if self._one_hot else action
        if self.policy.squash_output:
            action = self.action_low + 0.5 * (action + 1.0) * self.action_range
        return th.minimum(th.maximum(action, self.action_low), self.action_high)

    def _to_one_hot(self, action: th.Tensor) -> th.Tensor:
        """A number for each choice, 1 for those that are made."""
        choices = self.action_space.choices
        dims = [dim for dim, n in enumerate(choices) for _ in range(n)]
        indices = [float(index) for n in choices for index in range(n)]
        return (action.index_select(1, th.tensor(dims)) == th.tensor(indices)).to(th.float32)

    def see(self, ranges: ObservationRanges | None) -> None:
        """Take what training saw of observations up to now, None where that is not known, for what needs it."""
        if self.outside is not None:
            self.outside.see(ranges)

    def example_inputs(self, batch: int = 2) -> tuple[th.Tensor, ...]:
        """A batch of zeros, of two by default: a batch of one would freeze the batch dimension in a trace."""
        return tuple(
            th.zeros([batch if dim == BATCH else int(dim) for dim in spec.shape], dtype=getattr(th, spec.dtype))
            for spec in self.inputs
        )

    def tensors(self) -> dict[str, th.Tensor]:
        """Every parameter and buffer by name, live, not copied; of compiled modules by the names of the originals."""
        tensors = (*self.named_parameters(), *self.named_buffers())
        return {uncompiled_name(name): tensor for name, tensor in tensors}

    def _further_inputs(self) -> tuple[TensorSpec, ...]:
        return ()

    def _next_state(self) -> tuple[TensorSpec, ...]:
        return ()


class MaskableActor(Actor):
    """A policy of MaskablePPO: forbidden actions are an input."""

    def _context(self, *further_inputs: th.Tensor) -> dict[str, Any]:
        (action_masks,) = further_inputs
        return {"action_masks": action_masks}

    def _further_inputs(self) -> tuple[TensorSpec, ...]:
        shape = (BATCH, sum(self.action_space.choices))
        meaning = "true for each choice that is allowed, one dimension of the action after another"
        return (TensorSpec(name="action_masks", dtype="bool", shape=shape, role="action_masks", meaning=meaning),)


class RecurrentActor(Actor):
    """A policy of RecurrentPPO, one step at a time: the state of its LSTM goes in and out."""

    recurrent = True

    def _context(self, *further_inputs: th.Tensor) -> dict[str, Any]:
        hidden, cell, episode_start = further_inputs
        return {"lstm_states": (hidden, cell), "episode_starts": episode_start}

    def forward(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        policy: Any = self.policy
        policy._process_sequence = _process_step  # shadows the method of the class
        try:
            return super().forward(*inputs)
        finally:
            del policy._process_sequence

    def _act(self, observation: th.Tensor | dict[str, th.Tensor], context: dict[str, Any]) -> tuple[th.Tensor, ...]:
        policy: Any = self.policy
        action, state = policy._predict(observation, deterministic=True, **context)
        return (self._finish(action), *state)

    def _further_inputs(self) -> tuple[TensorSpec, ...]:
        meaning = "1 at the first step of an episode, which resets the state before it, else 0"
        reset = TensorSpec(name="episode_start", dtype="float32", shape=(BATCH,), role="episode_start", meaning=meaning)
        return (*self._state("in", "the state that the last step gave, zeros before the first"), reset)

    def _next_state(self) -> tuple[TensorSpec, ...]:
        return self._state("out", "the state for the next step")

    def _state(self, suffix: str, meaning: str) -> tuple[TensorSpec, TensorSpec]:
        policy: Any = self.policy
        n_layers, _, width = policy.lstm_hidden_state_shape
        shape = (int(n_layers), BATCH, int(width))
        return (
            TensorSpec(name=f"h_{suffix}", dtype="float32", shape=shape, role="hidden_state", meaning=meaning),
            TensorSpec(name=f"c_{suffix}", dtype="float32", shape=shape, role="cell_state", meaning=meaning),
        )


def make_actor(policy: BasePolicy, statistics: Mapping[str | None, Statistics], options: ExportOptions) -> Actor:
    """The actor for a policy; parameters and errors as for :class:`Actor`."""
    policy = uncompiled(policy)
    actors = {_MASKABLE: MaskableActor, _RECURRENT: RecurrentActor}
    return actors.get(_standard(policy).__module__, Actor)(policy, statistics, options)


def masked_choices(policy: BasePolicy) -> tuple[int, ...]:
    """Of a maskable policy, how many choices each dimension of its action has; empty for any other."""
    is_maskable = _standard(policy).__module__ == _MASKABLE
    return describe_space(policy.action_space, "action").choices if is_maskable else ()


def _process_step(
    features: th.Tensor, lstm_states: tuple[th.Tensor, th.Tensor], episode_starts: th.Tensor, lstm: nn.LSTM
) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
    """``RecurrentActorCriticPolicy._process_sequence`` for a sequence of one step, without its branch on data.

    https://github.com/Stable-Baselines-Team/stable-baselines3-contrib/blob/v2.9.2/sb3_contrib/common/recurrent/policies.py
    """
    kept = (1.0 - episode_starts).reshape(1, -1, 1)
    output, (hidden, cell) = lstm(features.unsqueeze(0), (kept * lstm_states[0], kept * lstm_states[1]))
    return output.squeeze(0), (hidden, cell)


def _standard(policy: BasePolicy) -> type[BasePolicy]:
    """The class whose ``predict`` a policy should have; by name, as sb3-contrib is an extra."""
    classes = type(uncompiled(policy)).__mro__
    return next((base for base in classes if base.__module__ in (_MASKABLE, _RECURRENT)), BasePolicy)


def check_predict(policy: BasePolicy) -> None:
    """Refuse a policy that has its own idea of what ``predict`` does around ``_predict``.

    :raises UnsupportedPolicyError: it has
    """
    for name in ("predict", "obs_to_tensor", "unscale_action"):
        method = uncompiled(getattr(policy, name))  # it may stand in the policy itself
        standard = getattr(method, "__func__", None) is getattr(_standard(policy), name)
        if not standard or method.__self__ is not policy:
            raise UnsupportedPolicyError(
                type(policy).__qualname__,
                f"it overrides {name}(), and what it does there would be missing from the file",
                "Move that code into _predict(), which is traced.",
            )
