"""The two roots."""

from __future__ import annotations

import copyreg


class ClankerError(Exception):
    """Root of every error that this package raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the message and the facts, so that an error crosses from one process to another."""
        return copyreg.__newobj__, (type(self),), {"args": self.args, **self.__dict__}  # type: ignore[attr-defined]


class ClankerWarning(UserWarning):
    """Root of every warning that this package gives."""
