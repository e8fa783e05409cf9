"""The public API, whole: whoever changes it changes the text below, and sees what callers will see."""

from __future__ import annotations

import builtins
import inspect
import pickle
import re
import subprocess
import sys
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import sb3_clanker
from sb3_clanker import ExportOptions, ValidationReport, errors

API = """
AlgorithmFileError (ClankerError, ValueError)
ClankerError (Exception)
ClankerWarning (UserWarning)
ExportOptions(*, opset_version: int = 18, atol: float = 1e-05, rtol: float = 1e-05, n_samples: int | None = None,
        max_latency_ms: float | None = None, channels_last: bool = False, further_outputs: Sequence[FurtherOutput] =
        (), outside_margin: float = 0.1, formats: Sequence[FormatName] = (), c_max_bytes: int = 1000000, c_unproven:
        bool = False, observation_names: Labels | Mapping[str, Labels] | None = None, observation_units: Labels |
        Mapping[str, Labels] | None = None, action_names: Labels | None = None, action_units: Labels | None = None,
        control_period: float | None = None, observation_ranges: bool = True, test_vectors: int | None = None, target:
        TargetName | None = None, metadata: Mapping[str, str] = <factory>)
ExportReport: path, size, seconds, validation, metadata
FileInTheWayError (ClankerError, FileExistsError)
FilesFailedError (ClankerError, ValueError)
FolderInUseError (ClankerError, OSError)
ForeignFileError (PolicyFileError)
FormatError (ClankerError, ValueError)
GraphError (ClankerError, RuntimeError)
IncomparablePoliciesError (ClankerError, ValueError)
InferenceError (ClankerError, RuntimeError)
InnerNormalizationWarning (ClankerWarning)
LatencyError (ClankerError, ValueError)
MetadataError (PolicyFileError)
MissingCompilerError (ClankerError, FileNotFoundError)
MissingDependencyError (ClankerError, ImportError)
MissingFileError (ClankerError, FileNotFoundError)
NoVectorsWarning (ClankerWarning)
NonFiniteWeightsError (ClankerError, ValueError)
NormalizationError (ClankerError, ValueError)
ObservationError (ClankerError, ValueError)
ObservationFileError (ClankerError, ValueError)
OnnxCheckpointCallback(save_path: str | Path | None = None, *, eval_env: gym.Env[Any, Any] | VecEnv | None = None,
        best_of: Literal['evaluation', 'rollout'] = 'evaluation', eval_freq: int = 10000, n_eval_episodes: int = 5,
        deterministic: bool = True, render: bool = False, warn: bool = True, log_path: str | Path | None = None,
        callback_on_new_best: BaseCallback | None = None, callback_after_eval: BaseCallback | None = None, save_freq:
        int | None = None, name_prefix: str = 'rl_model', save_replay_buffer: bool = False, keep_last: int | None =
        None, save_final: bool = True, overwrite: bool = False, card: bool = False, on_error: Literal['warn', 'raise']
        = 'warn', options: OptionsSource = ExportOptions(), verbose: int = 0)
    .best_mean_reward
    .last_mean_reward
    .update_child_locals(self, locals_: dict[str, Any]) -> None
OnnxPolicy(path: str | Path, *, on_outside: OnOutside = 'ignore')
    .action_space
    .facts(self) -> Iterator[tuple[str, str]]
    .from_bytes(data: bytes, metadata: PolicyMetadata | None = None, *, trusted: bool = False) -> OnnxPolicy
    .from_file(file: PolicyFile) -> OnnxPolicy
    .from_runner(runner: Runner, metadata: PolicyMetadata) -> OnnxPolicy
    .inputs(self, observation: Observation, state: State | None = None, episode_start: Array | None = None,
        action_masks: Array | None = None) -> dict[str, Array]
    .observation_space
    .outputs(self, observation: Observation, state: State | None = None, episode_start: Array | None = None,
        action_masks: Array | None = None) -> dict[str, Array]
    .predict(self, observation: Observation, state: State | None = None, episode_start: Array | None = None,
        deterministic: bool = True, action_masks: Array | None = None) -> tuple[Array, State | None]
    .predict_and_outputs(self, observation: Observation, **context: Any) -> tuple[Array, State | None, dict[str,
        Array]]
    .rng
    .run(self, inputs: Mapping[str, Array]) -> dict[str, Array]
OptionError (ClankerError, ValueError)
PolicyComparison(*, first: str, second: str, same_digest: bool, actions: ActionDifferences, returns: ReturnDifferences
        | None, differences: tuple[RecordDifference, ...])
    .act_the_same
    .facts(self) -> Iterator[tuple[str, str]]
PolicyFileError (ClankerError, ValueError)
PolicyMetadata: schema_version, algorithm, policy_class, observation_space, action_space, inputs, outputs,
        predict_dtype, recurrent, sampling, opset_version, ir_version, normalization, frame_stacks, environment,
        environment_spec, control_period, observation_ranges, training, provenance, checkpoint, cross_check, latency,
        digest, entries
PolicyModule(actor: Actor)
    .dynamic_shapes(self) -> tuple[tuple[dict[int, Any], ...]]
    .example_inputs(self, batch: int = 2) -> tuple[th.Tensor, ...]
    .forward(self, inputs: th.Tensor) -> tuple[th.Tensor, ...]
    .train(self, mode: bool = True) -> PolicyModule
PrecisionError (ClankerError, ValueError)
PrecisionWarning (ClankerWarning)
PublicationError (ClankerError, OSError)
RemotePathError (ClankerError, ValueError)
ReservedMetadataKeyError (ClankerError, ValueError)
SchemaVersionError (PolicyFileError)
StochasticActionError (ClankerError, ValueError)
TargetError (ClankerError, ValueError)
TargetReport: target, accepts, mode, problems, notes
UnfitEnvironmentError (ClankerError, ValueError)
UnknownNormalizationWarning (ClankerWarning)
UnmatchedFilesError (ClankerError, ValueError)
UnreadableFileError (ClankerError, OSError)
UnsafeGraphError (PolicyFileError)
UnsavableTrainingError (ClankerError, TypeError)
UnsupportedOpsetError (ClankerError, ValueError)
UnsupportedPolicyError (ClankerError, TypeError)
UnsupportedSpaceError (ClankerError, ValueError)
UnsupportedWrapperError (ClankerError, ValueError)
ValidationError (ClankerError, ValueError)
ValidationReport: stages, cross_check, formats
VectorsError (ClankerError, ValueError)
VectorsMismatchError (ClankerError, ValueError)
WorkerError (ClankerError, ChildProcessError)
check_target(metadata: PolicyMetadata, target: str) -> TargetReport
compare_policies(first: str | Path | OnnxPolicy, second: str | Path | OnnxPolicy, *, observations: str | Path |
        NDArray[Any] | Mapping[str, NDArray[Any]] | None = None, env: str | Playable | None = None, n_episodes: int =
        0, n_observations: int = 1000, seed: int = 0) -> PolicyComparison
export_policy(model: BaseAlgorithm, path: str | Path, *, vec_normalize: NormalizationSource = 'auto', observations:
        ObservationSource = None, options: OptionsSource = ExportOptions()) -> ExportReport
load_checkpoint(path: str | Path, *, env: gym.Env[Any, Any] | VecEnv | None = None, algorithm: type[BaseAlgorithm] |
        None = None, **kwargs: Any) -> LoadedCheckpoint
policy_card(path: str | Path, *, run_folder: str | Path | None = None, env: str | Playable | None = None, episodes:
        int = 0, video: bool = False) -> str
policy_module(model: BaseAlgorithm, *, vec_normalize: NormalizationSource = 'auto', observations: ObservationSource =
        None, options: OptionsSource = ExportOptions()) -> PolicyModule
read_metadata(path: str | Path) -> PolicyMetadata
validate_policy(path: str | Path, model: BaseAlgorithm, *, vec_normalize: NormalizationSource = 'auto', options:
        OptionsSource = ExportOptions()) -> ValidationReport
"""

