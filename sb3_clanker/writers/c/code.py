"""Lines of C, as operators write them: pointers to what they read and write, loops, and indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from sb3_clanker.writers.c.graph import Array, Tensor, UnsupportedError

_TYPES = {
    "bool": "bool",
    "float32": "float",
    "float64": "double",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_WIDTH = 110
_LARGEST_INT = 32_767
"""What every ``int`` holds."""


def c_type(dtype: np.dtype[Any]) -> str:
    """The type in C of the elements of an array."""
    name = _TYPES.get(dtype.name)
    if name is None:
        raise UnsupportedError(f"values of type {dtype.name}")
    return name


def width_of(kind: str) -> int:
    """How many bytes an element of a type in C takes."""
    return next(np.dtype(name).itemsize for name, known in _TYPES.items() if known == kind)


class Code:
    """Lines that are written one after another.

    :param prefix: what all names of the header begin with
    :param pointer: the address of a tensor, as an expression
    :ivar lines: what was written
    :ivar helpers: names of the small functions that were called
    """

    def __init__(self, prefix: str, pointer: Callable[[Tensor], str]) -> None:
        self._prefix, self._pointer = prefix, pointer
        self._depth = 0
        self.lines: list[str] = []
        self.helpers: dict[str, None] = {}

    def line(self, text: str) -> None:
        """One line."""
        self.lines.append(f"{'    ' * self._depth}{text}")

    @contextmanager
    def block(self, head: str = "") -> Iterator[None]:
        """A pair of braces around what is written meanwhile."""
        self.line(f"{head} {{".lstrip())
        self._depth += 1
        yield
        self._depth -= 1
        self.line("}")

    @contextmanager
    def loop(self, variable: str, n: int, *, always: bool = False) -> Iterator[str]:
        """A loop around what is written meanwhile, for which it gives the index.

        :param always: whether to write a loop also where there is but one round
        """
        if n == 1 and not always:
            yield "0"
            return
        with self.block(f"for (int32_t {variable} = 0; {variable} < {n}; {variable}++)"):
            yield variable

    def read(self, name: str, tensor: Tensor) -> None:
        """Declare a pointer to a tensor that is read."""
        self.line(f"const {c_type(tensor.dtype)} *const {name} = {self._pointer(tensor)};")

    def write(self, name: str, tensor: Tensor) -> None:
        """Declare a pointer to a tensor that is computed."""
        self.line(f"{c_type(tensor.dtype)} *const {name} = {self._pointer(tensor)};")

    def helper(self, name: str) -> str:
        """Say that a function of :data:`sb3_clanker.writers.c.helpers.HELPERS` is called; its name, to call it by."""
        self.helpers[name] = None
        return f"{self._prefix}_{name}"


def index(*terms: tuple[str, int], offset: int = 0) -> str:
    """An index as a sum of variables, each times its stride."""
    parts = [name if stride == 1 else f"{name} * {stride}" for name, stride in terms if name != "0" and stride]
    parts += [str(offset)] if offset or not parts else []
    return " + ".join(parts)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """How far apart the elements of an array are along each of its axes."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def literal(value: Any, dtype: np.dtype[Any]) -> str:
    """A number in C, exactly: nine digits distinguish all of type float, and 17 all of type double."""
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind in "iu":
        number = int(value)
        if number == -(1 << 63):
            return "(-INT64_C(9223372036854775807) - 1)"
        wide = f"{'U' if dtype.kind == 'u' else ''}INT64_C({abs(number)})"
        text = str(abs(number)) if abs(number) <= _LARGEST_INT else wide
        return f"(-{text})" if number < 0 else text
    real = float(value)
    if math.isnan(real):
        return "NAN"
    if math.isinf(real):
        return "INFINITY" if real > 0 else "(-INFINITY)"
    text = format(real, ".9g" if dtype.itemsize == 4 else ".17g")
    text = text if "." in text or "e" in text else f"{text}.0"
    text = f"{text}{suffix(dtype)}"
    return f"({text})" if text.startswith("-") else text


def suffix(dtype: np.dtype[Any]) -> str:
    """What a number, and a function of ``math.h``, ends with for a type."""
    return "f" if dtype == np.float32 else ""


def array(declaration: str, values: Array) -> Iterator[str]:
    """The lines of an array of constants; a negative number needs no parentheses there."""
    yield f"{declaration} = {{"
    line = "   "
    for value in values.reshape(-1).tolist():
        text = literal(value, values.dtype)
        text = text[1:-1] if text.startswith("(-") and not text.startswith("(-INT64") else text
        if len(line) + len(text) > _WIDTH:
            yield line
            line = "   "
        line += f" {text},"
    yield line
    yield "};"
