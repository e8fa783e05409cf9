"""What a record and the files beside it say, as rows and sentences: proof, provenance, files, limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sb3_clanker.card.components import Component
from sb3_clanker.card.wording import count, listing, number, short, size, with_spread
from sb3_clanker.paths import is_file
from sb3_clanker.policy_file.record import EvaluationRecord, PairedFile, PolicyMetadata
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.run_folder.identity import State, find_recorded, recorded, state_of
from sb3_clanker.run_folder.names import CARD, POLICY, Checkpoint, FileKind

MOST_ROWS = 40

Row = tuple[str, str]

_STATES: dict[State, str] = {
    "matched": "there, of the same instant",
    "missing": "not there",
    "other": "there, but of another instant, or damaged",
    "unknown": "written with it; no digest shows which it is",
}


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A file that belongs to a policy.

    :ivar name: its name
    :ivar holds: what it holds
    :ivar digest: its digest, empty where there is none
    :ivar state: whether it is there, and the one
    :ivar is_well: whether it is
    """

    name: str
    holds: str
    digest: str
    state: str
    is_well: bool


def title(metadata: PolicyMetadata) -> str:
    """What a policy is, in a few words."""
    spec = metadata.environment_spec
    return (
        f"{short(metadata.algorithm, 40)} on {short(spec.id, 60)}"
        if spec
        else f"{short(metadata.algorithm, 40)} policy"
    )


def mean_and_spread(evaluation: EvaluationRecord) -> str:
    """A mean return, with its standard deviation where that is known."""
    if evaluation.mean_reward is None or evaluation.std_reward is None:
        return number(evaluation.mean_reward)
    return with_spread(evaluation.mean_reward, evaluation.std_reward)


def returns(metadata: PolicyMetadata) -> str | None:
    """How good it was, by its record, in a sentence without its end."""
    evaluation, steps = metadata.training.evaluation, metadata.training.num_timesteps
    if evaluation is None:
        return None
    if evaluation.mean_reward is None:
        return "What it earned when it was evaluated was no finite number"
    over = "" if evaluation.n_episodes is None else f" over {count(evaluation.n_episodes, 'episode')}"
    acted = {True: " with deterministic actions", False: " with sampled actions", None: ""}[evaluation.deterministic]
    earned = f"{mean_and_spread(evaluation)}{over}{acted}"
    if evaluation.source == "rollout":
        return f"In the training itself it earned {earned}"
    if evaluation.role == "best":
        return f"It is the best of its training so far: {earned}"
    if evaluation.num_timesteps == steps:
        return f"In its evaluation it earned {earned}"
    return f"The last evaluation before it was written, at {count(evaluation.num_timesteps, 'timestep')}, gave {earned}"


def tensor(spec: TensorSpec) -> Row:
    """An input or output of the graph, and what it means."""
    shape = " \u00d7 ".join(map(str, spec.shape[:6])) + (" \u00d7 \u2026" if len(spec.shape) > 6 else "")
    return f"{short(spec.name, 40)}: {spec.dtype}, {shape}", short(spec.meaning, 160)


def proof(metadata: PolicyMetadata) -> Iterator[Row]:
    """What its proof measured; nothing where it has none."""
    check = metadata.cross_check
    if check is None:
        return
    yield "observations compared", f"{number(check.n_observations)}, of which training saw {number(check.n_seen)}"
    yield "largest difference", _difference(check.max_difference, metadata)
    if check.max_score_difference is not None:
        said = f"{number(check.max_score_difference, 2)} of the largest score"
        yield "largest difference of the scores behind it", said
    if check.twin_difference is not None:
        yield "difference to the policy on the accelerator", number(check.twin_difference, 2)
    yield "tolerance", f"{number(check.atol, 2)} + {number(check.rtol, 2)} \u00d7 the action"
    yield "actions that differ by more", number(check.n_mismatches)
    if check.n_ties:
        yield "near-ties, in which the last digit decides", number(check.n_ties)
    if check.n_nonfinite:
        yield "observations to which the policy itself has no finite answer", number(check.n_nonfinite)


def _difference(value: float, metadata: PolicyMetadata) -> str:
    if value == 0:
        return "none"
    of = "of half the range of the action" if metadata.action_space.is_continuous else "of an output beside the action"
    return f"{number(value, 2)} {of}"


def normalization(metadata: PolicyMetadata) -> str:
    """What became of VecNormalize, in a sentence."""
    record = metadata.normalization
    if record.status == "folded":
        of = f" of {listing(short(key, 40) for key in record.keys[:8])}" if record.keys else ""
        clip = "" if record.clip_obs is None else f", clipped at \u00b1{number(record.clip_obs)}"
        return f"VecNormalize{of} is in the file{clip}: feed raw observations."
    if record.status == "none":
        return "The policy was trained on raw observations: feed raw ones."
    return "Nothing told whether it was trained on normalized observations; the file does not normalize."


