"""The same weights give the same graph byte for byte, and the same record but for its provenance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import export_policy
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.entries import RECORD_KEY, SEAL_KEY
from tests.worlds import make_env, make_model

WORLDS: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "PPO": (PPO, {}),
    "SAC": (SAC, {}),
    "DQN": (DQN, {"action_space": spaces.Discrete(4)}),
    "PPO, normalized": (PPO, {"normalize": True}),
}


def _model(name: str) -> BaseAlgorithm:
    algorithm, kwargs = WORLDS[name]
    model = make_model(algorithm, **kwargs)
    env = model.get_env()
    assert env is not None
    env.seed(11)
    model.learn(40)
    return model


def export_each(folder: Path) -> None:
    """Train each and export it, in whichever process this is."""
    for name in WORLDS:
        export_policy(_model(name), folder / f"{name}.onnx")


def _parts(path: Path) -> tuple[bytes, dict[str, str], dict[str, Any]]:
    """Graph and weights, the flat entries, and the record but for its provenance."""
    body, entries = split_container(path.read_bytes())
    record = json.loads(entries.pop(RECORD_KEY))
    assert entries.pop(SEAL_KEY)  # of the time, too
    assert record.pop("provenance")["created"]
    return b"".join(body), entries, record


def _assert_same(one: Path, other: Path) -> None:
    (graph, entries, record), (other_graph, other_entries, other_record) = _parts(one), _parts(other)
    assert graph == other_graph
    assert list(entries.items()) == list(other_entries.items())
    assert record == other_record
    assert list(record) == list(other_record)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What two processes write whose sets and dictionaries of strings are in different order."""
    folders = [tmp_path_factory.mktemp("process") for _ in range(2)]
    code = (
        "import sys; import torch; torch.set_num_threads(1); from pathlib import Path; "
        "from tests.integration.test_reproducible import export_each; export_each(Path(sys.argv[1]))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, folder],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for seed, folder in enumerate(folders)
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    return folders


@pytest.mark.parametrize("name", WORLDS)
def test_two_processes_write_the_same(name: str, processes: list[Path]) -> None:
    _assert_same(processes[0] / f"{name}.onnx", processes[1] / f"{name}.onnx")


@pytest.mark.parametrize("name", WORLDS)
def test_one_process_writes_the_same_again_and_again_after_a_checkpoint(name: str, tmp_path: Path) -> None:
    model = _model(name)
    vec_normalize = model.get_vec_normalize_env()
    for number in range(2):
        export_policy(model, tmp_path / f"{number}.onnx")
    _assert_same(tmp_path / "0.onnx", tmp_path / "1.onnx")

    model.save(tmp_path / "model.zip")
    if vec_normalize is not None:
        vec_normalize.save(str(tmp_path / "model_vecnormalize.pkl"))
    plain = make_env(model.observation_space, model.action_space)
    env = plain if vec_normalize is None else VecNormalize.load(str(tmp_path / "model_vecnormalize.pkl"), plain)
    export_policy(WORLDS[name][0].load(tmp_path / "model.zip", env=env, device="cpu"), tmp_path / "loaded.onnx")
    assert _parts(tmp_path / "loaded.onnx")[0] == _parts(tmp_path / "0.onnx")[0]


def test_other_weights_are_told_from_the_same(tmp_path: Path) -> None:
    model = make_model()
    export_policy(model, tmp_path / "0.onnx")
    model.learn(20)
    export_policy(model, tmp_path / "1.onnx")
    assert _parts(tmp_path / "0.onnx")[0] != _parts(tmp_path / "1.onnx")[0]
    with pytest.raises(AssertionError):
        _assert_same(tmp_path / "0.onnx", tmp_path / "1.onnx")
