"""What keeps a policy from becoming a file."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_clanker.errors.root import ClankerError
from sb3_clanker.report import LatencyRecord, ValidationReport


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
