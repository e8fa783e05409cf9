"""A policy at its control period, without ROS: what to do when an observation is missing, late or not finite.

The clock is the caller's, so that everything here can be tested without waiting. One thread only.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_clanker import OnnxPolicy
from sb3_clanker.errors import InferenceError, ObservationError, OptionError
from sb3_clanker.policy_file.tensors import TensorSpec

Array = NDArray[Any]

_LOGGER = logging.getLogger("sb3_clanker")

FROM_SI = {
    **dict.fromkeys(("", "1", "s", "m", "m/s", "m/s^2", "rad", "rad/s", "rad/s^2", "N", "Nm", "N m"), 1.0),
    **dict.fromkeys(("deg", "deg/s", "deg/s^2"), 180.0 / math.pi),
    **dict.fromkeys(("mm", "mm/s", "mm/s^2", "ms"), 1000.0),
    **dict.fromkeys(("cm", "cm/s", "cm/s^2"), 100.0),
}
"""By what a number in SI units, as ROS has them, is multiplied for a unit of the record."""


class Problem(enum.Enum):
    """Why an action is the safe one."""

    UNSEEN = "not everything has been observed yet"
    LATE = "an observation is too old, or from the future"
    NOT_FINITE = "an observation is not finite"
    FAILED = "the policy failed"
    STOPPED = "the controller was stopped"


@dataclass(frozen=True)
class Command:
    """What to send to the robot.

    :ivar action: float32 of shape (action_dim,), in the units of the record
    :ivar problem: why it is the safe action; None where it is the policy's
    :ivar detail: the inputs, or their components, that are the cause
    """

    action: Array
    problem: Problem | None = None
    detail: str = ""


class PolicyController:
    """Runs a policy on the newest observations, and gives the safe action where they are no ground for one of its own.

    Call :meth:`observe` when a sensor says something, and :meth:`step` once in each period.

    A recurrent policy begins an episode after each safe action: what it remembers does not fit what the robot did.

    :param policy: the policy
    :param safe_action: what to send where there is no action of the policy: action_dim finite numbers
    :param period: seconds from one action to the next; None takes the record's
    :param max_age: how many periods an observation may be old, or ahead of the clock
    :param clock: seconds; observations are dated by it
    :param log: takes a line of text; of each kind at most one in ``log_period`` seconds
    :raises OptionError: the safe action or the period is none, or the file is for another program, such as Godot
    :ivar overruns: steps that took longer than a period, or began more than half a period late
    """

    def __init__(
        self,
        policy: OnnxPolicy,
        safe_action: Sequence[float],
        *,
        period: float | None = None,
        max_age: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
        log: Callable[[str], None] = _LOGGER.warning,
        log_period: float = 5.0,
    ) -> None:
        metadata = policy.metadata
        period = metadata.control_period if period is None else period
        if period is None or not 0.0 < period < math.inf:
            raise OptionError("period", period, "seconds; None is for a policy whose record has a control_period")
        if not 0.0 < max_age < math.inf:
            raise OptionError("max_age", max_age, "a positive number of periods")
        outputs = {spec.role: spec for spec in metadata.outputs}
        if outputs["action"].name != "action":  # in the dialect of another program, choices are no indices
            raise OptionError("policy", outputs["action"].name, "a file whose output is called action")
        action_dim = int(outputs["action"].shape[1])
        try:
            safe = np.array(safe_action, np.float32)
        except (TypeError, ValueError):
            safe = np.array(math.nan)
        if safe.shape != (action_dim,) or not np.isfinite(safe).all():
            raise OptionError("safe_action", safe_action, f"{action_dim} finite numbers")
        self.period = period
        self.overruns = 0
        self._policy, self._safe, self._max_age = policy, safe, max_age * period
        self._clock, self._log, self._log_period = clock, log, log_period

        choices = getattr(metadata.action_space, "nvec", None)  # of a MultiDiscrete space; others have equally many
        observed = [spec for spec in metadata.inputs if spec.role in ("observation", "action_masks")]
        self._inputs = {spec.name: _Input(spec, choices or action_dim) for spec in observed}
        self._names = {spec.key: spec.name for spec in observed if spec.key is not None}
        self._components: dict[str, list[tuple[_Input, int]]] = {}
        for given in self._inputs.values():
            for index, name in enumerate(given.spec.names or ()):
                self._components.setdefault(name, []).append((given, index))
        self._rest = [spec for spec in metadata.inputs if spec.name not in self._inputs]
        self._outputs = outputs

        self._stopped = False
        self._started, self._due = -math.inf, math.inf
        self._problem: Problem | None = None
        self._logged: dict[object, float] = {}
        self.reset()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What has to be observed: inputs of the graph, with names and units where the record has them."""
        return tuple(given.spec for given in self._inputs.values())

    def observe(self, name: str, values: Any, at: float | None = None) -> None:
        """Take what a sensor says for one whole input.

        :param name: the input's name in the graph, or its key in the Dict space
        :param values: numbers in the units of the record, flat or of the input's shape; an image as bytes, in either
            layout; masks as bools or 0 and 1. They are copied. Floats may be infinite or NaN: :meth:`step` looks.
        :param at: when that was so, by the clock; None is now
        :raises ObservationError: unknown name, wrong size, or not what the input takes; what was known before stands
        """
        given = self._inputs.get(self._names.get(name, name))
        if given is None:
            raise ObservationError(f"There is no input {name!r}: expected one of {sorted(self._inputs)}.")
        given.set(values, self._clock() if at is None else at)

    def observe_components(self, values: Mapping[str, float], at: float | None = None, *, si: bool = False) -> None:
        """Take what a sensor says for some components of the observation, by their names in the record.

        :param values: a number for each name, in the units of the record
        :param at: as for :meth:`observe`
        :param si: whether they are in SI units instead, as in the messages of ROS: they are converted
        :raises ObservationError: a name that no component has, or several, or a unit that is not in ``FROM_SI``; then
            none of the values is taken
        """
        at = self._clock() if at is None else at
        taken = []
        for name, value in values.items():
            places = self._components.get(name, [])
            if len(places) != 1:
                raise ObservationError(
                    f"{len(places)} components are called {name!r}: expected one of {sorted(self._components)}."
                )
            given, index = places[0]
            unit = given.spec.units[index] if given.spec.units else ""
            if si and unit not in FROM_SI:
                raise ObservationError(
                    f"The unit {unit!r} of {name!r} is not known: expected one of {sorted(FROM_SI)}. "
                    "Convert the value, and pass it without si."
                )
            taken.append((given, index, value * FROM_SI[unit] if si else value))
        for given, index, value in taken:
            given.set_component(index, value, at)

    def reset(self) -> None:
        """Begin an episode: a recurrent policy forgets. Observations stay."""
        self._context = {
            spec.name: np.full(
                [1 if size == "batch" else int(size) for size in spec.shape], spec.role == "episode_start", np.float32
            )
            for spec in self._rest
        }

    def stop(self) -> Command:
        """End: the safe action, now and in every later step."""
        self._stopped = True
        return self.step()

    def step(self) -> Command:
        """The action for this period. What goes wrong makes it the safe action, and no error."""
        started = self._clock()
        if started < self._started:  # a simulated clock was set back: another episode
            self.reset()
        elif started > self._due + self.period / 2:
            self._overrun(f"began {started - self._due:.3g} s late")
        command = self._decide(started)
        ended = self._clock()
        if ended - started > self.period:
            self._overrun(f"took {ended - started:.3g} s")
        self._started, self._due = started, max(started + self.period, ended)
        if command.problem is not None:
            self.reset()
            self._say(command.problem, f"Safe action: {command.problem.value}: {command.detail}")
        elif self._problem is not None:
            self._say("acts", "The policy acts again.")
        self._problem = command.problem
        return command

    def _decide(self, now: float) -> Command:
        if self._stopped:
            return self._safely(Problem.STOPPED, "no further action of the policy")
        if (command := self._objection(now)) is not None:
            return command
        observed = {name: given.array for name, given in self._inputs.items()}
        try:
            outputs = self._policy.run(observed | self._context)
        except InferenceError as error:
            return self._safely(Problem.FAILED, str(error))
        action = outputs["action"].reshape(-1)
        if not np.isfinite(action).all():
            return self._safely(Problem.FAILED, "its action is not finite")
        for spec in self._rest:
            if spec.role in self._outputs:
                self._context[spec.name] = outputs[self._outputs[spec.role].name]
            elif spec.role == "episode_start":
                self._context[spec.name] = np.zeros(1, np.float32)
        return self._objection(self._clock()) or Command(action.copy())  # a step may take so long that all is past

    def _objection(self, now: float) -> Command | None:
        """The safe action, where the observations are no ground for one of the policy."""
        checks: tuple[tuple[Problem, Callable[[_Input], Array]], ...] = (
            (Problem.UNSEEN, lambda given: np.isneginf(given.times)),
            (Problem.LATE, lambda given: ~(np.abs(now - given.times) <= self._max_age)),
            (Problem.NOT_FINITE, lambda given: ~np.isfinite(given.array.reshape(-1))),
        )
        for problem, check in checks:
            names = [name for given in self._inputs.values() for name in given.names_where(check(given))]
            if names:
                return self._safely(problem, ", ".join(names))
        return None

    def _safely(self, problem: Problem, detail: str) -> Command:
        return Command(self._safe.copy(), problem, detail)

    def _overrun(self, how: str) -> None:
        self.overruns += 1
        self._say("overrun", f"A step {how}, with a period of {self.period:g} s: {self.overruns} such steps so far.")

    def _say(self, kind: object, text: str) -> None:
        now = self._clock()
        if not 0.0 <= now - self._logged.get(kind, -math.inf) < self._log_period:
            self._logged[kind] = now
            self._log(text)


