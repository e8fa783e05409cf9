"""Say in the log which components of an observation are outside of what training saw."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.display import printable
from sb3_clanker.errors import OptionError
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import vectors
from sb3_clanker.policy_file.tensors import OUTSIDE, TensorSpec

OnOutside = Literal["warn", "ignore"]

PAUSE = 60.0
"""Seconds before a component is named again: a robot acts a hundred times a second, and a wrong unit stays wrong. A
line for each step would tell no more than the first, and bury all else."""
_MOST = 8
"""Components that are named at once."""

_logger = logging.getLogger("sb3_clanker")


def make_outside_log(on_outside: OnOutside, metadata: PolicyMetadata) -> OutsideLog | None:
    """What warns, or None where nothing shall.

    :raises OptionError: there is no such choice, or the file does not tell what is outside
    """
    if on_outside not in get_args(OnOutside):
        raise OptionError("on_outside", on_outside, f"one of {', '.join(map(repr, get_args(OnOutside)))}")
    if on_outside == "ignore":
        return None
    if all(spec.name != OUTSIDE for spec in metadata.outputs):
        raise OptionError(
            "on_outside",
            on_outside,
            "'ignore': the file does not tell what is outside of what training saw. Export it with "
            "ExportOptions(further_outputs=['outside'])",
        )
    return OutsideLog(metadata)


class OutsideLog:
    """Warns of components that are outside: of each at once, and then not before :data:`PAUSE` has passed.

    Meanwhile it counts, and the next warning says in how many observations the component was outside since the last.

    :param metadata: the record of a file that has the output ``outside``
    :param clock: seconds since any start
    """

    def __init__(self, metadata: PolicyMetadata, clock: Callable[[], float] = time.monotonic) -> None:
        leaves, ranges = vectors(metadata.observation_space), metadata.observation_ranges
        self._inputs = [spec for spec in metadata.inputs if spec.role == "observation" and spec.key in leaves]
        by_key = {} if ranges is None else {seen.key: seen for seen in ranges.ranges}
        self._seen: list[str] = []
        for spec in self._inputs:
            seen = by_key.get(spec.key)
            self._seen += (
                ["nothing"] * leaves[spec.key].n_elements
                if seen is None
                else [f"{low:g} to {high:g}" for low, high in zip(seen.minimum, seen.maximum, strict=True)]
            )
        names = next(spec.names for spec in metadata.outputs if spec.name == OUTSIDE)
        self._names = [printable(name) for name in names or map(str, range(len(self._seen)))]
        self._clock, self._lock = clock, Lock()
        self._next = np.full(len(self._seen), -np.inf)
        self._counts = np.zeros(len(self._seen), np.int64)

    def look(self, outside: NDArray[Any], inputs: Mapping[str, NDArray[Any]]) -> None:
        """Warn of what is outside, if anything is.

        :param outside: what the file said, of shape (batch, n)
        :param inputs: what it was given, by name
        """
        if outside.any():
            self._warn(outside, inputs)

    def _warn(self, outside: NDArray[Any], inputs: Mapping[str, NDArray[Any]]) -> None:
        with self._lock:
            self._counts += outside.sum(axis=0)
            now = self._clock()
            due = np.flatnonzero(outside.any(axis=0) & (self._next <= now))
            counts, again = self._counts[due].tolist(), np.isfinite(self._next[due]).tolist()
            self._next[due], self._counts[due] = now + PAUSE, 0
        if not due.size:
            return
        values = np.concatenate([_rows(inputs[spec.name], spec) for spec in self._inputs], axis=1)
        lines = [
            f"{self._names[each]} is {values[outside[:, each].argmax(), each]:g}, and training saw {self._seen[each]}"
            + (f" (in {count:,} observations{' since the last warning' if before else ''})" if count > 1 else "")
            for each, count, before in zip(due[:_MOST].tolist(), counts, again, strict=False)
        ]
        more = f"; and {due.size - _MOST} more components" if due.size > _MOST else ""
        _logger.warning("The observation is outside of what training saw: %s%s", "; ".join(lines), more)


def _rows(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """An input with its components in a row, in the order of the space, as ``outside`` has them."""
    if spec.layout == "channels_last":
        array = np.moveaxis(array, -1, 1)
    return array.reshape(len(array), -1)