def provenance(metadata: PolicyMetadata) -> Iterator[Row]:
    """Normalization, wrappers and versions."""
    yield "normalization", normalization(metadata)
    for stack in metadata.frame_stacks[:8]:
        of = "observations" if stack.key is None else short(stack.key, 40)
        yield "frame stack", f"{of}: the last {number(stack.n_stack)} frames, the newest last; the caller stacks them"
    if metadata.environment_spec is not None:
        yield "environment", short(str(metadata.environment_spec), 240)
        if metadata.environment_spec.omitted:
            yield "arguments left out", short(", ".join(metadata.environment_spec.omitted[:20]), 160)
    if metadata.environment:
        names = [short(name, 60) for name in metadata.environment[:16]]
        more = f", \u2026 ({len(metadata.environment)} in all)" if len(metadata.environment) > 16 else ""
        yield "wrappers, outermost first", ", ".join(names) + more
    yield "policy class", short(metadata.policy_class, 160)
    yield "ONNX", f"opset {number(metadata.opset_version)}, IR version {number(metadata.ir_version)}"
    versions = list(metadata.provenance.versions.items())
    texts = [f"{short(package, 40)} {short(version, 24)}" for package, version in versions[:16]]
    if texts:
        yield "versions", ", ".join(texts) + (f", \u2026 ({len(versions)} in all)" if len(versions) > 16 else "")
    yield "written", short(metadata.provenance.created, 40)
    entries = list(metadata.entries.items())
    yield from ((short(name, 40), short(value, 160)) for name, value in entries[:MOST_ROWS])
    if len(entries) > MOST_ROWS:
        yield "\u2026", f"{count(len(entries) - MOST_ROWS, 'more entry', 'more entries')}"


def files(path: Path, metadata: PolicyMetadata, n_bytes: int) -> Iterator[FileRow]:
    """The policy file, and each that belongs to it, by its record or by its own word."""
    name = short(path.name, 120)
    yield FileRow(
        name=name, holds=f"the policy, {size(n_bytes)}", digest=metadata.digest, state="undamaged", is_well=True
    )
    named = find_recorded(path, metadata)
    for kind, file_name in Checkpoint(path.stem).files.items():
        if kind in (POLICY, CARD):
            continue
        file = named.get(kind, path.parent / file_name)
        state = state_of(file, kind, metadata)
        if (kind in named) if state in ("missing", "unknown") else (kind in named or is_file(file)):
            yield _file_row(file, kind, state, metadata)


def _file_row(file: Path, kind: FileKind, state: State, metadata: PolicyMetadata) -> FileRow:
    said = recorded(kind, metadata)
    return FileRow(
        name=short(f"{file.parent.name}/{file.name}" if "/" in kind.suffix else file.name, 120),
        holds=kind.holds[:1].lower() + kind.holds[1:] if kind.holds.startswith("The ") else kind.holds,
        digest=short(said.digest, 80) if isinstance(said, PairedFile) else "",
        state=_STATES[state],
        is_well=state == "matched",
    )


def limits(metadata: PolicyMetadata, components: list[Component], *, was_played: bool) -> Iterator[str]:
    """What the policy cannot do, or nobody knows."""
    evaluation, check = metadata.training.evaluation, metadata.cross_check
    if evaluation is None and not was_played:
        yield "Nobody evaluated it: this file says nothing of how good it is."
    elif evaluation is not None and evaluation.source == "rollout":
        yield "Its return is that of the training itself, in which it explored, and learned meanwhile."
    elif evaluation is not None and evaluation.num_timesteps != metadata.training.num_timesteps:
        yield "Its last evaluation was of an earlier policy of the training."
    if metadata.normalization.status == "unknown":
        yield "It is unknown whether it was trained on normalized observations: find out before it moves anything."
    if metadata.observation_ranges is None:
        yield "Nobody kept what training saw, so that nothing here shows where observations are new to it."
    elif any(component.seen is not None for component in components):
        yield (
            "The ranges above find a wrong unit, such as degrees for radians. They do not find a sensor that is "
            "swapped, stuck or dead."
        )
    if metadata.observation_ranges is None or any(component.seen is not None for component in components):
        yield "Far from everything that training saw it gives an action all the same, and nobody knows which."
    if check is None:
        yield "It carries no proof that it does what the policy did."
    elif check.n_seen == 0:
        yield "Its proof saw no observation of the training, drawn ones alone."
    if any(spec.role == "observation" and spec.layout is None for spec in metadata.inputs):
        yield "The numbers of an observation go in as float32: what needs more digits is lost before it sees them."
    if metadata.recurrent:
        yield "It remembers: whoever loses its state has another policy until an episode begins anew."
    if any(spec.role == "action_masks" for spec in metadata.inputs):
        yield "It needs a mask in each step. Where all is allowed, it may choose what the environment forbids."
    if metadata.frame_stacks:
        yield "It takes stacked frames, and does not stack them itself."
    if metadata.control_period is None:
        yield "Nobody noted how often a second it acted in training. At another rate it is another policy."
    if metadata.sampling is None:
        yield "It acts deterministically: the file does not say what it would draw an action from."
    yield "Its digest shows damage. It is no signature: anybody can compute one."
