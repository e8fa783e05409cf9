"""A ``policy.pt`` says whose it is without torch, and whatever is wrong with it is a typed error."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sb3_clanker import ExportOptions, export_policy, read_metadata
from sb3_clanker.cli.main import main
from sb3_clanker.errors import MissingDependencyError, PolicyFileError, SchemaVersionError
from sb3_clanker.formats.torchscript import RECORD, open_policy, policy_digest, policy_id, read_record
from tests.checkpoints import flip
from tests.worlds import make_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its policy, and that as TorchScript with test vectors."""
    folder = tmp_path_factory.mktemp("exported")
    model = make_model()
    model.save(folder / "arm.zip")
    options = ExportOptions(formats=("torchscript",), test_vectors=4)
    export_policy(model, folder / "arm.onnx", options=options)
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "runs")) / "arm_torchscript"


def test_it_holds_the_record_of_its_onnx(bundle: Path) -> None:
    record = read_metadata(bundle.with_name("arm.onnx"))
    assert read_record((bundle / "policy.pt").read_bytes()) == record
    assert policy_digest(bundle / "policy.pt") == policy_id(bundle / "metadata.json") == record.digest


def _edit(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


def test_what_is_damaged_is_a_typed_error(bundle: Path) -> None:
    path = bundle / "policy.pt"
    whole = path.read_bytes()
    for n_bytes in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        with pytest.raises(PolicyFileError, match=r"this is no policy.pt, or it is damaged"):
            open_policy(whole[:n_bytes])
    path.write_bytes(b"no zip")
    with pytest.raises(PolicyFileError, match=r"policy\.pt: this is no policy.pt, or it is damaged"):
        policy_digest(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        weights = next(member for member in archive.infolist() if member.filename.endswith("/data/0"))
    flip(path, weights.header_offset + 30 + len(weights.filename))
    with pytest.raises(PolicyFileError, match=r"damaged after it was proven: archive/data/0 is not what it was"):
        policy_digest(path)


def test_every_flipped_bit_is_a_typed_error_or_changes_nothing_that_runs(bundle: Path) -> None:
    whole = (bundle / "policy.pt").read_bytes()
    n_refused = 0
    for position in range(0, len(whole), max(len(whole) // 150, 1)):
        data = bytearray(whole)
        data[position] ^= 1 << (position % 8)
        try:
            assert read_record(bytes(data)).algorithm == "PPO"  # a date or a comment of the zip
        except PolicyFileError:
            n_refused += 1
    assert n_refused > 100


def test_a_file_that_unpacks_without_end_is_refused_before_it_does(bundle: Path) -> None:
    path = bundle / "policy.pt"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/extra/zeros", bytes(1 << 24))
    with pytest.raises(PolicyFileError, match="it holds more than a file of its size can"):
        policy_digest(path)


def test_a_module_of_somebody_else_is_refused(bundle: Path) -> None:
    _edit(bundle / "policy.pt", lambda name, content: None if name.endswith(RECORD) else content)
    with pytest.raises(PolicyFileError, match=r"policy\.pt: there is no record in it: not a policy of this package"):
        policy_digest(bundle / "policy.pt")


def test_a_record_of_a_later_version_is_refused(bundle: Path) -> None:
    later = b'"schema_version": 99'
    _edit(bundle / "policy.pt", lambda _, content: content.replace(b'"schema_version": 3', later))
    with pytest.raises(SchemaVersionError, match="schema version 99"):
        policy_digest(bundle / "policy.pt")


def test_what_torch_cannot_load_is_a_typed_error(bundle: Path) -> None:
    _edit(bundle / "policy.pt", lambda name, content: b"x" if name.endswith("data.pkl") else content)
    with pytest.raises(PolicyFileError, match="torch cannot load it: "):
        open_policy((bundle / "policy.pt").read_bytes())


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b'{"policy_id": "sha256:0"}', b'{"framework": NaN}'),
        *(b'{"framework": "torchscript"}', b'{"framework": "torchscript", "policy_id": "of another tool"}'),
    ],
)
def test_what_is_no_metadata_has_no_policy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"metadata|JSON|Expecting"):
        policy_id(tmp_path / "metadata.json")


