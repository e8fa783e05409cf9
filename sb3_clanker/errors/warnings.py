"""What a caller should know, and what stops nothing."""

from __future__ import annotations

import sys
import warnings
from threading import Lock

from sb3_clanker.errors.root import ClankerWarning


class UnknownNormalizationWarning(ClankerWarning):
    """It is unknown whether the policy was trained on normalized observations."""


class InnerNormalizationWarning(ClankerWarning):
    """Observations are normalized inside the environment, where no file can fold it in."""


class PrecisionWarning(ClankerWarning):
    """Observations need more digits than float32, the type of the file's inputs, carries."""


class NoVectorsWarning(ClankerWarning):
    """Test vectors were asked for, and the policy gives no firm answer to anything."""


FILTERS = Lock()
"""Is held while filters of warnings are changed for a moment: they are the process's, not the thread's."""
_ON_THE_WAY = ("sb3_clanker", "stable_baselines3", "sb3_contrib")


def warn(warning: ClankerWarning) -> None:
    """Give a warning, at the line of the caller's own code that led to it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _ON_THE_WAY:
        level, frame = level + 1, frame.f_back
    warnings.warn(warning, stacklevel=level)
