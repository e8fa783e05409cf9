"""A header as a whole: names, comments, memory, numbers, and what goes in and comes out."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper

from sb3_clanker.formats.c import compile_header, read_record, seal
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.vectors import TestVectors, VectorCase, VectorInput, VectorOutput
from sb3_clanker.writers.c.header import Header
from sb3_clanker.writers.c.names import comment, parameters, prefix_of
from tests.consumers.tools import require_tool
from tests.writers.c.graphs import describe, graph, run_c, run_onnx

WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wdouble-promotion", "-pedantic", "-Werror")
COMPILERS = [("gcc", "-std=c99"), ("clang", "-std=c99"), ("g++", "-std=c++11"), ("clang++", "-std=c++11")]
HOSTILE = [
    "*/ int evil(void) { return system(\"true\"); } /*",
    "a */ /* b",
    "two\nlines\n#error broke out\n",
    "back\\",
    "trigraph ??/\n??/",
    '"quoted" \' and %s',
    "int",
    "class",
    "two words",
    "two-words",
    "two_words",
    "@",
    "x0",
    "y",
    "total",
    "lost",
    "tanhf",
    "i",
    "NAN",
    "INFINITY",
    "linux",
    "_Bool",
    "__x",
    "9lives",
    "ünïcödé °",
    "\u202e\u0000\ud800"[:2] + "bidi",
    "size_t",
    "policy_floats",
    "policy_step",
    "policy",
    "",
    " ",
    "n" * 300,
    "n" * 300 + "2",
]  # fmt: skip


def _syntax(header: str, folder: Path, compiler: str, standard: str, *flags: str) -> None:
    (folder / "policy.h").write_text(header)
    main = folder / f"main{'.cpp' if '++' in standard else '.c'}"
    main.write_text('#include "policy.h"\nint main(void) { return 0; }\n')
    command = [
        require_tool(compiler, f"apt-get install {compiler}"),
        standard,
        *WARNINGS,
        *flags,
        "-fsyntax-only",
        main.name,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]


def _hostile() -> tuple[bytes, PolicyMetadata]:
    """A sum of inputs, each times another number, all of them with names that would break out."""
    names = [name for name in HOSTILE if name]
    nodes, last = [], ""
    for number, name in enumerate(names):
        nodes.append(helper.make_node("Mul", [name, f"w{number} {name}"], [f"m{number} {name}"]))
        nodes.append(helper.make_node("Tanh", [f"m{number} {name}"], [f"t{number} {name}"]))
        nodes.append(
            helper.make_node("Add", [last, f"t{number} {name}"] if last else [f"t{number} {name}"] * 2, [f"s{number}"])
        )
        last = f"s{number}"
    nodes.append(helper.make_node("Identity", [last], ["action"]))
    weights = {f"w{number} {name}": np.array([[1.0 + number, 2.0]], np.float32) for number, name in enumerate(names)}
    data = graph(nodes, dict.fromkeys(names, ("batch", 2)), {"action": ("batch", 2)}, weights)
    record = describe(data)
    inputs = tuple(
        replace(spec, meaning=name, names=(name, "b"), units=("m/s", name))
        for spec, name in zip(record.inputs, names, strict=True)
    )
    return data, replace(record, inputs=inputs, algorithm=HOSTILE[0], policy_class=HOSTILE[2])


@pytest.mark.parametrize(("compiler", "standard"), COMPILERS)
def test_hostile_names_do_not_break_out(compiler: str, standard: str, tmp_path: Path) -> None:
    data, record = _hostile()
    for stem in ("policy", *HOSTILE[:3]):
        header = Header(data, record, stem).text()
        assert "evil(void)" not in re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
        _syntax(header, tmp_path, compiler, standard, "-Wtrigraphs")


def test_hostile_names_change_nothing_that_is_computed() -> None:
    data, record = _hostile()
    inputs = {spec.name: np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32) for spec in record.inputs}
    expected = run_onnx(data, inputs)["action"]
    np.testing.assert_allclose(run_c(data, inputs, record)["action"], expected, rtol=1e-6)
    moved = inputs | {"two words": inputs["two words"] + 1}
    assert not np.allclose(run_c(data, moved, record)["action"], expected)


@pytest.mark.parametrize(
    ("stem", "prefix"),
    [
        ("best_model", "best_model"),
        ("rl_model_500_steps", "rl_model_500_steps"),
        ("1 weird-name", "policy_1_weird_name"),
        ("__reserved__", "reserved"),
        ("°", "policy"),
        ("", "policy"),
        ("a.b", "a_b"),
        ("n" * 300, "n" * 40),
    ],
)
def test_a_prefix_is_an_identifier(stem: str, prefix: str) -> None:
    assert prefix_of(stem) == prefix


def test_parameters_are_identifiers_that_differ() -> None:
    names = parameters(HOSTILE, "policy")
    assert len(set(names.values())) == len(set(HOSTILE))
    assert all(re.fullmatch(r"[a-z]\w{0,60}", name, re.ASCII | re.IGNORECASE) for name in names.values())
    assert parameters(["obs", "action", "h_in", "c_in", "episode_start", "h_out"], "best_model") == {
        name: name for name in ("obs", "action", "h_in", "c_in", "episode_start", "h_out")
    }
    assert parameters(["two words", "two-words", "int", "x0", "NAN"], "policy") == {
        "two words": "two_words", "two-words": "two_words_2", "int": "int_", "x0": "x0_", "NAN": "in_NAN",
    }  # fmt: skip


@pytest.mark.parametrize("text", [*HOSTILE, "*" * 9 + "/", "/" * 3 + "*", "???/", "a/*b*/c"])
def test_a_comment_stays_one(text: str) -> None:
    made = comment(text)
    assert "*/" not in f"x{made} */"[:-2]
    assert "/*" not in f"/* {made}"[2:]
    assert "??" not in made
    assert made.isprintable()


def test_the_record_is_read_back_whole() -> None:
    data, hostile = _hostile()
    record = describe(data)
    text = "*/ ?? \\ , a, b \n \u2028 ünï"
    spec = replace(record.inputs[0], name="obs", shape=("batch", 1), meaning=text, units=(text,))
    action = replace(record.outputs[0], shape=("batch", 1), role="action")
    record = replace(record, inputs=(spec,), outputs=(action,), algorithm=text)
    small = graph([helper.make_node("Tanh", ["obs"], ["action"])], {"obs": ("batch", 1)}, {"action": ("batch", 1)})
    header = Header(small, record, "policy").text()
    assert read_record(seal(header)) == record
    assert max(map(len, header.splitlines())) < 400
    assert hostile.inputs[0].meaning in HOSTILE


def test_numbers_are_exact() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 5000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([bits[np.isfinite(bits)], [0.0, -0.0, 1e-45, 3.4028235e38, -1e8, 0.1]]).astype(np.float32)
    data = graph(
        [helper.make_node("Where", ["c", "w", "x"], ["y"])],
        {"x": ("batch", len(values))},
        {"y": ("batch", len(values))},
        {"w": values[None], "c": np.ones((1, len(values)), np.bool_)},
    )
    # a constant would be folded: only the condition is known to be true, not that it is everywhere
    got = run_c(data, {"x": np.zeros((1, len(values)), np.float32)})["y"][0]
    assert got.tobytes() == values.tobytes()


def test_infinite_constants_and_limits_of_integers() -> None:
    nodes = [
        helper.make_node("Min", ["x", "w"], ["m"]),
        helper.make_node("Cast", ["x"], ["n"], to=TensorProto.INT64),
        helper.make_node("Max", ["n", "least"], ["o"]),
        helper.make_node("Cast", ["o"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["m", "f"], ["y"], axis=1),
        helper.make_node("Neg", ["x"], ["action"]),
    ]
    weights = {
        "w": np.array([[np.inf, -np.inf, 0]], np.float32),
        "least": np.array([[-(1 << 63), (1 << 63) - 1, 40_000]]),
    }
    data = graph(nodes, {"x": ("batch", 3)}, {"action": ("batch", 3), "y": ("batch", 6)}, weights)
    x = np.array([[1, 2, np.nan], [np.inf, 1e30, -1e30]], np.float32)
    got = run_c(data, {"x": x})["y"]
    least, most = -(2.0**63), 2.0**63  # in float32, the largest is rounded up
    np.testing.assert_array_equal(got[0], [1, -np.inf, np.nan, 1, most, 40_000])
    np.testing.assert_array_equal(got[1], [np.inf, -np.inf, np.float32(-1e30), least, most, 40_000])


def _recurrent() -> bytes:
    """What comes out of the state is a state, and the one of what comes in is read last."""
    nodes = [
        helper.make_node("Sub", ["one", "episode_start"], ["keep"]),
        helper.make_node("Mul", ["h_in", "keep"], ["h"]),
        helper.make_node("Add", ["h", "obs"], ["h_out"]),
        helper.make_node("Identity", ["h_in"], ["echo"]),
        helper.make_node("MatMul", ["h_out", "w"], ["action"]),
    ]
    return graph(
        nodes,
        {"obs": ("batch", 3), "h_in": (1, "batch", 3), "episode_start": ("batch",)},
        {"action": (1, "batch", 2), "h_out": (1, "batch", 3), "echo": (1, "batch", 3)},
        {"one": np.float32(1), "w": np.arange(6, dtype=np.float32).reshape(3, 2)},
    )


def test_the_batch_may_be_any_axis() -> None:
    data, rng = _recurrent(), np.random.default_rng(0)
    inputs = {
        "obs": rng.normal(size=(7, 3)).astype(np.float32),
        "h_in": rng.normal(size=(1, 7, 3)).astype(np.float32),
        "episode_start": (np.arange(7) % 2).astype(np.float32),
    }
    h_out = inputs["h_in"] * (1 - inputs["episode_start"])[:, None] + inputs["obs"]
    got = run_c(data, inputs)
    np.testing.assert_allclose(got["h_out"], h_out, rtol=1e-6)
    np.testing.assert_allclose(got["action"], h_out @ np.arange(6).reshape(3, 2), rtol=1e-5)
    np.testing.assert_array_equal(got["echo"], inputs["h_in"])


def test_what_comes_out_may_lie_where_what_goes_in_does(tmp_path: Path) -> None:
    header = Header(_recurrent(), describe(_recurrent()), "policy").text()
    (tmp_path / "policy.h").write_text(header)
    (tmp_path / "main.c").write_text("""
