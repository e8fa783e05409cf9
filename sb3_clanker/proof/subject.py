"""What is exported and proven: a policy with its normalization, and Stable-Baselines3's own answers to compare with."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_clanker.actor.actor import Actor, check_predict, make_actor, masked_choices
from sb3_clanker.actor.extra_outputs import Further
from sb3_clanker.actor.observation import check_precision
from sb3_clanker.errors import NonFiniteWeightsError, UnsupportedPolicyError
from sb3_clanker.options import ExportOptions
from sb3_clanker.proof.pipeline import check_pipeline
from sb3_clanker.proof.probes import Batch, Probes, draw_observations, gather_probes, take
from sb3_clanker.proof.reference import Reference, seen_observations
from sb3_clanker.proof.twin import CpuTwin, needs_twin, require_alike
from sb3_clanker.sb3.compiled import uncompiled, uncompiled_name
from sb3_clanker.sb3.copying import copy_policy
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.sb3.standard import is_of_library, settings, space_bounds
from sb3_clanker.sb3.untouched import untouched
from sb3_clanker.sb3.wrappers import warn_of_inner_normalization
from sb3_clanker.writers.baked import baked_in

_N_IN_FULL = 64
"""How many random observations a new graph is proven on: as many as find a fault that few actions show."""
_N_WEIGHTS = 32
"""How many at most where its weights alone are new."""
_N_TWIN = 16
"""How many observations a twin is held against the live policy on."""


class Subject:
    """One algorithm, and what it is trained with; none of it is ever changed.

    :param model: the algorithm
    :param normalization: what it was trained with
    :param options: options of the export
    :raises UnsupportedPolicyError: not an algorithm, or one without a policy
    :raises UnsupportedWrapperError: a wrapper of its environment changes observations in a way that cannot be folded in
    """

    def __init__(self, model: BaseAlgorithm, normalization: Normalization, options: ExportOptions) -> None:
        check_algorithm(model)
        self.model, self.normalization, self._options = model, normalization, options
        self._actor: Actor | None = None
        self._around: Hashable = None
        self._settings: Hashable = None
        self._drawn: dict[int, Batch] = {}
        self._twin: CpuTwin | None = None
        warn_of_inner_normalization(model.get_env())
        check_pipeline(model, normalization.vec_normalize)

    @property
    def policy(self) -> BasePolicy:
        """Its policy, as it was before it was compiled."""
        policy: BasePolicy = uncompiled(self.model.policy)
        return policy

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Afterwards everything is as it was, whatever code of a user the policy has run meanwhile."""
        self._settings = settings(self.policy)
        if self._settings is not None:  # a prediction changes nothing but modes, which are kept at each
            yield
        else:
            with untouched(self.policy):
                yield

    def check(self) -> None:
        """Refuse what no file can do, or should: it may come up while training goes on.

        :raises UnsupportedPolicyError: the policy or the algorithm overrides ``predict``
        :raises UnsupportedWrapperError: a wrapper changes observations
        :raises PrecisionError: float32 cannot tell observations apart
        """
        check_algorithm(self.model)
        check_predict(self.policy)
        check_pipeline(self.model, self.normalization.vec_normalize)
        check_precision(self.model.policy.observation_space, self.normalization.statistics())

    def check_finite(self, tensors: Mapping[str, th.Tensor] | None = None) -> None:
        """Refuse a policy that has diverged, in whichever of its networks.

        In a buffer, infinity may well be meant (a mask, a bound), and anything in one that is not saved.

        :param tensors: what ``Actor.tensors`` gives, where that is known
        :raises NonFiniteWeightsError: it has
        """
        with np.errstate(over="ignore", invalid="ignore"):
            for name, tensor in (self.actor().tensors() if tensors is None else tensors).items():
                if not tensor.is_floating_point() or math.isfinite(_total(tensor)):  # a sum may overflow
                    continue
                of_policy = name.removeprefix("policy.")
                if isinstance(tensor, nn.Parameter):
                    if not tensor.isfinite().all():
                        raise NonFiniteWeightsError(of_policy)
                elif tensor.isnan().any() and of_policy in map(uncompiled_name, self.policy.state_dict()):
                    raise NonFiniteWeightsError(of_policy, buffer=True)

    def actor(self) -> Actor:
        """The actor of the policy as it is now, on the CPU: of the live policy, or of its twin."""
        policy, statistics = self._on_cpu(), self.normalization.statistics()
        around = space_bounds(policy), bool(statistics)
        if self._around != around:
            self._around, self._actor = around, None
            self._drawn.clear()
        if self._actor is None or self._actor.policy is not policy or statistics:
            self._actor = make_actor(policy, statistics, self._options)
        return self._actor

    def baked_in(self, actor: Actor) -> Hashable:
        """Everything that a trace of the actor bakes in, within :meth:`untouched`; None where it cannot be told."""
        within = baked_in(actor, self._settings)
        return None if within is None else (self._around, within)

    def _on_cpu(self) -> BasePolicy:
        live = self.policy
        if not needs_twin(live):
            return live
        if self._twin is not None and self._twin.is_of(live):
            self._twin.update()
        else:
            self._twin = CpuTwin(live)
        return self._twin.policy

    def copied_actor(self, now: Hashable) -> Actor:
        """An actor that may be left in any state.

        :param now: what :meth:`baked_in` found in the policy
        :raises UnsupportedPolicyError: the copy does not do what the policy does
        """
        policy = self.policy
        actor = make_actor(copy_policy(policy), self.normalization.statistics(), self._options)
        if self._settings is None and self.baked_in(actor) != now:
            raise UnsupportedPolicyError(
                type(policy).__qualname__,
                "a copy of it computes something else",
                "It must keep all that it needs where pickle finds it, and compute the same at every call.",
            )
        return actor

    def reference(self, actor: Actor) -> Reference:
        """Stable-Baselines3's own ``predict`` on raw observations, on the CPU.

        :param actor: what :meth:`actor` gave: the policy itself answers, or its twin, which is held against it
        :raises UnsupportedPolicyError: the twin acts otherwise than the policy
        """
        live = self.policy
        if actor.policy is live:
            return self._ask(self.model, actor.further)
        sample = take(self.probes(in_full=False).observations, slice(0, _N_TWIN))
        of_live, of_twin = (self._ask(predictor).predict(sample) for predictor in (self.model, actor.policy))
        apart = require_alike(of_live, of_twin, live)
        return self._ask(actor.policy, actor.further, apart)

    def _ask(
        self, predictor: BaseAlgorithm | BasePolicy, further: Further | None = None, apart: float | None = None
    ) -> Reference:
        normalization = self.normalization
        return Reference(self.model, predictor, normalization.vec_normalize, normalization.stacks, further, apart)

    def probes(self, *, in_full: bool, n_samples: int | None = None) -> Probes:
        """Raw observations to try.

        :param in_full: whether the graph is new, and so tried on a lattice as well; else few do for a large network
        :param n_samples: how many random ones; None chooses
        """
        n_samples = n_samples or self._options.n_samples or (_N_IN_FULL if in_full else self._n_samples)
        seen = seen_observations(self.model, self.normalization.vec_normalize, n_samples)
        return gather_probes(self._draw(n_samples, in_full), seen, masked_choices(self.model.policy))

    @functools.cached_property
    def _n_samples(self) -> int:
        """Many observations for a small network, few for a large one: the proof costs what the network costs."""
        n_parameters = sum(map(th.Tensor.numel, self.model.policy.parameters()))
        return int(np.clip(1_000_000 // max(n_parameters, 1), 2, _N_WEIGHTS))

    def _draw(self, n_samples: int, lattice: bool) -> Batch:
        """Random observations: the same at each export, unless statistics have moved on."""
        space, statistics = self.model.policy.observation_space, self.normalization.statistics()
        if statistics or lattice:
            return draw_observations(space, statistics, n_samples, lattice=lattice)
        if n_samples not in self._drawn:
            self._drawn[n_samples] = draw_observations(space, statistics, n_samples)
        return self._drawn[n_samples]


def _total(tensor: th.Tensor) -> float:
    """The sum of a tensor: quick, and wakes no thread."""
    return float(np.add.reduce(tensor.detach().cpu().float().numpy(), axis=None))


def check_algorithm(model: object) -> None:
    """Refuse what is no Stable-Baselines3 algorithm, or has its own idea of what it predicts.

    :raises UnsupportedPolicyError: it is none, it has no policy yet, or it overrides ``predict``
    """
    if not isinstance(model, BaseAlgorithm):
        raise UnsupportedPolicyError(
            type(model).__qualname__, "it is not a Stable-Baselines3 algorithm", "Pass the model, such as PPO(...)."
        )
    if getattr(model, "policy", None) is None:
        raise UnsupportedPolicyError(
            type(model).__qualname__, "it has no policy yet", "Make it with _init_setup_model=True, the default."
        )
    predict = uncompiled(model.predict)
    if getattr(predict, "__self__", None) is not model or not is_of_library(predict.__func__):
        raise UnsupportedPolicyError(
            type(model).__qualname__,
            "it overrides predict(), and what it does there would be missing from the file",
            "Move that code into _predict() of its policy, which is traced.",
        )
