"""The environment of a policy: made anew from what its record says of it, or the caller's own.

What cannot be made as it was in training is refused by its name. gymnasium is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sb3_clanker.dependencies import SPACES, required_for
from sb3_clanker.display import short
from sb3_clanker.errors import OptionError, UnfitEnvironmentError
from sb3_clanker.policy_file.record import EnvironmentRecord, PolicyMetadata

if TYPE_CHECKING:
    import gymnasium as gym

Env: TypeAlias = "gym.Env[Any, Any]"


class Playable(Protocol):
    """An environment, as a ``gymnasium.Env`` is one."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""

    def step(self, action: Any, /) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""


_IN_THIS_PROCESS = "DummyVecEnv"
"""Behind it, a record names the wrappers of the environment itself."""
_VECTORIZED = {
    *(_IN_THIS_PROCESS, "SubprocVecEnv", "VecMonitor", "VecCheckNan", "VecVideoRecorder"),
    *("VecNormalize", "VecFrameStack", "VecTransposeImage"),
}
"""What leaves an episode as it is, and what is in the file or in its record."""
_BYSTANDERS = {
    *("Monitor", "PassiveEnvChecker", "OrderEnforcing"),
    *("RecordEpisodeStatistics", "RecordVideo", "HumanRendering", "RenderCollection"),
}
"""Wrappers that check and take notes."""


@contextmanager
def open_environment(metadata: PolicyMetadata, env: str | Playable | None, *, renders: bool = False) -> Iterator[Env]:
    """The environment to play a policy in; closed afterwards, unless it is the caller's own.

    A record may come from a stranger: what it names is made only if it is registered already, or by a plugin of
    gymnasium, and no module is imported by its word.

    :param metadata: the record of the policy
    :param env: None makes the environment of the record, with its arguments. An id makes that one, with the arguments
        of the record if it is the id in the record; ``module:id`` imports the module first, as ``gymnasium.make`` does.
        An environment is taken as it is, with all its wrappers.
    :param renders: whether it is made to give pictures, with ``render_mode="rgb_array"``, if it can
    :raises UnfitEnvironmentError: it cannot be made, or not as the record says that it was in training
    :raises OptionError: ``env`` is none of these
    :raises MissingDependencyError: gymnasium is not installed
    """
    with required_for("Playing a policy", SPACES):
        import gymnasium as gym

    if isinstance(env, gym.Env):
        yield env
        return
    if not (env is None or isinstance(env, str)):
        raise OptionError("env", env, "the id of an environment, a gymnasium.Env, or None")
    spec = specification(metadata, env)
    _check_vectorized(metadata, spec.id)
    kwargs: dict[str, Any] = dict(spec.kwargs)
    try:
        if renders and _draws(spec.id):
            kwargs["render_mode"] = "rgb_array"
        made = gym.make(spec.id, **kwargs)
    except Exception as error:  # it is the environment's own code
        raise UnfitEnvironmentError(
            short(spec),
            f"gymnasium cannot make it ({short(describe(error))})",
            "Name the module that registers it too (module:id), or make it yourself, and pass it as env.",
        ) from error
    try:
        _check_wrappers(metadata, made, spec.id)
        yield made
    finally:
        made.close()


def describe(error: Exception) -> str:
    """An error of somebody else's code, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def name_of(env: Env) -> str:
    """What an environment is called."""
    spec = env.unwrapped.spec
    return short(type(env.unwrapped).__name__ if spec is None else spec.id)


def specification(metadata: PolicyMetadata, env_id: str | None) -> EnvironmentRecord:
    """What is made for a policy; how it renders is another question.

    :param env_id: as the caller gave it, None for what its record says
    :raises UnfitEnvironmentError: its record does not say enough
    """
    recorded = metadata.environment_spec
    if env_id is not None and not _is_recorded(metadata, env_id):
        return EnvironmentRecord(id=env_id, kwargs={})
    if recorded is None:
        raise UnfitEnvironmentError(
            short(" of ".join(metadata.environment)) or "its environment",
            "the record does not say how gymnasium makes it",
            "Name its id, or make it yourself, and pass either as env.",
        )
    if recorded.omitted:
        raise UnfitEnvironmentError(
            short(recorded), f"the record leaves out some of its arguments ({short(', '.join(recorded.omitted))})"
        )
    if env_id is None and ":" in recorded.id:
        raise UnfitEnvironmentError(short(recorded), "no module is imported because a record names it")
    kwargs = {name: value for name, value in recorded.kwargs.items() if name != "render_mode"}
    return EnvironmentRecord(id=env_id or recorded.id, kwargs=kwargs)


def _draws(env_id: str) -> bool:
    """Whether an environment says that it gives pictures; others may not even take a ``render_mode``."""
    from gymnasium.envs.registration import load_env_creator, spec

    module, _, name = env_id.rpartition(":")
    if module:  # the caller's word; a record that says so has been refused
        importlib.import_module(module)
    entry_point: Any = spec(name).entry_point
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    if (metadata := getattr(creator, "metadata", None)) is None:  # a function makes it
        return "render_mode" in inspect.signature(creator).parameters
    return "rgb_array" in metadata.get("render_modes", ())


def _is_recorded(metadata: PolicyMetadata, env_id: str) -> bool:
    """Whether an id is that of the record; gymnasium records it without the module that registers it."""
    spec = metadata.environment_spec
    return spec is not None and env_id in (spec.id, f"{env_id.partition(':')[0]}:{spec.id}")


def _check_vectorized(metadata: PolicyMetadata, env_id: str) -> None:
    """Refuse what stood between the environment and the policy, and is neither in the file nor in its record."""
    names = metadata.environment
    end = names.index(_IN_THIS_PROCESS) if _IN_THIS_PROCESS in names else len(names)
    for name in names[:end]:
        if name not in _VECTORIZED:
            raise UnfitEnvironmentError(
                short(env_id), f"the policy was trained through {short(name)}, which the file does not hold"
            )


def _check_wrappers(metadata: PolicyMetadata, env: Env, env_id: str) -> None:
    """Hold the wrappers of an environment that was made against those of the record, class name by class name."""
    names = metadata.environment
    if _IN_THIS_PROCESS not in names:
        return  # its own wrappers are not recorded
    is_recorded = _is_recorded(metadata, env_id)
    recorded, made = names[names.index(_IN_THIS_PROCESS) + 1 :], _names(env)
    if not is_recorded:
        recorded, made = recorded[:-1], made[:-1]  # the classes of the environments themselves
    expected, got = (Counter(name for name in chain if name not in _BYSTANDERS) for chain in (recorded, made))
    for name in expected - got:
        raise UnfitEnvironmentError(short(env_id), f"the policy was trained through {short(name)}, which it lacks")
    for name in got - expected if is_recorded else ():
        raise UnfitEnvironmentError(short(env_id), f"it has {short(name)}, without which the policy was trained")


def _names(env: Env) -> tuple[str, ...]:
    """Class names of an environment and its wrappers, outermost first."""
    names = [type(env).__name__]
    while env is not env.unwrapped:
        env = env.env  # type: ignore[attr-defined]  # a gymnasium.Wrapper
        names.append(type(env).__name__)
    return tuple(names)
