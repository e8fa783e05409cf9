"""What a policy gives beside the action, for those who sample or inspect: distributions, values, Q-values.

The same functions run in the traced graph and, eagerly, in the reference; all of them call the policy's own methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_clanker.errors import OptionError
from sb3_clanker.options import OUTPUTS, FurtherOutput
from sb3_clanker.policy_file.spaces import LeafSpace
from sb3_clanker.policy_file.tensors import BATCH, OUTSIDE, Sampling, TensorSpec

Context: TypeAlias = Mapping[str, Any]
"""What the policy's methods take beside the observation: masks, or the state of an LSTM."""

_Compute: TypeAlias = Callable[[Any, Any, Context], dict[str, th.Tensor]]


@dataclass(frozen=True, kw_only=True)
class ExtraOutputs:
    """The extra outputs of one policy.

    :ivar names: what the caller asked for
    :ivar specs: the outputs, in order
    :ivar sampling: how an action is drawn from them, None where they hold no distribution
    """

    names: tuple[FurtherOutput, ...]
    specs: tuple[TensorSpec, ...]
    sampling: Sampling | None

    def compute(self, policy: BasePolicy, observation: Any, context: Context) -> tuple[th.Tensor, ...]:
        """The outputs for preprocessed observations, float32 of shape (batch, width) each."""
        tensors: dict[str, th.Tensor] = {}
        for name in self.names:
            tensors.update(_COMPUTE[name](policy, observation, context))
        return tuple(tensors[spec.name].to(th.float32) for spec in self.specs)


def extra_outputs(
    policy: BasePolicy, names: tuple[FurtherOutput, ...], space: LeafSpace, recurrent: bool
) -> ExtraOutputs:
    """The outputs of a policy that were asked for, but for ``"outside"``, which no policy has a part in.

    :param names: what was asked for
    :param space: of its actions
    :raises OptionError: the policy has none such
    """
    specs: list[TensorSpec] = []
    sampling: Sampling | None = None
    names = tuple(name for name in names if name != OUTSIDE)
    for name in names:
        if not _can(policy, name, space, recurrent):
            raise OptionError("further_outputs", list(names), f"what {type(policy).__name__} has; it has no {name!r}")
        if name == "distribution":
            sampling = _sampling(policy)
            specs += _distribution_specs(policy, sampling, space.widths[sampling])
        elif name == "value":
            specs.append(_spec("value", 1, "estimate of the discounted return from here on"))
        else:
            specs.append(_spec("q_values", sum(space.choices), "estimate of the discounted return after each action"))
    return ExtraOutputs(names=names, specs=tuple(specs), sampling=sampling)


def _can(policy: Any, name: FurtherOutput, space: LeafSpace, recurrent: bool) -> bool:
    if name == "distribution":
        has_one = hasattr(policy, "get_distribution") or hasattr(getattr(policy, "actor", None), "action_dist")
        return has_one and _sampling(policy) in space.widths
    if name == "value":  # the critic of a recurrent policy has a state of its own, which predict() does not carry
        return hasattr(policy, "predict_values") and not recurrent
    return hasattr(policy, "q_net") or hasattr(policy, "quantile_net")


def _sampling(policy: Any) -> Sampling:
    if hasattr(policy, "actor") or hasattr(policy, "log_std"):
        return "squashed_gaussian" if policy.squash_output else "gaussian"
    kind = type(policy.action_dist).__name__
    return "bernoulli" if kind == "BernoulliDistribution" else "categorical"


def _distribution_specs(policy: BasePolicy, sampling: Sampling, width: int) -> list[TensorSpec]:
    if sampling == "bernoulli":
        return [_spec("action_logits", width, "log-odds of each element being 1")]
    if sampling == "categorical":
        meaning = "log-probability of each choice, one dimension of the action after another"
        return [_spec("action_logits", width, meaning)]
    after = "tanh and unscaling" if policy.squash_output else "clipping"
    return [
        _spec("action_mean", width, f"mean of the Gaussian, before {after}"),
        _spec("action_std", width, f"standard deviation of the Gaussian, before {after}"),
    ]


def _spec(name: str, width: int, meaning: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=(BATCH, width), role="further", meaning=meaning)


def _distribution(policy: Any, observation: Any, context: Context) -> dict[str, th.Tensor]:
    if hasattr(policy, "get_distribution"):
        result = policy.get_distribution(observation, **context)
        wrapper = result[0] if isinstance(result, tuple) else result
    else:
        mean, log_std, kwargs = policy.actor.get_action_dist_params(observation)
        wrapper = policy.actor.action_dist.proba_distribution(mean, log_std, **kwargs)
    distribution = getattr(wrapper, "distributions", None) or wrapper.distribution
    if isinstance(distribution, th.distributions.Normal):
        return {"action_mean": distribution.mean, "action_std": distribution.stddev}
    parts = distribution if isinstance(distribution, list) else [distribution]
    return {"action_logits": th.cat([part.logits for part in parts], dim=1)}


def _value(policy: Any, observation: Any, _: Context) -> dict[str, th.Tensor]:
    return {"value": policy.predict_values(observation)}


def _q_values(policy: Any, observation: Any, _: Context) -> dict[str, th.Tensor]:
    if hasattr(policy, "quantile_net"):
        return {"q_values": policy.quantile_net(observation).mean(dim=1)}
    return {"q_values": policy.q_net(observation)}


_COMPUTE: Mapping[FurtherOutput, _Compute] = {"distribution": _distribution, "value": _value, "q_values": _q_values}


def names_of(outputs: Iterable[TensorSpec]) -> tuple[FurtherOutput, ...]:
    """The extra outputs that there are among the outputs of a graph."""
    found = {spec.name for spec in outputs if spec.role == "further"}
    return tuple(name for name, names in OUTPUTS.items() if found & names)
