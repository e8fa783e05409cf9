"""What keeps a policy from being played in an environment."""

from __future__ import annotations

from sb3_clanker.errors.root import ClankerError


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
