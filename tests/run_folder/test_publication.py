"""Files have the names that they should, appear complete or not at all, and are told from one another."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from io import BufferedWriter
from pathlib import Path

import pytest

from sb3_clanker.errors import AlgorithmFileError, ClankerError, PublicationError
from sb3_clanker.run_folder.identity import pair_with_file, pair_with_zip
from sb3_clanker.run_folder.publication import Publication, ensure_folder
from tests.worlds import make_model


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def _publish(folder: Path, *names: str, write: Callable[[BufferedWriter], object] = lambda file: None) -> None:
    """Stage a complete file for each name but the last, which ``write`` fills, and commit."""
    with Publication(folder, durable=False) as publication:
        for name in names[:-1]:
            publication.stage(name, lambda file: file.write(b"complete"))
        publication.stage(names[-1], write)
        publication.commit()


# Publication --------------------------------------------------------------------------------------------------------


def test_staged_files_appear_on_commit_and_not_before(tmp_path: Path) -> None:
    with Publication(tmp_path, durable=False) as publication:
        first = publication.stage("a.zip", lambda file: file.write(b"first"))
        second = publication.stage("b.onnx", lambda file: file.write(b"second"))
        assert {path.parent for path in (first, second)} == {tmp_path}
        assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
        assert _names(tmp_path) == sorted([first.name, second.name])
        assert not {"a.zip", "b.onnx"} & set(_names(tmp_path))
        publication.commit()
        assert _names(tmp_path) == ["a.zip", "b.onnx"]
    assert (tmp_path / "a.zip").read_bytes() == b"first"
    assert (tmp_path / "b.onnx").read_bytes() == b"second"


def test_a_temporary_file_is_hidden_and_never_looks_like_a_result(tmp_path: Path) -> None:
    with Publication(tmp_path, durable=False) as publication:
        temporary = publication.stage("best_model.onnx", lambda file: file.write(b""))
        assert temporary.name.startswith(".")
        assert list(tmp_path.glob("*.onnx")) == []


def test_two_publications_of_one_name_do_not_meet(tmp_path: Path) -> None:
    with Publication(tmp_path, durable=False) as one, Publication(tmp_path, durable=False) as other:
        assert one.stage("a", lambda file: file.write(b"one")) != other.stage("a", lambda file: file.write(b"other"))
        other.commit()
        one.commit()
    assert (tmp_path / "a").read_bytes() == b"one"
    assert _names(tmp_path) == ["a"]


def test_an_old_file_stays_until_commit(tmp_path: Path) -> None:
    path = tmp_path / "best_model.onnx"
    path.write_bytes(b"old")
    with Publication(tmp_path, durable=False) as publication:
        publication.stage(path.name, lambda file: file.write(b"new"))
        assert path.read_bytes() == b"old"
        publication.commit()
        assert path.read_bytes() == b"new"


def test_a_reader_of_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "best_model.onnx"
    path.write_bytes(b"old")
    with path.open("rb") as reader, Publication(tmp_path, durable=False) as publication:
        publication.stage(path.name, lambda file: file.write(b"new"))
        publication.commit()
        assert reader.read() == b"old"


def test_nothing_is_left_of_what_was_not_committed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with Publication(tmp_path, durable=False) as publication:
        publication.stage("a", lambda file: file.write(b"new"))
    assert _names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_when_staging_raises(kind: type[BaseException], tmp_path: Path) -> None:
    def fail(file: BufferedWriter) -> None:
        file.write(b"half of it")
        raise kind("in the middle")

    with pytest.raises(kind, match="in the middle"):
        _publish(tmp_path, "a", "b", write=fail)
    assert _names(tmp_path) == []


def test_a_full_disk_is_a_publication_error_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(file: BufferedWriter) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(PublicationError, match="No space left on device") as caught:
        _publish(tmp_path, "best_model.zip", "best_model.onnx", write=fail)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, ClankerError)
    assert caught.value.path == tmp_path / "best_model.onnx"
    assert isinstance(caught.value.__cause__, OSError)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("name", ["best model.onnx", "größte Übung 模型.onnx", "a'b\"c.onnx", ".hidden", "no suffix"])
def test_any_name_will_do(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "my runs äöü"
    folder.mkdir()
    with Publication(folder, durable=False) as publication:
        publication.stage(name, lambda file: file.write(b"content"))
        publication.commit()
    assert _names(folder) == [name]
    assert (folder / name).read_bytes() == b"content"


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_file_has_the_permissions_of_one_written_plainly(umask: int, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    _publish(tmp_path, "published")
    assert (tmp_path / "published").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "published").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_missing_folder_is_a_publication_error(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with pytest.raises(PublicationError, match=r"missing.a: cannot be written: .*No such file") as caught:
        _publish(folder, "a")
    assert caught.value.path == folder / "a"
    assert _names(tmp_path) == []


def test_a_file_in_the_place_of_the_folder_is_a_publication_error(tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"")
    with pytest.raises(PublicationError, match=r"folder.a: cannot be written: .*Not a directory"):
        _publish(tmp_path / "folder", "a")
    assert _names(tmp_path) == ["folder"]


def test_a_name_that_no_file_can_have_is_a_publication_error(tmp_path: Path) -> None:
    with pytest.raises(PublicationError, match=r"cannot be written: .*too long"):
        _publish(tmp_path, "a" * 256)
    assert _names(tmp_path) == []


def test_a_folder_in_the_place_of_a_file_is_a_publication_error(tmp_path: Path) -> None:
    (tmp_path / "a" / "kept").mkdir(parents=True)
    with pytest.raises(PublicationError, match=r"a: cannot be written: it is a folder") as caught:
        _publish(tmp_path, "a")
    assert caught.value.path == tmp_path / "a"
    assert _names(tmp_path) == ["a", "a/kept"]


def test_a_device_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PublicationError, match=r"pipe: cannot be written: it is a device, and no file"):
        _publish(tmp_path, "pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 1


def test_no_file_appears_where_another_cannot(tmp_path: Path) -> None:
    (tmp_path / "b.onnx").mkdir()
    with pytest.raises(PublicationError, match=r"b\.onnx: cannot be written"):
        _publish(tmp_path, "a.zip", "b.onnx")
    assert _names(tmp_path) == ["b.onnx"]


# Folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "größe 1" / "ppo"
    ensure_folder(folder)
    assert folder.is_dir()
    assert _names(folder) == []


def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    ensure_folder(tmp_path)
    assert _names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"content"


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_file_in_the_way_of_a_folder_is_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(PublicationError, match=r"file.*: cannot be written: .*(File exists|Not a directory)") as caught:
        ensure_folder(tmp_path / folder)
    assert caught.value.path == tmp_path / folder
    assert isinstance(caught.value, OSError)
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_folder_without_write_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: int = 0o666, exist_ok: bool = True) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(PublicationError, match=r"cannot be written: .*Permission denied") as caught:
        ensure_folder(tmp_path)
    assert caught.value.path == tmp_path
    assert _names(tmp_path) == []


# Telling files apart ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "best_model.zip"
    make_model().save(path)
    return path


def test_an_unchanged_zip_keeps_its_digest_wherever_it_lies(saved: Path, tmp_path: Path) -> None:
    pair = pair_with_zip(saved)
    assert pair.name == "best_model.zip"
    assert pair.digest.startswith("zip:")
    assert len(pair.digest) == len("zip:") + 64
    copy = tmp_path / ".temporary"
    copy.write_bytes(saved.read_bytes())
    assert pair_with_zip(copy).digest == pair.digest
    assert pair_with_zip(copy, "best_model.zip") == pair


def test_a_zip_of_another_model_has_another_digest(saved: Path, tmp_path: Path) -> None:
    model = make_model()
    model.learn(16)
    model.save(tmp_path / "best_model.zip")
    assert pair_with_zip(tmp_path / "best_model.zip").digest != pair_with_zip(saved).digest


def test_one_changed_weight_changes_the_digest(saved: Path, tmp_path: Path) -> None:
    changed = tmp_path / "best_model.zip"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = bytearray(source.read(name))
            if name == "policy.pth":
                content[len(content) // 2] ^= 1
            target.writestr(name, content)
    assert pair_with_zip(changed).digest != pair_with_zip(saved).digest


@pytest.mark.parametrize("content", [b"", b"no zip at all"])
def test_what_is_no_zip_is_a_checkpoint_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    with pytest.raises(
        AlgorithmFileError, match=r"model\.zip: this is not a zip file, or it is damaged \(.*\)"
    ) as caught:
        pair_with_zip(path)
    assert caught.value.path == path
    assert isinstance(caught.value, ClankerError)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).endswith(". Save the model again.")


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_a_zip_that_was_cut_off_is_a_checkpoint_error(kept: float, saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    path = tmp_path / "model.zip"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(AlgorithmFileError, match=r"model\.zip: .*it is damaged"):
        pair_with_zip(path)


def test_a_zip_with_a_damaged_directory_is_a_checkpoint_error(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 6] = 255  # "version needed to extract"
    path = tmp_path / "damaged.zip"
    path.write_bytes(data)
    with pytest.raises(AlgorithmFileError, match=r"damaged\.zip: this is not a zip file, or it is damaged"):
        pair_with_zip(path)


def test_a_file_is_identified_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "statistics.pkl"
    path.write_bytes(b"abc")
    pair = pair_with_file(path)
    assert pair.name == "statistics.pkl"
    assert pair.digest == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert pair_with_file(path, "other.pkl").name == "other.pkl"
    path.write_bytes(b"abd")
    assert pair_with_file(path).digest != pair.digest
