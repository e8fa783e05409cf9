"""A header in C as a reader finds it: its record, its digest, and a compiler to run it with."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from onnx import helper

from sb3_clanker.errors import MissingCompilerError, PolicyFileError
from sb3_clanker.formats.c import compile_header, find_compiler, open_policy, policy_digest, read_record, seal
from sb3_clanker.writers.c.header import Header
from tests.writers.c.graphs import describe, graph


@pytest.fixture(scope="module")
def header() -> bytes:
    """Of a policy that takes one number."""
    data = graph([helper.make_node("Tanh", ["obs"], ["action"])], {"obs": ("batch", 1)}, {"action": ("batch", 1)})
    record = describe(data)
    record = replace(record, outputs=(replace(record.outputs[0], role="action"),))
    return seal(Header(data, record, "policy").text())


def _change(header: bytes, old: bytes, new: bytes) -> bytes:
    """A header that was changed, and sealed again."""
    text = header[: header.index(b"/* SHA-256")]
    assert old in text
    return seal(text.replace(old, new).decode("utf-8", "surrogateescape"))


def test_runs_on_its_record_alone(header: bytes) -> None:
    x = np.linspace(-1, 1, 7, dtype=np.float32)[:, None]
    (action,) = open_policy(header).run(["action"], {"obs": x})
    np.testing.assert_allclose(action, np.tanh(x), rtol=1e-6)
    assert action.dtype == np.float32


def test_tells_its_digest(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "policy.h").write_bytes(header)
    assert policy_digest(tmp_path / "policy.h") == f"sha256:{64 * '0'}"
    assert f'_POLICY_DIGEST "sha256:{64 * "0"}"' in header.decode()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b" * The record of the policy:", b" * Nothing:", "there is no record in it"),
        (b'"algorithm": "PPO"', b'"algorithm": 3', "the record in the file is damaged"),
        (b"policy_step(\n", b"policy_stop(\n", "no function in it that chooses an action"),
        (b"tanhf(", b"tanhg(", "cannot compile it: .*tanhg"),
        (b"    float action[1])", b"    double action[1])", "cannot compile it: .*incompatible"),
        (b"tanhf(x0[0])", b"x0[1 << 28]", "cannot run it: it ended with -11"),
    ],
)
def test_a_header_that_is_damaged(header: bytes, old: bytes, new: bytes, problem: str) -> None:
    with pytest.raises(PolicyFileError, match=problem):
        open_policy(_change(header, old, new)).run(["action"], {"obs": np.zeros((1, 1), np.float32)})


def test_a_change_shows(header: bytes) -> None:
    assert read_record(header.replace(b"\n", b"\r\n")) == read_record(header)
    for changed in (
        header.replace(b"tanhf", b"coshf"),
        header + b"\n",
        header[:-1],
        header.replace(b"SHA-256", b"SHA"),
    ):
        with pytest.raises(PolicyFileError, match=r"it was changed since it was written"):
            read_record(changed)
    for index in np.random.default_rng(0).integers(0, len(header), 300):
        damaged = bytearray(header)
        damaged[index] ^= 1
        with pytest.raises(PolicyFileError):
            read_record(bytes(damaged))


def test_answers_that_are_not_enough(header: bytes) -> None:
    early = header.replace(b"    bool lost", b"    if (obs[0] > 0.0f) { _Exit(0); }\n    bool lost")
    early = early.replace(b"#include <math.h>", b"#include <math.h>\n#include <stdlib.h>")
    runner = compile_header(early, read_record(header))
    with pytest.raises(PolicyFileError, match="it gave 0 answers to 3 observations"):
        runner.run(["action"], {"obs": np.ones((3, 1), np.float32)})


def test_finds_the_compiler_that_is_named(monkeypatch: pytest.MonkeyPatch, header: bytes, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    found = find_compiler()
    assert found is not None
    assert shutil.which(found[0])
    noted = tmp_path / "my cc"
    noted.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/seen"\nexec cc "$@"\n')
    noted.chmod(0o755)
    monkeypatch.setenv("CC", f"'{noted}' -O0")
    open_policy(header)
    assert re.search(r"^-O0 -std=c99 .*main\.c", (tmp_path / "seen").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", "'./my cc' -O3")
    open_policy(header)
    assert (tmp_path / "seen").read_text().startswith("-O3 ")
    monkeypatch.setenv("CC", "'cc")
    assert find_compiler() is None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert find_compiler() is None
    with pytest.raises(MissingCompilerError, match="There is no C compiler to run a header with"):
        open_policy(header)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, header: bytes, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None
    with pytest.raises(MissingCompilerError):
        open_policy(header)


def test_a_disk_without_room(monkeypatch: pytest.MonkeyPatch, header: bytes, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(PolicyFileError, match=r"it cannot be compiled: .*No such file or directory"):
        open_policy(header)


def test_a_compiler_that_ends_badly(monkeypatch: pytest.MonkeyPatch, header: bytes, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("no program\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CC", str(bad))
    with pytest.raises(PolicyFileError, match=r"it cannot be compiled: .*bad"):
        open_policy(header)
    bad.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("sb3_clanker.formats.c._LONGEST", 0.01)
    with pytest.raises(PolicyFileError, match=r"it cannot be compiled: .*timed out"):
        open_policy(header)
