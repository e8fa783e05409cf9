"""A folder for each run, from one path with placeholders in it."""

from __future__ import annotations

import re
import string
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from stable_baselines3.common.vec_env import VecEnv

from sb3_clanker.errors import OptionError, PublicationError
from sb3_clanker.paths import local_path
from sb3_clanker.sb3.wrappers import environment_spec, wrapper_names
from sb3_clanker.training.run import Training

PLACEHOLDERS = ("env", "run")


class RunPath:
    """A path that may hold ``{env}``, the id of the environment, and ``{run}``, a number that no other run has.

    A relative path belongs to the working directory of this moment.

    :param option: name of the option that gives it
    :param path: the path; ``{{`` and ``}}`` stand for braces
    :param known: the placeholders that it may hold
    :raises OptionError: it holds others, or is no path
    :raises RemotePathError: it is a URL
    :ivar placeholders: those that it holds
    """

    def __init__(self, option: str, path: str | Path, known: Collection[str] = PLACEHOLDERS) -> None:
        path = local_path(path, option)
        names = " and ".join(f"{{{name}}}" for name in PLACEHOLDERS if name in known)
        expected = f"a path with no placeholders but {names}" if names else "a path without placeholders"
        try:
            fields = [field[1:] for field in string.Formatter().parse(str(path)) if field[1] is not None]
        except ValueError as error:
            raise OptionError(option, str(path), f"{expected} ({{{{ and }}}} stand for braces)") from error
        if any(name not in known or specification or conversion for name, specification, conversion in fields):
            raise OptionError(option, str(path), f"{expected} ({{{{ and }}}} stand for braces)")
        if "\0" in str(path):
            raise OptionError(option, str(path), "a path that a folder can have")
        self.placeholders = frozenset(str(name) for name, *_ in fields)
        self._pattern = str(path if path.is_absolute() else _here(option, path) / path)

    def fill_in(self, env: str = "{env}", run: str = "{run}") -> Path:
        """The path, with these in the place of its placeholders."""
        return Path(self._pattern.format(env=env, run=run))


def _here(option: str, path: Path) -> Path:
    """The working directory, its braces doubled."""
    try:
        return Path(re.sub(r"[{}]", r"\g<0>\g<0>", str(Path.cwd())))
    except OSError as error:  # it may have been deleted
        raise OptionError(option, str(path), f"an absolute path: there is no working directory ({error})") from error


def fill_in(path: RunPath, env: VecEnv, training: Training) -> tuple[str, str]:
    """What stands for ``{env}`` and ``{run}`` in the path of a training; errors as in :func:`run_of`."""
    name = environment_id(env) if "env" in path.placeholders else ""
    return name, run_of(path, name, training) if "run" in path.placeholders else ""


def run_of(path: RunPath, env: str, training: Training) -> str:
    """The number of a run: one more than the highest that is there, and its own from now on, in all processes.

    What has the number in its name is made at once, in one step, and deleted at the end if nothing came to lie there.

    :param path: a path with ``{run}`` in it
    :param env: what stands for ``{env}``
    :param training: the run; its callbacks share the number
    :raises PublicationError: the folder cannot be made
    """
    parts = path.fill_in(env, "\0").parts
    depth = next(index for index, part in enumerate(parts) if "\0" in part)
    folder, named = Path(*parts[:depth]), parts[depth]
    if (key := str(folder / named)) in training.runs:
        return training.runs[key]
    before, *after = map(re.escape, named.split("\0"))
    pattern = re.compile(before + r"(\d+)" + r"\1".join(after))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [int(match[1]) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
        number, claimed = _claim(folder, named, max(taken, default=0) + 1)
    except (OSError, ValueError) as error:
        raise PublicationError(folder, str(error)) from error
    training.at_end(lambda: _delete_if_empty(claimed))
    return training.runs.setdefault(key, str(number))


def _claim(folder: Path, named: str, number: int) -> tuple[int, Path]:
    """Make the first folder from a number on that is not there yet."""
    while True:
        claimed = folder / named.replace("\0", str(number))
        try:
            claimed.mkdir()
        except FileExistsError:  # another run was quicker
            number += 1
        else:
            return number, claimed


def _delete_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def environment_id(env: VecEnv) -> str:
    """The id of an environment, as text that a file name can have; its class, where it has none."""
    described = spec.id if (spec := environment_spec(env)) else wrapper_names(env)[-1]
    if spec is None:
        with suppress(Exception):  # an environment may be anything, in another process; text is what all can send
            described = str(env.env_method("__str__", indices=0)[0])  # <TimeLimit<CartPoleEnv<CartPole-v1>>>
    innermost = re.sub(r"( instance)?>*$", "", described).rpartition("<")[2]
    return re.sub(r"[^\w.-]+", "-", innermost).strip(".-") or "env"
