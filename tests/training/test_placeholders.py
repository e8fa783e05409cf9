"""One path, a folder for each run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_clanker import OnnxCheckpointCallback
from sb3_clanker.errors import OptionError, PublicationError
from sb3_clanker.training.placeholders import RunPath, environment_id, run_of
from sb3_clanker.training.run import Training
from tests.checkpoints import NoExporter, names
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_clanker.training.callback.Exporter", NoExporter)


@pytest.mark.parametrize("path", ["{date}", "{run:03}", "{run!r}", "{run.x}", "{}", "{0}", "{", "a}b", "{Run}"])
def test_an_unknown_placeholder_is_refused_when_it_is_made(path: str) -> None:
    with pytest.raises(OptionError) as caught:
        OnnxCheckpointCallback(f"runs/{path}")
    assert str(caught.value) == (
        f"save_path={f'runs/{path}'!r} cannot be used: expected a path with no placeholders but {{env}} and {{run}} "
        "({{ and }} stand for braces)."
    )


def test_a_log_has_no_run_of_its_own() -> None:
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    with pytest.raises(OptionError, match=r"log_path='log/\{run\}' cannot be used: expected a path with no"):
        OnnxCheckpointCallback("runs/{env}", eval_env=env, log_path="log/{run}")


def test_braces_elsewhere_are_braces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "{env} {"
    here.mkdir()
    monkeypatch.chdir(here)
    assert OnnxCheckpointCallback("runs").save_path == here / "runs"
    assert OnnxCheckpointCallback("{{run}}/{run}").save_path == here / "{run}" / "{run}"
    assert RunPath("save_path", "{{run}}/{run}-{env}").fill_in("e", "7") == here / "{run}" / "7-e"
    callback = OnnxCheckpointCallback("{{x}}_{run}", save_freq=10)
    make_model().learn(16, callback=callback)
    assert callback.save_path == here / "{x}_1"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (lambda: gym.make("CartPole-v1"), "CartPole-v1"),
        (lambda: make_env(BOX_OBSERVATION, BOX_ACTION).envs[0], "SpacesEnv"),  # type: ignore[attr-defined]
    ],
)
def test_an_environment_is_called_by_its_id(env: Any, expected: str) -> None:
    assert environment_id(VecNormalize(DummyVecEnv([env]), norm_obs=False)) == expected


@pytest.mark.parametrize(
    ("described", "expected"),
    [("<Pong<ALE/Pong-v5>>", "ALE-Pong-v5"), ("<../..>", "env"), ("", "env"), ("my robot", "my-robot")],
)
def test_an_id_is_made_fit_for_a_file_name(described: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    monkeypatch.setattr(env, "env_method", lambda *args, **kwargs: [described])
    assert environment_id(env) == expected


def test_without_a_working_directory_a_path_has_to_be_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert OnnxCheckpointCallback(tmp_path / "run").save_path == tmp_path / "run"
    with pytest.raises(OptionError, match=r"save_path='run' cannot be used: expected an absolute path: there is no w"):
        OnnxCheckpointCallback("run")


def test_each_run_has_a_number_of_its_own(tmp_path: Path) -> None:
    path = RunPath("save_path", tmp_path / "{env}_{run}" / "x{run}")
    (tmp_path / "a_7").mkdir()
    (tmp_path / "a_9.txt").touch()
    (tmp_path / "b_8").touch()
    assert [run_of(path, "a", Training()) for _ in range(2)] == ["8", "9"]
    assert run_of(path, "b", Training()) == "9"
    assert run_of(path, "c", Training()) == "1"
    training = Training()
    assert {run_of(path, "c", training) for _ in range(2)} == {"2"}
    training.end()  # nothing came to lie there
    assert names(tmp_path) == ["a_7", "a_8", "a_9", "a_9.txt", "b_8", "b_9", "c_1"]


def test_no_two_of_many_at_once_have_the_same(tmp_path: Path) -> None:
    path, together = RunPath("save_path", tmp_path / "{run}"), threading.Barrier(8)
    runs: list[str] = []

    def claim() -> None:
        together.wait()
        runs.extend(run_of(path, "", Training()) for _ in range(20))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, runs)) == list(range(1, 161))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublicationError, match="cannot be written"):
        make_model().learn(16, callback=OnnxCheckpointCallback(tmp_path / "file" / "{run}"))


def test_callbacks_of_one_training_share_a_run_wherever_they_are(tmp_path: Path) -> None:
    path = str(tmp_path / "{env}_{run}")
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    best = OnnxCheckpointCallback(path, eval_env=env, eval_freq=10, n_eval_episodes=1, log_path=f"{path}/log")
    child = OnnxCheckpointCallback(tmp_path / "{env}_{run}" / "more")
    for run in ("1", "2"):
        callbacks: list[BaseCallback] = [best, EveryNTimesteps(10, child)]
        make_model().learn(16, callback=callbacks)
        folder = tmp_path / f"SpacesEnv_{run}"
        assert (best.save_path, child.save_path) == (folder, folder / "more")
        assert [path.name for path in (folder / "more").glob("*.zip")] == ["rl_model_10_steps.zip"]
        assert (folder / "log" / "evaluations.npz").is_file()
        assert (folder / "final_model.zip").is_file()
    assert names(tmp_path) == ["SpacesEnv_1", "SpacesEnv_2"]


def test_a_training_that_goes_on_keeps_its_folder_with_its_callback_or_by_name(tmp_path: Path) -> None:
    model, callback = make_model(), OnnxCheckpointCallback(tmp_path / "{run}", save_freq=10)
    model.learn(16, callback=callback)
    model.learn(16, callback=callback, reset_num_timesteps=False)
    assert callback.save_path == tmp_path / "1"
    loaded = PPO.load(tmp_path / "1" / "rl_model_10_steps.zip", env=model.get_env())
    again = OnnxCheckpointCallback(tmp_path / "{run}")
    loaded.learn(16, callback=again, reset_num_timesteps=False)
    assert again.save_path == tmp_path / "2"
    named = OnnxCheckpointCallback(tmp_path / "1")
    loaded.learn(16, callback=named, reset_num_timesteps=False)
    assert names(tmp_path) == ["1", "2"]


def test_a_training_that_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nothing would ever be written"):
        make_model().learn(16, callback=OnnxCheckpointCallback(tmp_path / "{run}", save_final=False))
    assert list(tmp_path.iterdir()) == []
