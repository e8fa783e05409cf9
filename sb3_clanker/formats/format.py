"""Which formats there are beside ONNX, and how a file of each is opened.

The ``.onnx`` is the first: what it is proven by proves the others too. A further format is a module of its name beside
this one, which reads its files, and one in ``writers/``, which writes them.
"""

from __future__ import annotations

import importlib
from typing import Literal

from sb3_clanker.runtime.session import Runner

FormatName = Literal["torchscript", "weights"]


def open_format(name: FormatName, data: bytes) -> Runner:
    """Open a file of a format, to run it: it takes and gives what the graph of the ``.onnx`` does, by the same names.

    What these are, and in which order, the file says itself.

    :param data: the bytes of the file that runs
    :raises PolicyFileError: it cannot be opened
    :raises MissingDependencyError: a package that it needs is not installed
    """
    runner: Runner = importlib.import_module(f"sb3_clanker.formats.{name}").open_policy(data)
    return runner
