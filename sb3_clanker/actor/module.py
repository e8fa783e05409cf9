"""The actor as a torch module of its own, for whatever takes one: exporters of other formats, or torch itself."""

from __future__ import annotations

from typing import Any

import torch as th
from torch import nn

from sb3_clanker.actor.actor import Actor
from sb3_clanker.errors import ObservationError, OptionError
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec
from sb3_clanker.public import public
from sb3_clanker.sb3.distributions import distributions_of, kept, unchecked
from sb3_clanker.sb3.standard import is_of_library

_FOR_TRAINING = (
    *("critic", "critic_target", "actor_target", "q_net_target", "quantile_net_target"),
    *("value_net", "lstm_critic", "vf_features_extractor", "mlp_extractor.value_net"),
)
"""What policies of Stable-Baselines3 and sb3-contrib hold beside what ``predict`` runs."""


@public
class PolicyModule(nn.Module):
    """The whole of ``predict(raw observation, deterministic=True)`` as a torch module, made by :func:`policy_module`.

    It is a copy on the CPU, always in evaluation mode and without gradients of its parameters. It holds no algorithm,
    no optimizer and no buffer of a training, and of Stable-Baselines3's and sb3-contrib's own policies no critic and
    no target network, unless ``"value"`` was asked for. As with any policy of Stable-Baselines3, one thread at a time
    may run it.

    :ivar inputs: what ``forward`` takes, in order: the inputs of an exported file, see :class:`TensorSpec`
    :ivar outputs: what it returns, in order: the outputs of an exported file
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        _drop_what_trains(actor)
        self._actor = actor.requires_grad_(False)
        self._distributions = distributions_of(actor)
        self.inputs, self.outputs = actor.inputs, actor.outputs
        self.eval()

    def forward(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """Choose actions, for raw observations in a batch.

        :param inputs: one tensor for each of :attr:`inputs`, in their types and shapes
        :return: one tensor for each of :attr:`outputs`; the first is the action, float32, shape (batch, action_dim)
        :raises ObservationError: more inputs than these, or fewer
        """
        if len(inputs) != len(self.inputs):
            names = ", ".join(spec.name for spec in self.inputs)
            raise ObservationError(f"The module takes the inputs {names}, got {len(inputs)} tensors.")
        with unchecked(), kept(self._distributions):
            outputs: tuple[th.Tensor, ...] = self._actor(*inputs)
        return outputs

    def train(self, mode: bool = True) -> PolicyModule:  # noqa: ARG002
        """Stay in evaluation mode, as ``predict`` does: a call in training mode would change running statistics."""
        return super().train(False)

    def example_inputs(self, batch: int = 2) -> tuple[th.Tensor, ...]:
        """Zeros in the types and shapes of :attr:`inputs`.

        :param batch: how many observations. With one alone, most exporters take the batch for a constant
        :raises OptionError: ``batch`` is no positive integer
        """
        if type(batch) is not int or batch < 1:
            raise OptionError("batch", batch, "a positive integer")
        return self._actor.example_inputs(batch)

    def dynamic_shapes(self) -> tuple[tuple[dict[int, Any], ...]]:
        """The ``dynamic_shapes`` by which :func:`torch.export.export` leaves the batch open."""
        batch = th.export.Dim(BATCH, min=1)
        return (tuple({spec.shape.index(BATCH): batch} for spec in self.inputs),)


def _drop_what_trains(actor: Actor) -> None:
    """Take out of a copied actor what only training needs, where that is known."""
    for module in actor.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, th.optim.Optimizer):
                delattr(module, name)
    if "value" in actor.extra.names:
        return
    for name in _FOR_TRAINING:
        owner: Any = actor.policy
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part, None)
        if is_of_library(type(actor.policy)) and is_of_library(type(owner)) and hasattr(owner, last):
            delattr(owner, last)
