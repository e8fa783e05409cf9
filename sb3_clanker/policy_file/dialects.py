"""What a file calls its inputs and outputs, and how it lays them out: the contract's way, or that of one program.

A program that has names of its own for what every file of the contract calls ``obs`` and ``action`` gets a file in its
dialect. That is the same policy; the name of its first output says which dialect it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from sb3_clanker.policy_file.spaces import LeafSpace
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec

ONE_HOT = "1 for each choice that is made, 0 for the others, one dimension of the action after another"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file is laid out; as it stands, by the contract.

    :ivar action: name of the output that is the action, the first
    :ivar is_contract: whether the file keeps the clanker policy contract, and has its flat keys
    :ivar one_hot: whether an action of choices has a number for each choice, and not the index of the one that is made
    :ivar flat: whether each observation goes in as a row of numbers, whatever its shape, under the name of its key
    :ivar echo: an input of one number in each row, and the output that gives it back; None where there are none
    """

    action: str = "action"
    is_contract: bool = True
    one_hot: bool = False
    flat: bool = False
    echo: tuple[str, str] | None = None

    def action_width(self, space: LeafSpace) -> int:
        """How many numbers the output of an action has."""
        return sum(space.choices) if self.one_hot and space.choices else space.n_elements

    def echo_specs(self) -> tuple[TensorSpec, ...]:
        """The input and the output of :attr:`echo`, if there are any."""
        meanings = ("not looked at: it comes out again", "what came in")
        return tuple(
            TensorSpec(name=name, dtype="float32", shape=(BATCH,), role="unused", meaning=meaning)
            for name, meaning in zip(self.echo or (), meanings, strict=False)
        )


CONTRACT = Dialect()
GODOT = Dialect(action="output", is_contract=False, one_hot=True, flat=True, echo=("state_ins", "state_outs"))

_DIALECTS = {dialect.action: dialect for dialect in (CONTRACT, GODOT)}


def dialect_of(outputs: tuple[TensorSpec, ...]) -> Dialect:
    """The dialect of a file with these outputs; the contract's, if it is none that there is."""
    return _DIALECTS.get(outputs[0].name, CONTRACT) if outputs else CONTRACT
