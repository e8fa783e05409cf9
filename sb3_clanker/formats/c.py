"""C: a header with the record of its policy in a comment; a compiler of this machine makes it run."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sb3_clanker.errors import MissingCompilerError, PolicyFileError
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.reading import decode_record, read_file
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec
from sb3_clanker.runtime.session import Array, Runner, one_line

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-std=c99", "-O1", "-Werror=implicit-function-declaration", "-Werror=incompatible-pointer-types")
"""With more optimization, compiling takes longer than it saves on the few predictions of a proof."""
_LONGEST = 600.0
"""Seconds that compiling may take, or running."""
_LINE = 110
_RECORD = re.compile(rb"^ \* The record of the policy:\n((?: \* .*\n)+?) \*/$", re.MULTILINE)
_SEAL = re.compile(rb"/\* SHA-256 of all before: ([0-9a-f]{64}) \*/\n\Z")
_STEP = re.compile(rb"^static inline void (\w+)_step\($", re.MULTILINE)
_TYPES = {"float32": "float", "uint8": "uint8_t", "bool": "bool"}


def record_lines(metadata: PolicyMetadata) -> Iterator[str]:
    """A record as lines of a comment in C, which nothing in it can end: JSON can do without the characters for that."""
    line = " * "
    for piece in re.findall(r"[^,]*,|[^,]+$", _escape(encode(metadata))):
        if len(line) + len(piece) > _LINE and line != " * ":
            yield line
            line = " * "
        line += piece
    yield line


def _escape(document: str) -> str:
    return "".join(f"\\u{ord(char):04x}" if char in "*?" else char for char in document)


def seal(text: str) -> bytes:
    """A header whose last line shows whether it was changed afterwards."""
    data = text.encode()
    return data + f"/* SHA-256 of all before: {hashlib.sha256(data).hexdigest()} */\n".encode()


def read_record(data: bytes, path: Path | None = None) -> PolicyMetadata:
    """The record in the bytes of a header.

    :param path: where they come from, for messages
    :raises PolicyFileError: it holds none, or the header is not as it was written
    """
    data = data.replace(b"\r\n", b"\n")  # as version control may have changed it
    match, found = _RECORD.search(data), _SEAL.search(data)
    if match is None:
        problem = "there is no record in it: not a policy of this package. Export it with sb3_clanker."
        raise PolicyFileError(path, problem)
    if found is None or hashlib.sha256(data[: found.start()]).hexdigest() != found[1].decode():
        raise PolicyFileError(path, "it was changed since it was written: its last line does not fit the others.")
    try:
        text = "".join(line[3:] for line in match[1].decode().splitlines())
    except UnicodeDecodeError as error:
        raise PolicyFileError(path, f"its record is damaged: {error}.") from error
    return decode_record(text, path=path)


def policy_digest(path: Path) -> str:
    """The digest of the policy file that a header belongs to."""
    return read_record(read_file(path, "C header"), path).digest


def find_compiler() -> list[str] | None:
    """The command of a C compiler of this machine: what the environment variable ``CC`` says, or one by its name."""
    try:
        given = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # quotes that do not close
        return None
    for name, *flags in [given] if given else [[name] for name in _COMPILERS]:
        if found := shutil.which(name):
            return [str(Path(found).absolute()), *flags]  # as it runs in another folder
    return None


def open_policy(data: bytes) -> Runner:
    """Compile a header, to run it in a process of its own. That runs its code: it may be any.

    :raises PolicyFileError: it holds no record, or cannot be compiled
    :raises MissingCompilerError: there is no C compiler
    """
    return compile_header(data, read_record(data))


def compile_header(data: bytes, record: PolicyMetadata) -> Runner:
    """Compile a header whose record is known; errors as in :func:`open_policy`."""
    step = _STEP.search(data)
    if step is None:
        raise PolicyFileError(None, "there is no function in it that chooses an action.")
    compiler = find_compiler()
    if compiler is None:
        raise MissingCompilerError
    return _Program(data, _main(record, step[1].decode()), record, compiler)


class _Program:
    """A program that reads what goes in from one file, and writes what comes out to another, row by row.

    :param data: the header
    :param main: the program that includes it
    :param record: of the policy
    :param compiler: command of a compiler
    """

    def __init__(self, data: bytes, main: str, record: PolicyMetadata, compiler: list[str]) -> None:
        self._inputs, self._outputs = _row(record.inputs), _row(record.outputs)
        self._axes = {spec.name: spec.shape.index(BATCH) for spec in (*record.inputs, *record.outputs)}
        with _typed("compiled"):
            self._folder = folder = Path(tempfile.mkdtemp(prefix="sb3_clanker-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            (folder / "policy.h").write_bytes(data)
            (folder / "main.c").write_text(main)
            _call([*compiler, *_FLAGS, "main.c", "-o", "policy", "-lm"], folder, "compile")

    def run(self, names: list[str], inputs: dict[str, Array], /) -> list[Array]:
        folder = self._folder
        arrays = {name: np.moveaxis(array, self._axes[name], 0) for name, array in inputs.items()}
        rows = np.zeros(len(next(iter(arrays.values()))), self._inputs)
        for name, array in arrays.items():
            rows[name] = array
        with _typed("run"):
            rows.tofile(folder / "in")
            _call([str(folder / "policy"), "in", "out"], folder, "run")
            answers = np.fromfile(folder / "out", self._outputs)
        if len(answers) != len(rows):
            raise PolicyFileError(None, f"it gave {len(answers)} answers to {len(rows)} observations.")
        return [np.moveaxis(answers[name], 0, self._axes[name]) for name in names]


def _row(specs: tuple[TensorSpec, ...]) -> np.dtype[np.void]:
    """One row of all inputs, or of all outputs, without gaps."""
    return np.dtype([(spec.name, spec.dtype, tuple(n for n in spec.shape if n != BATCH)) for spec in specs])


def _size(spec: TensorSpec) -> int:
    return _row((spec,)).itemsize // np.dtype(spec.dtype).itemsize


def _main(record: PolicyMetadata, prefix: str) -> str:
    specs = (*record.inputs, *record.outputs)
    arrays = [f"static {_TYPES[spec.dtype]} v{n}[{_size(spec)}];" for n, spec in enumerate(specs)]
    n_inputs = len(record.inputs)
    read = " && ".join(f"fread(v{n}, sizeof v{n}, 1, in) == 1" for n in range(n_inputs))
    write = " && ".join(f"fwrite(v{n}, sizeof v{n}, 1, out) == 1" for n in range(n_inputs, len(specs)))
    arguments = ", ".join(f"v{n}" for n in range(len(specs)))
    return f"""\
#include <stdio.h>
#include "policy.h"
{chr(10).join(arrays)}
int main(int argc, char **argv)
{{
    FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL;
    FILE *out = argc == 3 ? fopen(argv[2], "wb") : NULL;
    if (in == NULL || out == NULL) {{ return 2; }}
    while ({read}) {{
        {prefix}_step({arguments});
        if (!({write})) {{ return 1; }}
    }}
    return fclose(out) == 0 ? 0 : 1;
}}
"""


@contextmanager
def _typed(what: str) -> Iterator[None]:
    """Whatever the machine refuses: memory of a disk, a program, the time that it takes."""
    try:
        yield
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PolicyFileError(None, f"it cannot be {what}: {one_line(error)}.") from error


def _call(command: list[str], folder: Path, what: str) -> None:
    done = subprocess.run(  # noqa: S603 - a compiler of this machine, or what it has made
        command, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=_LONGEST
    )
    if done.returncode != 0:
        said = (done.stderr.decode(errors="replace").strip() or f"it ended with {done.returncode}").splitlines()
        problem = next((line for line in said if "error" in line), said[0])
        raise PolicyFileError(None, f"{Path(command[0]).name} cannot {what} it: {one_line(Exception(problem))}.")