PUBLIC: dict[str, Any] = {name: getattr(sb3_clanker, name) for name in dir(sb3_clanker)}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}
RAISED = {name: cls for name, cls in CLASSES.items() if issubclass(cls, Exception)}
DATA = {name: cls for name, cls in CLASSES.items() if name.endswith(("Metadata", "Options", "Report"))}


def _lines(name: str, thing: Any) -> Iterator[str]:
    """What a caller sees: the built-in that an error is, the fields of a record, a signature."""
    if name in RAISED:
        yield f"{name} ({', '.join(base.__name__ for base in thing.__bases__)})"
    elif name in DATA and thing is not ExportOptions:
        names = getattr(thing, "__struct_fields__", None) or [field.name for field in fields(thing)]
        yield f"{name}: {', '.join(names)}"
    else:
        yield f"{name}{_signature(thing)}"
        for member in sorted(vars(thing)) if name in CLASSES.keys() - DATA.keys() else ():
            if not member.startswith("_"):
                value = getattr(thing, member)
                yield f"    .{member}{_signature(value) if callable(value) else ''}"


def _signature(thing: Any) -> str:
    signature, parts = inspect.signature(thing), []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        star = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        known = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        value = "ExportOptions()" if parameter.default == ExportOptions() else repr(parameter.default)
        default = "" if parameter.default is parameter.empty else f" = {value}"
        parts.append(f"{star}{parameter.name}{known}{default}")
    returned = "" if inspect.isclass(thing) else f" -> {signature.return_annotation}"
    return f"({', '.join(parts)}){returned}"


