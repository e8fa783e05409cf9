"""Tune PPO on CartPole with Ray: the files of each new best are the checkpoint of its trial.

python ray_tune.py s3://bucket/sweeps    # or a folder that every machine sees

The same command again goes on where an experiment was interrupted, or shows what a finished one found.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyarrow.fs import FileSelector, FileSystem
from ray import tune
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import (
    ClankerError,
    ExportOptions,
    OnnxCheckpointCallback,
    OnnxPolicy,
    load_checkpoint,
    read_metadata,
)

EXPERIMENT = "cartpole"
ENVIRONMENT = "CartPole-v1"
PARAM_SPACE = {"learning_rate": tune.grid_search([1e-4, 3e-4, 1e-3, 3e-3])}


class ReportBest(BaseCallback):
    """After each evaluation, report the best so far; a new best brings its files.

    Ray compares what trials have reported *last*. So this is never the score of the last evaluation.

    :param folder: where the best policy lies
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._reported = ""

    def _on_step(self) -> bool:
        best = read_metadata(self._folder / "best_model.onnx")  # the file itself says how good it is
        tune.report(
            {"best_mean_reward": best.training.mean_reward, "digest": best.digest, "timesteps": self.num_timesteps},
            checkpoint=tune.Checkpoint.from_directory(self._folder) if best.digest != self._reported else None,
        )
        self._reported = best.digest
        return True


def train(config: dict[str, Any], timesteps: int, filesystem: FileSystem, experiment: str) -> None:
    """Train one trial, from where it was if it has been killed.

    :param config: what Ray has chosen for this trial
    :param timesteps: length of the training
    :param filesystem: where checkpoints are stored
    :param experiment: path of the experiment in it
    """
    with TemporaryDirectory() as directory:
        folder, env = Path(directory, "best"), make_vec_env(ENVIRONMENT)
        model = load_newest(folder, env, filesystem, experiment) or PPO(
            "MlpPolicy", VecNormalize(env), n_steps=128, device="cpu", **config
        )
        callback = OnnxCheckpointCallback(
            folder,
            eval_env=VecNormalize(make_vec_env(ENVIRONMENT), training=False, norm_reward=False),
            eval_freq=256,
            callback_after_eval=ReportBest(folder),
            save_final=False,
            on_error="raise",  # Ray starts a trial again that fails
            options=ExportOptions(test_vectors=8),
        )
        model.learn(timesteps - model.num_timesteps, callback=callback, reset_num_timesteps=False)


def load_newest(folder: Path, env: Any, filesystem: FileSystem, experiment: str) -> BaseAlgorithm | None:
    """Load what this trial stored last, None where that is nothing.

    ``tune.get_checkpoint()`` is what Ray has noted of it. After the driver was killed, its notes are seconds old, and
    newer checkpoints would be overwritten: so the storage is asked.
    """
    noted = tune.get_checkpoint()
    trial = Path(noted.path).parent if noted else Path(experiment, Path(tune.get_context().get_trial_dir()).name)
    stored = filesystem.get_file_info(FileSelector(trial.as_posix(), allow_not_found=True))
    for path in sorted((info.path for info in stored if info.base_name.startswith("checkpoint_")), reverse=True):
        tune.Checkpoint(path, filesystem).to_directory(folder)
        try:
            return load_checkpoint(folder / "best_model.onnx", env=env, device="cpu").model
        except ClankerError:  # its upload was interrupted: take the one before
            shutil.rmtree(folder)
    return None


def main() -> None:
    """Start or go on, then fetch the best policy of all trials, verify it and run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("storage", help="where to store, such as s3://bucket/sweeps")
    parser.add_argument("--timesteps", type=int, default=20_000, help="length of each training")
    arguments = parser.parse_args()
    filesystem, folder = FileSystem.from_uri(arguments.storage)
    experiment = f"{folder}/{EXPERIMENT}"
    trainable = tune.with_parameters(train, timesteps=arguments.timesteps, filesystem=filesystem, experiment=experiment)
    if tune.Tuner.can_restore(experiment, storage_filesystem=filesystem):
        tuner = tune.Tuner.restore(  # with the space: a driver killed at once has not noted which trials there are
            experiment, trainable, resume_errored=True, param_space=PARAM_SPACE, storage_filesystem=filesystem
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=PARAM_SPACE,
            run_config=tune.RunConfig(
                name=EXPERIMENT,
                storage_path=folder,
                storage_filesystem=filesystem,
                failure_config=tune.FailureConfig(max_failures=3),
            ),
        )
    best = tuner.fit().get_best_result("best_mean_reward", "max")

    path = Path(best.checkpoint.to_directory("best"), "best_model.onnx")
    metadata = read_metadata(path)  # refuses a damaged file
    if metadata.digest != best.metrics["digest"]:
        raise SystemExit(f"{path} is {metadata.digest}, and {best.metrics['digest']} was reported.")
    mean, deviation = evaluate_policy(OnnxPolicy(path), make_vec_env(ENVIRONMENT), n_eval_episodes=10)
    print(f"{path}: {metadata.digest}, evaluated in training: {metadata.training.mean_reward:g}")
    print(f"return on raw observations {mean:g} +/- {deviation:g}, with {best.config}")


if __name__ == "__main__":
    main()
