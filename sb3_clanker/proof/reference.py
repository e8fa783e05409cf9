"""Stable-Baselines3 itself, as the reference: what the policy does, and what training saw.

Nothing here advances a generator, changes a mode or touches a weight; what code of a user does beyond that in a
prediction, :mod:`sb3_clanker.sb3.untouched` puts back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker.actor.extra_outputs import ExtraOutputs
from sb3_clanker.policy_file.spaces import describe_space
from sb3_clanker.proof.probes import Batch, as_batch, batch_size, by_key, take
from sb3_clanker.sb3.compiled import eager
from sb3_clanker.sb3.copying import copy_policy
from sb3_clanker.sb3.untouched import modes_kept
from sb3_clanker.sb3.wrappers import FrameStack
from sb3_clanker.writers.scores import captured_scores

State: TypeAlias = tuple[NDArray[Any], ...]
Predict: TypeAlias = Callable[..., tuple[NDArray[Any], State | None]]


class Prediction(NamedTuple):
    """What a policy does with an observation.

    :ivar action: as ``predict`` returns it
    :ivar state: the next state, as ``predict`` returns it
    :ivar extra: the extra outputs, each of shape (batch, width)
    :ivar scores: what the action comes from, of shape (batch, ...); at most one array
    """

    action: NDArray[Any]
    state: State | None
    extra: tuple[NDArray[Any], ...] = ()
    scores: tuple[NDArray[Any], ...] = ()


_SEED = 20_260_102
_N_PERTURBATIONS = 16
_PERTURBATION = 1e-6
"""Relative change of the weights: a few units in the last place of float32."""


class Reference:
    """``predict(observation, deterministic=True)`` of a live algorithm, on raw observations.

    :param policy: its policy, or a copy of that
    :param predict: what is asked: the unmodified method of the algorithm, or that of the copy
    :param vec_normalize: the normalization that the policy was trained with, or None
    :param extra: what else the policy is asked for
    :param stacks: how frames are stacked; where that happens after VecNormalize, it gets one frame at a time
    :param apart: how far a copy that is asked is from the policy itself, None where the policy is asked
    :ivar action_space: action space of the policy
    """

    def __init__(
        self,
        policy: BasePolicy,
        predict: Predict,
        vec_normalize: VecNormalize | None,
        stacks: Mapping[str | None, FrameStack] = MappingProxyType({}),
        extra: ExtraOutputs | None = None,
        apart: float | None = None,
    ) -> None:
        self._extra = extra
        self.apart = apart
        self._policy, self._predict, self._vec_normalize = policy, predict, vec_normalize
        self._stacks = {key: stack for key, stack in stacks.items() if stack.after_normalization}
        self.action_space = describe_space(policy.action_space, "action")

    def predict(self, observation: Batch, **context: Any) -> Prediction:
        """Actions for raw observations, single or in a batch, and the next state, as Stable-Baselines3 returns them.

        :param observation: raw observations
        :param context: what else ``predict`` takes: ``state``, ``episode_start``, ``action_masks``
        """
        with modes_kept(self._policy), eager():
            return self._act(self._policy, self._predict, observation, context)

    def perturbed(self, observations: Batch, **context: Any) -> list[Prediction]:
        """What the policy does with its weights changed by as little as float32 resolves, several times.

        Where these predictions differ, the action hangs on digits that no two runtimes round alike.
        """
        policy = copy_policy(self._policy)
        generator = th.Generator().manual_seed(_SEED)
        originals = {name: tensor.detach().clone() for name, tensor in policy.named_parameters()}
        predictions = []
        for _ in range(_N_PERTURBATIONS):
            with th.no_grad():
                for name, tensor in policy.named_parameters():
                    noise = th.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                    tensor.copy_(originals[name] * (1.0 + _PERTURBATION * noise))
            predictions.append(self._act(policy, policy.predict, observations, context))
        return predictions

    def _act(self, policy: BasePolicy, predict: Predict, observation: Batch, context: Mapping[str, Any]) -> Prediction:
        if self._vec_normalize is not None:
            observation = self._normalize(observation, self._vec_normalize)
        with captured_scores(policy) as scores:
            action, state = predict(observation, deterministic=True, **context)
        extra = self._ask_more(policy, observation, context)
        return Prediction(action, state, extra, tuple(tensor.detach().cpu().numpy() for tensor in scores))

    def _ask_more(self, policy: Any, observation: Batch, context: Mapping[str, Any]) -> tuple[NDArray[Any], ...]:
        if self._extra is None or not self._extra.names:
            return ()
        tensors, _ = policy.obs_to_tensor(observation)
        n = len(next(iter(tensors.values())) if isinstance(tensors, dict) else tensors)
        inputs: dict[str, Any] = {}
        if hasattr(policy, "lstm_hidden_state_shape"):
            n_layers, _, width = policy.lstm_hidden_state_shape
            state, start = context.get("state"), context.get("episode_start")
            zeros = (np.zeros((n_layers, n, width)),) * 2
            inputs["lstm_states"] = tuple(th.as_tensor(part, dtype=th.float32) for part in state or zeros)
            inputs["episode_starts"] = th.as_tensor(np.zeros(n) if start is None else start, dtype=th.float32)
        elif "action_masks" in context:
            inputs["action_masks"] = context["action_masks"]
        with th.no_grad():
            return tuple(tensor.cpu().numpy() for tensor in self._extra.compute(policy, tensors, inputs))

    def _normalize(self, observation: Batch, vec_normalize: VecNormalize) -> Batch:
        if not self._stacks:
            return vec_normalize.normalize_obs(observation)
        n_stack = next(iter(self._stacks.values())).n_stack
        axes = {key: self._stacks[key].axis for key in by_key(observation)}
        split = {key: np.split(value, n_stack, axes[key]) for key, value in by_key(observation).items()}
        frames = [
            by_key(vec_normalize.normalize_obs(as_batch({key: parts[index] for key, parts in split.items()})))
            for index in range(n_stack)
        ]
        return as_batch({key: np.concatenate([frame[key] for frame in frames], axis) for key, axis in axes.items()})


def seen_observations(model: BaseAlgorithm, vec_normalize: VecNormalize | None, limit: int) -> Batch | None:
    """Raw observations that training really saw: the latest, and a spread of those in its buffer.

    Buffers are read, not sampled: sampling would advance a generator.

    :param limit: how many at most
    :return: a batch of raw observations, or None before training began
    """
    latest: Any = getattr(model, "_last_obs", None)
    if vec_normalize is not None and latest is not None:
        latest = vec_normalize.get_original_obs()
    batches = [batch for batch in (_latest(latest, model), _buffered(model, vec_normalize)) if batch is not None]
    if not batches:
        return None
    chosen: list[Batch] = []
    for index, batch in enumerate(batches):  # chosen before anything is copied: a buffer may be of many gigabytes
        share = -(-limit // (len(batches) - index))
        rows = np.unique(np.linspace(0, batch_size(batch) - 1, share).astype(int))
        chosen.append(take(batch, rows))
        limit -= len(rows)
    return as_batch({key: np.concatenate([by_key(batch)[key] for batch in chosen]) for key in by_key(chosen[0])})


def _latest(latest: Batch | None, model: BaseAlgorithm) -> Batch | None:
    """The latest observations, unless a wrapper around VecNormalize gave them another shape."""
    shapes = None if latest is None else {key: rows.shape[1:] for key, rows in by_key(latest).items()}
    return latest if shapes == _shapes(model) else None


def _buffered(model: BaseAlgorithm, vec_normalize: VecNormalize | None) -> Batch | None:
    """Observations in the replay buffer, which are raw, or in the rollout buffer, which are as the policy saw them."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None and vec_normalize is None:
        buffer = getattr(model, "rollout_buffer", None)
    if buffer is None:
        return None
    filled = len(buffer.observations) if buffer.full else buffer.pos
    if filled == 0:
        return None
    stored = by_key(buffer.observations)
    return as_batch({key: stored[key][:filled].reshape(-1, *shape) for key, shape in _shapes(model).items()})


def _shapes(model: BaseAlgorithm) -> dict[str | None, tuple[int, ...]]:
    leaves = describe_space(model.policy.observation_space, "observation").leaves()
    return {key: leaf.shape for key, leaf in leaves.items()}