# On the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["arm_torchscript", "--vectors"], ["arm_torchscript/policy.pt", "--vectors"]])
def test_validating_runs_the_vectors_that_lie_beside(
    words: list[str], bundle: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    assert main(["validate", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "arm_torchscript/policy.pt is undamaged",
        f"it is the policy with the digest {read_metadata('arm.onnx').digest}",
        "arm_torchscript/metadata.json belongs to it",
        "arm.onnx belongs to it",
    ]
    assert lines[4].startswith("it agrees with 4 test vectors, within ")


def test_validating_finds_what_lies_beside_from_within_the_folder(
    bundle: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    assert main(["validate", "policy.pt", "--vectors"]) == 0
    said = capsys.readouterr().out
    assert "arm.onnx belongs to it" in said
    assert "test vectors" in said


def test_validating_takes_a_file_wherever_it_lies(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    alone = tmp_path / "copied.pt"
    shutil.copy(bundle / "policy.pt", alone)
    vectors = bundle.with_name("arm.vectors.json")
    assert main(["validate", str(alone), "--vectors", str(vectors)]) == 0
    assert capsys.readouterr().out.count("\n") == 3


def test_validating_several_takes_other_formats_by_name(bundle: Path, capsys: Capture) -> None:
    assert main(["validate", str(bundle), str(bundle.with_name("arm.onnx")), "--vectors"]) == 0
    out = capsys.readouterr().out
    assert "2 passed, 0 failed" in out
    assert main(["validate", str(bundle.parent)]) == 0
    assert "1 passed, 0 failed" in capsys.readouterr().out  # of a folder, the .onnx


def test_validating_refuses_what_is_of_another_instant(bundle: Path, exported: Path, capsys: Capture) -> None:
    metadata = bundle / "metadata.json"
    metadata.write_text(metadata.read_text().replace("sha256:", "sha256:0"))
    assert main(["validate", str(bundle)]) == 1
    error = capsys.readouterr().err
    assert "metadata.json beside it: of another instant of training, or damaged" in error
    assert error.count("\n") == 1
    shutil.copy(exported / "arm_torchscript" / "metadata.json", metadata)
    flip(bundle.with_name("arm.onnx"))
    assert main(["validate", str(bundle)]) == 1
    assert "arm.onnx beside it: of another instant" in capsys.readouterr().err


def test_validating_refuses_the_vectors_of_another_policy(bundle: Path, capsys: Capture) -> None:
    vectors = bundle.with_name("arm.vectors.json")
    vectors.write_text(vectors.read_text().replace('"digest": "sha256:', '"digest": "sha256:0'))
    assert main(["validate", str(bundle), "--vectors"]) == 1
    assert "they were written for another file" in capsys.readouterr().err


def test_validating_finds_a_weight_that_was_changed_by_somebody_who_knew_how(bundle: Path, capsys: Capture) -> None:
    _edit(bundle / "policy.pt", lambda name, data: data[::-1] if name.endswith("/data/5") else data)
    assert main(["validate", str(bundle)]) == 0
    assert main(["validate", str(bundle), "--vectors"]) == 1
    assert "The file does not agree with the test vectors: in case" in capsys.readouterr().err


def test_validating_against_a_model_is_for_the_onnx(bundle: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["validate", str(bundle), "--model"])
    assert caught.value.code == 2
    assert "--model is for a .onnx" in capsys.readouterr().err


def test_without_torch_only_running_fails_and_says_what_to_install(bundle: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from sb3_clanker.cli.main import main; "
        "sys.exit(main(['validate', *sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", code, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, "--vectors"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(
        "Running a TorchScript policy needs the package torch, which is not installed. Install it: pip install torch\n"
    )
    assert issubclass(MissingDependencyError, ImportError)


def test_export_writes_formats_and_says_which_are_missing(bundle: Path, capsys: Capture) -> None:
    folder = bundle.parent
    (folder / "arm.vectors.json").unlink()
    shutil.rmtree(bundle)
    assert main(["export", str(folder), "--format", "torchscript"]) == 1
    assert "without its arm_torchscript/policy.pt" in capsys.readouterr().out
    assert main(["export", str(folder), "--format", "torchscript", "--force"]) == 0
    assert main(["export", str(folder), "--format", "torchscript"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert main(["validate", str(bundle)]) == 0


@pytest.mark.parametrize("asked", ["tflite", "torchscript,", "", "torchscript c"])
def test_a_format_that_is_not_known_is_wrong_usage(asked: str, bundle: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(bundle.with_name("arm.zip")), "--format", asked])
    assert caught.value.code == 2
    assert f"argument --format: invalid formats value: {asked!r}" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--c-max-bytes", "9"], ["--c-unproven"], ["--format", "weights", "--c-unproven"]])
def test_what_is_of_c_alone_is_wrong_usage_without_it(flags: list[str], bundle: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(bundle.with_name("arm.zip")), *flags])
    assert caught.value.code == 2
    assert "is for --format c" in capsys.readouterr().err


def test_export_takes_what_is_of_c(bundle: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["export", str(bundle.with_name("arm.zip")), "--vecnormalize", "none", "--format", "c"]
    assert main([*words, "--c-max-bytes", "9"]) == 1
    assert "c_max_bytes is 9" in capsys.readouterr().err
    monkeypatch.setenv("CC", "no-such-compiler")
    assert main(words) == 1
    assert main([*words, "--c-unproven"]) == 0
    assert bundle.with_name("arm.h").exists()
