"""The graph of a file, loaded to be run: screened first, on one thread, and held against its record."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from sb3_clanker.dependencies import RUNTIME, required_for
from sb3_clanker.display import printable
from sb3_clanker.errors import PolicyFileError, UnsafeGraphError
from sb3_clanker.policy_file.container import MalformedContainerError, split_container
from sb3_clanker.policy_file.reading import PolicyFile
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.runtime.screening import HostileGraphError, screen

Array: TypeAlias = NDArray[Any]

_FIRST_TO_LIMIT_FOLDING = (1, 27)
"""The version of onnxruntime; older ones compute values of any size in advance."""
_ONNX_TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)", "bool": "tensor(bool)"}


class Runner(Protocol):
    """What runs a graph, as a session of onnxruntime does."""

    def run(self, names: list[str], inputs: dict[str, Array], /) -> list[Array]:
        """The outputs of these names, for an array for each input."""


@required_for("Running a policy", RUNTIME)
def open_session(file: PolicyFile, *, trusted: bool = False) -> Runner:
    """Load the graph of a file.

    :param file: the file, read and checked
    :param trusted: whether the graph was loaded before, with other weights
    :raises PolicyFileError: it cannot be run, or is not what its record says
    :raises UnsafeGraphError: a graph that no policy needs, and that could be costly to load or read other files
    :raises MissingDependencyError: onnxruntime is not installed
    """
    import onnxruntime

    is_limited = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) >= _FIRST_TO_LIMIT_FOLDING
    try:
        foldable = trusted or screen(file.body or split_container(file.data)[0], is_limited=is_limited)
    except (HostileGraphError, MalformedContainerError) as error:
        raise UnsafeGraphError(file.path, str(error)) from error
    options = onnxruntime.SessionOptions()
    if trusted:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.load_model_format", "ONNX")  # its own format was not screened
    largest_constant = str(max(len(file.data), 1 << 20))
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", largest_constant)
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what is wrong is said by the error, in one line
    try:
        session: Runner = onnxruntime.InferenceSession(
            file.data,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=None if foldable else ["ConstantFolding"],
        )
    except Exception as error:  # onnxruntime has no root of its own errors, and leaks others on damaged files
        raise PolicyFileError(file.path, f"onnxruntime cannot load it: {one_line(error)}") from error
    _check_signature(session, file.metadata, file.path)
    return session


def _check_signature(session: Any, metadata: PolicyMetadata, path: Path | None) -> None:
    """Hold the record against the graph; a digest shows damage, but not a record that was made up."""
    for kind, values, specs in (
        ("inputs", session.get_inputs(), metadata.inputs),
        ("outputs", session.get_outputs(), metadata.outputs),
    ):
        try:
            found = [(value.name, value.type, tuple(value.shape)) for value in values]
        except UnicodeDecodeError as error:
            raise PolicyFileError(path, f"a name among the {kind} of the graph is not UTF-8.") from error
        expected = [(spec.name, _ONNX_TYPES.get(spec.dtype), spec.shape) for spec in specs]
        if found != expected:
            found_text, expected_text = reprlib.repr(found), reprlib.repr(expected)
            raise PolicyFileError(
                path, f"the {kind} of the graph are {found_text}, and the record says {expected_text}."
            )


def one_line(error: Exception) -> str:
    """The beginning of an error of onnxruntime, which may hold as much as the file did."""
    return printable(" ".join(str(error)[:1000].split()))
