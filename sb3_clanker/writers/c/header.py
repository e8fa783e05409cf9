"""The graph of a proven policy as one header in C99."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from sb3_clanker.formats.c import record_lines
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.vectors import TestVectors
from sb3_clanker.writers.c.code import Code, array, c_type
from sb3_clanker.writers.c.graph import Node, Tensor, UnsupportedError, read_graph
from sb3_clanker.writers.c.helpers import definitions
from sb3_clanker.writers.c.memory import lay_out
from sb3_clanker.writers.c.names import comment, parameters, prefix_of
from sb3_clanker.writers.c.operators.elementwise import copy
from sb3_clanker.writers.c.operators.reductions import LOST
from sb3_clanker.writers.c.operators.table import IN_PLACE, OPERATORS, unknown_operators
from sb3_clanker.writers.c.self_test import self_test
from sb3_clanker.writers.c.views import views


class Header:
    """A header that does what a policy file does, for one observation at a time.

    :param data: the bytes of the ``.onnx``, which was proven
    :param metadata: its record
    :param stem: name of the header without its suffix, with which all its names begin
    :raises UnsupportedError: there are operators, or uses of them, that have no form in C here; they are named
    """

    def __init__(self, data: bytes, metadata: PolicyMetadata, stem: str) -> None:
        self._graph, self._metadata = read_graph(data), metadata
        if unknown := unknown_operators(self._graph):
            raise UnsupportedError(f"operators that have no form in C here: {', '.join(unknown)}")
        self._prefix = prefix_of(stem)
        self._macro = self._prefix.upper()
        specs = (*metadata.inputs, *metadata.outputs)
        self._names = parameters([spec.name for spec in specs], self._prefix)
        self._memory = lay_out(self._graph, IN_PLACE)
        self._constants: dict[str, Tensor] = {}
        self._code = Code(self._prefix, self._pointer)
        self._step()

    @property
    def n_constant_bytes(self) -> int:
        """Bytes of the arrays of constants."""
        return sum(tensor.size * tensor.dtype.itemsize for tensor in self._constants.values())

    def text(self, vectors: TestVectors | None = None, unproven: str | None = None) -> str:
        """The whole header.

        :param vectors: test vectors of the file, for its self-test
        :param unproven: why it will not be proven, None where it will
        """
        return "\n".join(self._lines(vectors, unproven)) + "\n"

    def _lines(self, vectors: TestVectors | None, unproven: str | None) -> Iterator[str]:
        guard = f"{self._macro}_H_{''.join(filter(str.isalnum, self._metadata.digest))[-12:]}"
        yield from self._title(unproven)
        yield from (f"#ifndef {guard}", f"#define {guard}", "")
        yield from (f"#include <{name}.h>" for name in ("math", "stdbool", "stdint"))
        yield ""
        yield "#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)"
        yield from ("#error -ffast-math, or a part of it, takes what is not a number for one", "#endif", "")
        yield from self._facts()
        yield from self._arrays()
        yield from definitions(self._code.helpers, self._prefix)
        yield from self._code.lines
        yield from ("", f"#ifdef {self._macro}_SELF_TEST", "")
        if vectors is None:
            yield "#error this policy was exported without test vectors: export it with test_vectors=16"
        else:
            yield from self_test(vectors, self._metadata, self._prefix, self._names)
        yield from ("", "#endif", "", "#endif")

    def _title(self, unproven: str | None) -> Iterator[str]:
        metadata = self._metadata
        yield "/*"
        yield f" * {comment(f'{metadata.algorithm} for {metadata.action_space}')}, by sb3_clanker: a policy in C99."
        yield " *"
        yield f" * {self._prefix}_step() chooses an action for one raw observation, as predict(observation,"
        yield " * deterministic=True) of Stable-Baselines3 does. It takes no memory but that of its own static arrays,"
        yield " * so it is not for two threads at a time, and this file is for one source file of a program."
        yield " * Multiply-add in one rounding is fine, -ffast-math is not."
        if unproven:
            yield f" * NOT PROVEN where it was made: {comment(unproven)}. Run its self-test, or sb3-clanker validate."
        yield " *"
        yield " * The record of the policy:"
        yield from record_lines(metadata)
        yield " */"

    def _facts(self) -> Iterator[str]:
        yield f'#define {self._macro}_POLICY_DIGEST "{self._metadata.digest}"'
        yield f"#define {self._macro}_MEMORY_BYTES {self._memory.n_bytes()} /* static, beside constants */"
        yield f"#define {self._macro}_CONSTANT_BYTES {self.n_constant_bytes}"
        yield ""

    def _arrays(self) -> Iterator[str]:
        for kind, n in self._memory.sizes.items():
            yield f"static {kind} {self._array(kind)}[{n}];"
        yield ""
        for number, tensor in enumerate(self._constants.values()):
            yield f"/* {comment(tensor.name)}, {_dims(tensor.shape)} */"
            declaration = f"static const {c_type(tensor.dtype)} {self._prefix}_c{number}[{tensor.size}]"
            yield from array(declaration, np.asarray(tensor.values))
            yield ""

    def _array(self, kind: str) -> str:
        return f"{self._prefix}_{kind.removesuffix('_t')}s"

    def _pointer(self, tensor: Tensor) -> str:
        """Where a tensor is, as an expression."""
        if tensor.values is not None:
            self._constants.setdefault(tensor.name, tensor)
            return f"{self._prefix}_c{list(self._constants).index(tensor.name)}"
        place = self._memory.places[tensor.name]
        start = self._array(place.array) if isinstance(place.array, str) else self._names[place.array.name]
        return f"{start} + {place.offset}" if place.offset else start

    def _step(self) -> None:
        """The function that chooses an action."""
        code, metadata = self._code, self._metadata
        for line in _describe(metadata, self._names):
            code.line(line)
        parameters = [
            *(f"const {c_type(t.dtype)} {self._names[t.name]}[{t.size}]" for t in self._graph.inputs),
            *(f"{c_type(t.dtype)} {self._names[t.name]}[{t.size}]" for t in self._graph.outputs),
        ]
        code.line(f"static inline void {self._prefix}_step(")
        code.line(",\n".join(f"    {parameter}" for parameter in parameters) + ")")
        with code.block():
            self._look_for_nan()
            for node in self._graph.nodes:
                self._compute(node)
            self._put_out()

    def _look_for_nan(self) -> None:
        """Whether anything that goes in is not a number: a choice would hide it."""
        code, roles = self._code, {spec.name: spec.role for spec in self._metadata.inputs}
        used = {tensor.name for node in self._graph.nodes for tensor in node.inputs if tensor is not None}
        code.line(f"bool {LOST} = false; /* whether the action rests on what is not a number */")
        for tensor in self._graph.inputs:
            name = self._names[tensor.name]
            if tensor.dtype.kind == "f" and roles[tensor.name] != "unused":
                with code.loop("i", tensor.size) as i:
                    code.line(f"{LOST} = {LOST} || {name}[{i}] != {name}[{i}];")
            elif tensor.name not in used:
                code.line(f"(void){name};")

    def _compute(self, node: Node) -> None:
        copied = [tensor for tensor in node.outputs if tensor is not None and tensor.name in self._memory.copied]
        for tensor in copied:
            with self._code.block():
                self._code.line(f"/* {comment(f'{node.operator}: {tensor.name}')} */")
                copy(self._code, self._memory.copied[tensor.name], tensor)
        if node.operator in OPERATORS and views(node) is None:
            with self._code.block():
                self._code.line(f"/* {comment(_title_of(node))} */")
                OPERATORS[node.operator](node, self._code)

    def _put_out(self) -> None:
        """Only now is written what goes out: so it may share memory with what came in."""
        action = self._metadata.outputs[0].name
        for tensor in self._graph.outputs:
            name = self._names[tensor.name]
            with self._code.block():
                self._code.read("y", tensor)
                with self._code.loop("i", tensor.size) as i:
                    value = f"{LOST} ? NAN : y[{i}]" if tensor.name == action else f"y[{i}]"
                    self._code.line(f"{name}[{i}] = {value};")


def _title_of(node: Node) -> str:
    """What a node does, with the weights it takes."""
    weights = [t.name for t in node.inputs if t is not None and t.values is not None and t.size > 1]
    return f"{node.operator} {', '.join(weights)}".rstrip()


def _describe(metadata: PolicyMetadata, names: Mapping[str, str]) -> Iterator[str]:
    """The comment on the parameters."""
    yield "/*"
    for what, specs in (("in", metadata.inputs), ("out", metadata.outputs)):
        for spec in specs:
            shape = _dims(tuple(1 if isinstance(dim, str) else dim for dim in spec.shape))
            yield f" * {what} {names[spec.name]} {shape}: {comment(spec.meaning)}"
            if names[spec.name] != spec.name:
                yield f" *     in the .onnx: {comment(spec.name)}"
            for label, texts in (("names", spec.names), ("units", spec.units)):
                if texts is not None:
                    yield f" *     {label}: {comment(', '.join(texts))}"
    yield " *"
    yield " * Where a number that goes in is not one, the action is not one either. What goes out may lie where what"
    yield " * goes in does, as h_out in h_in."
    yield " */"


def _dims(shape: tuple[int, ...]) -> str:
    return "".join(f"[{n}]" for n in shape) or "[1]"