def _api() -> str:
    lines = (line for name, thing in PUBLIC.items() for line in _lines(name, thing))
    return "".join(textwrap.fill(line, 118, subsequent_indent=8 * " ", break_on_hyphens=False) + "\n" for line in lines)


def test_the_public_api_is_this() -> None:
    assert _api() == API.lstrip("\n")


def test_every_error_is_public() -> None:
    own = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert len(own) > 30
    assert set(own) == set(RAISED.values())
    with pytest.raises(sb3_clanker.OptionError, match="atol=-1 cannot be used"):
        ExportOptions(atol=-1)


def test_every_error_that_is_documented_can_be_caught_by_its_public_name() -> None:
    root = Path(__file__).parents[1]
    documents = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").glob("*.md")]
    named = {name for path in documents for name in re.findall(r"`(\w+(?:Error|Warning))`", path.read_text())}
    public = [*PUBLIC.values(), *(member for cls in CLASSES.values() for member in vars(cls).values())]
    raised = {name for thing in public for name in re.findall(r":raises (\w+):", inspect.getdoc(thing) or "")}
    assert {"MissingFileError", "ObservationError", "GraphError", "RemotePathError"} <= raised
    assert (named | raised) - set(vars(builtins)) <= set(RAISED)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_thing_is_pickled_by_its_public_name(name: str) -> None:
    thing = PUBLIC[name]
    assert thing.__module__ == "sb3_clanker"
    assert pickle.dumps(thing, 0).startswith(f"csb3_clanker\n{name}\n".encode())
    for module in (pickle, cloudpickle):
        assert pickle.loads(module.dumps(thing)) is thing


@pytest.mark.parametrize("name", [name for name in RAISED if name.endswith("Error")])
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_an_error_keeps_message_and_facts_in_a_pickle(name: str, protocol: int) -> None:
    error: Any = RAISED[name].__new__(RAISED[name])
    error.args, error.fact = ("what, got, expected, remedy",), Path("policy.onnx")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert (again.args, str(again), again.__dict__) == (error.args, str(error), error.__dict__)
    assert again.fact == error.fact


def test_an_error_crosses_to_a_process_that_has_imported_nothing() -> None:
    error = sb3_clanker.ValidationError("the file failed", ValidationReport())
    script = (
        "import pickle, sys; error = pickle.load(sys.stdin.buffer); loaded = 'torch' in sys.modules; "
        "print(type(error), error, error.report.stages, loaded)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(error), capture_output=True, check=True)
    assert done.stdout.decode() == "<class 'sb3_clanker.ValidationError'> the file failed [] False\n"


def test_options_and_reports_cross_too() -> None:
    for data in (ExportOptions(opset_version=17, metadata={"robot": "arm-3"}), ValidationReport()):
        for module in (pickle, cloudpickle):
            assert pickle.loads(module.dumps(data)) == data


@pytest.mark.parametrize("name", [*DATA, *(name for name in PUBLIC if name not in CLASSES)])
def test_type_hints_are_found_from_the_public_module(name: str) -> None:
    hints = typing.get_type_hints(PUBLIC[name])
    assert hints
    assert not any(isinstance(hint, str) for hint in hints.values())


def test_looking_around_imports_no_torch() -> None:
    script = (
        "import sys, sb3_clanker; dir(sb3_clanker); sb3_clanker.FolderInUseError, sb3_clanker.ExportOptions; "
        "print({'torch', 'onnx', 'gymnasium', 'stable_baselines3'} & set(sys.modules)); sb3_clanker.export_model"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n"
    assert done.stderr.endswith("AttributeError: module 'sb3_clanker' has no attribute 'export_model'\n")
