"""Running a policy without a trace of it in the training.

``predict`` sets a policy to evaluation, and code of a user may do more: draw from a generator, count in a buffer,
keep an activation, make a layer when it is first needed. All of that is put back.
"""

from __future__ import annotations

import functools
import operator
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import CellType, FunctionType, MethodType, ModuleType
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
from sb3_clanker.writers.baked import is_of_library

_PutBack: TypeAlias = Callable[[], object]

_OTHERS = (BaseAlgorithm, BaseBuffer, VecEnv, gym.Env, gym.Space, th.optim.Optimizer, ModuleType)
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
                module.training = training


@contextmanager
def untouched(policy: BasePolicy) -> Iterator[None]:
    """Afterwards the generators of the process are where they were, and so is all that the policy can reach."""
    with ExitStack() as stack:
        for put_back in (*_generators(), *_states(policy)):
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
            if not nn.parameter.is_lazy(found):
                return functools.partial(_refill_tensor, found, found.detach().clone())
        case np.ndarray():
            return functools.partial(_refill_array, found, found.copy())
        case dict() | list() | set() | deque():
            return functools.partial(_refill, found, found.copy())
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
        case random.Random():
            return functools.partial(found.setstate, found.getstate())
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
        case th.Tensor() | np.ndarray():
            return ()
    classes = (cls for cls in type(found).__mro__ if not is_of_library(cls))
    return *classes, getattr(found, "__dict__", None)


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
    if isinstance(container, dict):
        unchanged = container.keys() == contents.keys() and all(container[key] is contents[key] for key in contents)
    else:
        unchanged = len(container) == len(contents) and all(map(operator.is_, container, contents))
    if not unchanged:
        container.clear()
        (container.update if isinstance(container, (dict, set)) else container.extend)(contents)


def _refill_tensor(tensor: th.Tensor, values: th.Tensor) -> None:
    if tensor.shape == values.shape:
        tensor.data.copy_(values)
    else:
        tensor.data = values


def _refill_array(array: NDArray[Any], values: NDArray[Any]) -> None:
    if array.shape == values.shape and array.flags.writeable:
        array[...] = values
