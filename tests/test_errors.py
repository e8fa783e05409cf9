"""Every error is a ClankerError and the built-in that it refines, and says what is wrong in words that are pinned."""

from __future__ import annotations

import builtins
import inspect
from pathlib import Path

import pytest

import sb3_clanker
from sb3_clanker import errors
from sb3_clanker.errors import (
    AlgorithmFileError,
    ClankerError,
    ClankerWarning,
    FileInTheWayError,
    FilesFailedError,
    ForeignFileError,
    FormatError,
    IncomparablePoliciesError,
    InferenceError,
    MetadataError,
    MissingDependencyError,
    MissingFileError,
    NonFiniteWeightsError,
    ObservationFileError,
    OptionError,
    PolicyFileError,
    PublicationError,
    ReservedMetadataKeyError,
    SchemaVersionError,
    StochasticActionError,
    UnfitEnvironmentError,
    UnknownNormalizationWarning,
    UnreadableFileError,
    UnsafeGraphError,
    UnsupportedOpsetError,
    UnsupportedPolicyError,
    UnsupportedSpaceError,
    ValidationError,
    WorkerError,
)
from sb3_clanker.report import ValidationReport

_BUILTINS = {value for value in vars(builtins).values() if inspect.isclass(value) and issubclass(value, Exception)}
_OWN = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if value.__module__ == sb3_clanker.__name__ and issubclass(value, Exception)
]
_ERRORS = [cls for cls in _OWN if not issubclass(cls, Warning) and cls is not ClankerError]
_WARNINGS = [cls for cls in _OWN if issubclass(cls, Warning)]

_PATH = Path("runs") / "best_model.zip"


def test_the_roots_are_one_error_and_one_warning() -> None:
    assert ClankerError.__bases__ == (Exception,)
    assert ClankerWarning.__bases__ == (UserWarning,)
    assert len(_ERRORS) >= 17
    assert {ClankerWarning, UnknownNormalizationWarning} <= set(_WARNINGS)


@pytest.mark.parametrize("cls", _ERRORS)
def test_every_error_is_a_clanker_error_and_a_builtin(cls: type[Exception]) -> None:
    assert issubclass(cls, ClankerError)
    refined = set(cls.__mro__) & _BUILTINS - {Exception}
    assert refined, f"{cls.__name__} refines no built-in exception"
    assert not refined & {builtin for builtin in _BUILTINS if issubclass(builtin, Warning)}


@pytest.mark.parametrize("cls", _WARNINGS)
def test_every_warning_is_a_clanker_warning(cls: type[Warning]) -> None:
    assert issubclass(cls, ClankerWarning)
    assert not issubclass(cls, ClankerError)


