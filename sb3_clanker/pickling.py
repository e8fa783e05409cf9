"""A policy as bytes: what pickle makes of its parts, and which part is in the way where it cannot.

Stable-Baselines3 itself saves no more than the state of a policy, so a policy may train well that no pickle takes.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import threading
from collections import deque
from collections.abc import Iterator
from inspect import getclosurevars
from types import FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle
import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn
from torch.nn.utils import parametrize

from sb3_clanker.compiled import uncompiled, uncompiled_name
from sb3_clanker.errors import UnsupportedPolicyError

_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}
_SCRIPTED = (th.jit.ScriptModule, th.jit.ScriptFunction)


class PolicyPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles what is in policies and would be refused otherwise, for this process alone.

    Modules with parametrizations (weight norm and the like), by their state; what ``torch.compile`` returned, as what
    it was given; a lock, as a new one; what a script defines, by its name, not with all that it refers to there.
    """

    def reducer_override(self, obj: Any) -> Any:
        if (original := uncompiled(obj)) is not obj:
            return uncompiled, (original,)
        if isinstance(obj, _SCRIPTED):
            raise pickle.PicklingError("TorchScript cannot be traced into a graph; put the module itself in its place")
        if type(obj) in _LOCKS:
            return _LOCKS[type(obj)], ()
        if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):
            return copyreg.__newobj__, (type(obj),), obj.__dict__  # type: ignore[attr-defined]
        if isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__" and _is_global(obj):
            return obj.__qualname__
        return super().reducer_override(obj)


class PolicyPickling:
    """What ``torch.save`` takes for a pickle module."""

    Pickler = PolicyPickler


def refusal(policy: BasePolicy, error: Exception) -> UnsupportedPolicyError:
    """The error for a policy that cannot be copied, which names the part of it that is in the way.

    :param policy: the policy
    :param error: what copying it raised
    """
    where = "it"
    probe = _Probe(io.BytesIO())
    try:
        probe.dump(policy)
    except Exception as found:  # whatever the part raises
        error = found
        where = f"{_path(probe.last, policy) or 'something in it'} (of type {type(probe.last).__name__})"
    return UnsupportedPolicyError(
        type(uncompiled(policy)).__qualname__,
        f"{where} cannot be copied: {error}",
        "Keep it outside of the policy, or let the class that holds it leave it out in __getstate__ and make it anew "
        "in __setstate__.",
    )


class _Probe(PolicyPickler):
    """Pickles all but tensors, and remembers what it came to last."""

    last: object = None

    def persistent_id(self, obj: Any) -> str | None:
        return "tensor" if isinstance(obj, th.Tensor) else None

    def reducer_override(self, obj: Any) -> Any:
        self.last = obj
        return super().reducer_override(obj)


def _is_global(obj: type | FunctionType) -> bool:
    """Whether a class or function of the running script is found by its name."""
    found: Any = sys.modules["__main__"]
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def _path(wanted: object, policy: BasePolicy) -> str | None:
    """The shortest way to a part of a policy by attributes and items, None where these do not lead to it."""
    reached: deque[tuple[str, object]] = deque([("policy", policy)])
    seen = {id(policy)}
    while reached:
        path, holder = reached.popleft()
        if holder is wanted:
            return uncompiled_name(path)
        for step, part in _parts(holder):
            if id(part) not in seen:
                seen.add(id(part))
                reached.append((path + step, part))
    return None


def _parts(holder: Any) -> Iterator[tuple[str, object]]:
    """What an object holds, and how it is reached from there."""
    if isinstance(holder, (type, ModuleType)):
        return  # pickled by name
    if isinstance(holder, dict):
        yield from ((f"[{key!r}]", part) for key, part in holder.items())
    elif isinstance(holder, (list, tuple, set, deque)):
        yield from ((f"[{index}]", part) for index, part in enumerate(holder))
    elif isinstance(holder, MethodType):
        yield from ((".__self__", holder.__self__), (".__func__", holder.__func__))
    elif isinstance(holder, FunctionType):
        yield from ((f".<closure>.{name}", part) for name, part in getclosurevars(holder).nonlocals.items())
    attributes = dict(getattr(holder, "__dict__", {}))
    for registry in ("_modules", "_parameters", "_buffers") if isinstance(holder, nn.Module) else ():
        yield from ((f".{name}", part) for name, part in attributes.pop(registry, {}).items())
    yield from ((f".{name}", part) for name, part in attributes.items())
