"""Which components of an observation lie outside of what training saw: a range check, within the graph.

It finds degrees in place of radians, and other wrong units. It does not find what lies within the ranges: a swapped, a
stuck or a dead sensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch as th
from torch import nn

from sb3_clanker.errors import OptionError
from sb3_clanker.policy_file.bounds import round_outward
from sb3_clanker.policy_file.record import ObservationRanges
from sb3_clanker.policy_file.spaces import ObservationSpace, vectors
from sb3_clanker.policy_file.tensors import BATCH, OUTSIDE, TensorSpec

_RANK = 2
"""Of a batch of rows, which need no other shape."""


class Outside(nn.Module):
    """For each component of each vector of an observation, whether it lies outside of what training saw.

    The bounds are buffers, and so inputs of a trace, as weights are: each export writes those of its instant. Nothing
    is outside before there are any, but what is not a number, which always is.

    :param observed: the inputs that carry the observation, in order
    :param space: the observation space
    :param margin: by what part of its range a component may leave what training saw
    :ivar spec: what the output is
    :raises OptionError: the observation has no vector
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, observed: Sequence[TensorSpec], space: ObservationSpace, margin: float) -> None:
        super().__init__()
        self.margin = float(margin)
        leaves = vectors(space)
        self._inputs = [(index, spec) for index, spec in enumerate(observed) if spec.key in leaves]
        names = tuple(name for _, spec in self._inputs for name in _component_names(spec, leaves[spec.key].shape))
        if not names:
            expected = "what this policy has; it observes no vector, of which a component could be outside"
            raise OptionError("further_outputs", [OUTSIDE], expected)
        self.spec = TensorSpec(
            name=OUTSIDE,
            dtype="bool",
            shape=(BATCH, len(names)),
            role="further",
            meaning=f"true for each component outside of what training saw, by more than {margin:g} of its range",
            names=names,
        )
        self._widths = {key: leaf.n_elements for key, leaf in leaves.items()}
        self.register_buffer("low", th.full((len(names),), -th.inf))
        self.register_buffer("high", th.full((len(names),), th.inf))

    def see(self, ranges: ObservationRanges | None) -> None:
        """Take the bounds from what training saw up to now; None where that is nothing."""
        by_key = {each.key: each for each in ranges.ranges} if ranges else {}
        lows, highs = [], []
        for _, spec in self._inputs:
            seen, unbounded = by_key.get(spec.key), np.full(self._widths[spec.key], np.inf)
            minimum, maximum = (-unbounded, unbounded) if seen is None else map(np.array, (seen.minimum, seen.maximum))
            slack = 0.0 if seen is None else self.margin * maximum - self.margin * minimum  # a difference may overflow
            lows.append(minimum - slack)
            highs.append(maximum + slack)
        self.low.copy_(th.as_tensor(round_outward(np.concatenate(lows), -np.inf)))
        self.high.copy_(th.as_tensor(round_outward(np.concatenate(highs), np.inf)))

    def forward(self, inputs: Sequence[th.Tensor]) -> th.Tensor:
        """Bool of shape (batch, n), for the raw inputs of the file.

        An observation is inside where it equals itself between the bounds. So a number that is none is outside in
        every runtime, whether it has the larger of two numbers be none where one is, or the other.
        """
        rows = [self._rows(inputs[index], spec) for index, spec in self._inputs]
        values = th.cat(rows, dim=1) if len(rows) > 1 else rows[0]
        return th.minimum(th.maximum(values, self.low), self.high) != values

    def _rows(self, tensor: th.Tensor, spec: TensorSpec) -> th.Tensor:
        """An input with its components in a row, in the order of the space."""
        if spec.layout == "channels_last":
            tensor = tensor.permute(0, 3, 1, 2)
        return tensor if len(spec.shape) == _RANK else tensor.reshape(-1, self._widths[spec.key])


def _component_names(spec: TensorSpec, shape: tuple[int, ...]) -> Iterator[str]:
    """The caller's names of the components, or else the name of the input with the index of each."""
    if spec.names is not None:
        yield from spec.names
        return
    for index in np.ndindex(shape):
        yield f"{spec.name}[{','.join(map(str, index))}]" if index else spec.name
