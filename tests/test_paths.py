"""A URL is no path: it is refused before anything is made that is called like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from sb3_clanker import (
    ClankerError,
    OnnxCheckpointCallback,
    OnnxPolicy,
    export_policy,
    load_checkpoint,
    read_metadata,
    validate_policy,
)
from sb3_clanker.cli.main import main
from sb3_clanker.errors import MissingFileError, OptionError, PublicationError, RemotePathError
from sb3_clanker.paths import local_path
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.sb3.algorithms import load_algorithm
from tests.worlds import make_model

_CALLS: dict[str, Callable[[Any], object]] = {
    "callback": OnnxCheckpointCallback,
    "export_policy": lambda path: export_policy(make_model(), path),
    "validate_policy": lambda path: validate_policy(path, make_model()),
    "load_checkpoint": load_checkpoint,
    "load_algorithm": load_algorithm,
    "read_metadata": read_metadata,
    "read_vectors": read_vectors,
    "OnnxPolicy": OnnxPolicy,
}


@pytest.mark.parametrize(
    "url", ["s3://bucket/run", "gs://b/p.onnx", "https://host/p.zip", "hf://me/p", "file:///tmp/p"]
)
def test_a_url_is_refused_as_text_and_as_a_path(url: str) -> None:
    for path in (url, Path(url), PurePosixPath(url), url.upper()):
        with pytest.raises(RemotePathError, match="this is a URL, and files are read and written by paths of this"):
            local_path(path)


def test_the_message_says_what_to_use() -> None:
    with pytest.raises(RemotePathError) as caught:
        local_path(Path("s3://bucket/run"))
    assert str(caught.value) == (
        "s3://bucket/run: this is a URL, and files are read and written by paths of this machine alone. Use a local "
        "folder and copy from or to the storage, or mount the storage and name the folder where it is mounted."
    )
    assert caught.value.url == "s3://bucket/run"
    assert isinstance(caught.value, ClankerError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "path",
    [
        "runs/a",
        "/runs/s3:/a",
        "C:\\runs\\a",
        "C:/runs/a",
        "c:a",
        "12:30/a",
        "at:noon",
        "./s3:/a",
        "a b/c",
        "http:8080/a",
        "",
    ],
)
def test_a_path_is_taken_as_it_is(path: str) -> None:
    assert local_path(path) == Path(path)


@pytest.mark.parametrize("path", [None, 3, b"runs", ["runs"]], ids=repr)
@pytest.mark.parametrize("call", _CALLS)
def test_what_is_no_path_is_told(call: str, path: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if (call, path) == ("callback", None):  # which follows the callbacks beside it
        assert OnnxCheckpointCallback(None).save_path is None
        return
    with pytest.raises(OptionError, match=r"path=.* cannot be used: expected a path: a string, or a pathlib"):
        _CALLS[call](path)
    assert list(tmp_path.glob("*")) == []


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    for path in ("a\0b", "a\0b/policy"):
        with pytest.raises(PublicationError, match="cannot be written"):
            export_policy(make_model(), tmp_path / path)
        with pytest.raises(OptionError, match="expected a path that a folder can have"):
            OnnxCheckpointCallback(tmp_path / path)
        with pytest.raises(MissingFileError, match="there is no such policy file"):
            read_metadata(tmp_path / path)
    assert list(tmp_path.glob("*")) == []


@pytest.mark.parametrize("call", _CALLS)
def test_nothing_is_made_that_is_called_like_a_url(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("s3://bucket/policy", Path("s3://bucket/policy")):
        with pytest.raises(RemotePathError, match=r"^s3://bucket/policy: this is a URL"):
            _CALLS[call](path)
    assert list(tmp_path.glob("*")) == []


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "s3://bucket/p.onnx"],
        ["validate", "s3://bucket/p.onnx"],
        ["export", "--model", "s3://bucket/p.zip"],
        ["export", "--model", "p.zip", "--output", "s3://bucket/p.onnx"],
    ],
    ids=" ".join,
)
def test_the_command_line_says_so_in_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("sb3-clanker: s3://bucket/p.")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.glob("*")) == []
