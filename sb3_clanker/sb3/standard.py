"""Whose code a policy runs, and what it keeps beside its tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import BasePolicy
from torch import nn
from torch.nn.modules import module as torch_module

from sb3_clanker.policy_file.spaces import describe_space

_LIBRARIES = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "numpy", "collections", "builtins")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, np.generic)
_CONTAINERS = (dict, list, type(None))


def is_standard(policy: BasePolicy) -> bool:
    """Whether all code of a policy is that of torch, Stable-Baselines3 and sb3-contrib."""
    return settings(policy) is not None


def settings(policy: BasePolicy) -> Hashable:
    """Classes and plain attributes of all modules: all that a standard policy keeps beside its tensors.

    :return: None where the policy is not standard
    """
    if torch_module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return None
    found = []
    for name, module in policy.named_modules():
        plain = _plain_attributes(module, vars(module)) if _is_standard(module) else None
        if plain is None:
            return None
        found.append((name, type(module), plain))
    return tuple(found)


def space_bounds(policy: BasePolicy) -> Hashable:
    """The spaces as they are now: their arrays may be changed in place."""
    observed = describe_space(policy.observation_space, "observation").leaves()
    return tuple(observed.items()), describe_space(policy.action_space, "action")


def is_of_library(code: type | Callable[..., Any]) -> bool:
    """Whether a class or function is none of the user's: of torch, Stable-Baselines3 or what these are made of."""
    return _is_library(code.__module__)


@functools.cache
def _is_library(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in _LIBRARIES


def _is_standard(module: nn.Module) -> bool:
    attributes = vars(module)
    return (
        is_of_library(type(module))
        and is_of_library(type(module).forward)  # which may have been replaced in the class
        and not attributes["_forward_hooks"]
        and not attributes["_forward_pre_hooks"]
        and module._compiled_call_impl is None
    )


def _plain_attributes(owner: object, attributes: Mapping[str, Any]) -> tuple[Hashable, ...] | None:
    """The plain values among attributes, and those of a distribution; None where one is foreign."""
    found: list[Hashable] = []
    for name, value in attributes.items():
        if name in _OF_EVERY_MODULE or type(value) in _CONTAINERS:
            continue
        if isinstance(value, _PLAIN) or (type(value) is tuple and all(isinstance(part, _PLAIN) for part in value)):
            found.append((name, value))
        elif _is_foreign(owner, name, value):
            return None
        elif isinstance(value, Distribution):
            plain = tuple((key, part) for key, part in vars(value).items() if isinstance(part, _PLAIN))
            found.append((name, type(value), plain))
    return tuple(found)


def _is_foreign(owner: object, name: str, value: object) -> bool:
    """Whether an attribute brings code of its own, in place of a method or as an object of the user's, or values."""
    if isinstance(value, (FunctionType, MethodType)):
        return hasattr(type(owner), name)
    if isinstance(value, (th.Tensor, np.ndarray)):
        return True
    return not isinstance(value, (type, th.optim.Optimizer)) and not is_of_library(type(value))
