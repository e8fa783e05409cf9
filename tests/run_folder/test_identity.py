"""The files of one instant are told from those of another, and a record never leads out of its folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_clanker import ClankerError, read_metadata
from sb3_clanker.cli.main import main
from sb3_clanker.errors import UnmatchedFilesError
from sb3_clanker.policy_file.record import PairedFile
from sb3_clanker.run_folder.identity import (
    beside,
    find_partners,
    identify,
    pair_with_file,
    pair_with_zip,
    require_matched,
)
from tests.checkpoints import contents, flip, restamp, train

ONNX, ZIP, PKL = "rl_model_20_steps.onnx", "rl_model_20_steps.zip", "rl_model_vecnormalize_20_steps.pkl"
OTHER_ZIP, OTHER_PKL = "rl_model_40_steps.zip", "rl_model_vecnormalize_40_steps.pkl"
NO_DIGEST = "sha256:" + 64 * "0"
STRANGE_NAMES = ["", ".", "..", "/", "a\0b", 300 * "x", "\ud800", "sub/", "C:\\x.zip"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, save_final=False)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def _states(folder: Path) -> dict[str, str]:
    partners = find_partners(folder / ONNX, read_metadata(folder / ONNX))
    assert all(partner.path.parent == folder for partner in partners)
    return {partner.path.name: partner.state for partner in partners}


# States -------------------------------------------------------------------------------------------------------------


def test_files_of_one_instant_match(folder: Path) -> None:
    assert _states(folder) == {ZIP: "matched", PKL: "matched"}
    assert [partner.path for partner in require_matched(folder / ONNX, read_metadata(folder / ONNX))] == [
        folder / ZIP,
        folder / PKL,
    ]


def test_files_match_wherever_they_lie_together(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "größe 1"
    folder.rename(moved)
    assert _states(moved) == {ZIP: "matched", PKL: "matched"}


@pytest.mark.parametrize("name", [ZIP, PKL])
def test_a_file_that_is_not_there_is_missing(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert _states(folder) == {ZIP: "matched", PKL: "matched"} | {name: "missing"}


@pytest.mark.parametrize("name", [ZIP, PKL])
def test_a_folder_of_that_name_is_no_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert _states(folder) == {ZIP: "matched", PKL: "matched"} | {name: "missing"}


@pytest.mark.parametrize(("name", "other"), [(ZIP, OTHER_ZIP), (PKL, OTHER_PKL)])
def test_a_file_of_another_instant_is_another(name: str, other: str, folder: Path) -> None:
    shutil.copy(folder / other, folder / name)
    assert _states(folder) == {ZIP: "matched", PKL: "matched"} | {name: "other"}


@pytest.mark.parametrize("name", [ZIP, PKL])
@pytest.mark.parametrize("content", [b"", b"not what it was"])
def test_a_file_of_other_content_is_another(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    assert _states(folder) == {ZIP: "matched", PKL: "matched"} | {name: "other"}


def test_one_flipped_byte_makes_other_statistics(folder: Path) -> None:
    for position in (0, 100, -1):
        shutil.copy(folder / PKL, folder / "kept")
        flip(folder / PKL, position)
        assert _states(folder)[PKL] == "other"
        shutil.move(folder / "kept", folder / PKL)
    assert _states(folder)[PKL] == "matched"


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_zip_that_was_cut_off_is_another(kept: float, folder: Path) -> None:
    data = (folder / ZIP).read_bytes()
    (folder / ZIP).write_bytes(data[: int(kept * len(data))])
    assert _states(folder)[ZIP] == "other"


def test_a_policy_that_was_written_alone_has_no_partners(folder: Path) -> None:
    restamp(folder / ONNX, algorithm_file=None, statistics_file=None)
    assert _states(folder) == {}
    assert require_matched(folder / ONNX, read_metadata(folder / ONNX)) == ()


def test_a_file_is_identified_by_what_is_in_it_and_not_by_its_name(folder: Path) -> None:
    files = read_metadata(folder / ONNX).checkpoint
    assert files is not None
    assert files.algorithm_file is not None
    assert files.statistics_file is not None
    for file in (files.algorithm_file, files.statistics_file):
        (folder / file.name).rename(folder / "renamed")
        assert identify(folder / "renamed", file)
        assert not identify(folder / "gone", file)
    assert not identify(folder / OTHER_ZIP, files.algorithm_file)
    assert not identify(folder / OTHER_PKL, files.statistics_file)
    assert not identify(folder, files.statistics_file)


# What does not match ------------------------------------------------------------------------------------------------


def test_the_error_names_what_does_not_match_and_keeps_the_facts(folder: Path) -> None:
    shutil.copy(folder / OTHER_ZIP, folder / ZIP)
    with pytest.raises(UnmatchedFilesError) as caught:
        require_matched(folder / ONNX, read_metadata(folder / ONNX))
    assert str(caught.value) == (
        f"{folder / ONNX}: {ZIP} beside it: of another instant of training, or damaged, by the digest in its record. "
        "Export the policy again, or take all files from the same instant."
    )
    assert (caught.value.path, caught.value.others) == (folder / ONNX, (ZIP,))
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClankerError)


def test_the_error_names_everything_that_does_not_match(folder: Path) -> None:
    for name in (ZIP, PKL):
        (folder / name).write_bytes(b"")
    with pytest.raises(UnmatchedFilesError, match=f"{ZIP} and {PKL} beside it") as caught:
        require_matched(folder / ONNX, read_metadata(folder / ONNX))
    assert caught.value.others == (ZIP, PKL)


def test_what_is_missing_is_no_mismatch(folder: Path) -> None:
    (folder / ZIP).unlink()
    partners = require_matched(folder / ONNX, read_metadata(folder / ONNX))
    assert [partner.state for partner in partners] == ["missing", "matched"]


# Records from strangers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [False, True])
def test_a_record_never_leads_out_of_its_folder(absolute: bool, folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    for name in (ZIP, PKL):
        (folder / name).rename(outside / name)
    prefix = f"{outside}/" if absolute else "../outside/"
    restamp(
        folder / ONNX,
        algorithm_file=PairedFile(name=prefix + ZIP, digest=pair_with_zip(outside / ZIP).digest),
        statistics_file=PairedFile(name=prefix + PKL, digest=pair_with_file(outside / PKL).digest),
    )
    assert _states(folder) == {ZIP: "missing", PKL: "missing"}


@pytest.mark.parametrize("name", STRANGE_NAMES)
@pytest.mark.parametrize("digest", ["zip:" + 64 * "0", NO_DIGEST])
def test_a_name_that_no_file_can_have_is_missing(name: str, digest: str, folder: Path) -> None:
    file = PairedFile(name=name, digest=digest)
    restamp(folder / ONNX, algorithm_file=file, statistics_file=file)
    metadata = read_metadata(folder / ONNX)
    assert [partner.state for partner in find_partners(folder / ONNX, metadata)] == ["missing", "missing"]
    assert not identify(beside(folder, file), file)


def test_a_file_lies_beside_its_policy_whatever_its_name(folder: Path) -> None:
    for name in ("x.zip", "../x.zip", "../../x.zip", "/etc/x.zip", "sub/x.zip", "./x.zip"):
        assert beside(folder, PairedFile(name=name, digest=NO_DIGEST)) == folder / "x.zip"


# On the command line ------------------------------------------------------------------------------------------------


def _validate(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    code = main(["validate", str(path)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_validating_tells_what_belongs_to_a_policy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _validate(folder / ONNX, capsys) == (
        0,
        [
            f"{folder / ONNX} is undamaged",
            f"{folder / ZIP} belongs to it",
            f"{folder / PKL} belongs to it",
        ],
        "",
    )


def test_validating_tells_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ZIP).unlink()
    code, lines, error = _validate(folder / ONNX, capsys)
    assert (code, lines[1:], error) == (
        0,
        [f"{folder / ZIP} is not there to compare", f"{folder / PKL} belongs to it"],
        "",
    )


@pytest.mark.parametrize("name", [ZIP, PKL])
def test_validating_fails_in_one_line_that_names_what_does_not_match(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_bytes(b"other")
    code, lines, error = _validate(folder / ONNX, capsys)
    assert (code, lines) == (1, [])
    assert error.startswith(f"sb3-clanker: {folder / ONNX}: {name} beside it: of another instant")
    assert error.count("\n") == 1


def test_validating_fails_in_one_line_where_the_policy_itself_is_damaged(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(folder / ONNX)
    code, lines, error = _validate(folder / ONNX, capsys)
    assert (code, lines, error.count("\n")) == (1, [], 1)
    assert error.startswith(f"sb3-clanker: {folder / ONNX}: ")


def test_validating_a_record_of_strange_names_is_no_crash(folder: Path) -> None:
    for name in ("..", 300 * "x", "a\0b"):
        restamp(folder / ONNX, algorithm_file=PairedFile(name=name, digest=NO_DIGEST), statistics_file=None)
        done = _validate_in_a_process(folder / ONNX)
        assert (done.returncode, done.stderr) == (0, "")
        assert "is not there to compare" in done.stdout


def _validate_in_a_process(path: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from sb3_clanker.cli.main import main; code = main(['validate', sys.argv[1]]); "
        "sys.exit(code or ({'torch', 'stable_baselines3', 'onnx', 'gymnasium'} & set(sys.modules) or 0))"
    )
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False, timeout=120)


def test_validating_needs_no_torch_and_changes_nothing(folder: Path) -> None:
    before = contents(folder)
    done = _validate_in_a_process(folder / ONNX)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("belongs to it") == 2
    (folder / ZIP).write_bytes(b"other")
    done = _validate_in_a_process(folder / ONNX)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{ZIP} beside it" in done.stderr
    assert contents(folder) == before | {ZIP: b"other"}


def test_a_name_that_steers_terminals_or_is_no_text_is_written_out(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    restamp(folder / ONNX, algorithm_file=PairedFile(name="\x1b[31m\ud800.zip", digest="zip:00"))
    assert main(["validate", str(folder / ONNX)]) == 0
    assert r"\x1b[31m\ud800.zip is not there to compare" in capfd.readouterr().out
