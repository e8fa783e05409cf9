"""Tune PPO on CartPole with Optuna: the best policy of each trial is its artifact.

python optuna_study.py runs/study --trials 20

The same command again adds trials to the study.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, download_artifact, upload_artifact
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_clanker import OnnxCheckpointCallback, OnnxPolicy, read_metadata

ENVIRONMENT = "CartPole-v1"
N_JOBS = 2


def train(folder: Path, timesteps: int, learning_rate: float) -> tuple[Path, float]:
    """Train once.

    :param folder: where trainings write, each to a folder of its own
    :param timesteps: length of the training
    :param learning_rate: what Optuna chose
    :return: the best policy, and its mean reward
    """
    model = PPO("MlpPolicy", make_vec_env(ENVIRONMENT), n_steps=128, learning_rate=learning_rate, device="cpu")
    callback = OnnxCheckpointCallback(
        folder / "{env}_{run}",
        eval_env=make_vec_env(ENVIRONMENT),
        eval_freq=256,
        save_final=False,
        on_error="raise",
    )
    model.learn(timesteps, callback=callback)
    return callback.reports[-1].path, callback.best_mean_reward


def main() -> None:
    """Run a study, then fetch the best policy of all trials, verify it and run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--timesteps", type=int, default=20_000, help="length of each training")
    arguments = parser.parse_args()
    artifacts = arguments.folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(str(artifacts))
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(arguments.folder / "journal.log"))),
        study_name=ENVIRONMENT,
        direction="maximize",
        load_if_exists=True,
    )

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        path, score = trainings.submit(train, arguments.folder / "runs", arguments.timesteps, rate).result()
        artifact = upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)
        trial.set_user_attr("artifact", artifact)
        trial.set_user_attr("digest", read_metadata(path).digest)
        return score

    with ProcessPoolExecutor(N_JOBS, get_context("spawn")) as trainings:  # Optuna's own jobs are threads
        study.optimize(objective, arguments.trials, n_jobs=N_JOBS)

    best, path = study.best_trial, arguments.folder / "best_model.onnx"
    path.unlink(missing_ok=True)
    download_artifact(artifact_store=store, artifact_id=best.user_attrs["artifact"], file_path=str(path))
    metadata = read_metadata(path)  # refuses a damaged file
    if metadata.digest != best.user_attrs["digest"]:
        raise SystemExit(f"{path} is {metadata.digest}, and trial {best.number} uploaded {best.user_attrs['digest']}.")
    mean, deviation = evaluate_policy(OnnxPolicy(path), make_vec_env(ENVIRONMENT), n_eval_episodes=10)
    print(f"{path}: {metadata.digest}, evaluated in training: {metadata.training.mean_reward:g}")
    print(f"return {mean:g} +/- {deviation:g}, with {best.params}")


if __name__ == "__main__":
    main()
