"""What a trace bakes in beside weights, so that a traced graph serves again only where none of it has changed.

Parameters and buffers are inputs of a traced graph. Whatever else decides an action stands in the graph as it was at
the trace: a number that training anneals, a tensor or an array in a plain attribute, a global variable, a bound.

Where all modules are torch's, Stable-Baselines3's and sb3-contrib's own, that is their settings, which are read in
microseconds. Otherwise the actor is run once on its example inputs, and each operation that torch dispatches is
recorded with its constants. Attributes say too little for that (closures and globals) and too much (caches, counters).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from types import FunctionType, MethodType
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import BasePolicy
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sb3_clanker.actor.actor import Actor
from sb3_clanker.sb3.compiled import eager

_LIBRARIES = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "numpy", "collections", "builtins")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = (bool, int, float, str, np.generic)


def baked_in(actor: Actor, *, standard: bool) -> Hashable:
    """Everything that a trace of an actor bakes in, to be compared with what it was; None where it cannot be told.

    :param actor: an actor on the CPU
    :param standard: whether its policy is; else it is run, in evaluation mode
    """
    bounds = space_bounds(actor.policy)
    if standard:
        return bounds, settings(actor.policy)
    try:
        return bounds, _record(actor)
    except Exception:  # whatever the policy's own code raises; its trace in full will say it in words
        return None


def space_bounds(policy: BasePolicy) -> Hashable:
    """The spaces as they are now: their arrays may be changed in place."""
    return _bounds(policy.observation_space), _bounds(policy.action_space)


def settings(policy: BasePolicy) -> Hashable:
    """Classes and plain attributes of all modules: all that a standard policy keeps beside its tensors."""
    return tuple((name, type(module), _settings(vars(module))) for name, module in policy.named_modules())


def is_standard(policy: BasePolicy) -> bool:
    """Whether all code of a policy is that of torch, Stable-Baselines3 and sb3-contrib."""
    hooked: bool = torch_module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return not hooked and all(map(_is_standard, policy.modules()))


def _is_standard(module: nn.Module) -> bool:
    attributes = vars(module)
    return (
        is_of_library(type(module))
        and is_of_library(type(module).forward)  # which may have been replaced in the class
        and not any(attributes[hooks] for hooks in _HOOKS)
        and module._compiled_call_impl is None
        and not any(_is_foreign(module, name, attributes[name]) for name in attributes.keys() - _OF_EVERY_MODULE)
    )


def _is_foreign(module: nn.Module, name: str, value: object) -> bool:
    """Whether an attribute brings code of its own, in place of a method or as an object of the user's, or values."""
    if isinstance(value, (FunctionType, MethodType)):
        return hasattr(type(module), name)
    if isinstance(value, (th.Tensor, np.ndarray)):
        return True
    return not isinstance(value, (type, th.optim.Optimizer)) and not is_of_library(type(value))


def is_of_library(code: type | Callable[..., Any]) -> bool:
    """Whether a class or function is none of the user's: of torch, Stable-Baselines3 or what these are made of."""
    return (code.__module__ or "").partition(".")[0] in _LIBRARIES


def _settings(attributes: Mapping[str, Any]) -> tuple[Hashable, ...]:
    """The plain values among attributes, and those of a distribution."""
    found: list[Hashable] = []
    for name, value in attributes.items():
        if name in _OF_EVERY_MODULE:
            continue
        if isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(part, _PLAIN) for part in value)):
            found.append((name, value))
        elif isinstance(value, Distribution):
            found.append((name, type(value), _settings(vars(value))))
    return tuple(found)


def _bounds(space: gym.Space[Any]) -> Hashable:
    if isinstance(space, gym.spaces.Dict):
        return tuple((key, _bounds(leaf)) for key, leaf in space.spaces.items())
    arrays = (value.tobytes() for value in vars(space).values() if isinstance(value, np.ndarray))
    numbers = (int(getattr(space, name, 0)) for name in ("n", "start") if np.ndim(getattr(space, name, 0)) == 0)
    return type(space), space.shape, str(space.dtype), *arrays, *numbers


def _record(actor: Actor) -> str:
    examples = actor.example_inputs()
    names = {id(tensor): name for name, tensor in actor.tensors().items()}
    names |= {id(tensor): spec.name for tensor, spec in zip(examples, actor.inputs, strict=True)}
    with th.no_grad(), eager():
        actor.eval()(*examples)  # what a first call keeps for later ones, it has kept
        with _Recorder(names) as recorder:
            outputs: tuple[th.Tensor, ...] = actor(*examples)
    return str(recorder.digest_of(outputs))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operation that torch dispatches, with its constants.

    A tensor that comes out of an operation is known by a digest of that operation and all before it that it is made of.
    So what decides nothing is not in the digest of an output: noise that is drawn for training alone, or a counter.

    :param names: of the tensors whose values are no constants, by ``id``
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = dict(names)
        self._in_place: dict[int, str] = {}  # by storage: what is changed may be seen through other tensors too
        self._kept: list[th.Tensor] = []  # so that no other tensor gets the id, or the storage, of one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = _digest(str(func), tree_map(self._describe, (args, kwargs)))
        result = func(*args, **kwargs)
        for index, tensor in enumerate(_tensors(result)):
            self._names[id(tensor)] = f"{operation}.{index}"
            self._kept.append(tensor)
        for tensor in _changed(func, args, kwargs):
            self._in_place[_storage(tensor)] = operation
            self._kept.append(tensor)
        return result

    def digest_of(self, outputs: tuple[th.Tensor, ...]) -> str:
        """Of all that outputs are made of."""
        return _digest(*map(self._describe, outputs))

    def _describe(self, argument: object) -> object:
        if not isinstance(argument, th.Tensor):
            return argument
        name = self._names.get(id(argument)) or self._constant(argument)
        return name, self._in_place.get(_storage(argument))

    def _constant(self, tensor: th.Tensor) -> str:
        values = tensor.detach().cpu().contiguous().reshape(-1).view(th.uint8).numpy()
        return _digest(tensor.dtype, tensor.shape, hashlib.sha256(values.tobytes()).hexdigest())


def _tensors(tree: object) -> list[th.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, th.Tensor)]


def _changed(func: Any, args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[th.Tensor]:
    """The arguments that an operation changes in place."""
    arguments = func._schema.arguments
    given = {spec.name: value for spec, value in zip(arguments, args, strict=False)} | dict(kwargs)
    written = (spec.name for spec in arguments if spec.alias_info is not None and spec.alias_info.is_write)
    return [tensor for name in written for tensor in _tensors(given.get(name))]


def _storage(tensor: th.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
