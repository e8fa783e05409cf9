"""What a caller gave: options, a policy, its environment and its statistics."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_clanker.errors.root import ClankerError


class OptionError(ClankerError, ValueError):
    """An option has a value that it cannot have.

    :ivar option: name of the option
    :ivar value: the value that was given
    """

    def __init__(self, option: str, value: object, expected: str) -> None:
        self.option = option
        self.value = value
        super().__init__(f"{option}={value!r} cannot be used: expected {expected}.")


class ReservedMetadataKeyError(ClankerError, ValueError):
    """A metadata entry of the caller has a name that the file format keeps for itself.

    :ivar key: the name in question
    :ivar reserved: every name that is kept
    """

    def __init__(self, key: str, reserved: Sequence[str]) -> None:
        self.key = key
        self.reserved = tuple(reserved)
        super().__init__(
            f"The metadata key {key!r} is reserved. Reserved keys: {', '.join(self.reserved)}. Choose another name."
        )


class MissingDependencyError(ClankerError, ImportError):
    """An optional package is needed and not installed.

    :ivar package: name of the package on PyPI
    """

    def __init__(self, package: str, purpose: str, install: str) -> None:
        self.package = package
        super().__init__(f"{purpose} needs the package {package}, which is not installed. Install it: {install}")


class UnsupportedPolicyError(ClankerError, TypeError):
    """The object is not a policy that can be exported, for the reason in the message."""

    def __init__(self, got: str, reason: str, remedy: str) -> None:
        self.got = got
        self.reason = reason
        super().__init__(f"Cannot export {got}: {reason}. {remedy}")


class UnsupportedSpaceError(ClankerError, ValueError):
    """An observation or action space that has no place in the file format.

    :ivar space: the space, as text
    """

    def __init__(self, role: str, space: str, reason: str) -> None:
        self.role = role
        self.space = space
        super().__init__(f"Cannot export the {role} space {space}: {reason}.")


class UnsupportedWrapperError(ClankerError, ValueError):
    """A wrapper of the environment changes observations in a way that no file can fold in.

    :ivar wrapper: name of its class
    """

    def __init__(self, wrapper: str, reason: str, remedy: str) -> None:
        self.wrapper = wrapper
        super().__init__(f"Cannot export a policy that observes through {wrapper}: {reason}. {remedy}")


class PrecisionError(ClankerError, ValueError):
    """Observations lie where float32, the type of the file's inputs, cannot tell them apart.

    :ivar key: the key of a Dict space, None for any other
    :ivar lost: by how much float32 rounds them, in standard deviations
    """

    def __init__(self, key: str | None, lost: float) -> None:
        self.key = key
        self.lost = lost
        where = "The observation" if key is None else f"The observation key {key!r}"
        super().__init__(
            f"{where} lies so far from zero, for how little it varies, that float32, the type of the file's input, "
            f"rounds it by {lost:.1g} of its standard deviation: actions would be wrong. Subtract a constant in the "
            "environment."
        )


class TargetError(ClankerError, ValueError):
    """A policy that the program it is meant for does not take.

    :ivar target: name of the program
    :ivar problems: the rules that the policy breaks, each with what to do about it
    """

    def __init__(self, target: str, problems: Sequence[str]) -> None:
        self.target = target
        self.problems = tuple(problems)
        super().__init__(f"{target} does not take this policy: {'; '.join(self.problems)}.")


class NormalizationError(ClankerError, ValueError):
    """VecNormalize statistics that do not belong to the policy, or that are none."""


class ObservationError(ClankerError, ValueError):
    """An observation of the wrong shape, type or key."""


class StochasticActionError(ClankerError, ValueError):
    """A random action was asked of a file that holds the deterministic policy alone."""

    def __init__(self) -> None:
        super().__init__("This file holds the deterministic policy alone: call predict(..., deterministic=True).")
