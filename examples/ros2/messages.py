"""From messages of ROS to what a policy takes. Nothing here needs ROS: any object with the same attributes will do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.errors import ObservationError

_CHANNELS = {"mono8": 1, "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4}
_QUANTITIES = ("position", "velocity", "effort")


def stamp(header: Any) -> float | None:
    """Seconds at which a message's content was so; None where its sender left that open."""
    seconds = float(header.stamp.sec + header.stamp.nanosec * 1e-9)
    return seconds or None


def joint_components(message: Any) -> dict[str, float]:
    """The values of a ``sensor_msgs/JointState`` in SI units, by names such as ``hip.position``.

    :raises ObservationError: it has values, and not one for each joint
    """
    components: dict[str, float] = {}
    for quantity in _QUANTITIES:
        values = getattr(message, quantity)
        if len(values) not in (0, len(message.name)):
            raise ObservationError(
                f"A JointState names {len(message.name)} joints, and has a {quantity} for {len(values)}."
            )
        components |= {f"{name}.{quantity}": float(value) for name, value in zip(message.name, values, strict=False)}
    return components


def image_pixels(message: Any, encoding: str) -> NDArray[np.uint8]:
    """The pixels of a ``sensor_msgs/Image``: height, width, channels.

    :param encoding: how the policy was trained: ``rgb8`` and ``bgr8`` are different observations
    :raises ObservationError: the message has another encoding, or fewer bytes than it says
    """
    if message.encoding != encoding or encoding not in _CHANNELS:
        raise ObservationError(f"An image is {message.encoding!r}: expected {encoding!r}, one of {sorted(_CHANNELS)}.")
    width = message.width * _CHANNELS[encoding]
    pixels = np.frombuffer(message.data, np.uint8)
    if message.step < width or pixels.size != message.height * message.step:
        raise ObservationError(
            f"An image of {message.height} rows of {message.step} bytes, {width} of them pixels, has {pixels.size}."
        )
    rows = pixels.reshape(message.height, message.step)[:, :width]  # a row may end in bytes that are no pixels
    return rows.reshape(message.height, message.width, _CHANNELS[encoding])
