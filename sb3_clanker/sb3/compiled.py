"""What ``torch.compile`` makes of a policy, and what is below it.

A compiled module or function does what the original does, but for rounding, and compiles anew for each new shape of its
input: minutes of a C++ compiler in the middle of an export, and other code from then on in training. So an export sees
and runs the originals.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch as th
from torch import nn

_WRAPPED = "_orig_mod"
"""Name of the original in the module that ``torch.compile(module)`` returns; part of the names of its parameters."""


def uncompiled(compiled: Any) -> Any:
    """What ``torch.compile`` was given, if this is what it returned; else the very same.

    ``Module.compile()`` in place needs no such thing: a copy of the module is not compiled.
    """
    while (original := _below(compiled)) is not None:
        compiled = original
    return compiled


def uncompiled_name(name: str) -> str:
    """Name that a parameter or buffer of a compiled module has in the original."""
    return name.replace(f"{_WRAPPED}.", "")


def _below(compiled: Any) -> Any:
    if isinstance(compiled, nn.Module):
        return getattr(compiled, _WRAPPED, None)
    if isinstance(compiled, FunctionType) and vars(compiled).get("_torchdynamo_wrapper_id") == id(compiled):
        return vars(compiled)["_torchdynamo_orig_callable"]  # functools.wraps copies these marks, but not the id
    return None


class _Eager:
    """One stance for all threads: taken by the first that needs it, given back by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0
        self._stance: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run what is compiled as what it was compiled from; nothing is compiled within."""
        if "torch._dynamo" not in sys.modules:  # then nothing has been compiled, and the import takes seconds
            yield
            return
        with self._lock:
            if self._n_users == 0:
                self._stance = th.compiler.set_stance("force_eager")  # in force from here on
            self._n_users += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_users -= 1
                if self._n_users == 0:
                    self._stance.__exit__(None, None, None)


eager = _Eager()
