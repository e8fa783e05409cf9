"""What a policy sees of an environment: images in its own layout, and frames stacked as in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.display import short
from sb3_clanker.errors import UnfitEnvironmentError, UnsupportedSpaceError
from sb3_clanker.play.environment import Env, name_of
from sb3_clanker.policy_file.record import FrameStackRecord, PolicyMetadata
from sb3_clanker.policy_file.spaces import LeafSpace, describe_space

Array: TypeAlias = NDArray[Any]
ByKey: TypeAlias = dict[str | None, Array]

_TRANSPOSES = "VecTransposeImage"
"""Where it is in the record, what VecNormalize made of an image may be transposed too."""
_REMEDY = "Play it in the environment that it was trained in."


class Frames:
    """The observations of an environment, as a policy takes them.

    Where the environment gives single frames, they are stacked as ``VecFrameStack`` does it,
    https://github.com/DLR-RM/stable-baselines3/blob/v2.9.2/stable_baselines3/common/vec_env/stacked_observations.py:
    the newest last, and the padding of the record in place of those before the first.

    :param metadata: the record of the policy
    :param env: the environment
    :raises UnfitEnvironmentError: its observations or actions are not those of the policy
    """

    def __init__(self, metadata: PolicyMetadata, env: Env) -> None:
        name = name_of(env)
        try:
            given = describe_space(env.observation_space, "observation").leaves()
            action = describe_space(env.action_space, "action")
        except UnsupportedSpaceError as error:
            problem = f"its {error.role} space {short(error.space)} is none that a policy can have"
            raise UnfitEnvironmentError(name, problem, _REMEDY) from error
        if problem := _difference(action, metadata.action_space):
            raise UnfitEnvironmentError(name, f"its action {problem}", _REMEDY)
        wanted = metadata.observation_space.leaves()
        if given.keys() != wanted.keys():
            keys, expected = (short(", ".join(map(str, leaves))) for leaves in (given, wanted))
            problem = f"its observations have the keys {keys}, and the policy's {expected}"
            raise UnfitEnvironmentError(name, problem, _REMEDY)
        stacks = {stack.key: stack for stack in metadata.frame_stacks}
        images = {
            spec.key for spec in metadata.inputs if spec.layout is not None or _TRANSPOSES in metadata.environment
        }
        self._views: dict[str | None, _View] = {}
        for key, leaf in wanted.items():
            normalized = metadata.normalization.status == "folded" and (
                key is None or key in metadata.normalization.keys
            )
            for view in _possible(key in images, stacks.get(key), given[key]):
                if view.shows(given[key], leaf, normalized=normalized):
                    self._views[key] = view
                    break
            else:
                what = "its observation" if key is None else f"its observation {short(key)}"
                raise UnfitEnvironmentError(name, f"{what} {_difference(given[key], leaf)}", _REMEDY)

    def observe(self, observation: Any, *, starts: bool) -> ByKey:
        """What the policy sees, by key of a Dict space or under None.

        :param observation: what the environment gave
        :param starts: whether it is the first of an episode
        """
        parts = observation if isinstance(observation, Mapping) else {None: observation}
        return {key: view.observe(np.asarray(parts[key]), starts=starts) for key, view in self._views.items()}


class _View:
    """How one part of an observation becomes what the policy sees.

    :param transposes: whether the channels of an image are put first
    :param stack: how frames are stacked, None where they are not
    """

    def __init__(self, *, transposes: bool, stack: FrameStackRecord | None) -> None:
        self._transposes, self._stack = transposes, stack
        self._seen: Array = np.zeros(())

    def shows(self, given: LeafSpace, wanted: LeafSpace, *, normalized: bool) -> bool:
        """Whether values of one space become values of another: in shape, type and bounds.

        :param normalized: whether VecNormalize is between the two
        """
        low, high = map(self._arrange, given.bounds())
        if self._stack is not None:
            n_stack, axis = self._stack.n_stack, self._stack.axis
            stacked = list(low.shape)
            stacked[axis] *= n_stack
            if tuple(stacked) != wanted.shape:  # before anything as large is made
                return False
            low, high = (np.repeat(bound, n_stack, axis) for bound in (low, high))
        if low.shape != wanted.shape:
            return False
        if normalized and (given.dtype, wanted.dtype) == ("uint8", "float32"):
            return True  # VecNormalize makes the space of an image one of floats, within what it clips to
        return (given.type, given.dtype) == (wanted.type, wanted.dtype) and _same_bounds((low, high), wanted)

    def observe(self, frame: Array, *, starts: bool) -> Array:
        """What the policy sees at a frame."""
        newest = self._arrange(frame)
        if (stack := self._stack) is None:
            return newest
        if starts:
            older = [self._arrange(_padding(stack, frame))] * (stack.n_stack - 1)
        else:
            older = np.split(self._seen, stack.n_stack, stack.axis)[1:]
        self._seen = np.concatenate([*older, newest], stack.axis)
        return self._seen

    def _arrange(self, frame: Array) -> Array:
        return np.moveaxis(frame, -1, -3) if self._transposes else frame


def _padding(stack: FrameStackRecord, frame: Array) -> Array:
    """What stands in place of a frame before the first; zeros keep the type of an image."""
    if stack.padding == 0:
        return np.zeros_like(frame)
    of_all = not isinstance(stack.padding, tuple)
    return np.full(frame.shape, stack.padding) if of_all else np.reshape(stack.padding, frame.shape)


def _possible(is_image: bool, stack: FrameStackRecord | None, frame: LeafSpace) -> list[_View]:
    """Every way in which a frame may become what the policy sees, the simplest first."""
    rank = len(frame.shape)
    layouts = (False, True) if is_image and rank == 3 else (False,)
    stacks: list[FrameStackRecord | None] = [None]
    if stack is not None and -rank <= stack.axis < 0 < stack.n_stack:
        n_padding = len(stack.padding) if isinstance(stack.padding, tuple) else frame.n_elements
        stacks += [stack] if n_padding == frame.n_elements else []
    return [_View(transposes=transposes, stack=stack) for stack in stacks for transposes in layouts]


def _difference(given: LeafSpace, wanted: LeafSpace) -> str:
    """What is different, empty where nothing is that ``check_for_correct_spaces`` of Stable-Baselines3 would refuse."""
    if (given.type, given.shape, given.dtype) != (wanted.type, wanted.shape, wanted.dtype):
        return f"is {given}, and the policy's {wanted}"
    return "" if _same_bounds(given.bounds(), wanted) else f"{given} has other bounds than the policy's"


def _same_bounds(bounds: tuple[Array, Array], wanted: LeafSpace) -> bool:
    return all(np.allclose(one, other) for one, other in zip(bounds, wanted.bounds(), strict=True))
