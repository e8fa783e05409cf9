"""One call: an algorithm and options in, a proven file and its report out; the proof of a file again; or a module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker.actor.extra_outputs import names_of
from sb3_clanker.actor.module import PolicyModule
from sb3_clanker.errors import PublicationError
from sb3_clanker.export.exporter import Exporter, check_algorithm
from sb3_clanker.export.observed import ObservationSource, resolve_ranges
from sb3_clanker.export.publish import ExportReport, publish
from sb3_clanker.options import ExportOptions, OptionsSource, as_options
from sb3_clanker.paths import local_path
from sb3_clanker.policy_file.reading import read_policy_file
from sb3_clanker.policy_file.record import CheckpointRecord, ObservationRanges, PolicyMetadata
from sb3_clanker.policy_file.spaces import describe_space
from sb3_clanker.proof.stages import prove
from sb3_clanker.proof.subject import Subject, typed_errors
from sb3_clanker.public import public
from sb3_clanker.report import ValidationReport
from sb3_clanker.run_folder.identity import pair_with_zip
from sb3_clanker.run_folder.names import Checkpoint
from sb3_clanker.sb3.algorithms import holds_policy_of
from sb3_clanker.sb3.normalization import Normalization, NormalizationSource, resolve_normalization
from sb3_clanker.writers.formats import FORMATS


@public
def export_policy(
    model: BaseAlgorithm,
    path: str | Path,
    *,
    vec_normalize: NormalizationSource = "auto",
    observations: ObservationSource = None,
    options: OptionsSource = ExportOptions(),
) -> ExportReport:
    """Write the policy of an algorithm as one proven ``.onnx`` file.

    :param model: a Stable-Baselines3 or sb3-contrib algorithm, in any state of its training; it is left as it is. It
        must not train in another thread meanwhile
    :param path: where to; ``.onnx`` is added where it is missing, folders are made
    :param vec_normalize: the normalization that the policy was trained with: ``"auto"`` is the one the model trains
        with, or for a loaded model the statistics that are those of its ``.zip`` by name or by the record of the
        ``.onnx`` beside it, where that ``.zip`` lies beside ``path`` and has its name; or a ``VecNormalize``, the path
        of saved statistics, or None for certainly none
    :param observations: raw observations that training saw, for the ranges in the record and for the output
        ``"outside"``: an array of shape (n, *shape), a mapping of such by key, or the path of a ``.npy`` or ``.npz``.
        None takes those of the record of the ``.onnx`` beside the model's ``.zip``, if they belong together
    :param options: see :class:`ExportOptions`; also as a mapping
    :return: what was done and measured
    :raises UnsupportedPolicyError: not an algorithm, or a policy that cannot be exported or whose own code fails
    :raises OptionError: an option cannot be used, ``path`` is no path, or ``vec_normalize`` none of what it may be
    :raises ObservationError: ``observations`` are none of the policy's space
    :raises ObservationFileError: those of a file are not
    :raises RemotePathError: ``path`` is a URL
    :raises UnsupportedSpaceError: a space has no place in the file format
    :raises NormalizationError: the statistics are of another policy, or not there
    :raises UnmatchedFilesError: the ``.zip`` and the statistics beside it are not of the same instant
    :raises UnsupportedWrapperError: a wrapper changes observations between VecNormalize and the policy
    :raises PrecisionError: float32 cannot distinguish observations
    :raises UnsupportedOpsetError: an operator does not exist in the opset that was asked for
    :raises GraphError: the policy cannot be traced
    :raises ValidationError: the file does not do what the policy does; nothing was written
    :raises PublicationError: the file cannot be written

    >>> report = export_policy(model, "cartpole.onnx")  # doctest: +SKIP
    >>> report.validation.cross_check.max_difference  # doctest: +SKIP
    0.0
    """
    check_algorithm(model)
    options, path = as_options(options), onnx_path(path)
    with typed_errors(model.policy):
        zip_path = _own_zip(path, model)
        normalization = resolve_normalization(model, vec_normalize, zip_path)
        space = describe_space(model.policy.observation_space, "observation")
        ranges, _ = resolve_ranges(space, observations, zip_path, options)
        return write_policy(model, path, normalization, zip_path, options, ranges)


@public
def validate_policy(
    path: str | Path,
    model: BaseAlgorithm,
    *,
    vec_normalize: NormalizationSource = "auto",
    options: OptionsSource = ExportOptions(),
) -> ValidationReport:
    """Prove again that a file does what a policy does.

    :param path: an ``.onnx`` file of this package
    :param model: the algorithm that it is held against
    :param vec_normalize: as in :func:`export_policy`
    :param options: tolerances and number of observations
    :return: the report of a proof that passed
    :raises ValidationError: a stage failed; the error carries the report
    :raises PolicyFileError: the file is damaged or not one of this package
    """
    check_algorithm(model)
    options, path = as_options(options), local_path(path)
    file = read_policy_file(path)
    with typed_errors(model.policy):
        normalization = resolve_normalization(model, vec_normalize, _own_zip(path, model), file)
        return check_policy(file.data, file.metadata, model, normalization, options)


@public
def policy_module(
    model: BaseAlgorithm,
    *,
    vec_normalize: NormalizationSource = "auto",
    observations: ObservationSource = None,
    options: OptionsSource = ExportOptions(),
) -> PolicyModule:
    """The whole of ``predict(raw observation, deterministic=True)`` as a torch module: what every other exporter takes.

    It is a copy; the model is left as it is. Nothing is proven here: what is made of the module has to be compared.

    :param model: a Stable-Baselines3 or sb3-contrib algorithm, as in :func:`export_policy`
    :param vec_normalize: the normalization that the policy was trained with: ``"auto"`` is the one the model trains
        with; or as in :func:`export_policy`
    :param observations: raw ones, whose ranges the output ``outside`` goes by; as in :func:`export_policy`
    :param options: what inputs and outputs are: ``channels_last``, ``further_outputs``, ``target``, names and units
    :raises UnsupportedPolicyError: not an algorithm, or a policy that cannot be copied, or whose own code fails
    :raises OptionError: an option cannot be used, ``vec_normalize`` is none of what it may be, or there is nothing that
        ``outside`` could go by
    :raises ObservationError: ``observations`` are none of the policy's space
    :raises ObservationFileError: those of a file are not
    :raises UnsupportedSpaceError: a space has no place in the file format
    :raises NormalizationError: the statistics are of another policy, or not there
    :raises UnsupportedWrapperError: a wrapper changes observations between VecNormalize and the policy
    :raises PrecisionError: float32 cannot distinguish observations
    :raises TargetError: the target does not take it
    :raises NonFiniteWeightsError: the policy has diverged

    >>> module = policy_module(model)  # doctest: +SKIP
    >>> program = torch.export.export(  # doctest: +SKIP
    ...     module, module.example_inputs(), dynamic_shapes=module.dynamic_shapes()
    ... )
    """
    check_algorithm(model)
    options = as_options(options)
    with typed_errors(model.policy):
        normalization = resolve_normalization(model, vec_normalize)
        space = describe_space(model.policy.observation_space, "observation")
        ranges, _ = resolve_ranges(space, observations, None, options)
        with Subject(model, normalization, options).now(lambda *_: False) as now:
            now.check()
            actor = now.copied_actor()
            actor.see(ranges)
            module = PolicyModule(actor)
            module(*module.example_inputs())  # whatever its own code raises
            return module


def check_policy(
    data: bytes, metadata: PolicyMetadata, model: BaseAlgorithm, normalization: Normalization, options: ExportOptions
) -> ValidationReport:
    """Prove the bytes of a file against an algorithm; errors as in :func:`validate_policy`."""
    writer = FORMATS[options.suffix]
    options_of_file = replace(options, further_outputs=names_of(metadata.outputs), observation_ranges=True)
    with Subject(model, normalization, options_of_file).now() as now:
        return prove(writer, writer.reopen(data), metadata, now.reference(), now.probes, options, in_full=True)


def write_policy(
    model: BaseAlgorithm,
    path: Path,
    normalization: Normalization,
    zip_path: Path | None,
    options: ExportOptions,
    ranges: ObservationRanges | None = None,
) -> ExportReport:
    """Export to a file of which all is known but the policy; errors as in :func:`export_policy`."""
    zip_file = pair_with_zip(zip_path) if zip_path else None
    record = CheckpointRecord(algorithm_file=zip_file, statistics_file=normalization.file)
    return publish(
        Exporter(model, normalization, options),
        path.parent,
        Checkpoint(path.stem),
        record=record if record.files else None,
        ranges=ranges,
        durable=True,
    )


def onnx_path(path: str | Path) -> Path:
    """Where a file will be written: ``path``, with ``.onnx`` added where it is missing.

    :raises OptionError: it is no path
    :raises RemotePathError: it is a URL
    :raises PublicationError: there is a folder of that name
    """
    path = local_path(path)
    if path.name in ("", ".."):
        raise PublicationError(path, "it is a folder")
    if "\0" in path.name:
        raise PublicationError(path, "no file can have this name")
    path = path if path.suffix == ".onnx" else path.with_name(f"{path.name}.onnx")
    try:
        in_the_way = path.is_dir()
    except OSError as error:  # a name that no file can have
        raise PublicationError(path, str(error)) from error
    if in_the_way:
        raise PublicationError(path, "it is a folder")
    return path


def _own_zip(path: Path, model: BaseAlgorithm) -> Path | None:
    """The ``.zip`` beside a policy file, if it holds this very model."""
    zip_path = path.with_suffix(".zip")
    return zip_path if holds_policy_of(zip_path, model) else None
