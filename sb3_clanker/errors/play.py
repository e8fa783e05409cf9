"""What keeps a policy from being played in an environment, and two from being compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sb3_clanker.errors.root import ClankerError

if TYPE_CHECKING:
    from sb3_clanker.report import RecordDifference


class UnfitEnvironmentError(ClankerError, ValueError):
    """An environment that a policy is not played in: it cannot be made, or it is not what the policy was trained in.

    :ivar environment: the environment, as text
    :ivar problem: what is wrong with it
    """

    def __init__(
        self, environment: str, problem: str, remedy: str = "Make the environment yourself, and pass it as env."
    ) -> None:
        self.environment = environment
        self.problem = problem
        super().__init__(f"Cannot play this policy in {environment}: {problem}. {remedy}")


class IncomparablePoliciesError(ClankerError, ValueError):
    """Two policies whose actions cannot be compared: they observe or do different things.

    :ivar role: of which space they differ, ``observation`` or ``action``
    :ivar differences: what differs in their records, all the same
    """

    def __init__(self, role: str, problem: str, differences: Sequence[RecordDifference]) -> None:
        self.role = role
        self.differences = tuple(differences)
        super().__init__(
            f"Cannot compare how these policies act: the {role} of the first {problem}. Compare policies of the same "
            "spaces."
        )
