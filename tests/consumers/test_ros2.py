"""The controller of examples/ros2, with a clock that the tests set; the node around it needs ROS, and is not run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO

from examples.ros2.messages import image_pixels, joint_components, stamp
from examples.ros2.policy_controller import Command, PolicyController, Problem
from sb3_clanker import ExportOptions, OnnxPolicy, export_policy
from sb3_clanker.errors import InferenceError, ObservationError, OptionError
from tests.consumers.conftest import IMAGE
from tests.worlds import BOX_OBSERVATION, draw, make_model

PERIOD = 0.02
SAFE = (0.5, -0.25)
NAMES = ("hip.position", "hip.velocity", "height")
OBSERVATION = (0.1, -0.2, 0.3)
FOLDER = Path(__file__).parents[2] / "examples" / "ros2"


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Odd:
    """A policy that takes its time, fails, or answers what is no action."""

    def __init__(self, policy: OnnxPolicy, before: Callable[[], Any], action: float | None = None) -> None:
        self.metadata, self._policy, self._before, self._action = policy.metadata, policy, before, action

    def run(self, inputs: Any) -> Any:
        self._before()
        outputs = self._policy.run(inputs)
        return outputs if self._action is None else outputs | {"action": np.full((1, 2), self._action, np.float32)}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A policy whose observation has names and units, and its algorithm."""
    path = tmp_path_factory.mktemp("box") / "policy.onnx"
    options = ExportOptions(
        observation_names=NAMES, observation_units=("deg", "deg/s", "furlong"), control_period=PERIOD
    )
    model = make_model(PPO)
    export_policy(model, path, options=options)
    return model, path


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A recurrent policy whose record has no period, and its algorithm."""
    from sb3_contrib import RecurrentPPO

    path = tmp_path_factory.mktemp("recurrent") / "policy.onnx"
    model = make_model(RecurrentPPO, policy="MlpLstmPolicy")
    export_policy(model, path)
    return model, path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def controller(box: tuple[Any, Path], clock: Clock, said: list[str]) -> PolicyController:
    return PolicyController(OnnxPolicy(box[1]), SAFE, clock=clock, log=said.append)


def _controller(model: Any, folder: Path, clock: Clock, safe: tuple[float, ...]) -> PolicyController:
    export_policy(model, folder / "policy.onnx")
    return PolicyController(OnnxPolicy(folder / "policy.onnx"), safe, period=PERIOD, clock=clock)


def _assert_safe(command: Command, problem: Problem, detail: str) -> None:
    np.testing.assert_array_equal(command.action, np.array(SAFE, np.float32))
    assert (command.problem, command.detail) == (problem, detail)


def _assert_acts(command: Command, expected: NDArray[Any]) -> None:
    assert command.problem is None, command
    assert command.action.dtype == np.float32
    np.testing.assert_allclose(command.action, np.reshape(expected, -1), atol=1e-5)


# What the policy does -----------------------------------------------------------------------------------------------


def test_acts_as_stable_baselines3_does(box: tuple[Any, Path], controller: PolicyController, clock: Clock) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        observation = draw(BOX_OBSERVATION, rng)
        controller.observe("obs", observation)
        clock.now += PERIOD
        _assert_acts(controller.step(), box[0].predict(observation, deterministic=True)[0])
    assert controller.overruns == 0


def test_takes_a_camera_and_keys_of_a_dict(tmp_path: Path, clock: Clock) -> None:
    space = spaces.Dict({"front camera": IMAGE, "joints": BOX_OBSERVATION, "gear": spaces.Discrete(4)})
    model = make_model(PPO, space, policy="MultiInputPolicy")
    controller = _controller(model, tmp_path, clock, SAFE)
    missing = {"front camera": "obs_front_camera", "gear": "gear", "joints": "joints"}
    assert {spec.key: spec.name for spec in controller.inputs} == missing
    observation = draw(space, np.random.default_rng(1))
    expected, _ = model.predict(observation, deterministic=True)
    for key in space:
        _assert_safe(controller.step(), Problem.UNSEEN, ", ".join(missing.values()))
        del missing[key]
        controller.observe(key, observation[key])
    _assert_acts(controller.step(), expected)
    controller.observe("front camera", np.moveaxis(observation["front camera"], -1, 0))
    _assert_acts(controller.step(), expected)
    clock.now += 4 * PERIOD
    controller.observe("gear", [observation["gear"]])
    controller.observe("joints", observation["joints"][None])
    _assert_safe(controller.step(), Problem.LATE, "obs_front_camera")


def test_divides_the_bytes_of_a_camera_where_the_file_takes_floats(tmp_path: Path, clock: Clock) -> None:
    model = make_model(PPO, IMAGE, policy="CnnPolicy")
    export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(target="clankers"))
    controller = PolicyController(OnnxPolicy(tmp_path / "policy.onnx"), SAFE, period=PERIOD, clock=clock)
    pixels = draw(IMAGE, np.random.default_rng(2))
    controller.observe("image", pixels)
    _assert_acts(controller.step(), model.predict(pixels, deterministic=True)[0])


def test_a_recurrent_policy_remembers_until_something_is_wrong(recurrent: tuple[Any, Path], clock: Clock) -> None:
    model, path = recurrent
    controller = PolicyController(OnnxPolicy(path), SAFE, period=PERIOD, clock=clock)
    rng = np.random.default_rng(3)
    state, start, differ = None, True, 0
    for step in range(12):
        observation = draw(BOX_OBSERVATION, rng)
        if step in (4, 8):
            controller.observe("obs", [0.0, np.nan, 0.0])
            assert controller.step().problem is Problem.NOT_FINITE
        if step == 10:
            controller.reset()
        start = step in (0, 4, 8, 10)
        expected, next_state = model.predict(observation, state, np.array([start]), deterministic=True)
        forgetful, _ = model.predict(observation, state, np.array([not start]), deterministic=True)
        differ += not np.allclose(expected, forgetful, atol=1e-3)
        state = next_state
        controller.observe("obs", observation)
        clock.now += PERIOD
        _assert_acts(controller.step(), expected)
    assert differ > 3  # it matters whether an episode begins


def test_a_maskable_policy_needs_its_masks(tmp_path: Path, clock: Clock) -> None:
    from sb3_contrib import MaskablePPO

    model = make_model(MaskablePPO, action_space=spaces.MultiDiscrete([3, 4]))
    controller = _controller(model, tmp_path, clock, (0.0, 0.0))
    rng = np.random.default_rng(4)
    controller.observe("obs", OBSERVATION)
    command = controller.step()
    assert (command.problem, command.detail) == (Problem.UNSEEN, "action_masks")
    for _ in range(10):
        masks = np.concatenate([[True, *(rng.random(2) < 0.5)], [*(rng.random(3) < 0.5), True]])
        observation = draw(BOX_OBSERVATION, rng)
        controller.observe("obs", observation)
        controller.observe("action_masks", masks.astype(np.uint8))
        expected, _ = model.predict(observation, action_masks=masks, deterministic=True)  # type: ignore[call-arg]
        _assert_acts(controller.step(), expected)
    with pytest.raises(ObservationError, match=r"'action_masks' allow no choice in dimension 1"):
        controller.observe("action_masks", [True, True, True, False, False, False, False])
    with pytest.raises(
        ObservationError, match=r"'action_masks' must be whole numbers from 0 to 1, got int64 from 0 to 2"
    ):
        controller.observe("action_masks", [1, 0, 0, 0, 2, 0, 0])
    with pytest.raises(ObservationError, match="'action_masks' must be whole numbers from 0 to 1, got float64"):
        controller.observe("action_masks", np.ones(7))


def test_masks_of_equally_many_choices(tmp_path: Path, clock: Clock) -> None:
    from sb3_contrib import MaskablePPO

    model = make_model(MaskablePPO, action_space=spaces.MultiBinary(2))
    controller = _controller(model, tmp_path, clock, (0.0, 0.0))
    with pytest.raises(ObservationError, match="allow no choice in dimension 1"):
        controller.observe("action_masks", [0, 1, 0, 0])
    controller.observe("action_masks", [0, 1, 1, 0])


# When it does not act -----------------------------------------------------------------------------------------------


def test_is_safe_until_everything_is_seen(controller: PolicyController, said: list[str]) -> None:
    _assert_safe(controller.step(), Problem.UNSEEN, "hip.position, hip.velocity, height")
    controller.observe_components({"hip.velocity": 1.0})
    _assert_safe(controller.step(), Problem.UNSEEN, "hip.position, height")
    assert said == ["Safe action: not everything has been observed yet: hip.position, hip.velocity, height"]


def test_an_observation_grows_old(controller: PolicyController, clock: Clock) -> None:
    controller.observe("obs", OBSERVATION)
    clock.now += 2.9 * PERIOD
    assert controller.step().problem is None
    clock.now += 0.2 * PERIOD
    _assert_safe(controller.step(), Problem.LATE, "hip.position, hip.velocity, height")
    controller.observe_components({"hip.position": 0.1, "height": 0.3})
    _assert_safe(controller.step(), Problem.LATE, "hip.velocity")
    controller.observe("obs", OBSERVATION)
    assert controller.step().problem is None


@pytest.mark.parametrize("at", [100.0 + 3.1 * PERIOD, 100.0 - 3.1 * PERIOD, float("nan"), float("inf")])
def test_an_observation_of_another_time_is_none(controller: PolicyController, at: float) -> None:
    controller.observe("obs", OBSERVATION, at)
    _assert_safe(controller.step(), Problem.LATE, "hip.position, hip.velocity, height")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e39])
def test_what_is_not_finite_is_not_shown_to_the_policy(controller: PolicyController, value: float) -> None:
    controller.observe("obs", [0.0, value, 0.0])
    _assert_safe(controller.step(), Problem.NOT_FINITE, "hip.velocity")
    controller.observe_components({"hip.velocity": 0.5})
    assert controller.step().problem is None
    controller.observe_components({"height": value})
    _assert_safe(controller.step(), Problem.NOT_FINITE, "height")


def test_a_policy_that_fails(box: tuple[Any, Path], clock: Clock) -> None:
    def fail() -> None:
        raise InferenceError("out of memory")

    policy = OnnxPolicy(box[1])
    for odd, detail in (
        (Odd(policy, fail), str(InferenceError("out of memory"))),
        (Odd(policy, lambda: None, np.nan), "its action is not finite"),
    ):
        controller = PolicyController(odd, SAFE, clock=clock)  # type: ignore[arg-type]
        controller.observe("obs", OBSERVATION)
        _assert_safe(controller.step(), Problem.FAILED, detail)


def test_ends_with_the_safe_action(controller: PolicyController) -> None:
    controller.observe("obs", OBSERVATION)
    assert controller.step().problem is None
    for command in (controller.stop(), controller.step(), controller.stop()):
        _assert_safe(command, Problem.STOPPED, "no further action of the policy")


# Time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("periods", "problem"), [(0.9, None), (1.1, None), (3.5, Problem.LATE)])
def test_counts_a_step_that_takes_too_long(
    box: tuple[Any, Path], clock: Clock, said: list[str], periods: float, problem: Problem | None
) -> None:
    def wait() -> None:
        clock.now += periods * PERIOD

    odd: Any = Odd(OnnxPolicy(box[1]), wait)
    controller = PolicyController(odd, SAFE, clock=clock, log=said.append)
    for _ in range(2):  # the second begins as soon as the first one ends
        controller.observe("obs", OBSERVATION)
        assert controller.step().problem is problem
    assert controller.overruns == (0 if periods < 1 else 2)
    if problem is None and periods > 1:
        assert said == ["A step took 0.022 s, with a period of 0.02 s: 1 such steps so far."]


def test_counts_a_step_that_begins_late(controller: PolicyController, clock: Clock, said: list[str]) -> None:
    overruns = []
    for gap in (0.0, 1.0, 1.4, 1.6, 1.0, 5.0, 1.0):
        clock.now += gap * PERIOD
        controller.observe("obs", OBSERVATION)
        controller.step()
        overruns.append(controller.overruns)
    assert overruns == [0, 0, 0, 1, 1, 2, 2]
    assert said == ["A step began 0.012 s late, with a period of 0.02 s: 1 such steps so far."]


def test_says_the_same_only_once_in_a_while(controller: PolicyController, clock: Clock, said: list[str]) -> None:
    for _ in range(600):  # 12 s
        controller.step()
        clock.now += PERIOD
    assert said == ["Safe action: not everything has been observed yet: hip.position, hip.velocity, height"] * 3
    controller.observe("obs", OBSERVATION)
    controller.step()
    assert said[3:] == ["The policy acts again."]
    clock.now -= 60.0
    controller.step()
    assert said[4:] == [
        "Safe action: an observation is too old, or from the future: hip.position, hip.velocity, height"
    ]
    assert controller.overruns == 0


def test_a_clock_that_is_set_back_begins_an_episode(recurrent: tuple[Any, Path], clock: Clock) -> None:
    model, path = recurrent
    controller = PolicyController(OnnxPolicy(path), SAFE, period=PERIOD, clock=clock)
    for observation in ([2.0, -1.0, 0.5], OBSERVATION):
        controller.observe("obs", observation)
        clock.now -= 10.0
        controller.observe("obs", observation)
        expected, _ = model.predict(np.array(observation, np.float32), deterministic=True)
        _assert_acts(controller.step(), expected)


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("camera", [0.0], r"There is no input 'camera': expected one of \['obs'\]"),
        ("h_in", [0.0], "There is no input 'h_in'"),
        ("obs", [0.0, 0.0], r"'obs' must have 3 values, or the shape \(3,\), got the shape \(2,\)"),
        ("obs", np.zeros((3, 1)), r"got the shape \(3, 1\)"),
        ("obs", 0.0, r"got the shape \(\)"),
        ("obs", [[0.0], [0.0, 0.0]], "'obs' is no array: "),
        ("obs", ["a", "b", "c"], "'obs' must be numbers, got <U1"),
        ("obs", [None, 0.0, 0.0], "'obs' must be numbers, got object"),
    ],
)
def test_refuses_what_is_no_observation(controller: PolicyController, name: str, values: Any, message: str) -> None:
    controller.observe("obs", OBSERVATION)
    before = controller.step()
    with pytest.raises(ObservationError, match=message):
        controller.observe(name, values)
    np.testing.assert_array_equal(controller.step().action, before.action)


def test_refuses_what_is_no_image(tmp_path: Path, clock: Clock) -> None:
    controller = _controller(make_model(PPO, IMAGE, policy="CnnPolicy"), tmp_path, clock, SAFE)
    for values, message in (
        (np.zeros((36, 36, 3)), "whole numbers from 0 to 255, got float64"),
        (np.full((36, 36, 3), 256), "got int64 from 256 to 256"),
        (np.zeros((36, 36), np.uint8), r"or the shape \(3, 36, 36\), got the shape \(36, 36\)"),
    ):
        with pytest.raises(ObservationError, match=message):
            controller.observe("obs", values)


def test_takes_a_copy(controller: PolicyController) -> None:
    values = np.array(OBSERVATION, np.float32)
    controller.observe("obs", values)
    before = controller.step()
    values[:] = np.nan
    command = controller.step()
    np.testing.assert_array_equal(command.action, before.action)
    command.action[:] = np.nan
    assert np.isfinite(controller.step().action).all()
    safe = controller.stop()
    safe.action[:] = np.nan
    _assert_safe(controller.step(), Problem.STOPPED, "no further action of the policy")


@pytest.mark.parametrize(
    ("safe", "options", "message"),
    [
        ((0.5,), {}, r"safe_action=\(0.5,\) cannot be used: expected 2 finite numbers"),
        ((0.5, float("nan")), {}, "expected 2 finite numbers"),
        (("left", "right"), {}, "expected 2 finite numbers"),
        (SAFE, {"period": 0.0}, r"period=0.0 cannot be used: expected seconds"),
        (SAFE, {"period": float("nan")}, "period=nan"),
        (SAFE, {"max_age": 0.0}, "max_age=0.0 cannot be used: expected a positive number of periods"),
    ],
)
def test_refuses_what_cannot_control(box: tuple[Any, Path], safe: Any, options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PolicyController(OnnxPolicy(box[1]), safe, **options)


def test_refuses_a_file_in_the_dialect_of_another_program(tmp_path: Path) -> None:
    options = ExportOptions(target="godot", control_period=PERIOD)
    export_policy(make_model(PPO, BOX_OBSERVATION, spaces.Discrete(2)), tmp_path / "godot.onnx", options=options)
    with pytest.raises(OptionError, match="policy='output' cannot be used: expected a file whose output is called act"):
        PolicyController(OnnxPolicy(tmp_path / "godot.onnx"), SAFE)


def test_needs_a_period(recurrent: tuple[Any, Path]) -> None:
    with pytest.raises(OptionError, match="period=None cannot be used: expected seconds; None is for a policy whose"):
        PolicyController(OnnxPolicy(recurrent[1]), SAFE)


# Names and units ----------------------------------------------------------------------------------------------------


def test_takes_components_by_name(box: tuple[Any, Path], controller: PolicyController) -> None:
    controller.observe_components({"height": 0.3})
    controller.observe_components({"hip.velocity": -0.2, "hip.position": 0.1})
    _assert_acts(controller.step(), box[0].predict(np.array(OBSERVATION, np.float32), deterministic=True)[0])


def test_converts_what_ros_sends_into_the_units_of_the_record(
    box: tuple[Any, Path], controller: PolicyController
) -> None:
    controller.observe_components({"height": 0.3})
    controller.observe_components({"hip.position": np.pi / 180, "hip.velocity": -np.pi / 90}, si=True)
    _assert_acts(controller.step(), box[0].predict(np.array([1.0, -2.0, 0.3], np.float32), deterministic=True)[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hip.position": 9.0, "knee.position": 0.0}, "0 components are called 'knee.position': expected one of"),
        ({"hip.position": 9.0, "height": 0.0}, "The unit 'furlong' of 'height' is not known: expected one of"),
    ],
)
def test_takes_all_components_or_none(
    box: tuple[Any, Path], controller: PolicyController, values: Any, message: str
) -> None:
    controller.observe("obs", OBSERVATION)
    with pytest.raises(ObservationError, match=message):
        controller.observe_components(values, si=True)
    _assert_acts(controller.step(), box[0].predict(np.array(OBSERVATION, np.float32), deterministic=True)[0])


# Messages and the node ----------------------------------------------------------------------------------------------


def test_reads_joint_states() -> None:
    message = SimpleNamespace(name=["hip", "knee"], position=[0.1, 0.2], velocity=[], effort=[3.0, 4.0])
    assert joint_components(message) == {
        "hip.position": 0.1,
        "knee.position": 0.2,
        "hip.effort": 3.0,
        "knee.effort": 4.0,
    }
    message.velocity = [1.0]
    with pytest.raises(ObservationError, match="names 2 joints, and has a velocity for 1"):
        joint_components(message)


def test_reads_images_whose_rows_are_padded() -> None:
    rows = np.arange(2 * 8, dtype=np.uint8).reshape(2, 8)
    message = SimpleNamespace(height=2, width=2, step=8, encoding="bgr8", data=rows.tobytes())
    np.testing.assert_array_equal(image_pixels(message, "bgr8"), rows[:, :6].reshape(2, 2, 3))
    for change, message_text in (
        ({"encoding": "rgb8"}, "An image is 'rgb8': expected 'bgr8'"),
        ({"data": b"short"}, "2 rows of 8 bytes, 6 of them pixels, has 5"),
        ({"step": 5, "data": bytes(10)}, "2 rows of 5 bytes, 6 of them pixels, has 10"),
    ):
        wrong = SimpleNamespace(**{**vars(message), **change})
        with pytest.raises(ObservationError, match=message_text):
            image_pixels(wrong, "bgr8")
    message.encoding = "32FC1"
    with pytest.raises(ObservationError, match="expected '32FC1', one of"):
        image_pixels(message, "32FC1")


def test_reads_stamps() -> None:
    assert stamp(SimpleNamespace(stamp=SimpleNamespace(sec=12, nanosec=500_000_000))) == 12.5
    assert stamp(SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))) is None


def test_needs_no_torch(box: tuple[Any, Path]) -> None:
    program = f"""
import sys
for name in ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "onnx"):
    sys.modules[name] = None  # an import of it fails
sys.path.insert(0, {str(FOLDER)!r})
import messages
from policy_controller import OnnxPolicy, PolicyController
controller = PolicyController(OnnxPolicy({str(box[1])!r}), (0.5, -0.25))
controller.observe("obs", (0.1, -0.2, 0.3))
print(controller.step().problem)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


def test_the_node_says_that_it_was_not_run() -> None:
    source = (FOLDER / "policy_node.py").read_text()
    assert source.startswith("# This node itself was not run: ")
    compile(source, "policy_node.py", "exec")
