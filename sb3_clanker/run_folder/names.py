"""What the files of a run are called.

A checkpoint is the files of one instant of a training: the ``.zip`` of Stable-Baselines3, the VecNormalize statistics,
the ``.onnx`` and what else :data:`KINDS` lists; the best, the final and the numbered ones alike.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from sb3_clanker.formats import c, torchscript, weights
from sb3_clanker.formats.format import FormatName
from sb3_clanker.policy_file.record import CheckpointRecord, PairedFile
from sb3_clanker.policy_file.vectors import read_vectors

_STEPS = re.compile(r"(?P<prefix>.+)_(?P<steps>\d+)_steps")
_STEPS_OF_FILE = re.compile(r".+_(\d+)_steps[._].+", re.DOTALL)
_RL_ZOO_RUN = re.compile(r"(?P<env>.+)_\d+(?:_[0-9a-f-]{36})?")
_DIGEST_IN_CARD = re.compile(rb'<meta name="sb3-clanker-policy" content="(sha256:[0-9a-f]{64})">')
_HEAD_OF_CARD = 1024
TEMPORARY = ".sb3_clanker-"
"""Beginning of the names of files that are no results."""


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """A kind of file that belongs to a checkpoint.

    What shows whether a file is of one instant with a policy file is, in this order: its digest in the record of that
    file; the digest of that file, which it holds itself; or else nothing but the time when it was written.

    :ivar holds: what it holds, as a message says it
    :ivar suffix: the end of its name; with a slash, it lies in a folder of the checkpoint's own
    :ivar word: stands in its name beside the stem, as ``CheckpointCallback`` has it; empty where nothing does
    :ivar recorded: what a record says of it: its digest, or true where there is one without a digest; None or false
        where there is none
    :ivar policy_digest: reads the digest of the policy file that it holds
    :ivar magic: how it begins: distinguishes one without a digest from other kinds
    :ivar format: the format beside ONNX that it is of; of its kinds, the first is the file that runs
    """

    holds: str
    suffix: str
    word: str = ""
    recorded: Callable[[CheckpointRecord], PairedFile | bool | None] = lambda _: None
    policy_digest: Callable[[Path], str] | None = None
    magic: bytes = b""
    format: FormatName | None = None

    def name(self, stem: str) -> str:
        """Its name in the checkpoint of a stem."""
        if not self.word:
            return f"{stem}{self.suffix}"
        if match := _STEPS.fullmatch(stem):
            return f"{match['prefix']}_{self.word}_{match['steps']}_steps{self.suffix}"
        return f"{stem}_{self.word}{self.suffix}"


ZIP = FileKind(holds="The algorithm", suffix=".zip", recorded=lambda record: record.algorithm_file)
STATISTICS = FileKind(
    holds="VecNormalize", suffix=".pkl", word="vecnormalize", recorded=lambda record: record.statistics_file
)
REPLAY_BUFFER = FileKind(
    holds="The replay buffer",
    suffix=".pkl",
    word="replay_buffer",
    recorded=lambda record: record.replay_buffer,  # it may be of more bytes than can be read at each checkpoint
    magic=pickle.PROTO,
)
VECTORS = FileKind(
    holds="The test vectors", suffix=".vectors.json", policy_digest=lambda path: read_vectors(path).digest
)
TORCHSCRIPT = FileKind(
    holds="The TorchScript policy",
    suffix="_torchscript/policy.pt",
    policy_digest=torchscript.policy_digest,
    format="torchscript",
)
TORCHSCRIPT_METADATA = FileKind(
    holds="The metadata of the TorchScript policy",
    suffix="_torchscript/metadata.json",
    policy_digest=torchscript.policy_id,
    format="torchscript",
)
C_HEADER = FileKind(holds="The C header", suffix=".h", policy_digest=c.policy_digest, format="c")
WEIGHTS = FileKind(holds="The weights", suffix=".safetensors", policy_digest=weights.policy_digest, format="weights")
POLICY = FileKind(holds="The policy", suffix=".onnx")
CARD = FileKind(holds="The policy card", suffix=".card.html", policy_digest=lambda path: _policy_of_card(path))
KINDS = (
    *(ZIP, STATISTICS, REPLAY_BUFFER, VECTORS),
    *(TORCHSCRIPT, TORCHSCRIPT_METADATA, C_HEADER, WEIGHTS),
    *(POLICY, CARD),
)
"""Every kind, in the order in which the files of a checkpoint get their names: what training needs comes first, and
the policy file, whose record says what belongs to it, last. Its card is made when it is there."""


def running_kind(name: FormatName) -> FileKind:
    """Of the kinds of a format beside ONNX, the one that runs."""
    return next(kind for kind in KINDS if kind.format == name)


def kind_that_runs(path: Path) -> FileKind | None:
    """What a file is by the end of its name, wherever it lies, if it is one that runs of a format beside ONNX."""
    kinds = (running_kind(name) for name in get_args(FormatName))
    return next((kind for kind in kinds if path.suffix == Path(f"name{kind.suffix}").suffix), None)


@dataclass(frozen=True)
class Checkpoint:
    """Names of the files of one instant, without a folder.

    :ivar stem: name of ``.zip`` and ``.onnx`` without their suffix
    """

    stem: str

    @property
    def files(self) -> dict[FileKind, str]:
        """Names of all files that there may be, in the order in which they get them; with a slash, in a folder."""
        return {kind: kind.name(self.stem) for kind in KINDS}

    @property
    def entries(self) -> dict[str, list[str]]:
        """The same as they lie in a folder: names of files and of folders, each with the files that it stands for."""
        entries: dict[str, list[str]] = {}
        for name in self.files.values():
            entries.setdefault(name.partition("/")[0], []).append(name)
        return entries

    @classmethod
    def numbered(cls, prefix: str, num_timesteps: int) -> Checkpoint:
        """One of those that are written every so often, as ``CheckpointCallback`` calls them."""
        return cls(f"{prefix}_{num_timesteps}_steps")


BEST = Checkpoint("best_model")
FINAL = Checkpoint("final_model")


def numbered_timesteps(name: str, prefix: str) -> int | None:
    """When a file or folder was written, where its name is one of a numbered checkpoint of this prefix."""
    match = _STEPS_OF_FILE.fullmatch(name)
    if match and name in Checkpoint.numbered(prefix, int(match[1])).entries:
        return int(match[1])
    return None


def stem_of(zip_path: Path) -> str:
    """Name of a ``.zip`` without its suffix. ``model.save("lr_0.1")`` adds none: there, all of it is the name."""
    return zip_path.stem if zip_path.suffix.lower() == ZIP.suffix else zip_path.name


def own_statistics(zip_path: Path) -> Iterator[Path]:
    """Where VecNormalize statistics lie that are those of a ``.zip`` by their name, the surest first.

    Our own and Stable-Baselines3's names beside the ``.zip``, then that of RL Zoo, which writes
    ``logs/ppo/ENV_1/ENV/vecnormalize.pkl`` together with ``logs/ppo/ENV_1/ENV.zip``
    (https://github.com/DLR-RM/rl-baselines3-zoo).
    """
    yield zip_path.parent / STATISTICS.name(stem_of(zip_path))
    yield from (path for path in _of_rl_zoo(zip_path) if path.parent.name == stem_of(zip_path))


def other_statistics(zip_path: Path) -> Iterator[Path]:
    """Where VecNormalize statistics often lie that may be of another policy than that of a ``.zip``.

    RL Zoo's are those of the end of a run, and not of its best or of its checkpoints; the other two names are those of
    the documentation of Stable-Baselines3 and of its examples.
    """
    yield from _of_rl_zoo(zip_path)
    yield zip_path.with_name("vecnormalize.pkl")
    yield zip_path.with_name("vec_normalize.pkl")


def _policy_of_card(path: Path) -> str:
    """The digest of the policy file that a card was made of.

    :raises ValueError: it holds none
    """
    with path.open("rb") as file:
        match = _DIGEST_IN_CARD.search(file.read(_HEAD_OF_CARD))
    if match is None:
        raise ValueError(f"{path} is no policy card")
    return match[1].decode()


def _of_rl_zoo(zip_path: Path) -> Iterator[Path]:
    if match := _RL_ZOO_RUN.fullmatch(zip_path.parent.resolve().name):
        yield zip_path.parent / match["env"] / "vecnormalize.pkl"
