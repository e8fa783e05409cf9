"""Test vectors as C: a function that counts how many of them fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.vectors import TestVectors, VectorInput, VectorOutput
from sb3_clanker.writers.c.code import array, c_type

_MOST = 64
"""Test vectors that a header holds: a board has to hold them too."""


def self_test(vectors: TestVectors, metadata: PolicyMetadata, prefix: str, names: Mapping[str, str]) -> Iterator[str]:
    """The lines of the test.

    :param vectors: of the policy
    :param metadata: its record
    :param prefix: what all names of the header begin with
    :param names: the parameters, by the name of the input or output
    """
    cases = vectors.cases[:_MOST]
    types = {spec.name: c_type(np.dtype(spec.dtype)) for spec in metadata.outputs}
    n = len(cases)
    yield f"/* How many of {n} test vectors fail, with what Stable-Baselines3 itself answers: 0 if all is well. */"
    yield f"static inline int {prefix}_self_test(void)"
    yield "{"
    for spec in vectors.inputs:
        yield from _values(spec.dtype, f"{names[spec.name]}_given", [case.inputs[spec.name] for case in cases])
    for output in vectors.outputs:
        name = names[output.name]
        yield from _values("float32", f"{name}_expected", [case.outputs[output.name] for case in cases])
        yield from _values("float64", f"{name}_within", [output.atol])
        yield f"    static {types[output.name]} {name}_got[{_size(output)}];"
    yield "    int failed = 0;"
    yield f"    for (int32_t i = 0; i < {n}; i++) {{"
    yield "        bool fails = false;"
    given = [f"{names[spec.name]}_given + i * {_size(spec)}" for spec in vectors.inputs]
    got = [f"{names[output.name]}_got" for output in vectors.outputs]
    yield f"        {prefix}_step({', '.join([*given, *got])});"
    for output in vectors.outputs:
        name = names[output.name]
        yield f"        for (int32_t j = 0; j < {_size(output)}; j++) {{"
        yield f"            const double expected = (double){name}_expected[i * {_size(output)} + j];"
        yield f"            const double within = {name}_within[j] + {output.rtol!r} * fabs(expected);"
        yield f"            fails = fails || !(fabs((double){name}_got[j] - expected) <= within);"
        yield "        }"
    yield "        failed += fails ? 1 : 0;"
    yield "    }"
    yield "    return failed;"
    yield "}"


def _values(dtype: str, name: str, rows: list[tuple[float | bool, ...]]) -> Iterator[str]:
    values = np.array(rows, np.dtype(dtype))
    for line in array(f"static const {c_type(values.dtype)} {name}[{values.size}]", values):
        yield f"    {line}"


def _size(spec: VectorInput | VectorOutput) -> int:
    return int(np.prod(spec.shape))
