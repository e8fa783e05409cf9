"""The names by which a caller finds things."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

T = TypeVar("T")


def public(thing: T) -> T:
    """Make a class or a function ``sb3_clanker.NAME``: so it is shown and pickled, wherever in the package it lies.

    What annotates the fields of a class is looked up first: nobody could find it by its name afterwards.
    """
    named: Any = thing
    if isinstance(thing, type):
        named.__annotations__ = inspect.get_annotations(thing, eval_str=True)
    named.__module__ = "sb3_clanker"
    return thing