#include <stdio.h>
#include "policy.h"
int main(void)
{
    float obs[3] = {1, 2, 3}, state[3] = {10, 20, 30}, start[1] = {0}, echo[3];
    float other[3] = {10, 20, 30}, action[2], h_out[3], other_echo[3];
    policy_step(obs, other, start, action, h_out, other_echo);
    policy_step(obs, state, start, obs, state, echo);
    for (int i = 0; i < 3; i++) {
        if (state[i] != h_out[i] || echo[i] != other_echo[i] || (i < 2 && obs[i] != action[i])) { return 1; }
    }
    policy_step(action, h_out, start, obs, other, h_out);
    return h_out[0] == 11 && h_out[2] == 33 ? 0 : 2;
}
""")
    subprocess.run(
        [require_tool("cc", "apt-get install gcc"), "-std=c99", "main.c", "-o", "main", "-lm"], cwd=tmp_path, check=True
    )
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0


def test_a_choice_does_not_hide_what_is_not_a_number() -> None:
    nodes = [
        helper.make_node("Relu", ["obs"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["choice"], axis=1, keepdims=1),
        helper.make_node("Cast", ["choice"], ["action"], to=TensorProto.FLOAT),
        helper.make_node("IsNaN", ["obs"], ["isnan"]),
        helper.make_node("Cast", ["isnan"], ["outside"], to=TensorProto.FLOAT),
    ]
    shapes = {"action": ("batch", 1), "outside": ("batch", 3)}
    data = graph(nodes, {"obs": ("batch", 3), "ignored": ("batch", 2)}, shapes)
    record = describe(data, {"ignored": "unused"})
    obs = np.array([[0, 2, 1], [0, np.nan, 1], [np.nan] * 3, [np.inf, -np.inf, 0]], np.float32)
    got = run_c(data, {"obs": obs, "ignored": np.full((4, 2), np.nan, np.float32)}, record)
    np.testing.assert_array_equal(got["action"][:, 0], [1, np.nan, np.nan, 0])
    np.testing.assert_array_equal(got["outside"], np.isnan(obs))
    logs = [helper.make_node("Log", ["obs"], ["logs"]), helper.make_node("ArgMax", ["logs"], ["choice"], axis=1)]
    data = graph([*logs, nodes[2]], {"obs": ("batch", 3)}, {"action": ("batch", 1)})
    np.testing.assert_array_equal(run_c(data, {"obs": obs[[0, 0]] - 1})["action"], [[np.nan], [np.nan]])


def test_memory_is_used_again_and_stated() -> None:
    nodes, last = [], "x"
    for number in range(12):
        nodes.append(helper.make_node("Gemm", [last, "w"], [f"g{number}"]))
        nodes.append(helper.make_node("Tanh", [f"g{number}"], [f"t{number}"]))
        last = f"t{number}"
    nodes.append(helper.make_node("Add", [last, "x"], ["y"]))
    data = graph(nodes, {"x": ("batch", 16)}, {"y": ("batch", 16)}, {"w": np.eye(16, dtype=np.float32)})
    header = Header(data, describe(data), "policy").text()
    assert "#define POLICY_MEMORY_BYTES 128 " in header  # two layers of sixteen floats
    assert "static float policy_floats[32];" in header
    assert f"#define POLICY_CONSTANT_BYTES {16 * 16 * 4}\n" in header
    x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    np.testing.assert_allclose(run_c(data, {"x": x})["y"], run_onnx(data, {"x": x})["y"], atol=1e-6)


def test_no_value_is_lost_where_memory_is_used_again() -> None:
    """Every value of a graph whose values live long, each held against onnxruntime."""
    rng = np.random.default_rng(0)
    names, nodes = ["x"], []
    for number in range(60):
        some = [names[int(index)] for index in rng.integers(max(0, len(names) - 6), len(names), 2)]
        operator = ["Tanh", "Add", "Sub", "Softmax", "Transpose", "Slice2"][int(rng.integers(6))]
        if operator == "Slice2":
            nodes.append(helper.make_node("Slice", [some[0], "two", "six", "one"], [f"s{number}"]))
            nodes.append(helper.make_node("Concat", [f"s{number}", f"s{number}"], [f"v{number}"], axis=1))
        elif operator == "Transpose":
            nodes.append(helper.make_node("Reshape", [some[0], "square"], [f"q{number}"]))
            nodes.append(helper.make_node("Transpose", [f"q{number}"], [f"p{number}"], perm=[0, 2, 1]))
            nodes.append(helper.make_node("Reshape", [f"p{number}", "row"], [f"v{number}"]))
        else:
            nodes.append(
                helper.make_node(operator, some[: 1 if operator in ("Tanh", "Softmax") else 2], [f"v{number}"])
            )
        names.append(f"v{number}")
    constants = {"two": [2], "six": [6], "one": [1], "square": [1, 2, 4], "row": [1, 8]}
    weights = {name: np.array(values, np.int64) for name, values in constants.items()}
    for outputs in (names[-1:], names[1::7], names[1:]):
        data = graph(nodes, {"x": ("batch", 8)}, dict.fromkeys(outputs, ("batch", 8)), weights)
        x = rng.normal(size=(3, 8)).astype(np.float32)
        got = run_c(data, {"x": x})
        for name, array in run_onnx(data, {"x": x}).items():
            np.testing.assert_allclose(got[name], array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("compiler", "standard"), COMPILERS)
def test_the_self_test_counts_what_fails(compiler: str, standard: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["obs"], ["t"]), helper.make_node("Where", ["masks", "t", "obs"], ["action"])]
    nodes.append(helper.make_node("Greater", ["obs", "limit"], ["outside"]))
    types = {"masks": TensorProto.BOOL, "outside": TensorProto.BOOL}
    shapes = ({"obs": ("batch", 2), "masks": ("batch", 2)}, {"action": ("batch", 2), "outside": ("batch", 2)})
    data = graph(nodes, *shapes, {"limit": np.float32(4.0)}, types=types)
    cases = tuple(
        VectorCase(
            inputs={"obs": (value, 1.0), "masks": (True, False)},
            outputs={"action": (float(np.tanh(value)) + wrong, 1.0), "outside": (outside, 0.0)},
        )
        for value, wrong, outside in (
            *((0.5, 0.0, 0.0), (1.5, 1e-6, 0.0), (2.5, 0.1, 0.0), (3.5, float("nan"), 0.0)),
            *((4.5, 0.0, 1.0), (5.5, 0.0, 0.0)),
        )
    )
    vectors = TestVectors(
        digest="",
        inputs=(
            VectorInput(name="obs", dtype="float32", shape=(1, 2)),
            VectorInput(name="masks", dtype="bool", shape=(1, 2)),
        ),
        outputs=(
            VectorOutput(name="action", shape=(1, 2), atol=(1e-5, 0.0), rtol=0.0),
            VectorOutput(name="outside", shape=(1, 2), atol=(0.0, 0.0), rtol=0.0),
        ),
        cases=cases,
    )
    header = Header(data, describe(data), "policy").text(vectors)
    (tmp_path / "policy.h").write_text(header)
    source = "main.cpp" if "++" in standard else "main.c"
    (tmp_path / source).write_text(
        '#define POLICY_SELF_TEST\n#include "policy.h"\nint main(void) { return policy_self_test(); }\n'
    )
    flags = [standard, *WARNINGS, "-O1", source, "-o", "main", "-lm"]
    subprocess.run([require_tool(compiler, f"apt-get install {compiler}"), *flags], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 3


def test_without_vectors_there_is_no_self_test(tmp_path: Path) -> None:
    data = _recurrent()
    (tmp_path / "policy.h").write_text(Header(data, describe(data), "policy").text())
    (tmp_path / "main.c").write_text('#define POLICY_SELF_TEST\n#include "policy.h"\nint main(void) { return 0; }\n')
    done = subprocess.run(
        [require_tool("cc", "apt-get install gcc"), "main.c"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "exported without test vectors" in done.stderr


@pytest.mark.parametrize("flag", ["-ffast-math", "-ffinite-math-only"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_what_takes_nan_for_a_number_is_refused(compiler: str, flag: str, tmp_path: Path) -> None:
    data = _recurrent()
    (tmp_path / "policy.h").write_text(Header(data, describe(data), "policy").text())
    command = [require_tool(compiler, f"apt-get install {compiler}"), flag, "-fsyntax-only", "policy.h"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "-ffast-math, or a part of it, takes what is not a number for one" in done.stderr


def test_a_header_says_so_where_it_is_not_proven() -> None:
    data = _recurrent()
    header = Header(data, describe(data), "policy")
    assert "NOT PROVEN where it was made: there is no */ compiler." not in header.text(
        unproven="there is no */ compiler"
    )
    assert "NOT PROVEN where it was made: there is no * / compiler." in header.text(unproven="there is no */ compiler")
    assert "NOT PROVEN" not in header.text()


def test_headers_of_several_policies_go_into_one_program(tmp_path: Path) -> None:
    data = _recurrent()
    for number, stem in enumerate(("Policy", "policy", "rl_model_500_steps")):
        record = replace(describe(data), digest=f"sha256:{str(number) * 64}")
        (tmp_path / f"{stem}{number}.h").write_text(Header(data, record, stem).text())
    includes = '#include "{0}"\n#include "{0}"\n'
    (tmp_path / "main.c").write_text(
        includes.format("policy1.h") + includes.format("rl_model_500_steps2.h") + "int main(void) { return 0; }\n"
    )
    subprocess.run(
        [require_tool("cc", "apt-get install gcc"), "-std=c99", *WARNINGS, "main.c", "-o", "main", "-lm"],
        cwd=tmp_path,
        check=True,
    )
    (tmp_path / "main.c").write_text(includes.format("Policy0.h") + includes.format("policy1.h"))
    done = subprocess.run(
        [require_tool("cc", "apt-get install gcc"), "-fsyntax-only", "main.c"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "redefined" in done.stderr  # one more name that differs in its case alone is noticed


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = _recurrent()
    runner = compile_header(Header(data, describe(data), "policy").text().encode(), describe(data))
    assert len(list(tmp_path.iterdir())) == 1
    del runner
    assert not list(tmp_path.iterdir())
    assert shutil.which("cc")
