"""Every error and warning of the package.

One root, :class:`ClankerError`. Each leaf is also the built-in it refines, so that ``except ValueError`` written
before this package was installed goes on working. A leaf takes the facts, keeps them as attributes and builds the
message from them: what was got, what was expected, what to do about it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path

from sb3_clanker.report import LatencyRecord, ValidationReport


class ClankerError(Exception):
    """Root of every error that this package raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the message and the facts, so that an error crosses from one process to another."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[ClankerError], args: tuple[object, ...], facts: dict[str, object]) -> ClankerError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(facts)
    return error


class ClankerWarning(UserWarning):
    """Root of every warning that this package gives."""


class UnknownNormalizationWarning(ClankerWarning):
    """Nothing tells whether the policy was trained on normalized observations."""


class InnerNormalizationWarning(ClankerWarning):
    """Observations are normalized inside the environment, where no file can fold it in."""


class PrecisionWarning(ClankerWarning):
    """Observations need more digits than float32, the type of the file's inputs, carries."""


class NoVectorsWarning(ClankerWarning):
    """Test vectors were asked for, and the policy gives no firm answer to anything."""


# What the caller asked for ------------------------------------------------------------------------------------------


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


# What was given to export -------------------------------------------------------------------------------------------


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


class CheckpointError(ClankerError, ValueError):
    """A Stable-Baselines3 ``.zip`` that cannot be loaded.

    :ivar path: the file
    """

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path = path
        super().__init__(f"{path}: {problem}. {remedy}")


class UnmatchedFilesError(ClankerError, ValueError):
    """Files beside a policy file that its record names, and that are of another instant or damaged.

    :ivar path: the policy file
    :ivar others: names of the files that do not belong to it
    """

    def __init__(
        self,
        path: Path,
        others: Sequence[str],
        remedy: str = "Export the policy again, or take all files from the same instant.",
    ) -> None:
        self.path = path
        self.others = tuple(others)
        super().__init__(
            f"{path}: {' and '.join(others)} beside it: of another instant of training, or damaged, by the digest in "
            f"its record. {remedy}"
        )


class MissingFileError(ClankerError, FileNotFoundError):
    """A file that was named is not there.

    :ivar path: the file
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        super().__init__(f"{path}: there is no such {what}. Check the path.")


class RemotePathError(ClankerError, ValueError):
    """A URL was given in place of a path.

    :ivar url: what was given
    """

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(
            f"{url}: this is a URL, and files are read and written by paths of this machine alone. Use a local folder "
            "and copy from or to the storage, or mount the storage and name the folder where it is mounted."
        )


class UnreadableFileError(ClankerError, OSError):
    """A file that was named is there, and cannot be read.

    :ivar path: the file
    """

    def __init__(self, path: Path, what: str, problem: str) -> None:
        self.path = path
        super().__init__(f"{path}: this {what} cannot be read: {problem}. Check what it is and who may read it.")


# What went wrong on the way -----------------------------------------------------------------------------------------


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


class PublicationError(ClankerError, OSError):
    """A file could not be written.

    :ivar path: the file
    """

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(
            f"{path}: cannot be written: {problem}. Check that the folder exists, is writable and not full."
        )


class UnsavableTrainingError(ClankerError, TypeError):
    """Something of a training cannot be pickled, so that no checkpoint of it could ever be whole.

    :ivar what: the part that cannot
    """

    def __init__(self, what: str, problem: str) -> None:
        self.what = what
        super().__init__(
            f"{what} cannot be saved: {problem}. Remove what cannot be pickled, or leave it out in __getstate__."
        )


class FolderInUseError(ClankerError, OSError):
    """Another training writes to the folder.

    :ivar path: the folder
    :ivar process_id: the process that trains there, None where nothing tells
    :ivar host: the machine of that process, None where it is this one
    """

    def __init__(self, path: Path, process_id: int | None = None, host: str | None = None) -> None:
        self.path = path
        self.process_id = process_id
        self.host = host
        process = "" if process_id is None else f" (process {process_id}{f' on {host}' if host else ''})"
        super().__init__(
            f"{path}: another training{process} writes its files here, and the two would overwrite each other's. "
            'Give each training a folder of its own, as save_path="runs/{run}" does.'
        )


# What was read from a file ------------------------------------------------------------------------------------------


class PolicyFileError(ClankerError, ValueError):
    """The file is no ONNX policy of this package, or is damaged.

    :ivar path: the file, or None for bytes in memory
    """

    def __init__(self, path: Path | None, problem: str) -> None:
        self.path = path
        super().__init__(f"{path or 'these bytes'}: {problem}")


class MetadataError(PolicyFileError):
    """The record in the file is damaged.

    :ivar problems: one line for every bad field, each beginning with the field's path
    """

    def __init__(self, path: Path | None, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(path, "the record in the file is damaged:\n" + "\n".join(f"  {line}" for line in problems))


class UnsafeGraphError(PolicyFileError):
    """The graph is none that a policy needs, and loading it could read other files or cost without bound.

    :ivar reason: what is wrong with it
    """

    def __init__(self, path: Path | None, reason: str) -> None:
        self.reason = reason
        super().__init__(path, f"the graph is not loaded, because {reason}. No file of this package has such a graph.")


class SchemaVersionError(PolicyFileError):
    """The record has a schema version that this reader does not know.

    :ivar found: version in the file
    :ivar known: newest version that this reader knows
    """

    def __init__(self, path: Path | None, found: object, known: int) -> None:
        self.found = found
        self.known = known
        remedy = "Upgrade sb3-clanker." if isinstance(found, int) and found > known else "Export the policy again."
        super().__init__(
            path, f"schema version {reprlib.repr(found)} of the record is unknown, expected 1 to {known}. {remedy}"
        )


class VectorsError(ClankerError, ValueError):
    """A file of test vectors that cannot be read.

    :ivar path: the file
    """

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"{path}: these are no test vectors, or they are damaged: {problem}. Export them again.")


class VectorsMismatchError(ClankerError, ValueError):
    """A policy file that does not do what its test vectors say."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"The file does not agree with the test vectors: {problem}.")


# What was given to a loaded policy ----------------------------------------------------------------------------------


class ObservationError(ClankerError, ValueError):
    """An observation of the wrong shape, type or key."""


class InferenceError(ClankerError, RuntimeError):
    """A loaded graph that failed on an observation, or gave what is no action.

    No file of this package does that on an observation that it accepts, unless memory runs out.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"The graph failed while it ran: {problem}. Validate the file, or export the policy again.")


class StochasticActionError(ClankerError, ValueError):
    """A random action was asked of a file that holds the deterministic policy alone."""

    def __init__(self) -> None:
        super().__init__("This file holds the deterministic policy alone: call predict(..., deterministic=True).")
