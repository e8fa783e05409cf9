"""TorchScript: ``policy.pt``, which torch loads alone, and ``metadata.json`` beside it."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from sb3_clanker.dependencies import TORCH, required_for
from sb3_clanker.display import printable
from sb3_clanker.errors import PolicyFileError
from sb3_clanker.errors.warnings import FILTERS
from sb3_clanker.policy_file.documents import parse_json
from sb3_clanker.policy_file.reading import decode_record, read_file
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.runtime.session import Array, Runner, one_line

RECORD = "sb3_clanker.json"
"""The record, among the extra files of a ``policy.pt``."""
_LARGEST_METADATA = 1 << 24


def read_record(data: bytes, path: Path | None = None) -> PolicyMetadata:
    """The record in the bytes of a ``policy.pt``, which needs no torch.

    :raises PolicyFileError: it holds none, or is damaged
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            is_endless = sum(member.file_size for member in archive.infolist()) > len(data)
            damaged = None if is_endless else archive.testzip()
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{RECORD}")]
            record = archive.read(names[0]).decode() if names and not damaged and not is_endless else ""
    except Exception as error:  # whatever zipfile makes of a damaged file
        raise PolicyFileError(path, f"this is no policy.pt, or it is damaged: {one_line(error)}.") from error
    if is_endless:
        raise PolicyFileError(path, "this is no policy.pt: packed, it holds more than a file of its size can.")
    if damaged:
        raise PolicyFileError(path, f"it was damaged after it was proven: {printable(damaged)} is not what it was.")
    if not names:
        raise PolicyFileError(
            path, "there is no record in it: not a policy of this package. Export it with sb3_clanker."
        )
    return decode_record(record, path)


def policy_digest(path: Path) -> str:
    """The digest of the policy file that a ``policy.pt`` belongs to."""
    return read_record(read_file(path, "TorchScript policy"), path).digest


def policy_id(path: Path) -> str:
    """The same of a ``metadata.json``.

    :raises ValueError: it is none of this package
    """
    document = parse_json(read_file(path, "metadata of a TorchScript policy", _LARGEST_METADATA))
    said = document if isinstance(document, dict) else {}
    digest = said.get("policy_id")
    if said.get("framework") != "torchscript" or not isinstance(digest, str) or not digest.startswith("sha256:"):
        raise ValueError(f"{path}: this is no metadata of a TorchScript policy of this package")
    return digest


@required_for("Running a TorchScript policy", TORCH)
def open_policy(data: bytes) -> Runner:
    """Load a ``policy.pt`` on the CPU. Nobody screens its code, which is TorchScript: use files that you trust.

    :raises PolicyFileError: it holds no record, or torch cannot load it
    :raises MissingDependencyError: torch is not installed
    """
    import torch as th

    record, jit = read_record(data), cast("Any", th.jit)
    try:
        with deprecated():
            module = jit.load(io.BytesIO(data), map_location="cpu")
    except Exception as error:  # whatever torch makes of a damaged file
        raise PolicyFileError(None, f"torch cannot load it: {one_line(error)}") from error
    return _Module(module, [spec.name for spec in record.inputs], [spec.name for spec in record.outputs])


class _Module:
    """A module of TorchScript, run as a session of onnxruntime is.

    :param module: what torch loaded
    :param inputs: names of its inputs, in order
    :param outputs: names of its outputs, in order
    """

    def __init__(self, module: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._module, self._inputs, self._outputs = module, inputs, outputs

    def run(self, names: list[str], inputs: dict[str, Array], /) -> list[Array]:
        import torch as th

        with th.inference_mode():
            outputs = self._module(*(th.from_numpy(np.array(inputs[name])) for name in self._inputs))
        by_name = dict(zip(self._outputs, outputs, strict=True))
        return [by_name[name].numpy() for name in names]


@contextmanager
def deprecated() -> Iterator[None]:
    """What torch says whenever TorchScript is used: that its end has been announced. The documentation says it once."""
    with FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield
