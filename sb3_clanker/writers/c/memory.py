"""Where each value of a graph lies: few bytes of static memory, used again as soon as nobody needs what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from sb3_clanker.writers.c.code import c_type, width_of
from sb3_clanker.writers.c.graph import Graph, Node, Tensor
from sb3_clanker.writers.c.views import View, views


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    :ivar array: the type of the static array that it is in, or the input or constant whose memory it is
    :ivar offset: its first element
    """

    array: str | Tensor
    offset: int


@dataclass
class Memory:
    """The static arrays of a policy.

    :ivar sizes: how many elements the array of each type has
    :ivar places: where each tensor lies, by its name
    :ivar copied: the nodes that compute nothing, and yet have to copy: which view each of their outputs is
    """

    sizes: dict[str, int] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    copied: dict[str, View] = field(default_factory=dict)

    def n_bytes(self) -> int:
        """How many bytes they take."""
        return sum(n * width_of(kind) for kind, n in self.sizes.items())


def lay_out(graph: Graph, in_place: frozenset[str]) -> Memory:
    """Find a place for every value.

    :param in_place: operators that write an element only after they have read all that it needs
    """
    memory = Memory()
    owners = _owners(graph, memory)
    last = _last_uses(graph, owners)
    taken: dict[str, tuple[str, int, int]] = {}  # by owner: type, first element, and how many
    for moment, node in enumerate(graph.nodes):
        for output in node.outputs:
            if output is None or owners[output.name] != (output.name, 0):
                continue
            kind = c_type(output.dtype)
            first = _reusable(node, output, owners, last, moment, taken) if node.operator in in_place else None
            if first is None:
                first = _gap(output.size, [(start, n) for other, start, n in taken.values() if other == kind])
            taken[output.name] = kind, first, output.size
            memory.sizes[kind] = max(memory.sizes.get(kind, 0), first + output.size)
            memory.places[output.name] = Place(kind, first)
        for name in [name for name in taken if last[name] <= moment]:
            del taken[name]
    _place_aliases(graph, memory, owners)
    return memory


def _owners(graph: Graph, memory: Memory) -> dict[str, tuple[str, int]]:
    """Whose memory each tensor lies in, and where: its own, or that of one which it is a part of.

    What goes out never lies where something comes in: the caller may have both in one place.
    """
    coming_in, going_out = ({tensor.name for tensor in tensors} for tensors in (graph.inputs, graph.outputs))
    owners = {tensor.name: (tensor.name, 0) for tensor in graph.inputs}
    for node in graph.nodes:
        for output, view in zip_longest(node.outputs, views(node) or ()):
            if output is None:
                continue
            owners[output.name] = output.name, 0
            if view is None:
                continue
            owner, offset = owners.get(view.source.name, ("", 0))
            if owner and view.is_whole(output.shape) and not (output.name in going_out and owner in coming_in):
                owners[output.name] = owner, offset + view.offset
            else:
                memory.copied[output.name] = view
    return owners


def _last_uses(graph: Graph, owners: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """After which node nobody needs what is in the memory of each owner; that of an output is needed to the end."""
    last: dict[str, int] = {}
    for moment, node in enumerate(graph.nodes):
        for tensor in (*node.inputs, *node.outputs):
            if tensor is not None and tensor.name in owners:
                last[owners[tensor.name][0]] = moment
    last.update((owners[tensor.name][0], len(graph.nodes)) for tensor in graph.outputs if tensor.name in owners)
    return last


def _reusable(
    node: Node,
    output: Tensor,
    owners: Mapping[str, tuple[str, int]],
    last: Mapping[str, int],
    moment: int,
    taken: Mapping[str, tuple[str, int, int]],
) -> int | None:
    """Where the memory of an input is that nobody needs afterwards, and that fits."""
    for tensor in node.inputs:
        if tensor is None or tensor.name not in owners or tensor.shape != output.shape:
            continue
        owner, _ = owners[tensor.name]
        kind, first, n = taken.get(owner, ("", 0, 0))
        others = [other for other in node.inputs if other is not None and other is not tensor]
        shared = any(owners.get(other.name, ("", 0))[0] == owner for other in others)
        if kind == c_type(output.dtype) and n == output.size and last[owner] == moment and not shared:
            return first
    return None


def _gap(size: int, taken: list[tuple[int, int]]) -> int:
    """The first place that is free."""
    first = 0
    for start, n in sorted(taken):
        if first + size <= start:
            break
        first = max(first, start + n)
    return first


def _place_aliases(graph: Graph, memory: Memory, owners: Mapping[str, tuple[str, int]]) -> None:
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    for name, (owner, offset) in owners.items():
        if owner in inputs:
            memory.places[name] = Place(inputs[owner], offset)
        else:
            place = memory.places[owner]
            memory.places[name] = Place(place.array, place.offset + offset)
