"""Damaged and hostile variants of policy files, and a process that reads many of them.

Run by ``tests/attacks/test_hostile_files.py``: ``python -m tests.attacks.mutants FOLDER FIRST COUNT`` reads the mutants
``FIRST`` to ``FIRST + COUNT - 1`` of the files in a folder, under a limit of memory, and prints what came of them. The
number of a mutant is the seed of everything in it, so that each can be made again.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import functools
import hashlib
import io
import json
import math
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from sb3_clanker import ClankerError, OnnxPolicy, read_metadata
from sb3_clanker.cli.main import main as command_line
from sb3_clanker.policy_file.container import read_fields, split_container
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import BoxSpace, DictSpace, LeafSpace, MultiBinarySpace
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.runtime.check_vectors import check_vectors
from tests.policy_file.sealing import resealed

RECORD = "sb3_clanker"
LONGEST = 20
"""Seconds after which a file counts as one that hangs its reader."""
MEMORY = 4 << 30
"""Bytes of address space that a reader may have."""

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 63, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, 1e308, -0.0),
    *("", "batch", "float32", "obs", "action", "x" * 1000, "\x1b[31m", "\ud800", "ü", "sha256:", "Box", "Discrete"),
    *([], {}, [[]], [{}], [1, 2], [-1], ["batch"], [0] * 100, [2**40], [2] * 80, {"type": "Dict", "spaces": {}}),
)
_NUMBERS = (0, 1, 2, 3, 7, 8, 14, 15, 16, 64, 127, 1 << 16, 1 << 20, 1 << 30, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63)
_MESSAGES = {  # fields that are messages, by the kind of the message they are in
    "model": {7: "graph", 8: "leaf"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
    "value": {2: "type"},
    "type": {1: "tensor_type"},
    "tensor_type": {2: "shape"},
    "shape": {1: "leaf"},
}


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut off, cut out, double or insert."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not changed:
            break
        first = int(rng.integers(len(changed)))
        last = first + int(rng.integers(1, 30))
        kind = rng.choice(["flip", "flip", "flip", "cut", "remove", "double", "insert", "byte"])
        if kind == "flip":
            changed[first] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            del changed[first:]
        elif kind == "remove":
            del changed[first:last]
        elif kind == "double":
            changed[first:first] = changed[first:last]
        elif kind == "insert":
            changed[first:first] = rng.bytes(last - first)
        else:
            changed[first] = int(rng.choice([0, 1, 127, 128, 255]))
    return bytes(changed)


def mutate_message(data: bytes, rng: np.random.Generator, kind: str = "model") -> bytes:
    """Remove, double, reorder or replace one field somewhere in a tree of protocol buffer messages."""
    view = memoryview(data)
    fields = [
        (number, bytes(view[start:payload]), bytes(view[payload:end])) for number, start, payload, end in _all(view)
    ]
    if not fields:
        return data
    index = int(rng.integers(len(fields)))
    number, tag, payload = fields[index]
    inner = _MESSAGES.get(kind, {}).get(number)
    if inner is not None and rng.random() < 0.85:
        payload = mutate_message(payload, rng, inner)
        fields[index] = (number, _tag(number, len(payload)), payload)
    else:
        what = rng.choice(["remove", "double", "swap", "number", "payload", "payload", "payload"])
        if what == "remove":
            del fields[index]
        elif what == "double":
            fields.insert(int(rng.integers(len(fields) + 1)), fields[index])
        elif what == "swap":
            other = int(rng.integers(len(fields)))
            fields[index], fields[other] = fields[other], fields[index]
        elif what == "number":
            fields[index] = (number, _varint(int(rng.integers(1, 32)) << 3 | tag[0] & 7) + tag[1:], payload)
        elif tag[0] & 7 == 2:
            payload = mutate_bytes(payload, rng) if rng.random() < 0.7 else _pick_payload(fields, rng)
            fields[index] = (number, _tag(number, len(payload)), payload)
        elif tag[0] & 7 == 0:
            fields[index] = (number, tag, _varint(int(rng.choice(np.array(_NUMBERS, np.uint64)))))
    return b"".join(tag + payload for _, tag, payload in fields)


def mutate_document(document: Any, rng: np.random.Generator) -> None:
    """Replace, remove, double or add one value somewhere in a tree of JSON, in place."""
    places: list[tuple[Any, Any]] = []
    _collect(document, places)
    container, key = places[int(rng.integers(len(places)))]
    what = rng.choice(["value", "value", "value", "other", "remove", "add"])
    if what == "value":
        container[key] = copy.deepcopy(_VALUES[int(rng.integers(len(_VALUES)))])
    elif what == "other":
        other, other_key = places[int(rng.integers(len(places)))]
        container[key] = json.loads(json.dumps(other[other_key]))
    elif what == "remove":
        del container[key]
    elif isinstance(container, dict):
        container["an unknown\x1bfield"] = 1
    else:
        container.append(copy.deepcopy(container[key]))


def seal(body: bytes, record: str, entries: dict[str, str]) -> bytes:
    """A file with a valid seal and digest, and flat keys that fit its record, as far as there is such a thing."""
    document = json.loads(record)
    if isinstance(document, dict) and isinstance(document.get("digest"), str):
        document["digest"] = f"sha256:{hashlib.sha256(body).hexdigest()}"
        record = json.dumps(document)
        with contextlib.suppress(Exception):  # a record that no flat keys fit
            space = document["action_space"]
            dim = min(math.prod(space["shape"]), 10_000)
            flat = {"action_space": json.dumps(space), "recurrent": json.dumps(document["recurrent"])}
            entries = (
                entries | flat | {"action_scale": json.dumps([1.0] * dim), "action_offset": json.dumps([0.0] * dim)}
            )
    return resealed(body, {**entries, RECORD: record})


def mutant_of_policy(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """A variant of a policy file, and what was changed."""
    kind = str(
        rng.choice(["bytes", "graph bytes", "graph", "graph", "graph", "record", "record", "record text", "both"])
    )
    if kind == "bytes":
        return mutate_bytes(data, rng), kind
    stretches, entries = split_container(data)
    body, record = b"".join(stretches), entries.pop(RECORD)
    if kind == "graph bytes":
        body = mutate_bytes(body, rng)
    if kind in ("graph", "both"):
        for _ in range(int(rng.integers(1, 4))):
            with contextlib.suppress(ValueError):  # an earlier change made it no message
                body = mutate_message(body, rng)
    if kind in ("record", "both"):
        document = json.loads(record)
        for _ in range(int(rng.integers(1, 4))):
            mutate_document(document, rng)
        record = json.dumps(document)
    if kind == "record text":
        mutated = mutate_bytes(record.encode(), rng).decode(errors="replace")
        return resealed(body, {**entries, RECORD: mutated}), kind
    return seal(body, record, entries), kind


def mutant_of_vectors(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """A variant of a file of test vectors, and what was changed."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng), "vectors bytes"
    document = json.loads(data)
    for _ in range(int(rng.integers(1, 4))):
        mutate_document(document, rng)
    return json.dumps(document).encode(), "vectors"


