"""A Cortex-M4F without a board: a header in C, compiled for it, on an emulated processor.

Nothing stands between the policy and the processor but a linker script: 1 MB of flash, 192 KB of memory with the stack
at its end, and behind that what goes in and comes out.
"""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import unicorn
from unicorn import arm_const

from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec

FLASH, MEMORY, OUTSIDE, RETURNED = 0x08000000, 0x20000000, 0x20030000, 0x30000000
_FLAGS = (
    *("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O2", "-ffunction-sections", "-fdata-sections"),
    *("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    *("-nostartfiles", "-specs=nano.specs", "-specs=nosys.specs", "-Wl,--gc-sections", "-Wl,-T,link.ld"),
)
_SCRIPT = f"""
ENTRY(main)
MEMORY
{{
    flash (rx) : ORIGIN = {FLASH}, LENGTH = 1M
    memory (rwx) : ORIGIN = {MEMORY}, LENGTH = 192K
}}
SECTIONS
{{
    .text : {{ *(.text*) *(.rodata*) *(.ARM.exidx*) }} > flash
    .data : {{ *(.data*) *(.bss*) *(COMMON) }} > memory
}}
"""
_PAINT = 0xA5
_TYPES = {"float32": "float", "uint8": "uint8_t", "bool": "bool"}


@dataclass(frozen=True)
class Cost:
    """What a program takes.

    :ivar flash: bytes of code and constants
    :ivar memory: bytes of variables, and of the stack as far as it was used
    :ivar instructions: how many ran
    """

    flash: int
    memory: int
    instructions: int


class Board:
    """A program on the processor.

    :param compiler: ``arm-none-eabi-gcc``
    :param source: of the program
    :param folder: where it may be built; the header lies there
    """

    def __init__(self, compiler: str, source: str, folder: Path) -> None:
        (folder / "link.ld").write_text(_SCRIPT)
        (folder / "main.c").write_text(source)
        command = [compiler, *_FLAGS, "main.c", "-o", "main.elf", "-lm"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self._elf = (folder / "main.elf").read_bytes()
        self._processor = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self._processor.ctl_set_cpu_model(arm_const.UC_CPU_ARM_CORTEX_M4)
        for start, size in ((FLASH, 1 << 20), (MEMORY, 1 << 18), (RETURNED, 1 << 12)):
            self._processor.mem_map(start, size)
        self._processor.reg_write(arm_const.UC_ARM_REG_C1_C0_2, 0xF << 20)  # lets the floating-point unit be used
        self._processor.reg_write(arm_const.UC_ARM_REG_FPEXC, 1 << 30)
        self._processor.hook_add(unicorn.UC_HOOK_BLOCK, self._count)
        self._blocks: dict[tuple[int, int], int] = {}
        self._instructions = 0
        self._load()

    def _load(self) -> None:
        self._entry, table = struct.unpack_from("<II", self._elf, 24)
        (n_segments,) = struct.unpack_from("<H", self._elf, 44)
        self._sizes = {FLASH: 0, MEMORY: 0}
        for number in range(n_segments):
            kind, offset, address, _, in_file, size = struct.unpack_from("<6I", self._elf, table + 32 * number)
            if kind == 1 and size:
                self._processor.mem_write(address, self._elf[offset : offset + in_file])
                self._sizes[FLASH if address < MEMORY else MEMORY] += size

    def run(self) -> tuple[int, Cost]:
        """Run it: what ``main`` returns, and what that took."""
        unused = OUTSIDE - MEMORY - self._sizes[MEMORY]
        self._processor.mem_write(OUTSIDE - unused, bytes([_PAINT]) * unused)
        self._processor.reg_write(arm_const.UC_ARM_REG_SP, OUTSIDE)
        self._processor.reg_write(arm_const.UC_ARM_REG_LR, RETURNED | 1)
        self._instructions = 0
        self._processor.emu_start(self._entry | 1, RETURNED)
        painted = bytes(self._processor.mem_read(OUTSIDE - unused, unused))
        stack = len(painted.lstrip(bytes([_PAINT])))
        cost = Cost(self._sizes[FLASH], self._sizes[MEMORY] + stack, self._instructions)
        return self._processor.reg_read(arm_const.UC_ARM_REG_R0), cost

    def write(self, address: int, data: bytes) -> None:
        """Put something into memory."""
        self._processor.mem_write(address, data)

    def read(self, address: int, size: int) -> bytes:
        """What is in memory."""
        return bytes(self._processor.mem_read(address, size))

    def _count(self, processor: Any, address: int, size: int, _: object) -> None:
        """Count the instructions of a block: the first half word of each says whether there is a second."""
        block = address, size
        if block not in self._blocks:
            halves = np.frombuffer(bytes(processor.mem_read(address, size)), "<u2")
            position = n = 0
            while position < len(halves):
                position += 2 if halves[position] >> 11 in (0b11101, 0b11110, 0b11111) else 1
                n += 1
            self._blocks[block] = n
        self._instructions += self._blocks[block]


class BoardRunner:
    """A policy on the processor, which is run as a session of onnxruntime is.

    :param header: in C
    :param metadata: the record of its policy
    :ivar costs: of each step
    """

    def __init__(self, compiler: str, header: str, metadata: PolicyMetadata, folder: Path) -> None:
        self._metadata = metadata
        self._addresses: dict[str, int] = {}
        address = OUTSIDE
        for spec in (*metadata.inputs, *metadata.outputs):
            self._addresses[spec.name] = address
            address += -(-_size(spec) // 8) * 8
        name = prefix(header)
        arguments = [
            *(f"(const {_TYPES[spec.dtype]} *){self._addresses[spec.name]}" for spec in metadata.inputs),
            *(f"({_TYPES[spec.dtype]} *){self._addresses[spec.name]}" for spec in metadata.outputs),
        ]
        (folder / "policy.h").write_text(header)
        source = (
            f'#include "policy.h"\nint main(void)\n{{\n    {name}_step({", ".join(arguments)});\n    return 0;\n}}\n'
        )
        self._board = Board(compiler, source, folder)
        self.costs: list[Cost] = []

    def run(self, names: list[str], inputs: dict[str, Any], /) -> list[Any]:
        """As a session does; a batch is one row."""
        for name, array in inputs.items():
            self._board.write(self._addresses[name], array.tobytes())
        self.costs.append(self._board.run()[1])
        outputs = {spec.name: spec for spec in self._metadata.outputs}
        return [
            np.frombuffer(self._board.read(self._addresses[name], _size(outputs[name])), np.float32).reshape(
                [1 if n == BATCH else int(n) for n in outputs[name].shape]
            )
            for name in names
        ]


def prefix(header: str) -> str:
    """What all names of a header begin with."""
    match = re.search(r"^static inline void (\w+)_step\($", header, re.MULTILINE)
    assert match is not None
    return match[1]


def _size(spec: TensorSpec) -> int:
    n = int(np.prod([1 if n == BATCH else int(n) for n in spec.shape]))
    return n * np.dtype(spec.dtype).itemsize
