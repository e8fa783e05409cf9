"""The contract of the clanker policy format, key for key and shape for shape, on files that were really written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_clanker.export.calls import export_policy
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.entries import CONTRACT_KEYS
from sb3_clanker.writers.contract import contract_problems
from tests.worlds import make_model


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PPO of the shape of the reference export: 4 observations, 2 continuous actions within ±1."""
    model = make_model(PPO, spaces.Box(-10.0, 10.0, (4,)), spaces.Box(-1.0, 1.0, (2,)))
    path = tmp_path_factory.mktemp("contract") / "cartpole.onnx"
    export_policy(model, path)
    return path


def test_the_nine_keys_are_those_of_the_reference_export(cartpole: Path) -> None:
    entries = onnxruntime.InferenceSession(cartpole).get_modelmeta().custom_metadata_map
    assert {key: entries[key] for key in CONTRACT_KEYS} == {
        "clanker_policy_version": "1.0.0",
        "action_space": '{"type": "Box", "shape": [2], "dtype": "float32", "low": [-1.0, -1.0], "high": [1.0, 1.0]}',
        "action_transform": "none",
        "action_scale": "[1.0, 1.0]",
        "action_offset": "[0.0, 0.0]",
        "training_framework": "stable-baselines3",
        "recurrent": "false",
        "deterministic_mode": "false",
        "batch_inference": "true",
    }
    assert set(entries) == {*CONTRACT_KEYS, "sb3_clanker", "sb3_clanker_seal"}
    assert json.loads(entries["sb3_clanker"])["algorithm"] == "PPO"


@pytest.mark.parametrize(("opset_version", "ir_version"), [(17, 8), (18, 8), (21, 10)])
def test_opset_and_ir_version_are_those_asked_for(tmp_path: Path, opset_version: int, ir_version: int) -> None:
    path = tmp_path / "policy.onnx"
    export_policy(make_model(action_space=spaces.Discrete(2)), path, options=ExportOptions(opset_version=opset_version))
    proto = onnx.load(path)
    assert [entry.version for entry in proto.opset_import] == [opset_version]
    assert proto.ir_version == ir_version


def test_inputs_and_outputs_are_what_the_loader_takes(cartpole: Path) -> None:
    session = onnxruntime.InferenceSession(cartpole)
    assert [(value.name, value.type, value.shape) for value in session.get_inputs()] == [
        ("obs", "tensor(float)", ["batch", 4])
    ]
    assert [(value.name, value.type, value.shape) for value in session.get_outputs()] == [
        ("action", "tensor(float)", ["batch", 2])
    ]
    for n in (1, 5):
        assert session.run(None, {"obs": np.zeros((n, 4), np.float32)})[0].shape == (n, 2)


def test_one_file_is_enough(cartpole: Path, tmp_path: Path) -> None:
    alone = tmp_path / "empty folder" / "policy.onnx"
    alone.parent.mkdir()
    shutil.copy(cartpole, alone)
    code = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, alone.name], cwd=alone.parent, check=True)
    assert os.listdir(alone.parent) == ["policy.onnx"]  # noqa: PTH208


def test_nothing_of_the_machine_is_in_the_file(cartpole: Path) -> None:
    data = cartpole.read_bytes()
    traces = [str(Path(__file__).parents[2]), str(Path.home()), sys.prefix, "site-packages", "Traceback", ".py"]
    assert [trace for trace in traces if trace.encode() in data] == []


def test_a_good_file_breaks_no_promise(cartpole: Path) -> None:
    from sb3_clanker import read_metadata

    assert contract_problems(onnx.load(cartpole), read_metadata(cartpole)) == []
