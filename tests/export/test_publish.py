"""One more kind of file in each checkpoint is an entry in the table of kinds, and what writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_clanker import ClankerError, OnnxCheckpointCallback, export_policy, load_checkpoint, read_metadata
from sb3_clanker.export.exporter import ProvenPolicy
from sb3_clanker.export.publish import to_write
from sb3_clanker.run_folder import names as table
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.run_folder.names import KINDS, POLICY, STATISTICS, ZIP, Checkpoint, FileKind
from sb3_clanker.run_folder.publication import Write
from tests.checkpoints import checkpoint_files, contents, flip, names, train
from tests.integration.trainings import make_eval_env
from tests.integration.trainings import train as train_whole
from tests.worlds import make_model

NOTE = FileKind(holds="The note", suffix=".note.html", policy_digest=lambda path: path.read_text()[3:-4])


@pytest.fixture(autouse=True)
def note(monkeypatch: pytest.MonkeyPatch) -> None:
    """A further kind: a page that names the policy that it is of."""

    def with_note(proven: ProvenPolicy) -> dict[FileKind, Write]:
        return to_write(proven) | {NOTE: lambda file: file.write(f"<p>{proven.metadata.digest}</p>".encode())}

    monkeypatch.setattr(table, "KINDS", (*KINDS[:-2], NOTE, *KINDS[-2:]))
    monkeypatch.setattr("sb3_clanker.export.publish.to_write", with_note)


def _notes(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.endswith(".note.html")]


def _open(folder: Path) -> None:
    TrainingFolder(folder).release()


def test_it_is_written_with_every_checkpoint_and_named_before_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    replace = Path.replace

    def noted(path: Path, target: Path) -> Path:
        named.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", noted)
    train_whole(
        [OnnxCheckpointCallback(tmp_path, eval_env=make_eval_env(), eval_freq=16, n_eval_episodes=1, save_freq=16)],
        steps=16,
    )
    assert _notes(tmp_path) == ["best_model.note.html", "final_model.note.html", "rl_model_16_steps.note.html"]
    for stem in ("best_model", "rl_model_16_steps", "final_model"):
        files = Checkpoint(stem).files
        written = [files[kind] for kind in (ZIP, STATISTICS, NOTE, POLICY)]
        assert [name for name in named if name in files.values()] == written
        assert NOTE.policy_digest is not None
        assert NOTE.policy_digest(tmp_path / f"{stem}.note.html") == read_metadata(tmp_path / f"{stem}.onnx").digest


def test_it_is_written_beside_a_policy_that_is_exported_alone(tmp_path: Path) -> None:
    export_policy(make_model(), tmp_path / "arm.v1")
    assert names(tmp_path) == ["arm.v1.note.html", "arm.v1.onnx"]


@pytest.mark.parametrize("left", [[".onnx"], [".note.html", ".onnx"]])
def test_it_gets_its_name_from_the_next_training_where_the_one_before_was_killed(
    left: list[str], tmp_path: Path
) -> None:
    train(tmp_path, 20, save_final=False)
    before = contents(tmp_path)
    for number, suffix in enumerate(left):
        (tmp_path / f"rl_model_20_steps{suffix}").rename(tmp_path / f".sb3_clanker-{number:016x}.tmp")
    _open(tmp_path)
    assert contents(tmp_path) == before
    assert load_checkpoint(tmp_path / "rl_model_20_steps").model.num_timesteps == 20


def test_it_is_counted_and_deleted_with_its_checkpoint(tmp_path: Path) -> None:
    model = train(tmp_path, 40, keep_last=1, save_final=False)
    assert _notes(tmp_path) == ["rl_model_40_steps.note.html"]
    callback = OnnxCheckpointCallback(tmp_path, save_freq=80, keep_last=1, save_final=False)
    model.learn(80, callback=callback, reset_num_timesteps=False)
    assert len(_notes(tmp_path)) == 1
    assert _notes(tmp_path) != ["rl_model_40_steps.note.html"]


def test_that_of_another_policy_stays(tmp_path: Path) -> None:
    model = train(tmp_path, 40, save_final=False)
    flip(tmp_path / "rl_model_20_steps.note.html", 20)
    folder = TrainingFolder(tmp_path)
    (first, second) = folder.numbered("rl_model", model.num_timesteps)
    folder.release()
    assert first.whole
    assert {file.path.name for file in first.files} == set(checkpoint_files(20, "vecnormalize"))
    assert tmp_path / "rl_model_40_steps.note.html" in [file.path for file in second.files]


def test_it_moves_out_of_the_way_with_its_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, 20)
    before = contents(tmp_path)
    train(tmp_path, 20)
    assert contents(tmp_path / "previous_1") == before
    assert _notes(tmp_path / "previous_1") == ["final_model.note.html", "rl_model_20_steps.note.html"]


def test_a_name_that_it_cannot_have_is_refused_before_the_first_step(tmp_path: Path) -> None:
    prefix = (255 - len("_1000000000000_steps.note.html") + 1) * "x"
    with pytest.raises(ClankerError, match="name_prefix"):
        train(tmp_path, 20, name_prefix=prefix)
