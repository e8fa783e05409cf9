"""A copy of a policy on the CPU, in whatever state training has left it.

What a policy holds is copied by pickling it in memory: ``copy.deepcopy`` refuses the tensors that training leaves in
distributions. Tensors are cloned, and those that share memory share it in the copy too. Code is shared, and with it
classes and global variables: a copied class would replace the methods of the one that trains. What a function closes
over is copied, or the copy would act on the policy that trains.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, FunctionType, ModuleType
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn
from torch.nn.utils import parametrize

from sb3_clanker.errors import UnsupportedPolicyError
from sb3_clanker.sb3.compiled import uncompiled
from sb3_clanker.sb3.whereabouts import path_to

_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}
_SCRIPTED = (th.jit.ScriptModule, th.jit.ScriptFunction)

PolicyT = TypeVar("PolicyT", bound=BasePolicy)


def copy_policy(policy: PolicyT) -> PolicyT:
    """Copy a policy to the CPU; the policy itself is left as it is.

    :raises UnsupportedPolicyError: a part of it cannot be copied; it is named
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL)
    try:
        pickler.dump(policy)
    except Exception as error:  # whatever a part of the policy raises
        where = path_to(pickler.last, policy, "policy") or "something in it"
        raise _refusal(policy, f"{where} (of type {type(pickler.last).__name__})", error) from error
    buffer.seek(0)
    try:
        copy: PolicyT = _Unpickler(buffer, pickler.kept).load()
    except Exception as error:  # as above
        raise _refusal(policy, "it", error) from error
    return copy


def _refusal(policy: BasePolicy, what: str, error: Exception) -> UnsupportedPolicyError:
    return UnsupportedPolicyError(
        type(uncompiled(policy)).__qualname__,
        f"{what} cannot be copied: {str(error) or type(error).__name__}",
        "Keep it outside of the policy, or let the class that holds it leave it out in __getstate__ and make it anew "
        "in __setstate__.",
    )


class _Pickler(pickle.Pickler):
    """Pickles objects, and keeps beside the pickle what is not pickled: copies of tensors, and code.

    :ivar kept: what was kept, by the number that stands for it in the pickle
    :ivar last: what it came to last
    """

    last: object = None

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.kept: list[object] = []
        self._numbers: dict[int, tuple[int, object]] = {}
        self._storages: dict[int, th.UntypedStorage] = {}

    def persistent_id(self, obj: Any) -> int | None:
        self.last = obj
        if type(obj) in (th.Tensor, nn.Parameter) and obj.layout == th.strided:
            return self._keep(obj, self._clone)
        if isinstance(obj, ModuleType) or (isinstance(obj, type) and not _is_importable(obj)):
            return self._keep(obj, lambda code: code)
        if obj is sys.stdout or obj is sys.stderr:
            return self._keep(obj, lambda stream: stream)
        if isinstance(obj, _Shared):
            return self._keep(obj.function, lambda function: function)
        return None

    def reducer_override(self, obj: Any) -> Any:
        """What is compiled, locks, functions without a name, and what modules refuse to pickle of themselves."""
        if (original := uncompiled(obj)) is not obj:
            return uncompiled, (original,)
        if isinstance(obj, _SCRIPTED):
            raise pickle.PicklingError("TorchScript cannot be traced into a graph; put the module itself in its place")
        if type(obj) in _LOCKS:
            return _LOCKS[type(obj)], ()
        if isinstance(obj, FunctionType) and not _is_importable(obj):
            closed_over = [(cell.cell_contents,) if is_filled(cell) else () for cell in obj.__closure__ or ()]
            state = closed_over, obj.__defaults__, obj.__kwdefaults__, vars(obj)
            return _make_function, (_Shared(obj),), state, None, None, _fill_function
        if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):  # weight norm and the like
            return copyreg.__newobj__, (type(obj),), obj.__dict__  # type: ignore[attr-defined]
        return NotImplemented

    def _keep(self, obj: object, kept: Callable[[Any], object]) -> int:
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.kept), obj  # the object too, so that no other gets its id
            self.kept.append(kept(obj))
        return self._numbers[id(obj)][0]

    def _clone(self, tensor: th.Tensor) -> th.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = th.UntypedStorage(storage.nbytes()).copy_(storage)  # type: ignore[no-untyped-call]
        copy = th.empty(0, dtype=tensor.dtype)
        copy.set_(self._storages[storage._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())
        copy = nn.Parameter(copy) if isinstance(tensor, nn.Parameter) else copy
        vars(copy).update(vars(tensor))
        return copy.requires_grad_(tensor.requires_grad)


class _Unpickler(pickle.Unpickler):
    """Puts back what was kept."""

    def __init__(self, file: io.BytesIO, kept: list[object]) -> None:
        super().__init__(file)
        self._kept = kept

    def persistent_load(self, number: int) -> object:
        return self._kept[number]


@dataclass
class _Shared:
    """A function whose code and global variables are shared."""

    function: FunctionType


def _make_function(original: FunctionType) -> FunctionType:
    cells = tuple(CellType() for _ in original.__closure__ or ())
    return FunctionType(original.__code__, original.__globals__, original.__name__, None, cells)


def _fill_function(function: FunctionType, state: Any) -> None:
    """What the function refers to, now that all of it is made: it may refer to the function."""
    closed_over, function.__defaults__, function.__kwdefaults__, attributes = state
    vars(function).update(attributes)
    for cell, contents in zip(function.__closure__ or (), closed_over, strict=True):
        if contents:
            (cell.cell_contents,) = contents


def is_filled(cell: CellType) -> bool:
    """Whether a variable that a function closes over has a value yet."""
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _is_importable(code: type | FunctionType) -> bool:
    """Whether a name leads to a class or function: not to one that was made within a function, or a lambda."""
    found: object = sys.modules.get(code.__module__)
    for name in code.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is code
