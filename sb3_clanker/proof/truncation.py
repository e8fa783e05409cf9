"""Images that go in as floats from 0 to 1.

The graph makes bytes of them, truncated: between two bytes the lower one counts, and beyond an end the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.policy_file.tensors import LARGEST_BYTE, TensorSpec
from sb3_clanker.runtime.encoding import Observation
from sb3_clanker.runtime.policy import OnnxPolicy

_SEED = 20_260_105


def between_bytes(
    inputs: Mapping[str, NDArray[Any]], specs: tuple[TensorSpec, ...], generator: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """The same inputs, with each pixel moved to the middle of its byte, or where that is the first or last, beyond it.

    :param inputs: inputs of a graph, by name, with pixels that are bytes divided by 255
    :param specs: what the inputs are
    """
    moved = dict(inputs)
    for spec in specs:
        if spec.divisor is not None:
            pixels = np.rint(inputs[spec.name] * np.float32(spec.divisor)) + 0.5
            beyond = generator.random(pixels.shape) < 0.5
            pixels[beyond & (pixels < 1.0)] = -0.5
            pixels[beyond & (pixels > LARGEST_BYTE)] = LARGEST_BYTE + 64.0
            moved[spec.name] = (pixels / np.float32(spec.divisor)).astype(np.float32)
    return moved


def truncation_problem(policy: OnnxPolicy, observation: Observation) -> str | None:
    """What is wrong where a graph does not make the same bytes, to the last bit, of pixels within the same bytes."""
    specs = policy.metadata.inputs
    if all(spec.divisor is None for spec in specs):
        return None
    inputs = policy.inputs(observation)
    at, between = (policy.run(fed) for fed in (inputs, between_bytes(inputs, specs, np.random.default_rng(_SEED))))
    differing = [name for name in at if not np.array_equal(at[name], between[name], equal_nan=True)]
    return f"{', '.join(differing)} changes between one byte of an image and the next" if differing else None
