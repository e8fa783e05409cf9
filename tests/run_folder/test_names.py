"""Files are called as Stable-Baselines3 calls its own, and found by these names."""

from __future__ import annotations

from pathlib import Path

import pytest
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_clanker.run_folder.names import (
    BEST,
    FINAL,
    REPLAY_BUFFER,
    STATISTICS,
    ZIP,
    Checkpoint,
    numbered_timesteps,
    other_statistics,
    own_statistics,
)
from tests.checkpoints import names
from tests.worlds import make_model


def test_the_best_and_the_final_model_have_their_names() -> None:
    for checkpoint, stem in ((BEST, "best_model"), (FINAL, "final_model")):
        assert list(checkpoint.files.values()) == [
            f"{stem}.zip",
            f"{stem}_vecnormalize.pkl",
            f"{stem}_replay_buffer.pkl",
            f"{stem}.vectors.json",
            f"{stem}_torchscript/policy.pt",
            f"{stem}_torchscript/metadata.json",
            f"{stem}.h",
            f"{stem}.safetensors",
            f"{stem}.onnx",
            f"{stem}.card.html",
        ]


@pytest.fixture(scope="module")
def off_policy() -> BaseAlgorithm:
    return make_model(TD3, normalize=True)


@pytest.mark.parametrize("prefix", ["rl_model", "my arm_3", "ppo_7_steps", "größe.v1"])
def test_a_checkpoint_is_called_as_checkpoint_callback_calls_it(
    prefix: str, off_policy: BaseAlgorithm, tmp_path: Path
) -> None:
    callback = CheckpointCallback(5, str(tmp_path), prefix, save_replay_buffer=True, save_vecnormalize=True)
    off_policy.learn(10, callback=callback)
    checkpoints = {num_timesteps: Checkpoint.numbered(prefix, num_timesteps) for num_timesteps in (5, 10)}
    assert names(tmp_path) == sorted(
        each.files[kind] for each in checkpoints.values() for kind in (ZIP, STATISTICS, REPLAY_BUFFER)
    )
    for num_timesteps, checkpoint in checkpoints.items():
        found = next(own_statistics(tmp_path / checkpoint.files[ZIP]))
        assert found == tmp_path / checkpoint.files[STATISTICS]
        assert {numbered_timesteps(name, prefix) for name in checkpoint.entries} == {num_timesteps}


@pytest.mark.parametrize("stem", ["model_steps", "model_12", "12_steps_model", "_steps", "model_12_steps_old"])
def test_a_name_that_is_no_checkpoint_is_taken_as_it_is(stem: str) -> None:
    files = Checkpoint(stem).files
    assert (files[STATISTICS], files[REPLAY_BUFFER]) == (f"{stem}_vecnormalize.pkl", f"{stem}_replay_buffer.pkl")


@pytest.mark.parametrize(
    "name",
    [
        "x_20_steps.txt",
        "x_020_steps.zip",
        "xx_20_steps.zip",
        "_20_steps.zip",
        "x_vectors_20_steps.json",
        "x_20_steps",
        "",
    ],
)
def test_a_file_that_is_called_almost_like_one_of_a_checkpoint_is_none(name: str) -> None:
    assert numbered_timesteps("x_20_steps.zip", "x") == 20
    assert numbered_timesteps(name, "x") is None


def test_statistics_are_those_of_a_zip_by_name(tmp_path: Path) -> None:
    zip_path = tmp_path / "runs" / "best_model.zip"
    assert list(own_statistics(zip_path)) == [tmp_path / "runs" / "best_model_vecnormalize.pkl"]
    assert list(other_statistics(zip_path)) == [
        tmp_path / "runs" / "vecnormalize.pkl",
        tmp_path / "runs" / "vec_normalize.pkl",
    ]


@pytest.mark.parametrize("run", ["Pendulum-v1_12", "Pendulum-v1_1_0b6b1a3c-5d3e-4e0e-9f0a-8f1c5a7d2e4b"])
def test_in_a_run_of_rl_zoo_they_are_those_of_its_end(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "ppo" / run
    of_the_run = folder / "Pendulum-v1" / "vecnormalize.pkl"
    assert list(own_statistics(folder / "Pendulum-v1.zip")) == [
        folder / "Pendulum-v1_vecnormalize.pkl",
        of_the_run,
    ]
    checkpoint = folder / "rl_model_500_steps.zip"
    assert list(own_statistics(checkpoint)) == [folder / "rl_model_vecnormalize_500_steps.pkl"]
    assert list(other_statistics(checkpoint)) == [
        of_the_run,
        folder / "vecnormalize.pkl",
        folder / "vec_normalize.pkl",
    ]


def test_the_layout_of_rl_zoo_is_recognised_from_within_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "my_env_3"
    run.mkdir()
    monkeypatch.chdir(run)
    assert Path("my_env") / "vecnormalize.pkl" in list(own_statistics(Path("my_env.zip")))
    assert Path("my_env") / "vecnormalize.pkl" in list(other_statistics(Path("best_model.zip")))
