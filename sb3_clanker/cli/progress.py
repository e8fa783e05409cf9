"""A progress bar, for whoever watches: on a terminal alone, and where tqdm is installed."""

from __future__ import annotations

import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Progress:
    """How many of some files are done; nothing at all where nobody watches."""

    def __init__(self, n_files: int) -> None:
        self._bar = _bar(n_files)

    def close(self) -> None:
        """Take it off the terminal."""
        if self._bar is not None:
            self._bar.close()

    def step(self) -> None:
        """One more is done."""
        if self._bar is not None:
            self._bar.update()

    def aside(self) -> AbstractContextManager[object]:
        """Within this, other lines may be printed."""
        return nullcontext() if self._bar is None else self._bar.external_write_mode()


def _bar(n_files: int) -> Any:
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:  # it is of Stable-Baselines3's extra, and need not be there
        return None
    size = shutil.get_terminal_size()  # tqdm shows nothing on a terminal that does not know its own
    return tqdm(
        total=n_files,
        unit=" files",
        file=sys.stderr,
        leave=False,
        ncols=size.columns,
        nrows=size.lines,
        mininterval=0.2,
    )
