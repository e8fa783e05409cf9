"""Which formats there are beside ONNX, and how a file of each is opened.

The ``.onnx`` is the first: what it is proven by proves the others too. A further format is a module beside this one,
which reads its files, and one in ``writers/``, which writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from sb3_clanker.formats import c, torchscript
from sb3_clanker.runtime.session import Runner

FormatName = Literal["c", "torchscript"]

_OPEN: dict[FormatName, Callable[[bytes], Runner]] = {
    "c": c.open_policy,
    "torchscript": torchscript.open_policy,
}


def open_format(name: FormatName, data: bytes) -> Runner:
    """Open a file of a format, to run it: it takes and gives what the graph of the ``.onnx`` does, by the same names.

    What these are, and in which order, the file says itself.

    :param data: the bytes of the file that runs
    :raises PolicyFileError: it cannot be opened
    :raises MissingDependencyError: a package that it needs is not installed
    """
    return _OPEN[name](data)
