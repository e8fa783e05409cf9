"""Distributions in a prediction that is traced: torch's check their arguments, and Stable-Baselines3's keep things."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from stable_baselines3.common import distributions as sb3
from torch import nn
from torch.distributions import Distribution


class _Unchecked:
    """One setting for all threads, as it is the process's: taken by the first that needs it, put back by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0
        self._before = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Let no distribution that is made within check its arguments, which branches on their values."""
        with self._lock:
            if self._n_users == 0:
                self._before = Distribution._validate_args
                Distribution.set_default_validate_args(False)
            self._n_users += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_users -= 1
                if self._n_users == 0:
                    Distribution.set_default_validate_args(self._before)


unchecked = _Unchecked()


def distributions_of(module: nn.Module) -> tuple[sb3.Distribution, ...]:
    """The distributions in a module and in those that it is made of."""
    attributes = (value for part in module.modules() for value in vars(part).values())
    return tuple(value for value in attributes if isinstance(value, sb3.Distribution))


@contextmanager
def kept(distributions: Iterable[sb3.Distribution]) -> Iterator[None]:
    """Put back what distributions held before: of a trace, it would be tensors that have no values."""
    before = [(distribution, dict(vars(distribution))) for distribution in distributions]
    try:
        yield
    finally:
        for distribution, held in before:
            vars(distribution).clear()
            vars(distribution).update(held)
