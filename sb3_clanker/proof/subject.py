"""What is proven: a policy as it is at one instant, its normalization, and Stable-Baselines3's own answers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_clanker.actor.actor import Actor, check_predict, make_actor, masked_choices
from sb3_clanker.actor.extra_outputs import ExtraOutputs
from sb3_clanker.actor.observation import check_precision
from sb3_clanker.errors import ClankerError, NonFiniteWeightsError, UnsupportedPolicyError
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.record import EnvironmentRecord
from sb3_clanker.proof.pipeline import check_pipeline
from sb3_clanker.proof.probes import Batch, Probes, draw_observations, gather_probes, take
from sb3_clanker.proof.reference import Predict, Reference, seen_observations
from sb3_clanker.proof.twin import CpuTwin, needs_twin, require_alike
from sb3_clanker.sb3.compiled import uncompiled, uncompiled_name
from sb3_clanker.sb3.copying import copy_policy
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.sb3.standard import is_of_library, settings, space_bounds
from sb3_clanker.sb3.statistics import Statistics
from sb3_clanker.sb3.untouched import untouched
from sb3_clanker.sb3.wrappers import environment_spec, warn_of_inner_normalization, wrapper_names
from sb3_clanker.targets.check import require_target
from sb3_clanker.writers.baked import baked_in

IsKnown: TypeAlias = Callable[[Mapping[str, th.Tensor], Hashable], bool]
"""Whether the tensors of an actor, and what a trace of it bakes in, are those of one that was traced before."""

_N_IN_FULL = 64
"""How many random observations a new graph is proven on: as many as find a fault that few actions show."""
_N_WEIGHTS = 32
"""How many at most where its weights alone are new."""
_N_TWIN = 16
"""How many observations a twin is held against the live policy on."""


@dataclass(frozen=True, kw_only=True)
class Instant:
    """A policy as it is now, with all that its record and its proof need of the algorithm.

    :ivar policy: the live policy, as it was before it was compiled
    :ivar predict: of the live algorithm
    :ivar algorithm: class name of the algorithm
    :ivar num_timesteps: how far training is
    :ivar environment: names of the environment and its wrappers
    :ivar environment_spec: what gymnasium knows of the environment
    :ivar actor: of the policy, or of its twin on the CPU
    :ivar tensors: its parameters and buffers, live
    :ivar around: the bounds of its spaces, and whether it normalizes
    :ivar in_full: whether more than weights is new, or that cannot be known
    :ivar baked_in: what a trace of the actor bakes in; None where it cannot be known, or was not asked
    :ivar probes: raw observations to try
    :ivar vector_probes: those that test vectors are made of, if they were asked for
    """

    policy: BasePolicy
    predict: Predict
    normalization: Normalization
    options: ExportOptions
    algorithm: str
    num_timesteps: int
    environment: tuple[str, ...]
    environment_spec: EnvironmentRecord | None
    actor: Actor
    tensors: Mapping[str, th.Tensor]
    in_full: bool
    around: Hashable
    baked_in: Hashable
    probes: Probes
    vector_probes: Probes | None

    def check(self) -> None:
        """Refuse what no file should hold; it may come up while training goes on.

        :raises PrecisionError: float32 cannot distinguish observations
        :raises TargetError: the target does not take it
        :raises NonFiniteWeightsError: the policy has diverged
        """
        check_precision(self.policy.observation_space, self.normalization.statistics())
        require_target(self.actor, self.options.target)
        check_finite(self.actor.policy, self.tensors)

    def copied_actor(self) -> Actor:
        """An actor that may be left in any state.

        :raises UnsupportedPolicyError: the copy does not do what the policy does
        """
        actor = make_actor(copy_policy(self.policy), self.normalization.statistics(), self.options)
        if bakes_in(actor, settings(self.policy), self.around) != self.baked_in:
            raise UnsupportedPolicyError(
                type(self.policy).__qualname__,
                "a copy of it computes something else",
                "It must keep all that it needs where pickle finds it, and compute the same at every call.",
            )
        return actor

    def reference(self) -> Reference:
        """Stable-Baselines3's own ``predict`` on raw observations, on the CPU: of the policy itself, or of its twin.

        :raises UnsupportedPolicyError: the twin acts otherwise than the policy
        """
        twin, extra = self.actor.policy, self.actor.extra
        if twin is self.policy:
            return self._ask(self.policy, self.predict, extra)
        sample = take(self.probes.observations, slice(0, _N_TWIN))
        of_live, of_twin = self._ask(self.policy, self.predict), self._ask(twin, twin.predict)
        apart = require_alike(of_live.predict(sample), of_twin.predict(sample), self.policy)
        return self._ask(twin, twin.predict, extra, apart)

    def _ask(
        self, policy: BasePolicy, predict: Predict, extra: ExtraOutputs | None = None, apart: float | None = None
    ) -> Reference:
        vec_normalize, stacks = self.normalization.vec_normalize, self.normalization.stacks
        return Reference(policy, predict, vec_normalize, stacks, extra, apart)


class Subject:
    """One algorithm, and what it is trained with; none of it is ever changed.

    :param model: the algorithm
    :param normalization: what it was trained with
    :param options: options of the export
    """

    def __init__(self, model: BaseAlgorithm, normalization: Normalization, options: ExportOptions) -> None:
        self.model, self._normalization, self._options = model, normalization, options
        self._actor: Actor | None = None
        self._around: Hashable = None
        self._drawn: dict[int, Batch] = {}
        self._twin: CpuTwin | None = None
        self._environment_spec = environment_spec(model.get_env())
        warn_of_inner_normalization(model.get_env())

    @contextmanager
    def now(self, is_known: IsKnown | None = None) -> Iterator[Instant]:
        """The policy as it is now. Afterwards all is as it was, whatever code of a user it has run meanwhile.

        :param is_known: whether weights alone may be new; None where a file is to be proven that lies there
        :raises UnsupportedPolicyError: it or its algorithm overrides ``predict``, or whatever its own code raises
        :raises UnsupportedWrapperError: a wrapper changes observations
        """
        policy: BasePolicy = uncompiled(self.model.policy)
        own = settings(policy)  # where there are any, a prediction changes nothing but modes, which are kept at each
        with typed_errors(policy), untouched(policy) if own is None else nullcontext():
            yield self._look(policy, own, is_known)

    def check_finite(self) -> None:
        """Refuse a policy that has diverged; see :func:`check_finite`."""
        policy: BasePolicy = uncompiled(self.model.policy)
        tensors = (*policy.named_parameters(), *policy.named_buffers())
        check_finite(policy, {uncompiled_name(name): tensor for name, tensor in tensors})

    def _look(self, policy: BasePolicy, own: Hashable, is_known: IsKnown | None) -> Instant:
        model, options, statistics = self.model, self._options, self._normalization.statistics()
        check_own_predict(model)
        check_predict(policy)
        check_pipeline(model, self._normalization.vec_normalize)
        actor = self._make_actor(policy, statistics)
        tensors = actor.tensors()
        baked = None if is_known is None else bakes_in(actor, own, self._around)
        in_full = is_known is None or not is_known(tensors, baked)

        def gather(n_samples: int, lattice: bool) -> Probes:
            seen = seen_observations(model, self._normalization.vec_normalize, n_samples)
            return gather_probes(self._draw(policy, statistics, n_samples, lattice), seen, masked_choices(policy))

        n_vectors = options.test_vectors
        return Instant(
            policy=policy,
            predict=model.predict,
            normalization=self._normalization,
            options=options,
            algorithm=type(model).__name__,
            num_timesteps=int(model.num_timesteps),
            environment=wrapper_names(model.get_env()),
            environment_spec=self._environment_spec,
            actor=actor,
            tensors=tensors,
            in_full=in_full,
            around=self._around,
            baked_in=baked,
            probes=gather(options.n_samples or (_N_IN_FULL if in_full else self._n_samples), in_full),
            vector_probes=None if n_vectors is None else gather(2 * n_vectors, True),
        )

    def _make_actor(self, live: BasePolicy, statistics: dict[str | None, Statistics]) -> Actor:
        """The actor of the live policy, or of its twin on the CPU; of last time, where that serves."""
        policy = self._on_cpu(live)
        around = space_bounds(policy), bool(statistics)
        if self._around != around:
            self._around, self._actor = around, None
            self._drawn.clear()
        if self._actor is None or self._actor.policy is not policy or statistics:
            self._actor = make_actor(policy, statistics, self._options)
        return self._actor

    def _on_cpu(self, live: BasePolicy) -> BasePolicy:
        if not needs_twin(live):
            return live
        if self._twin is not None and self._twin.is_of(live):
            self._twin.update()
        else:
            self._twin = CpuTwin(live)
        return self._twin.policy

    @functools.cached_property
    def _n_samples(self) -> int:
        """Many observations for a small network, few for a large one: the proof costs what the network costs."""
        n_parameters = sum(map(th.Tensor.numel, self.model.policy.parameters()))
        return int(np.clip(1_000_000 // max(n_parameters, 1), 2, _N_WEIGHTS))

    def _draw(
        self, policy: BasePolicy, statistics: dict[str | None, Statistics], n_samples: int, lattice: bool
    ) -> Batch:
        """Random observations: the same at each export, unless statistics have moved on."""
        if statistics or lattice:
            return draw_observations(policy.observation_space, statistics, n_samples, lattice=lattice)
        if n_samples not in self._drawn:
            self._drawn[n_samples] = draw_observations(policy.observation_space, statistics, n_samples)
        return self._drawn[n_samples]


def bakes_in(actor: Actor, own: Hashable, around: Hashable) -> Hashable:
    """What :func:`baked_in` finds, with what is around it; None where it cannot be known."""
    within = baked_in(actor, own)
    return None if within is None else (around, within)


def check_own_predict(model: BaseAlgorithm) -> None:
    """Refuse an algorithm that has its own idea of what it predicts.

    :raises UnsupportedPolicyError: it overrides ``predict``
    """
    predict = uncompiled(model.predict)
    if getattr(predict, "__self__", None) is not model or not is_of_library(predict.__func__):
        raise UnsupportedPolicyError(
            type(model).__qualname__,
            "it overrides predict(), and what it does there would be missing from the file",
            "Move that code into _predict() of its policy, which is traced.",
        )


def check_finite(policy: BasePolicy, tensors: Mapping[str, th.Tensor]) -> None:
    """Refuse a policy that has diverged, in whichever of its networks.

    In a buffer, infinity may well be meant (a mask, a bound), and anything in one that is not saved.

    :param tensors: its parameters and buffers by name, as of the policy or of its actor
    :raises NonFiniteWeightsError: it has
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for name, tensor in tensors.items():
            if not tensor.is_floating_point() or math.isfinite(_total(tensor)):  # a sum may overflow
                continue
            of_policy = name.removeprefix("policy.")
            if isinstance(tensor, nn.Parameter):
                if not tensor.isfinite().all():
                    raise NonFiniteWeightsError(of_policy)
            elif tensor.isnan().any() and of_policy in map(uncompiled_name, policy.state_dict()):
                raise NonFiniteWeightsError(of_policy, buffer=True)


def _total(tensor: th.Tensor) -> float:
    """The sum of a tensor: quick, and wakes no thread."""
    return float(np.add.reduce(tensor.detach().cpu().float().numpy(), axis=None))


@contextmanager
def typed_errors(policy: BasePolicy) -> Iterator[None]:
    """Turn whatever a policy's own code raises while it is exported into an error of this package.

    :raises UnsupportedPolicyError: it raised something
    """
    try:
        yield
    except (ClankerError, MemoryError, Warning):  # a warning is an error only where the caller made it one
        raise
    except Exception as error:
        raise UnsupportedPolicyError(
            type(uncompiled(policy)).__qualname__,
            f"{type(error).__name__}: {error}",
            "See whether model.predict() works on a raw observation; if it does, this is a mistake of sb3_clanker.",
        ) from error