@pytest.mark.parametrize(
    ("error", "builtin", "message"),
    [
        (
            OptionError("atol", -1, "a number of at least 0"),
            ValueError,
            "atol=-1 cannot be used: expected a number of at least 0.",
        ),
        (
            OptionError("on_error", "ignore", '"warn" or "raise"'),
            ValueError,
            'on_error=\'ignore\' cannot be used: expected "warn" or "raise".',
        ),
        (
            ReservedMetadataKeyError("recurrent", ["action_space", "recurrent"]),
            ValueError,
            "The metadata key 'recurrent' is reserved. Reserved keys: action_space, recurrent. Choose another name.",
        ),
        (
            MissingDependencyError("sb3-contrib", "The algorithm TQC", "pip install sb3-contrib"),
            ImportError,
            "The algorithm TQC needs the package sb3-contrib, which is not installed. "
            "Install it: pip install sb3-contrib",
        ),
        (
            UnsupportedPolicyError("MyPolicy", "it overrides predict()", "Move that code."),
            TypeError,
            "Cannot export MyPolicy: it overrides predict(). Move that code.",
        ),
        (
            UnsupportedSpaceError("action", "Discrete(3, start=1)", "it starts at 1"),
            ValueError,
            "Cannot export the action space Discrete(3, start=1): it starts at 1.",
        ),
        (
            FormatError("c", "its weights have 6 MB", "Ask for a smaller network."),
            ValueError,
            "This policy cannot be written as c: its weights have 6 MB. Ask for a smaller network.",
        ),
        (
            AlgorithmFileError(_PATH, "it is damaged", "Save the model again."),
            ValueError,
            f"{_PATH}: it is damaged. Save the model again.",
        ),
        (
            MissingFileError(_PATH, "policy file"),
            FileNotFoundError,
            f"{_PATH}: there is no such policy file. Check the path.",
        ),
        (
            UnsupportedOpsetError(16, range(17, 24)),
            ValueError,
            "Opset 16 is not supported: expected one of 17 to 23.",
        ),
        (
            UnsupportedOpsetError(17, range(17, 24), ["BitwiseNot", "Mish"]),
            ValueError,
            "This policy cannot be written in opset 17: it needs BitwiseNot, Mish. Ask for a later opset, up to 23.",
        ),
        (
            NonFiniteWeightsError("policy.action_net.weight"),
            ValueError,
            "policy.action_net.weight holds values that are infinite or not a number: training has diverged. "
            "Go back to the last good checkpoint.",
        ),
        (
            NonFiniteWeightsError("critic.0.running_mean", buffer=True),
            ValueError,
            "critic.0.running_mean holds values that are not a number: training has diverged. "
            "Go back to the last good checkpoint. If they are meant, register the buffer with persistent=False.",
        ),
        (
            ValidationError("The file failed its proof at the stage runtime: no", ValidationReport()),
            ValueError,
            "The file failed its proof at the stage runtime: no",
        ),
        (
            PublicationError(_PATH, "it is a folder"),
            OSError,
            f"{_PATH}: cannot be written: it is a folder. Check that the folder exists, is writable and not full.",
        ),
        (PolicyFileError(_PATH, "it is too short."), ValueError, f"{_PATH}: it is too short."),
        (PolicyFileError(None, "they are too short."), ValueError, "these bytes: they are too short."),
        (
            MetadataError(_PATH, ["recurrent: missing", "inputs[0].dtype: expected a string, got 3"]),
            ValueError,
            f"{_PATH}: the record in the file is damaged:\n"
            "  recurrent: missing\n"
            "  inputs[0].dtype: expected a string, got 3",
        ),
        (
            SchemaVersionError(_PATH, 3, 2),
            ValueError,
            f"{_PATH}: schema version 3 of the record is unknown, expected 1 to 2. Upgrade sb3-clanker.",
        ),
        (
            SchemaVersionError(_PATH, 0, 2),
            ValueError,
            f"{_PATH}: schema version 0 of the record is unknown, expected 1 to 2. Export the policy again.",
        ),
        (
            SchemaVersionError(None, "two", 2),
            ValueError,
            "these bytes: schema version 'two' of the record is unknown, expected 1 to 2. Export the policy again.",
        ),
        (
            UnsafeGraphError(None, "it holds a sparse tensor"),
            ValueError,
            "these bytes: the graph is not loaded, because it holds a sparse tensor. "
            "No file of this package has such a graph.",
        ),
        (
            UnreadableFileError(_PATH, "policy file", "Permission denied"),
            OSError,
            f"{_PATH}: this policy file cannot be read: Permission denied. Check what it is and who may read it.",
        ),
        (
            ForeignFileError(_PATH, "it is not one of this package."),
            ValueError,
            f"{_PATH}: it is not one of this package.",
        ),
        (
            FileInTheWayError(_PATH, "without test vectors"),
            FileExistsError,
            f"{_PATH}: this file is there already, without test vectors. Move it away, or overwrite it (--force).",
        ),
        (
            FilesFailedError(["a.onnx", "b.onnx"], 1000),
            ValueError,
            "2 of 1,000 failed: a.onnx, b.onnx.",
        ),
        (
            FilesFailedError([f"{number}.onnx" for number in range(1203)], 1203),
            ValueError,
            "1,203 of 1,203 failed: 0.onnx, 1.onnx, 2.onnx and 1,200 more.",
        ),
        (
            WorkerError(_PATH, "died (SIGSEGV)"),
            ChildProcessError,
            f"{_PATH}: the process that worked on it died (SIGSEGV). Try this file alone.",
        ),
        (
            UnfitEnvironmentError("Pong-v5", "it has TimeLimit", "Play another."),
            ValueError,
            "Cannot play this policy in Pong-v5: it has TimeLimit. Play another.",
        ),
        (
            ObservationFileError(_PATH, "it is a text"),
            ValueError,
            f"{_PATH}: it is a text. Save raw observations with numpy: one array, rows first, with numpy.save(), "
            "or one for each key with numpy.savez().",
        ),
        (
            IncomparablePoliciesError("action", "is Box, and that of the second Discrete", ()),
            ValueError,
            "Cannot compare how these policies act: the action of the first is Box, and that of the second Discrete. "
            "Compare policies of the same spaces.",
        ),
        (
            InferenceError("no memory"),
            RuntimeError,
            "The graph failed while it ran: no memory. Validate the file, or export the policy again.",
        ),
        (
            StochasticActionError(),
            ValueError,
            "This file holds the deterministic policy alone: call predict(..., deterministic=True).",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ClankerError) else "",
)
def test_a_message_is_built_from_the_facts(error: ClankerError, builtin: type[Exception], message: str) -> None:
    assert str(error) == message
    assert isinstance(error, ClankerError)
    assert isinstance(error, builtin)


def test_facts_stay_on_the_error() -> None:
    option = OptionError("atol", -1, "a number")
    assert (option.option, option.value) == ("atol", -1)
    reserved = ReservedMetadataKeyError("recurrent", ["action_space", "recurrent"])
    assert (reserved.key, reserved.reserved) == ("recurrent", ("action_space", "recurrent"))
    assert MissingDependencyError("sb3-contrib", "TQC", "pip").package == "sb3-contrib"
    policy = UnsupportedPolicyError("MyPolicy", "it overrides predict()", "Move it.")
    assert (policy.got, policy.reason) == ("MyPolicy", "it overrides predict()")
    space = UnsupportedSpaceError("action", "Text(3)", "no")
    assert (space.role, space.space) == ("action", "Text(3)")
    opset = UnsupportedOpsetError(17, [17, 18], ["Mish"])
    assert (opset.opset_version, opset.operators) == (17, ("Mish",))
    assert UnsupportedOpsetError(16, [17, 18]).operators == ()
    assert NonFiniteWeightsError("policy.weight").tensor == "policy.weight"
    report = ValidationReport()
    assert ValidationError("no", report).report is report
    assert MetadataError(_PATH, ["a: missing"]).problems == ("a: missing",)
    unfit = UnfitEnvironmentError("Pong-v5", "it has TimeLimit")
    assert (unfit.environment, unfit.problem) == ("Pong-v5", "it has TimeLimit")
    incomparable = IncomparablePoliciesError("action", "is Box", ())
    assert (incomparable.role, incomparable.differences) == ("action", ())
    assert FilesFailedError(["a.onnx"], 2).failed == ("a.onnx",)
    version = SchemaVersionError(None, 3, 2)
    assert (version.path, version.found, version.known) == (None, 3, 2)


@pytest.mark.parametrize(
    "error",
    [
        AlgorithmFileError(_PATH, "it is damaged", "Save it again."),
        MissingFileError(_PATH, "file"),
        PublicationError(_PATH, "no"),
        FileInTheWayError(_PATH, "no"),
        WorkerError(_PATH, "died"),
        PolicyFileError(_PATH, "no"),
        MetadataError(_PATH, ["no"]),
        SchemaVersionError(_PATH, 3, 2),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_file_names_it_by_path(
    error: AlgorithmFileError | FileInTheWayError | MissingFileError | PublicationError | PolicyFileError | WorkerError,
) -> None:
    assert error.path == _PATH
    assert str(error).startswith(f"{_PATH}: ")


@pytest.mark.parametrize("leaf", [MetadataError(_PATH, ["no"]), SchemaVersionError(_PATH, 3, 2)])
def test_whatever_is_wrong_with_a_policy_file_is_caught_as_one_error(leaf: PolicyFileError) -> None:
    with pytest.raises(PolicyFileError, match=r"best_model\.zip"):
        raise leaf
