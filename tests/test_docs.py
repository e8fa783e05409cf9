"""The documents: their tables are made from the code, their programs run, their links lead somewhere."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_clanker import ExportOptions, OnnxPolicy, PolicyMetadata, export_policy, read_metadata
from sb3_clanker.cli.main import main
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.documents import json_schema
from sb3_clanker.targets.check import TARGETS, check_target
from tests.support import OBSERVATIONS
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, SpacesEnv, make_model

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FORMAT = (DOCS / "file-format.md").read_text()


def _between(name: str) -> str:
    match = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", FORMAT, re.DOTALL)
    assert match is not None
    return match[1]


def _program(name: str, folder: Path) -> Path:
    """A program in the document, as a file."""
    path = folder / f"{name}.py"
    path.write_text(_between(name).removeprefix("```python\n").removesuffix("```\n"))
    return path


def fields_table(properties: dict[str, Any]) -> str:
    """The fields of an object, in Markdown."""
    rows = [f"| `{name}` | {of_field['description']} |\n" for name, of_field in properties.items()]
    return "| field | what it is |\n| --- | --- |\n" + "".join(rows)


def test_the_tables_of_the_record_are_those_of_the_code() -> None:
    schema = json_schema(PolicyMetadata)
    assert _between("record") == fields_table(schema["properties"])
    assert _between("tensor") == fields_table(schema["$defs"]["TensorSpec"]["properties"])


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from sb3_contrib import MaskablePPO, RecurrentPPO

    models = {
        "box": make_model(PPO, normalize=True),
        "masked": make_model(MaskablePPO, OBSERVATIONS["Dict"], spaces.Discrete(3), policy="MultiInputPolicy"),
        "recurrent": make_model(RecurrentPPO, policy="MlpLstmPolicy"),
    }
    folder = tmp_path_factory.mktemp("policies")
    options = ExportOptions(test_vectors=4, metadata={"robot": "arm-3"})
    return [export_policy(model, folder / name, options=options).path for name, model in models.items()]


def _run(*arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def _verify(path: Path) -> str:
    line = _between("seal").removeprefix("```sh\n").removesuffix("```\n")
    return subprocess.run(["/bin/sh", "-c", line, "sh", path], capture_output=True, text=True, check=True).stdout


def test_the_seal_can_be_verified_with_the_line_in_the_document(policies: list[Path], tmp_path: Path) -> None:
    for path in policies:
        assert _verify(path) == "whole\n"

    model = onnx.load(policies[0])
    (tmp_path / "copied.onnx").write_bytes(model.SerializeToString())
    assert _verify(tmp_path / "copied.onnx") == "whole\n"
    next(entry for entry in model.metadata_props if entry.key == "robot").value = "arm-4"
    (tmp_path / "edited.onnx").write_bytes(model.SerializeToString())
    assert _verify(tmp_path / "edited.onnx") == "damaged\n"

    for position in (0, len(policies[0].read_bytes()) // 8, -100, -1):
        data = bytearray(policies[0].read_bytes())
        data[position] ^= 1
        (tmp_path / "damaged.onnx").write_bytes(data)
        assert _verify(tmp_path / "damaged.onnx") == "damaged\n"


def test_the_digest_is_that_of_what_stands_before_the_metadata(policies: list[Path]) -> None:
    for path in policies:
        data = path.read_bytes()
        before = data[: data.index(b"clanker_policy_version") - 4]
        assert read_metadata(path).digest == f"sha256:{hashlib.sha256(before).hexdigest()}"


def test_vectors_can_be_checked_with_the_program_in_the_document(policies: list[Path], tmp_path: Path) -> None:
    program = _program("checker", tmp_path)
    assert len(program.read_text().splitlines()) <= 25
    for path in policies:
        done = _run(program, path, path.with_suffix(".vectors.json"))
        assert (done.returncode, done.stdout, done.stderr) == (0, "4 cases agree\n", "")
    first, second, _ = policies
    done = _run(program, first, second.with_suffix(".vectors.json"))
    assert (done.returncode, done.stderr) == (1, "these vectors belong to another file\n")
    vectors = first.with_suffix(".vectors.json").read_text()
    (tmp_path / "wrong.json").write_text(re.sub(r'("action": \[)[^,]+,', r"\g<1>0.123,", vectors, count=1))
    done = _run(program, first, tmp_path / "wrong.json")
    assert done.returncode == 1
    assert done.stderr.startswith("case 0: action is [")


def test_the_graph_is_the_same_in_every_export(tmp_path: Path) -> None:
    model = make_model(PPO, normalize=True)
    bodies = []
    for name in ("a.onnx", "b.onnx"):
        body, _ = split_container(export_policy(model, tmp_path / name).path.read_bytes())
        bodies.append(b"".join(body))
    assert bodies[0] == bodies[1]


def test_metadata_follow_the_graph_in_the_order_of_the_document(policies: list[Path]) -> None:
    data = policies[0].read_bytes()
    body, entries = split_container(data)
    assert data.startswith(b"".join(body))
    assert list(entries)[9:] == ["robot", "sb3_clanker", "sb3_clanker_seal"]
    named = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", FORMAT.split("## The record")[0], re.MULTILINE))
    )
    assert set(list(entries)[:9]) <= set(named)


def test_the_loop_in_python_plays(policies: list[Path]) -> None:
    text = (DOCS / "deploying.md").read_text()
    (loop,) = re.findall(r"```python\n(policy = OnnxPolicy.*?)```", text, re.DOTALL)
    loop = loop.replace("while running:", "for _ in range(50):").replace("best_model.onnx", str(policies[2]))
    names: dict[str, Any] = {"OnnxPolicy": OnnxPolicy, "np": np, "env": SpacesEnv(BOX_OBSERVATION, BOX_ACTION)}
    exec(loop, names)  # noqa: S102 - a program of our own
    assert names["action"].shape == (2,)
    assert [part.shape for part in names["state"]] == [(1, 1, 16)] * 2


def test_the_exports_for_a_target_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "deploying.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    model = make_model(action_space=spaces.Box(-1.0, 1.0, (2,)))
    for export in blocks[-2:]:
        exec(export, {"export_policy": export_policy, "ExportOptions": ExportOptions, "model": model})  # noqa: S102
    for name, target in (("arm", "clankers"), ("player", "godot")):
        assert check_target(read_metadata(tmp_path / f"{name}.onnx"), target).accepts


@pytest.mark.parametrize("name", ["file-format.md", "deploying.md", "range-check.md", "recipes.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (DOCS / name).read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (DOCS / path).resolve() if path else DOCS / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, link


def test_every_target_is_explained() -> None:
    text = (DOCS / "deploying.md").read_text()
    assert re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE) == list(TARGETS)


@pytest.mark.parametrize("name", ["file-format.md", "deploying.md", "range-check.md"])
def test_every_option_that_is_named_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / name).read_text()
    for option in re.findall(r"ExportOptions\((\w+)=", text):
        assert option in ExportOptions.__dataclass_fields__
    commands = re.findall(r"sb3-clanker (\w+)([^`\n]*)", text)
    assert commands
    for command, rest in commands:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        shown = capsys.readouterr().out
        assert all(option in shown for option in re.findall(r"--[a-z-]+", rest))
