"""Running a policy without a trace of it in the training.

``predict`` sets a policy to evaluation, and code of a user may do more: draw from a generator, count in a buffer,
keep an activation, make a layer when it is first needed. All of that is put back.
"""

from __future__ import annotations

import functools
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import CellType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_clanker.sb3.copying import is_filled
from sb3_clanker.sb3.standard import is_of_library

_PutBack: TypeAlias = Callable[[], object]

_OTHERS = (
    *(BaseAlgorithm, BaseBuffer, VecEnv, gym.Env, gym.Space, th.optim.Optimizer, ModuleType),
    *(logging.Filterer, logging.Manager),  # loggers and handlers: of the process, and an export logs too
)
"""What a prediction has no business with, and what may be of any size."""
_VARIABLES = (bool, int, float, str, list, dict, set, deque, np.ndarray, np.generic, th.Tensor, th.Generator)
"""What a class, or a module of the user, may keep in a variable; the rest of what they hold is code."""


@contextmanager
def modes_kept(policy: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in policy.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                vars(module)["training"] = training  # what its own __setattr__ comes to, many times quicker


@contextmanager
def untouched(policy: BasePolicy) -> Iterator[None]:
    """Afterwards the generators of the process are where they were, and so is all that the policy can reach."""
    with generators_kept(), ExitStack() as stack:
        for put_back in _states(policy):
            stack.callback(put_back)
        yield


@contextmanager
def generators_kept() -> Iterator[None]:
    """Afterwards the generators of the process are where they were."""
    with ExitStack() as stack:
        for put_back in _generators():
            stack.callback(put_back)
        yield


def _generators() -> Iterator[_PutBack]:
    yield functools.partial(th.set_rng_state, th.get_rng_state())
    if th.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield functools.partial(th.cuda.set_rng_state_all, th.cuda.get_rng_state_all())
    yield functools.partial(np.random.set_state, np.random.get_state())  # noqa: NPY002 - the one that others draw from
    yield functools.partial(random.setstate, random.getstate())


def _states(root: object) -> Iterator[_PutBack]:
    """Of everything that can be reached: attributes and closures, and the variables of classes and modules."""
    seen: dict[int, object] = {}  # the objects too, so that no other gets the id of one
    waiting = [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, _OTHERS):
            continue
        seen[id(found)] = found
        if (put_back := _state(found)) is not None:
            yield put_back
        waiting.extend(_contents(found))


def _state(found: Any) -> _PutBack | None:
    """What puts an object back into the state that it is in; None where it has none of its own."""
    match found:
        case th.Tensor():
            if _has_storage(found):
                return functools.partial(_rebind, found, found.detach())
        case th.UntypedStorage():
            values = th.empty(0, dtype=th.uint8, device=found.device).set_(found)
            return functools.partial(_refill_storage, found, values.clone())
        case np.ndarray():
            return functools.partial(_refill_array, found, found.copy())
        case dict() | list() | set() | deque():
            return functools.partial(_refill, found, found.copy())
        case bytearray():
            return functools.partial(found.__setitem__, slice(None), bytes(found))
        case CellType():
            if is_filled(found):
                return functools.partial(setattr, found, "cell_contents", found.cell_contents)
        case type():
            return functools.partial(_set_variables, found, _variables(vars(found)))
        case FunctionType():
            return functools.partial(found.__globals__.update, _globals(found))
        case th.Generator():
            return functools.partial(found.set_state, found.get_state())
        case np.random.BitGenerator():
            return functools.partial(setattr, found, "state", found.state)
        case np.random.RandomState():
            return functools.partial(found.set_state, found.get_state())
        case random.SystemRandom():
            return None
        case random.Random():
            return functools.partial(found.setstate, found.getstate())
        case _:
            return functools.partial(_refill_slots, found, _slots(found))
    return None


def _contents(found: Any) -> Iterable[object]:
    """What an object refers to."""
    match found:
        case dict():
            return found.values()
        case list() | tuple() | set() | frozenset() | deque():
            return found
        case CellType():
            return (found.cell_contents,) if is_filled(found) else ()
        case functools.partial():
            return found.func, found.args, found.keywords
        case MethodType():
            return found.__self__, found.__func__
        case type():
            return vars(found).values()
        case FunctionType():
            return *(found.__closure__ or ()), found.__defaults__, found.__kwdefaults__, _globals(found)
        case np.random.Generator():
            return (found.bit_generator,)
        case th.Tensor():
            return (found.untyped_storage(),) if _has_storage(found) else ()
        case np.ndarray():
            return found.flat if found.dtype == object else ()
    return *_classes(found), getattr(found, "__dict__", None), *_slots(found).values()


def _classes(found: object) -> Iterator[type]:
    """The classes of the user that an object is of."""
    return (cls for cls in type(found).__mro__ if not is_of_library(cls))


def _slots(found: object) -> dict[MemberDescriptorType, object]:
    """What an object keeps in slots that are filled."""
    values = {}
    for cls in _classes(found):
        for member in vars(cls).values() if "__slots__" in vars(cls) else ():
            if isinstance(member, MemberDescriptorType):
                with suppress(AttributeError):
                    values[member] = member.__get__(found)
    return values


def _globals(function: FunctionType) -> dict[str, Any]:
    """The global variables that a function of the user names."""
    names = () if is_of_library(function) else function.__code__.co_names
    return _variables({name: function.__globals__[name] for name in names if name in function.__globals__})


def _variables(namespace: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in namespace.items() if isinstance(value, _VARIABLES) and not name.startswith("__")
    }


def _set_variables(cls: type, variables: Mapping[str, Any]) -> None:
    for name, value in variables.items():
        if vars(cls).get(name) is not value:
            setattr(cls, name, value)


def _refill(container: Any, contents: Any) -> None:
    if _identities(container) != _identities(contents):
        container.clear()
        (container.update if isinstance(container, (dict, set)) else container.extend)(contents)


def _identities(container: Any) -> list[int]:
    return list(map(id, (*container, *container.values()) if isinstance(container, dict) else container))


def _refill_slots(found: object, values: Mapping[MemberDescriptorType, object]) -> None:
    now = _slots(found)
    for member in now.keys() - values.keys():
        member.__delete__(found)
    for member, value in values.items():
        if now.get(member) is not value:
            member.__set__(found, value)


def _has_storage(tensor: th.Tensor) -> bool:
    """Whether a tensor has bytes that can be copied: not one without values, or made of others."""
    return tensor.layout == th.strided and tensor.device.type != "meta" and not nn.parameter.is_lazy(tensor)


def _rebind(tensor: th.Tensor, before: th.Tensor) -> None:
    """Let a tensor be of the storage, the shape and the strides that it was of."""

    def place(of: th.Tensor) -> tuple[object, ...]:
        return of.data_ptr(), of.shape, of.stride()

    if place(tensor) != place(before):
        tensor.data = before


def _refill_storage(storage: th.UntypedStorage, values: th.Tensor) -> None:
    """By byte, and only where one has changed: views may overlap, and memory may be mapped from a file to be read."""
    if storage.nbytes() != values.numel():
        storage.resize_(values.numel())
    now = th.empty(0, dtype=th.uint8, device=storage.device).set_(storage)
    if not th.equal(now, values):
        now.copy_(values)


def _refill_array(array: NDArray[Any], values: NDArray[Any]) -> None:
    if array.shape == values.shape and array.flags.writeable:
        array[...] = values
