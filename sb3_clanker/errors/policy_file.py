"""What is wrong with a policy file, with its test vectors, or with what a loaded policy was given."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path

from sb3_clanker.errors.root import ClankerError


class PolicyFileError(ClankerError, ValueError):
    """The file is no ONNX policy of this package, or is damaged.

    :ivar path: the file, or None for bytes in memory
    """

    def __init__(self, path: Path | None, problem: str) -> None:
        self.path = path
        super().__init__(f"{path or 'these bytes'}: {problem}")


class ForeignFileError(PolicyFileError):
    """An ONNX file that this package did not write: nothing in it is called as in its own files."""


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


class ObservationFileError(ClankerError, ValueError):
    """A file that does not hold observations of the policy.

    :ivar path: the file
    """

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(
            f"{path}: {problem}. Save raw observations with numpy: one array, rows first, with numpy.save(), or one "
            "for each key with numpy.savez()."
        )


class VectorsMismatchError(ClankerError, ValueError):
    """A policy file that does not do what its test vectors say."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"The file does not agree with the test vectors: {problem}.")


class ObservationError(ClankerError, ValueError):
    """An observation of the wrong shape, type or key."""


class StochasticActionError(ClankerError, ValueError):
    """A random action was asked of a file that holds the deterministic policy alone."""

    def __init__(self) -> None:
        super().__init__("This file holds the deterministic policy alone: call predict(..., deterministic=True).")


class InferenceError(ClankerError, RuntimeError):
    """A loaded graph that failed on an observation, or gave what is no action.

    No file of this package does that on an observation that it accepts, unless memory runs out.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"The graph failed while it ran: {problem}. Validate the file, or export the policy again.")