@functools.cache
def _read(path: Path) -> bytes:
    return path.read_bytes()


def mutant(folder: Path, number: int) -> tuple[Path, bytes, str]:
    """The original of a mutant, its bytes, and what was changed."""
    rng = np.random.default_rng(number)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".onnx", ".json"))
    original = files[int(rng.integers(len(files)))]
    make = mutant_of_policy if original.suffix == ".onnx" else mutant_of_vectors
    return original, *make(_read(original), rng)


def read(original: Path, path: Path, runs: bool) -> str:
    """Do with a file all that the reading side does; return the name of the error that came first, or ``accepted``."""
    outcome = "accepted"

    def note(error: ClankerError) -> None:
        nonlocal outcome
        assert str(error)
        outcome = type(error).__name__ if outcome == "accepted" else outcome

    if original.suffix == ".json":
        try:
            check_vectors(OnnxPolicy(original.with_suffix("").with_suffix(".onnx")), read_vectors(path))
        except ClankerError as error:
            note(error)
        return outcome
    try:
        read_metadata(path)
    except ClankerError as error:
        note(error)
    for arguments in (["inspect", str(path)], ["inspect", "--json", str(path)]):
        with (
            contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            code = command_line(arguments)
        assert code == (outcome != "accepted"), f"{arguments[:-1]} gave {code}, and reading {outcome}"
    try:
        policy = OnnxPolicy(path)
        if runs:
            policy.predict(_observation(policy.metadata))
    except ClankerError as error:
        note(error)
    return outcome


def _observation(metadata: PolicyMetadata) -> Any:
    def zeros(space: LeafSpace) -> Any:
        dtype = np.uint8 if isinstance(space, BoxSpace) and space.dtype == "uint8" else np.float32
        return np.zeros(space.shape, np.int8 if isinstance(space, MultiBinarySpace) else dtype)

    space = metadata.observation_space
    return {key: zeros(leaf) for key, leaf in space.spaces.items()} if isinstance(space, DictSpace) else zeros(space)


def main(folder: Path, first: int, count: int) -> None:
    """Read mutants; print one line before each, and a report at the end."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("error")
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    longest = (0.0, 0)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "mutant.onnx"
        for number in range(first, first + count):
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            original, data, kind = mutant(folder, number)
            path.write_bytes(data)
            faulthandler.dump_traceback_later(LONGEST, exit=True)
            start = time.perf_counter()
            try:
                outcomes[read(original, path, kind != "bytes")] += 1
            except Exception:  # whatever is no ClankerError is what we look for
                failures.append(f"mutant {number} of {original.name} ({kind}): {traceback.format_exc()}")
            longest = max(longest, (time.perf_counter() - start, number))
            faulthandler.cancel_dump_traceback_later()
    sys.stdout.write(json.dumps({"outcomes": outcomes, "failures": failures, "longest": longest}))


def _all(view: memoryview) -> list[tuple[int, int, int, int]]:
    return list(read_fields(view))


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))[:50]
    for key in keys:
        places.append((value, key))
        if isinstance(value[key], (dict, list)):
            _collect(value[key], places)


def _pick_payload(fields: list[tuple[int, bytes, bytes]], rng: np.random.Generator) -> bytes:
    if rng.random() < 0.5:
        return fields[int(rng.integers(len(fields)))][2]
    return bytes(rng.choice(np.array([b"", b"x", b"com.microsoft", b"If", b"Loop", b"\xff\xfe", b"ConstantOfShape"])))


def _tag(number: int, length: int) -> bytes:
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
