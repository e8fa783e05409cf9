# This node itself was not run: there is no rclpy where this project is tested. policy_controller.py, its logic, is.
"""Run a policy in ROS 2 Humble or later, at its control period.

python3 policy_node.py --ros-args -p policy:=policy.onnx -p safe_action:="[0.0, 0.0]" -r "~/obs:=/observation"
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import rclpy  # type: ignore[import-not-found]
from messages import image_pixels, joint_components, stamp  # type: ignore[import-not-found]
from policy_controller import PolicyController  # type: ignore[import-not-found]
from rclpy.duration import Duration  # type: ignore[import-not-found]
from rclpy.executors import SingleThreadedExecutor  # type: ignore[import-not-found]
from rclpy.node import Node  # type: ignore[import-not-found]
from rclpy.parameter import Parameter  # type: ignore[import-not-found]
from rclpy.qos import QoSProfile, ReliabilityPolicy  # type: ignore[import-not-found]
from rclpy.signals import SignalHandlerOptions  # type: ignore[import-not-found]
from sensor_msgs.msg import Image, JointState  # type: ignore[import-not-found]
from std_msgs.msg import Float32MultiArray, MultiArrayDimension, UInt8MultiArray  # type: ignore[import-not-found]
from std_srvs.srv import Trigger  # type: ignore[import-not-found]

from sb3_clanker import ClankerError, OnnxPolicy

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""A late observation is worth nothing: none is kept, and none is sent again."""


class PolicyNode(Node):  # type: ignore[misc]
    """Topics in, ``~/action`` out; what happens when is decided by the controller."""

    def __init__(self) -> None:
        super().__init__("policy")
        policy = OnnxPolicy(self.declare_parameter("policy", "policy.onnx").value)
        self.declare_parameter("safe_action", Parameter.Type.DOUBLE_ARRAY)  # without a default: only you know it
        self.controller = PolicyController(
            policy,
            self.get_parameter("safe_action").value,
            period=self.declare_parameter("period", 0.0).value or None,
            max_age=self.declare_parameter("max_age", 3.0).value,
            clock=lambda: self.get_clock().now().nanoseconds * 1e-9,
            log=self.get_logger().warning,
        )
        self._encoding = self.declare_parameter("image_encoding", "rgb8").value
        for spec in self.controller.inputs:
            self._subscribe(spec)
        self._names = {name for spec in self.controller.inputs for name in spec.names or ()}
        if joint_states := self.declare_parameter("joint_states", "").value:
            self._listen(JointState, joint_states, self._take_joints)

        spec = policy.metadata.outputs[0]
        self._label = _label(spec)
        self._actions = self.create_publisher(Float32MultiArray, "~/action", 1)
        self.get_logger().info(f"~/action: {spec.meaning} {self._label}")
        self.create_service(Trigger, "~/reset", self._reset)
        self.create_timer(self.controller.period, lambda: self._send(self.controller.step()))

    def _subscribe(self, spec: Any) -> None:
        """Listen to one input, under its own name."""
        name = spec.name
        if spec.layout is not None and (spec.dtype == "uint8" or spec.divisor is not None):
            kind, take = Image, lambda message: self._take_image(name, message)
        else:
            kind = UInt8MultiArray if spec.dtype == "bool" else Float32MultiArray
            take = lambda message: self.controller.observe(name, message.data)  # noqa: E731
        self._listen(kind, f"~/{name}", take)
        self.get_logger().info(f"~/{name}, {kind.__name__} {list(spec.shape[1:])}: {spec.meaning} {_label(spec)}")

    def _listen(self, kind: type, topic: str, take: Callable[[Any], None]) -> None:
        def refuse_or_take(message: Any) -> None:
            try:
                take(message)
            except ClankerError as error:  # nothing was taken, and if that lasts the watchdog finds it
                self.get_logger().error(f"{topic}: {error}", throttle_duration_sec=5.0)

        self.create_subscription(kind, topic, refuse_or_take, NEWEST)

    def _take_image(self, name: str, message: Any) -> None:
        self.controller.observe(name, image_pixels(message, self._encoding), stamp(message.header))

    def _take_joints(self, message: Any) -> None:
        values = {name: value for name, value in joint_components(message).items() if name in self._names}
        self.controller.observe_components(values, stamp(message.header), si=True)

    def _reset(self, _: Any, response: Any) -> Any:
        self.controller.reset()
        response.success = True
        return response

    def _send(self, command: Any) -> None:
        message = Float32MultiArray(data=command.action.tolist())
        message.layout.dim.append(
            MultiArrayDimension(label=self._label, size=len(message.data), stride=len(message.data))
        )
        self._actions.publish(message)

    def stop(self) -> None:
        """Send the safe action, and wait until those who listen have it."""
        self._send(self.controller.stop())
        self._actions.wait_for_all_acked(Duration(seconds=1))


def _label(spec: Any) -> str:
    """Names and units of the components, where the record has them."""
    names = spec.names or ()
    units = spec.units or ("",) * len(names)
    return ", ".join(f"{name} [{unit}]" if unit else name for name, unit in zip(names, units, strict=True))


def main() -> None:
    """Run until a signal; then send the safe action before anything is shut down."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # its own would close the publisher first
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        node = PolicyNode()
    except ClankerError as error:
        sys.exit(f"error: {error}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.1)
    finally:
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
