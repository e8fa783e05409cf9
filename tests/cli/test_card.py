"""``sb3-clanker card``: the page beside the policy, or where it is wanted; nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_clanker.cli.main import main
from tests.card.records import rewrite


def test_the_card_lies_beside_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = rewrite(tmp_path / "arm.onnx")
    assert main(["card", str(policy)]) == 0
    page = tmp_path / "arm.card.html"
    assert capsys.readouterr().out == f"{page}: {page.stat().st_size:,} bytes\n"
    assert main(["card", str(policy), "--out", str(tmp_path / "elsewhere.html")]) == 0
    assert (tmp_path / "elsewhere.html").read_text().startswith("<!DOCTYPE html>")


def test_the_log_of_evaluations_may_lie_elsewhere(tmp_path: Path) -> None:
    policy, logs = rewrite(tmp_path / "arm.onnx"), tmp_path / "logs"
    with pytest.raises(SystemExit):
        main(["card", str(policy), "--run-folder", str(logs)])
    logs.mkdir()
    assert main(["card", str(policy), "--run-folder", str(logs)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.onnx"], "no.onnx: there is no such policy file. Check the path."),
        (["arm.onnx", "--episodes", "0", "--video"], "episodes=0 cannot be used: expected a positive number"),
        (["arm.onnx", "--env"], "robots/Arm-v3"),
        (["arm.onnx", "--out", "nowhere/card.html"], "nowhere/card.html: cannot be written"),
        (["arm.onnx", "--out", "."], "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rewrite(tmp_path / "arm.onnx")
    assert main(["card", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["arm.onnx"]


@pytest.mark.parametrize("out", ["arm.onnx", "folder/../arm.onnx", "link.html", "arm.zip"])
def test_what_is_no_page_is_not_overwritten(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = rewrite(tmp_path / "arm.onnx")
    before = policy.read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "arm.zip").write_bytes(b"PK")
    (tmp_path / "link.html").symlink_to(policy)
    with pytest.raises(SystemExit):
        main(["card", str(policy), "--out", str(tmp_path / out)])
    assert "is there, and is no page of HTML" in capsys.readouterr().err
    assert policy.read_bytes() == before
    assert (tmp_path / "arm.zip").read_bytes() == b"PK"
