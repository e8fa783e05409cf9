"""RL Zoo itself, with one line in its hyperparameter file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sb3_clanker import read_metadata
from sb3_clanker.cli.main import main
from tests.integration.trainings import states

ONE_LINE = "callback: sb3_clanker.OnnxCheckpointCallback"
CARTPOLE = "{n_envs: 2, n_timesteps: 2000, n_steps: 64, n_epochs: 1, policy: MlpPolicy, %s}"
PENDULUM = "{n_timesteps: 600, learning_starts: 500, policy: MlpPolicy, policy_kwargs: 'dict(net_arch=[16])', %s}"
WITH_OPTIONS = """callback: [
  {stable_baselines3.common.callbacks.StopTrainingOnMaxEpisodes: {max_episodes: 100000}},
  {sb3_clanker.OnnxCheckpointCallback: {
    save_freq: 400, name_prefix: ours, keep_last: 1, save_final: false,
    options: {opset_version: 17, test_vectors: 2, action_names: [left, right], metadata: {robot: cart}}}}]"""


def zoo(program: str, arguments: str, cwd: Path) -> str:
    """Run a program of RL Zoo; what it says, on both streams."""
    command = [sys.executable, "-m", f"rl_zoo3.{program}", *arguments.split()]
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0 or "No module named 'pandas'" in done.stdout, done.stdout  # for a report in the end
    return done.stdout


def train(folder: Path, algo: str, env: str, hyperparameters: str, arguments: str) -> str:
    """Train, into ``logs``; what it says."""
    (folder / "hyperparameters.yml").write_text(f"{env}: {hyperparameters}\n")
    return zoo("train", f"--algo {algo} --env {env} -conf hyperparameters.yml -f logs {arguments}", folder)


def assert_triples(run: Path, *, normalized: bool) -> set[str]:
    """Every policy file is that of its ``.zip`` and statistics, by digest and by the whole proof."""
    stems = {policy.stem for policy in run.glob("*.onnx")}
    for stem in stems:
        policy = run / f"{stem}.onnx"
        assert list(states(policy).values()) == ["matched"] * (1 + normalized)
        assert main(["validate", str(policy), "--model", str(run / f"{stem}.zip")]) == 0
    assert not list(run.glob(".sb3_clanker*"))
    return stems


def test_the_line_is_that_of_the_readme() -> None:
    assert f"\n  {ONE_LINE}\n" in (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("normalize", ["false", "true"])
def test_one_line_writes_best_checkpoints_and_final(normalize: str, tmp_path: Path) -> None:
    arguments = "--save-freq 500 --eval-freq 500 --eval-episodes 2"
    said = train(tmp_path, "ppo", "CartPole-v1", CARTPOLE % f"normalize: {normalize}, {ONE_LINE}", arguments)
    run = tmp_path / "logs" / "ppo" / "CartPole-v1_1"
    theirs = {"best_model", *(f"rl_model_{steps}_steps" for steps in (500, 1000, 1500, 2000))}
    assert assert_triples(run, normalized=normalize == "true") == {*theirs, "final_model"}
    assert {path.stem for path in run.glob("*.zip")} == {*theirs, "final_model", "CartPole-v1"}
    for stem in theirs:
        record = read_metadata(run / f"{stem}.onnx")
        assert record.checkpoint is not None
        assert record.checkpoint.followed
    best = read_metadata(run / "best_model.onnx").training
    assert f"Eval num_timesteps={best.num_timesteps}, episode_reward={best.mean_reward:.2f}" in said
    assert "failed" not in said
    said = zoo("enjoy", "--algo ppo --env CartPole-v1 -f logs --load-best --no-render -n 200", tmp_path)
    assert "Loading logs/ppo/CartPole-v1_1/best_model.zip" in said
    assert "Mean reward" in said


def test_an_algorithm_with_a_replay_buffer(tmp_path: Path) -> None:
    arguments = "--save-freq 300 --eval-freq 300 --eval-episodes 1"
    train(tmp_path, "sac", "Pendulum-v1", PENDULUM % ONE_LINE, arguments)
    stems = assert_triples(tmp_path / "logs" / "sac" / "Pendulum-v1_1", normalized=False)
    assert stems == {"best_model", "final_model", "rl_model_300_steps", "rl_model_600_steps"}


def test_all_that_a_yaml_can_want(tmp_path: Path) -> None:
    arguments = "--save-freq -1 --eval-freq 500 --eval-episodes 1"
    train(tmp_path, "ppo", "CartPole-v1", CARTPOLE % WITH_OPTIONS, arguments)
    run = tmp_path / "logs" / "ppo" / "CartPole-v1_1"
    assert assert_triples(run, normalized=False) == {"best_model", "ours_1600_steps"}
    for stem in ("best_model", "ours_1600_steps"):
        record = read_metadata(run / f"{stem}.onnx")
        assert (record.opset_version, record.entries["robot"]) == (17, "cart")
        assert (run / f"{stem}.vectors.json").is_file()


STUDY = "-optimize --n-trials 4 --n-jobs 2 -n 200 --eval-episodes 1 --n-evaluations 2 --n-startup-trials 4"


@pytest.mark.parametrize("logs", [pytest.param("", id="nowhere"), pytest.param("best", marks=pytest.mark.slow)])
def test_a_study_loses_no_trial(logs: str, tmp_path: Path) -> None:
    hyperparameters = CARTPOLE.replace("n_epochs: 1, ", "") % ONE_LINE
    arguments = f"{STUDY} --optimization-log-path {logs}" if logs else STUDY
    said = train(tmp_path, "ppo", "CartPole-v1", hyperparameters, arguments)
    assert said.count("finished with value") == 4, said
    assert said.count("Nothing is exported") == (0 if logs else 1)
    stems = [assert_triples(folder, normalized=False) for folder in tmp_path.glob(f"{logs or '*'}/trial_*")]
    assert stems == [{"best_model", "final_model"}] * (4 if logs else 0)
    assert bool(list(tmp_path.rglob("*.onnx"))) == bool(logs)
