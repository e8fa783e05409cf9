"""What keeps a policy from becoming a file: what was asked for, what was given, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sb3_clanker.errors.root import ClankerError

if TYPE_CHECKING:  # which needs msgspec, and an error says that it is missing
    from sb3_clanker.report import LatencyRecord, ValidationReport


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
    """A package is needed and not installed.

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
    """Observations lie where float32, the type of the file's inputs, cannot distinguish them.

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


class FormatError(ClankerError, ValueError):
    """A policy that a format beside ONNX cannot hold.

    :ivar format: name of the format
    :ivar problem: why not
    """

    def __init__(self, format: str, problem: str, remedy: str) -> None:  # noqa: A002 - as the option has it
        self.format = format
        self.problem = problem
        super().__init__(f"This policy cannot be written as {format}: {problem}. {remedy}")


class NormalizationError(ClankerError, ValueError):
    """VecNormalize statistics that do not belong to the policy, or that are none."""


class GraphError(ClankerError, RuntimeError):
    """The policy could not be turned into an ONNX graph, for the reason in the message."""


class UnsupportedOpsetError(ClankerError, ValueError):
    """The graph cannot be written in the opset that was asked for.

    :ivar opset_version: the opset that was asked for
    :ivar operators: the operators in the way (empty where the opset as such is not supported)
    """

    def __init__(self, opset_version: int, supported: Sequence[int], operators: Sequence[str] = ()) -> None:
        self.opset_version = opset_version
        self.operators = tuple(operators)
        if self.operators:
            message = (
                f"This policy cannot be written in opset {opset_version}: it needs {', '.join(self.operators)}. "
                f"Ask for a later opset, up to {max(supported)}."
            )
        else:
            message = f"Opset {opset_version!r} is not supported: expected one of {min(supported)} to {max(supported)}."
        super().__init__(message)


class NonFiniteWeightsError(ClankerError, ValueError):
    """The policy has diverged: a weight is infinite or not a number, or a buffer that it saves not a number.

    :ivar tensor: name of the first such tensor
    """

    def __init__(self, tensor: str, *, buffer: bool = False) -> None:
        self.tensor = tensor
        super().__init__(
            f"{tensor} holds values that are {'' if buffer else 'infinite or '}not a number: training has diverged. "
            "Go back to the last good checkpoint."
            + (" If they are meant, register the buffer with persistent=False." if buffer else "")
        )


class ValidationError(ClankerError, ValueError):
    """A file failed its proof.

    :ivar report: every figure that was measured, the failed stage last
    """

    def __init__(self, message: str, report: ValidationReport) -> None:
        self.report = report
        super().__init__(message)


class LatencyError(ClankerError, ValueError):
    """A file is slower than was promised.

    :ivar latency: what was measured
    """

    def __init__(self, latency: LatencyRecord) -> None:
        self.latency = latency
        super().__init__(
            f"A prediction takes {latency.p50_ms:.3g} ms (median) and {latency.p99_ms:.3g} ms (99th percentile) on "
            f"{latency.processor}, and max_latency_ms is {latency.limit_ms:g}. "
            "Use a smaller network, or a higher limit."
        )
