"""The node of examples/ros2 against a stand-in for rclpy: its wiring, and no more. It was not run in ROS."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_clanker import ExportOptions, export_policy
from tests.consumers.conftest import IMAGE
from tests.worlds import BOX_OBSERVATION, make_model

FOLDER = Path(__file__).parents[2] / "examples" / "ros2"
NAMES = ("hip.position", "hip.velocity", "height")
SAFE = [0.5, -0.25]


class Message(SimpleNamespace):
    """Any message."""


class Float32MultiArray(Message):
    def __init__(self, data: list[float]) -> None:
        super().__init__(data=data, layout=SimpleNamespace(dim=[]))


class Node:
    """What of ``rclpy.node.Node`` the example uses; it keeps what it is told."""

    parameters: dict[str, Any]
    last: Any = None

    def __init__(self, name: str) -> None:
        Node.last = self
        self.topics: dict[str, tuple[type, Callable[[Any], None]]] = {}
        self.services: dict[str, Callable[[Any, Any], Any]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.sent: list[Any] = []
        self.acked = self.destroyed = False
        self.said: list[str] = []
        self.now = 10_000_000_000

    def declare_parameter(self, name: str, value: Any) -> Any:
        return SimpleNamespace(value=self.parameters.get(name, value))

    def get_parameter(self, name: str) -> Any:
        return SimpleNamespace(value=self.parameters[name])

    def create_subscription(self, kind: type, topic: str, take: Callable[[Any], None], qos: Any) -> None:
        self.topics[topic] = (kind, take)

    def create_publisher(self, kind: type, topic: str, qos: Any) -> Any:
        assert (kind, topic) == (Float32MultiArray, "~/action")

        def wait(timeout: Any) -> None:
            assert not self.destroyed
            self.acked = True

        return SimpleNamespace(publish=self.sent.append, wait_for_all_acked=wait)

    def create_service(self, kind: type, name: str, answer: Callable[[Any, Any], Any]) -> None:
        self.services[name] = answer

    def create_timer(self, period: float, act: Callable[[], None]) -> None:
        self.timers.append((period, act))

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now))

    def get_logger(self) -> Any:
        def say(text: str, **_: Any) -> None:
            self.said.append(text)

        return SimpleNamespace(info=say, warning=say, error=say)

    def destroy_node(self) -> None:
        self.destroyed = True


class Executor:
    """Sends SIGTERM at the third turn."""

    def __init__(self) -> None:
        self._turns = 0

    def add_node(self, node: Any) -> None:
        self._node = node

    def spin_once(self, timeout_sec: float) -> None:
        self._turns += 1
        if self._turns == 3:
            signal.raise_signal(signal.SIGTERM)
        for _, act in self._node.timers:
            act()

    def shutdown(self) -> None:
        assert self._node.acked


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the node."""
    stand_ins: dict[str, dict[str, Any]] = {
        "rclpy": {"init": lambda **_: None, "shutdown": lambda: None},
        "rclpy.duration": {"Duration": Message},
        "rclpy.executors": {"SingleThreadedExecutor": Executor},
        "rclpy.node": {"Node": Node},
        "rclpy.parameter": {"Parameter": SimpleNamespace(Type=SimpleNamespace(DOUBLE_ARRAY=8))},
        "rclpy.qos": {"QoSProfile": Message, "ReliabilityPolicy": SimpleNamespace(BEST_EFFORT=2)},
        "rclpy.signals": {"SignalHandlerOptions": SimpleNamespace(NO=0)},
        "sensor_msgs.msg": {name: type(name, (Message,), {}) for name in ("Image", "JointState")},
        "std_msgs.msg": {
            "Float32MultiArray": Float32MultiArray,
            "MultiArrayDimension": Message,
            "UInt8MultiArray": type("UInt8MultiArray", (Message,), {}),
        },
        "std_srvs.srv": {"Trigger": Message},
    }
    for name, contents in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("messages", "policy_controller"):
        monkeypatch.setitem(sys.modules, name, importlib.import_module(f"examples.ros2.{name}"))
    monkeypatch.delitem(sys.modules, "examples.ros2.policy_node", raising=False)
    module = importlib.import_module("examples.ros2.policy_node")
    monkeypatch.delitem(sys.modules, "examples.ros2.policy_node")
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    path = tmp_path_factory.mktemp("node") / "policy.onnx"
    model = make_model(PPO, spaces.Dict({"camera": IMAGE, "joints": BOX_OBSERVATION}), policy="MultiInputPolicy")
    options = ExportOptions(
        observation_names={"joints": NAMES},
        observation_units={"joints": ("deg", "rad/s", "m")},
        action_names=("left", "right"),
        action_units=("N", "N"),
        control_period=0.02,
    )
    export_policy(model, path, options=options)
    return model, path


