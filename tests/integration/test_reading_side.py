"""The reading side needs numpy, onnxruntime and msgspec alone: a process without the others loads and predicts."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import ExportOptions, export_policy
from tests.worlds import BOX_ACTION, UNBOUNDED_OBSERVATION, draw, make_model, predict_raw

BLOCKED = (
    "torch",
    "stable_baselines3",
    "sb3_contrib",
    "gymnasium",
    "onnx",
    "onnxscript",
    "onnx_ir",
)

BLOCKER = f"""
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    blocked = {BLOCKED!r}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.blocked:
            raise ImportError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""

PREDICT = """
import numpy as np
from sb3_clanker import OnnxPolicy, read_metadata

_, policy_file, observations_file, actions_file = sys.argv
metadata = read_metadata(policy_file)
policy = OnnxPolicy(policy_file)
assert policy.metadata == metadata
observations = np.load(observations_file)
batch, _ = policy.predict(observations)
single = [policy.predict(observation)[0] for observation in observations]
np.savez(actions_file, batch=batch, single=np.stack(single))
loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(Blocker.blocked))
print(metadata.algorithm, metadata.normalization.status, metadata.training.num_timesteps, metadata.entries, loaded)
"""


TRY_EACH = """
import sb3_clanker

for package in Blocker.blocked:
    try:
        __import__(package)
    except ImportError as error:
        print(error)
"""


@dataclass(frozen=True, kw_only=True)
class Exported:
    model: BaseAlgorithm
    path: Path


def run(script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a Python of its own, where the training side cannot be imported."""
    command = [sys.executable, "-c", BLOCKER + script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def export(folder: Path, action_space: spaces.Space[Any]) -> Exported:
    model = make_model(PPO, UNBOUNDED_OBSERVATION, action_space, normalize=True)
    model.learn(32)
    options = ExportOptions(metadata={"robot": "arm-3"})
    return Exported(model=model, path=export_policy(model, folder / "policy.onnx", options=options).path)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("box"), BOX_ACTION)


@pytest.fixture(scope="module")
def discrete(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("discrete"), spaces.Discrete(4))


@pytest.mark.parametrize("name", ["box", "discrete"])
def test_a_policy_predicts_without_the_training_side(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    exported: Exported = request.getfixturevalue(name)
    observations = draw(UNBOUNDED_OBSERVATION, np.random.default_rng(0), 32)
    np.save(tmp_path / "observations.npy", observations)
    result = run(PREDICT, exported.path, tmp_path / "observations.npy", tmp_path / "actions.npz")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "PPO folded 32 {'robot': 'arm-3'} []\n"

    expected = predict_raw(exported.model, observations, exported.model.get_vec_normalize_env())
    assert len(np.unique(expected, axis=0)) > 1, "the weights tell no actions apart"
    with np.load(tmp_path / "actions.npz") as actions:
        for got in (actions["batch"], actions["single"]):
            assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_check_sees_every_package_of_the_training_side() -> None:
    result = run(TRY_EACH)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"{package} is blocked" for package in BLOCKED]


@pytest.mark.parametrize("space", ["action_space", "observation_space"])
def test_the_check_sees_that_a_space_needs_gymnasium(box: Exported, space: str) -> None:
    result = run(f"from sb3_clanker import OnnxPolicy\nOnnxPolicy(sys.argv[1]).{space}", box.path)
    assert result.returncode == 1
    assert result.stderr.endswith("\nImportError: gymnasium is blocked\n")


@pytest.mark.parametrize("name", ["export_policy", "OnnxCheckpointCallback"])
def test_the_check_sees_that_exporting_needs_the_training_side(name: str) -> None:
    result = run(f"from sb3_clanker import {name}")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(rf"ImportError: ({'|'.join(BLOCKED)})(\.\w+)* is blocked", last), last


def test_errors_of_the_reading_side_need_no_training_side(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no policy")
    result = run("from sb3_clanker import read_metadata\nread_metadata(sys.argv[1])", broken)
    assert result.returncode == 1
    assert f"sb3_clanker.PolicyFileError: {broken}: this is not an ONNX file" in result.stderr