class _Input:
    """One input of the graph, and what is known of it.

    :ivar array: what goes into the graph, for a batch of one
    :ivar times: when that was observed: one number for all, or one for each component that has a name
    :param choices: of masks, the choices in each dimension of the action, or how many dimensions with equally many
    """

    def __init__(self, spec: TensorSpec, choices: Sequence[int] | int) -> None:
        self.spec = spec
        shape = tuple(int(size) for size in spec.shape[1:])
        self._size = math.prod(shape)
        self._is_image = spec.dtype == "uint8" or spec.divisor is not None
        self._other_layout, self._move = None, (-1, 0)
        if spec.layout == "channels_first":
            self._other_layout = (*shape[1:], shape[0])
        elif spec.layout == "channels_last":
            self._other_layout, self._move = (shape[2], *shape[:2]), (0, -1)
        self._shapes = {shape, (1, *shape), (self._size,)} | ({()} if self._size == 1 else set())
        self._groups = choices if isinstance(choices, int) else np.cumsum(choices)[:-1].tolist()
        self.array: Array = np.zeros((1, *shape), spec.dtype)
        self.times = np.full(len(spec.names or "_"), -math.inf)

    def names_where(self, problem: Array) -> Iterator[str]:
        """What is concerned, where a check gave a bool for each value or for all."""
        if not problem.any():
            return
        if self.spec.names is None or len(problem) != len(self.spec.names):
            yield self.spec.name
        else:
            yield from (name for name, is_concerned in zip(self.spec.names, problem, strict=True) if is_concerned)

    def set(self, values: Any, at: float) -> None:
        """Take all values."""
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise ObservationError(f"The observation for input {self.spec.name!r} is no array: {error}.") from error
        if array.shape == self._other_layout:
            array = np.moveaxis(array, *self._move)
        if array.shape not in self._shapes:
            raise ObservationError(
                f"The observation for input {self.spec.name!r} must have {self._size} values, or the shape "
                f"{self.array.shape[1:]}, got the shape {array.shape}."
            )
        self._check_values(array)
        with np.errstate(over="ignore"):  # infinite in float32, which the next step finds
            array = array.astype(self.array.dtype).reshape(self.array.shape)
        if self.spec.divisor is not None:
            array /= np.float32(self.spec.divisor)
        if self.spec.role == "action_masks":
            self._check_masks(array)
        self.array = array
        self.times[:] = at

    def set_component(self, index: int, value: float, at: float) -> None:
        """Take one value of an input whose components have names."""
        with np.errstate(over="ignore"):
            self.array.reshape(-1)[index] = value
        self.times[index] = at

    def _check_values(self, array: Array) -> None:
        if self._is_image or self.array.dtype == np.bool_:
            largest = 255 if self._is_image else 1
            if array.dtype.kind not in "biu" or ((array < 0) | (array > largest)).any():
                raise ObservationError(
                    f"The observation for input {self.spec.name!r} must be whole numbers from 0 to {largest}, got "
                    f"{array.dtype} from {array.min()} to {array.max()}."
                )
        elif array.dtype.kind not in "biuf":
            raise ObservationError(f"The observation for input {self.spec.name!r} must be numbers, got {array.dtype}.")

    def _check_masks(self, masks: Array) -> None:
        for dimension, group in enumerate(np.split(masks[0], self._groups)):
            if not group.any():
                raise ObservationError(
                    f"The masks for input {self.spec.name!r} allow no choice in dimension {dimension} of the action."
                )
