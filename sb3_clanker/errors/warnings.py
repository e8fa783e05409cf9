"""What a caller should know, and what stops nothing."""

from __future__ import annotations

from sb3_clanker.errors.root import ClankerWarning


class UnknownNormalizationWarning(ClankerWarning):
    """It is unknown whether the policy was trained on normalized observations."""


class InnerNormalizationWarning(ClankerWarning):
    """Observations are normalized inside the environment, where no file can fold it in."""


class PrecisionWarning(ClankerWarning):
    """Observations need more digits than float32, the type of the file's inputs, carries."""


class NoVectorsWarning(ClankerWarning):
    """Test vectors were asked for, and the policy gives no firm answer to anything."""
