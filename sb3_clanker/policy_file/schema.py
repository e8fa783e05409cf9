"""Frozen dataclasses to JSON and back, by their own annotations.

The record in a file is a tree of dataclasses. This module reads such a tree from parsed JSON and, where it does not
fit, says so for every field at once, each with its path (``inputs[0].dtype: expected a string, got 3``).

Annotations that are understood: ``str``, ``int``, ``float``, ``bool``, ``None``, ``Literal``, unions of these,
``tuple[T, ...]``, ``dict[str, T]``, dataclasses, and unions of dataclasses that are told apart by a ``type`` field.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import reprlib
import types
import typing
from typing import Any, Literal, TypeVar

T = TypeVar("T")

_SCALARS: dict[object, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 60, 60
_MAX_PROBLEMS = 100


class _EnoughError(Exception):
    """So many problems that no more are told; never seen outside this module."""


class MismatchError(Exception):
    """One value that does not fit its annotation; collected, never seen outside this module."""


def to_json(value: object) -> Any:
    """Turn a tree of dataclasses, tuples and dicts into what ``json.dumps`` takes."""
    cls = type(value)
    if cls in _SCALARS:
        return value
    if cls is tuple:
        return [to_json(item) for item in typing.cast("tuple[object, ...]", value)]
    if cls is dict:
        return {key: to_json(item) for key, item in typing.cast("dict[str, object]", value).items()}
    if dataclasses.is_dataclass(cls):
        return {name: to_json(getattr(value, name)) for name in _annotations(typing.cast("Any", cls))}
    return value


def parse_json(text: str | bytes) -> object:
    """Parse JSON, and nothing but JSON: no NaN, no Infinity, no key twice in one object.

    :raises ValueError: it is none, or it is nested without end
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_to_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _to_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for index, key in enumerate(keys) if entries.pop(key, keys) is keys)
        raise ValueError(f"the key {_short(twice)} stands twice in an object")
    return entries


def from_json(cls: type[T], value: object, problems: list[str], path: str = "") -> T | None:
    """Read a ``cls`` from parsed JSON.

    :param cls: a dataclass
    :param value: what ``json.loads`` gave
    :param problems: one line is appended for every field that does not fit, up to a hundred
    :param path: where ``value`` stands, for the messages
    :return: the instance, or None where there were problems
    """
    found: list[str] = []
    try:
        result = _read(cls, value, path, found)
    except _EnoughError:
        found.append("and more")
    problems += found
    return None if found else typing.cast("T", result)


def _read(annotation: Any, value: object, path: str, problems: list[str]) -> object:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    try:
        if origin in (typing.Union, types.UnionType):
            return _read(_choose(arguments, value), value, path, problems)
        if origin is Literal:
            _require(_is_member(annotation, value), _describe(annotation), value)
            return value
        if origin is tuple:
            _require(isinstance(value, list), "a list", value)
            items = typing.cast("list[object]", value)
            if (plain := _read_plain(arguments[0], items)) is not None:
                return plain
            return tuple(_read(arguments[0], item, f"{path}[{index}]", problems) for index, item in enumerate(items))
        if origin is dict:
            _require(isinstance(value, dict), "an object", value)
            entries = typing.cast("dict[str, object]", value)
            return {key: _read(arguments[1], item, f"{path}[{_short(key)}]", problems) for key, item in entries.items()}
        if dataclasses.is_dataclass(annotation):
            return _read_dataclass(annotation, value, path, problems)
        _require(_is_scalar(annotation, value), _SCALARS[annotation], value)
        return _to_float(value) if annotation is float else value
    except OverflowError:
        _note(problems, f"{path or 'record'}: expected a number of the size of a float64, got a larger one")
        return None
    except MismatchError as mismatch:
        _note(problems, f"{path or 'record'}: {mismatch}")
        return None


def _read_plain(annotation: Any, items: list[object]) -> tuple[object, ...] | None:
    """A long list of numbers or texts, read at once; None where it has to be read item by item."""
    kinds = set(map(type, items))
    if annotation is str or annotation is int:
        return tuple(items) if kinds <= {annotation} else None
    takes_floats = annotation is float or float in typing.get_args(annotation)
    if takes_floats and kinds == {float} and all(map(math.isfinite, typing.cast("list[float]", items))):
        return tuple(items)
    return None


def _to_float(value: object) -> float:
    number = float(typing.cast("float", value))
    if not math.isfinite(number):  # json makes infinity of a number with too large an exponent
        raise OverflowError
    return number


def _note(problems: list[str], problem: str) -> None:
    if len(problems) >= _MAX_PROBLEMS:
        raise _EnoughError
    problems.append(problem)


def _read_dataclass(cls: Any, value: object, path: str, problems: list[str]) -> object:
    _require(isinstance(value, dict), "an object", value)
    entries = typing.cast("dict[str, object]", value)
    annotations = _annotations(cls)
    prefix = f"{path}." if path else ""
    for name in entries:
        if name not in annotations:
            _note(problems, f"{prefix}{_shortened(name)}: unknown field")
    before = len(problems)
    fields = {}
    for name, annotation in annotations.items():
        if name in entries:
            fields[name] = _read(annotation, entries[name], prefix + name, problems)
        else:
            _note(problems, f"{prefix}{name}: missing")
    return cls(**fields) if len(problems) == before else None


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(typing.cast("Any", cls))}


def _choose(alternatives: tuple[Any, ...], value: object) -> Any:
    """The member of a union that ``value`` is meant to be."""
    for alternative in alternatives:
        if dataclasses.is_dataclass(alternative):
            tags = typing.get_args(_annotations(typing.cast("type", alternative)).get("type"))
            if isinstance(value, dict) and (not tags or value.get("type") in tags):
                return alternative
        elif typing.get_origin(alternative) is tuple:
            if isinstance(value, list):
                return alternative
        elif typing.get_origin(alternative) is Literal:
            if _is_member(alternative, value):
                return alternative
        elif alternative in _SCALARS and _is_scalar(alternative, value):
            return alternative
    found = {"type": value.get("type")} if isinstance(value, dict) else value
    raise MismatchError(f"expected {' or '.join(map(_describe, alternatives))}, got {_short(found)}")


def _is_member(literal: Any, value: object) -> bool:
    return any(type(member) is type(value) and member == value for member in typing.get_args(literal))


def _is_scalar(annotation: object, value: object) -> bool:
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, typing.cast("type", annotation))


def _require(fits: bool, expected: str, value: object) -> None:
    if not fits:
        raise MismatchError(f"expected {expected}, got {_short(value)}")


def _describe(annotation: Any) -> str:
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if typing.get_origin(annotation) is Literal:
        return " or ".join(repr(member) for member in typing.get_args(annotation))
    return "a list" if typing.get_origin(annotation) is tuple else str(annotation.__name__)


def _shortened(name: str) -> str:
    return name if len(name) <= _REPR.maxstring else name[: _REPR.maxstring] + "..."


def _short(value: object) -> str:
    return _REPR.repr(value)
