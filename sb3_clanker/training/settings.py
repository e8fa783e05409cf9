"""Whether settings suit a training: what would fail in hours, or never write anything, shows before the first step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, is_vecenv_wrapped, sync_envs_normalization

from sb3_clanker.actor.observation import is_image
from sb3_clanker.errors import OptionError, UnsupportedSpaceError
from sb3_clanker.policy_file.spaces import describe_space
from sb3_clanker.run_folder.names import BEST, FINAL, Checkpoint

_logger = logging.getLogger("sb3_clanker")
_MANY_STEPS = 10**12


def require_positive(*, or_none: bool = False, **options: object) -> None:
    """Refuse what is no positive integer.

    :param or_none: whether it may be None
    :raises OptionError: it is none
    """
    for option, value in options.items():
        if (type(value) is not int or value < 1) and not (or_none and value is None):
            raise OptionError(option, value, "a positive integer")


def require_one_of(option: str, value: object, *choices: str) -> None:
    """Refuse what is none of some words.

    :raises OptionError: it is none
    """
    if value not in choices:
        raise OptionError(option, value, " or ".join(f'"{choice}"' for choice in choices))


def require_prefix(name_prefix: object) -> None:
    """Refuse what no file name begins with.

    :raises OptionError: it is none
    """
    is_name = isinstance(name_prefix, str) and name_prefix and "\0" not in name_prefix
    if not is_name or Path(str(name_prefix)).name != name_prefix:
        raise OptionError("name_prefix", name_prefix, "the beginning of a file name, without a folder")


def require_environment(eval_env: object) -> None:
    """Refuse what Stable-Baselines3 would make no environment of, which it tells when evaluations are set up.

    :raises OptionError: it is none
    """
    if eval_env is not None and not callable(getattr(eval_env, "step", None)):
        raise OptionError("eval_env", eval_env, "an environment, or None")


def require_best_of(best_of: object, given: Mapping[str, object]) -> None:
    """Refuse what has to do with evaluations where there are none.

    :param given: what has to do with them, by option
    :raises OptionError: there are none
    """
    of_evaluations = [option for option, value in given.items() if value is not None]
    if best_of == "rollout" and of_evaluations:
        expected = f'"evaluation", or no {" and no ".join(of_evaluations)}: rollouts need none'
        raise OptionError("best_of", best_of, expected)
    if given["eval_env"] is None and of_evaluations:
        raise OptionError("eval_env", None, "an environment, as callbacks or a log of evaluations were asked for")


def require_rollouts(model: BaseAlgorithm, above: BaseCallback | None) -> None:
    """Refuse to look at rollouts that are not of the policy, or from within an event.

    :param above: what calls at its events alone
    :raises OptionError: there is such a parent, or the algorithm (ARS) only rolls out policies near its own
    """
    if above is not None:
        expected = f'"evaluation", as a {type(above).__name__} calls it, which decides on what is written'
        raise OptionError("best_of", "rollout", expected)
    if hasattr(model, "evaluate_candidates"):
        expected = f'"evaluation", as no episode of {type(model).__name__} is of the policy itself'
        raise OptionError("best_of", "rollout", expected)


def require_names(folder: Path, name_prefix: str) -> None:
    """Refuse names that no file of a folder can have.

    :raises OptionError: a file of this prefix could not be written there
    """
    checkpoints = Checkpoint.numbered(name_prefix, _MANY_STEPS), BEST, FINAL
    for name in (name for each in checkpoints for name in each.files.values()):
        try:
            (folder / name).lstat()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise OptionError(
                "name_prefix", name_prefix, f"one with which files in {folder} can be named ({error})"
            ) from error


def require_alike(env: VecEnv, eval_env: VecEnv) -> None:
    """Refuse an environment for evaluations that is not normalized as the training is, or that has other spaces.

    :raises OptionError: it is none for this training
    """
    normalized = is_vecenv_wrapped(env, VecNormalize)
    if is_vecenv_wrapped(eval_env, VecNormalize) != normalized:
        wrapped = "in VecNormalize, as that" if normalized else "in no VecNormalize, as that"
        raise OptionError("eval_env", eval_env, f"an environment wrapped {wrapped} of the training is")
    if normalized:
        try:
            sync_envs_normalization(env, eval_env)  # as before each evaluation
        except (AssertionError, AttributeError) as error:
            raise OptionError("eval_env", eval_env, f"the wrappers of the training's environment ({error})") from error
    for kind in ("observation_space", "action_space"):
        expected, got = getattr(env, kind), getattr(eval_env, kind)
        if _layout(got) != _layout(expected):
            raise OptionError("eval_env", eval_env, f"the {kind} of the training, {expected}, and not {got}")


def _layout(space: spaces.Space[Any]) -> object:
    """What two spaces must have in common, so that one policy serves both; where an image has its channels is not."""
    try:
        leaves = describe_space(space, "observation").leaves()
    except UnsupportedSpaceError:
        return None
    return {
        key: (leaf.type, leaf.choices, sorted(leaf.shape) if is_image(leaf) else list(leaf.shape))
        for key, leaf in leaves.items()
    }


def check_schedule(
    model: BaseAlgorithm, frequencies: Mapping[str, tuple[int, int]], *, save_final: bool, begins_anew: bool
) -> None:
    """Say what a training that just begins will not write; refuse what would never write anything.

    :param frequencies: how often something is written, in calls, and how many calls there have been, by option
    :param save_final: whether the end of training writes something
    :param begins_anew: whether this is not one of many short trainings, which together may come to write something
    :raises OptionError: nothing would ever be written
    """
    calls = _calls_left(model)
    never = {
        option: frequency
        for option, (frequency, n_calls) in frequencies.items()
        if (n_calls // frequency + 1) * frequency > n_calls + calls
    }
    if not save_final and not frequencies:
        raise OptionError(
            "save_final", False, "True, or an eval_env, or a save_freq: as it is, nothing would ever be written"
        )
    for option, frequency in never.items():
        if not save_final and len(never) == len(frequencies) and begins_anew:
            raise OptionError(
                option,
                frequency,
                f"at most {calls:.0f}, the calls that this training makes, or save_final=True: as it is, nothing would "
                "ever be written",
            )
        _logger.warning(
            "%s=%d is beyond this training, which makes %.0f calls (of %d steps each): no %s will be written.",
            option,
            frequency,
            calls,
            model.n_envs,
            "numbered checkpoint" if option == "save_freq" else "best policy",
        )


def _calls_left(model: BaseAlgorithm) -> float:
    """How often a training that just begins calls a callback, at most; infinite where that cannot be told.

    Who calls callbacks in a loop of their own has told the algorithm of no timesteps.
    """
    if isinstance(model, OnPolicyAlgorithm):
        per_round = model.n_steps
    elif isinstance(model, OffPolicyAlgorithm):
        frequency: Any = model.train_freq
        if frequency.unit != TrainFrequencyUnit.STEP:
            return math.inf
        per_round = frequency.frequency
    else:
        return math.inf
    rounds = math.ceil((model._total_timesteps - model.num_timesteps) / (per_round * model.n_envs))
    return rounds * per_round if rounds > 0 else math.inf
