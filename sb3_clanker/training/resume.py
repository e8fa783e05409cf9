"""A training, to go on with: the algorithm and its normalization from the files of one instant."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, is_vecenv_wrapped

from sb3_clanker.errors import AlgorithmFileError, OptionError
from sb3_clanker.paths import local_path
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.public import public
from sb3_clanker.run_folder.identity import recorded, require_whole
from sb3_clanker.run_folder.names import REPLAY_BUFFER, STATISTICS, ZIP
from sb3_clanker.sb3.algorithms import class_of
from sb3_clanker.sb3.normalization import load_statistics


class LoadedCheckpoint(NamedTuple):
    """What a checkpoint gives back.

    :ivar model: the algorithm, with its environment where one was given
    :ivar vec_normalize: the normalization it was trained with, around that environment; None where there was none
    """

    model: BaseAlgorithm
    vec_normalize: VecNormalize | None


@public
def load_checkpoint(
    path: str | Path,
    *,
    env: gym.Env[Any, Any] | VecEnv | None = None,
    algorithm: type[BaseAlgorithm] | None = None,
    **kwargs: Any,
) -> LoadedCheckpoint:
    """Load an algorithm and its VecNormalize from the files of one instant, whose digests are verified first.

    This runs code that is in the files: load only what you trust.

    :param path: any of the files: ``.onnx``, ``.zip``, or their name without a suffix. The ``.onnx`` must be there: its
        record holds the digests of the others
    :param env: environment to go on training in, without VecNormalize, which is put around it; None loads the algorithm
        alone. Where other wrappers were around VecNormalize, load without one, and put all of them together with
        ``vec_normalize.set_venv`` and ``model.set_env``
    :param algorithm: class of the algorithm, where it is one of your own
    :param kwargs: passed on to the algorithm's ``load``, such as ``device`` or ``custom_objects``
    :return: the algorithm and its normalization. A replay buffer that was written with them is loaded too
    :raises MissingFileError: a file is not there
    :raises PolicyFileError: the ``.onnx`` is damaged, or not one of this package
    :raises UnmatchedFilesError: the files are not of one instant, or one is damaged
    :raises AlgorithmFileError: the ``.zip`` cannot be loaded, or ``env`` is not one for it
    :raises OptionError: ``env`` is normalized already

    >>> model, vec_normalize = load_checkpoint("runs/a/rl_model_50000_steps.zip", env=env)  # doctest: +SKIP
    >>> model.learn(50_000, reset_num_timesteps=False)  # doctest: +SKIP
    """
    path = local_path(path)
    policy_path = path.with_suffix(".onnx") if path.suffix in (".zip", ".onnx") else Path(f"{path}.onnx")
    metadata = read_metadata(policy_path)
    if not recorded(ZIP, metadata):
        raise AlgorithmFileError(
            policy_path, "no .zip was written with it", "Load the .zip with its algorithm's load()."
        )
    files = require_whole(policy_path, metadata)
    zip_path = files[ZIP]
    statistics = load_statistics(files[STATISTICS]) if STATISTICS in files else None
    venv = None if env is None else _normalized(env, statistics, policy_path)
    cls = algorithm or class_of(zip_path, metadata.algorithm)
    try:
        model = cls.load(zip_path, env=venv, **kwargs)
        if REPLAY_BUFFER in files:
            cast("Any", model).load_replay_buffer(files[REPLAY_BUFFER])
    except Exception as error:  # whatever the files, or an environment of other spaces, make Stable-Baselines3 raise
        raise AlgorithmFileError(
            zip_path,
            f"{cls.__name__} cannot load it ({type(error).__name__}: {error})",
            "Pass the environment that it was trained in, with its wrappers but VecNormalize.",
        ) from error
    return LoadedCheckpoint(model, statistics)


def _normalized(env: gym.Env[Any, Any] | VecEnv, statistics: VecNormalize | None, path: Path) -> VecEnv:
    """The environment, with its normalization around it."""
    if isinstance(env, VecEnv):
        if is_vecenv_wrapped(env, VecNormalize):
            raise OptionError("env", env, "an environment without VecNormalize, which is put around it here")
        venv = env
    else:
        venv = DummyVecEnv([lambda: env if is_wrapped(env, Monitor) else Monitor(env)])
    if statistics is None:
        return venv
    try:
        statistics.set_venv(venv)
        check_for_correct_spaces(venv, venv.observation_space, statistics.action_space)  # VecNormalize hides them
    except (AssertionError, ValueError) as error:
        raise AlgorithmFileError(
            path, f"its statistics are not of such an environment ({error})", "Pass the one that it was trained in."
        ) from error
    return statistics
