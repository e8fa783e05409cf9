"""What a trace bakes in beside weights, so that a traced graph serves again only where none of it has changed.

Parameters and buffers are inputs of a traced graph. Whatever else decides an action stands in the graph as it was at
the trace: a number that training anneals, a tensor or an array in a plain attribute, a global variable, a bound.

Where all modules are torch's, Stable-Baselines3's and sb3-contrib's own, that is their settings, which are read in
microseconds. Otherwise the actor is run on its example inputs, and each operation that torch dispatches is recorded
with its constants. Attributes say too little for that (closures and globals) and too much (caches, counters).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

import torch as th
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sb3_clanker.actor.actor import Actor
from sb3_clanker.sb3.compiled import eager


def baked_in(actor: Actor, settings: Hashable) -> Hashable:
    """Everything that a trace of an actor bakes in, to be compared with what it was; None where it cannot be known.

    The bounds of its spaces, which the actor holds, are not looked at.

    :param actor: an actor on the CPU
    :param settings: those of its policy, where that is standard; else it is run, in evaluation mode
    """
    if settings is not None:
        return settings
    try:
        return _record(actor)
    except Exception:  # whatever the policy's own code raises; its trace in full will say it in words
        return None


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
