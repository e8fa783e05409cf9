"""The folders of a run: which there are, what is moved out of them, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback

from sb3_clanker.errors import OptionError
from sb3_clanker.run_folder.names import BEST, FINAL
from sb3_clanker.training.follow import Followed
from sb3_clanker.training.place import places_of
from sb3_clanker.training.run import Training
from tests.checkpoints import LOCK, names
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env


def evaluation(folder: Path | None) -> EvalCallback:
    return EvalCallback(
        make_env(BOX_OBSERVATION, BOX_ACTION), best_model_save_path=None if folder is None else str(folder)
    )


def test_a_folder_that_several_write_to_is_one_place(tmp_path: Path) -> None:
    a, b, best, unsaved = tmp_path / "a", tmp_path / "b", evaluation(tmp_path / "a"), evaluation(None)
    followed = [
        Followed(best),
        Followed(unsaved),
        Followed(CheckpointCallback(1, str(a), "x")),
        Followed(CheckpointCallback(1, str(b), "y")),
    ]
    training = Training()
    places = places_of(a, "own", followed, training)
    assert list(places) == [a, b]
    assert places[a].named == [BEST, FINAL]
    assert places[a].name_prefixes == {"own", "x"}
    assert places[a].judges == [best, unsaved]
    assert (places[b].named, places[b].name_prefixes, places[b].judges) == ([], {"y"}, [])
    assert all((folder / LOCK).exists() for folder in (a, b))
    training.end()
    assert not any((folder / LOCK).exists() for folder in (a, b))


def test_a_prefix_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    training = Training()
    with pytest.raises(OptionError, match=r"one with which files in .* can be named"):
        places_of(tmp_path, "own", [Followed(CheckpointCallback(1, str(tmp_path), "x" * 300))], training)
    training.end()


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("writes_here", [True, False])
@pytest.mark.parametrize("is_own", [True, False])
def test_a_best_that_its_evaluation_remembers_stays(
    is_own: bool, writes_here: bool, remembers: bool, tmp_path: Path
) -> None:
    best = evaluation(tmp_path if writes_here else None)
    best.best_mean_reward = 7.0 if remembers else float("-inf")
    training = Training()
    place = places_of(tmp_path, "own", [Followed(best)], training)[tmp_path]
    (tmp_path / "best_model.zip").touch()
    (tmp_path / "final_model.zip").touch()
    assert place.look_back(0, is_own=is_own, overwrite=False, log=None) == float("-inf")
    training.end()
    stays = remembers and (is_own or writes_here)
    assert names(tmp_path) == [*["best_model.zip"] * stays, "previous_1"]
    assert "final_model.zip" in names(tmp_path / "previous_1")
    assert best.best_mean_reward == (7.0 if remembers else float("-inf"))
