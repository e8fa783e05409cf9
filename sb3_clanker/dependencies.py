"""Packages that may not be installed: what is said of them where they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sb3_clanker.errors import MissingDependencyError

EVERYTHING = "pip install sb3-clanker"
CONTRIB = "pip install 'sb3-clanker[contrib]'"
READING = "pip install numpy onnxruntime msgspec"
RUNTIME = "pip install onnxruntime"
TORCH = "pip install torch"
SPACES = "pip install gymnasium"


@contextmanager
def required_for(purpose: str, install: str = EVERYTHING) -> Iterator[None]:
    """Around imports, or as the decorator of a function that imports: what cannot be found is a typed error.

    :param purpose: what needs it
    :param install: the command that installs all that this needs
    :raises MissingDependencyError: a package that is imported within is not installed
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", __package__):  # a mistake of this package
            raise
        raise MissingDependencyError(package.replace("_", "-"), purpose, install) from error