@pytest.fixture
def node(example: Any, trained: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    parameters = {"policy": str(trained[1]), "safe_action": SAFE, "joint_states": "/joint_states"}
    monkeypatch.setattr(Node, "parameters", parameters, raising=False)
    return example.PolicyNode()


def _header(seconds: int) -> Any:
    return SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=0))


def test_wires_topics_to_inputs(node: Any, trained: tuple[Any, Path]) -> None:
    kinds = {topic: kind.__name__ for topic, (kind, _) in node.topics.items()}
    assert kinds == {"~/camera": "Image", "~/joints": "Float32MultiArray", "/joint_states": "JointState"}
    assert any("hip.position [deg], hip.velocity [rad/s], height [m]" in text for text in node.said)
    ((period, act),) = node.timers
    assert period == 0.02
    act()
    assert node.sent[-1].data == SAFE
    assert node.sent[-1].layout.dim[0].label == "left [N], right [N]"

    pixels = np.arange(36 * 36 * 3, dtype=np.uint8).reshape(36, 36, 3)
    image = Message(height=36, width=36, step=108, encoding="rgb8", data=pixels.tobytes(), header=_header(10))
    node.topics["~/camera"][1](image)
    joints = Message(
        name=["knee", "hip"], position=[9.0, np.pi / 180], velocity=[9.0, 0.5], effort=[], header=_header(10)
    )
    node.topics["/joint_states"][1](joints)
    act()
    assert node.sent[-1].data == SAFE  # the height is missing
    node.topics["~/joints"][1](Message(data=[1.0, 0.5, 2.0]))
    expected, _ = trained[0].predict({"camera": pixels, "joints": np.array([1.0, 0.5, 2.0])}, deterministic=True)
    for _ in range(2):
        act()
        np.testing.assert_allclose(node.sent[-1].data, expected, atol=1e-5)
        node.topics["/joint_states"][1](joints)  # says the same in radians

    image.header = _header(9)
    node.topics["~/camera"][1](image)
    act()
    assert node.sent[-1].data == SAFE  # a picture of a second ago


def test_a_wrong_message_ends_nothing(node: Any) -> None:
    node.topics["~/joints"][1](Message(data=[1.0, 0.5]))
    assert node.said[-1].startswith("~/joints: The observation for input 'joints' must have 3 values")
    answer = node.services["~/reset"](None, Message(success=False))
    assert answer.success


@pytest.fixture
def _handlers() -> Any:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers", "node")
def test_a_signal_leaves_the_robot_safe(example: Any) -> None:
    example.main()
    assert [message.data for message in Node.last.sent] == [SAFE] * 4
    assert Node.last.acked
    assert Node.last.destroyed


@pytest.mark.usefixtures("_handlers", "node")
def test_says_what_is_wrong_in_one_line(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Node.parameters, "policy", "missing.onnx")
    with pytest.raises(SystemExit, match=r"^error: missing.onnx: there is no such policy file"):
        example.main()
