"""Where in an object a part of it is: how a user would reach it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from inspect import getclosurevars
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from sb3_clanker.sb3.compiled import uncompiled_name


def path_to(wanted: object, root: object, name: str) -> str | None:
    """The shortest way to a part by attributes and items, None where these do not lead to it.

    :param name: what the object itself is called
    """
    reached: deque[tuple[str, object]] = deque([(name, root)])
    seen = {id(root)}
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
