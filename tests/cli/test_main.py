"""The command line: files that equal Stable-Baselines3, and errors that are one line and an exit code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import (
    ExportOptions,
    OnnxPolicy,
    __version__,
    export_policy,
    read_metadata,
    validate_policy,
)
from sb3_clanker.cli.main import main
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.observations.ranges import Ranges
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.record import EvaluationRecord
from sb3_clanker.policy_file.spaces import describe_space
from sb3_clanker.sb3.normalization import Normalization
from tests.policy_file.sealing import resealed
from tests.worlds import (
    BOX_ACTION,
    BOX_OBSERVATION,
    UNBOUNDED_OBSERVATION,
    assert_same_actions,
    make_env,
    make_model,
    predict_raw,
    spread,
)

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True, kw_only=True)
class World:
    """A model that was trained with VecNormalize, another that was not, and a file of each; all read-only."""

    normalized: Path
    statistics: Path
    normalized_onnx: Path
    plain: Path
    plain_onnx: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    normalized = make_model(observation_space=UNBOUNDED_OBSERVATION, normalize=True)
    normalized.learn(32)
    normalized.save(folder / "normalized.zip")
    vec_normalize = normalized.get_vec_normalize_env()
    assert vec_normalize is not None
    vec_normalize.save(str(folder / "statistics.pkl"))
    plain = make_model(action_space=spaces.Discrete(4))
    plain.learn(16)
    plain.save(folder / "plain.zip")
    for arguments in (
        ["export", "--model", folder / "normalized.zip", "--vecnormalize", folder / "statistics.pkl"],
        ["export", "--model", folder / "plain.zip", "--vecnormalize", "none"],
    ):
        assert main([str(argument) for argument in arguments]) == 0
    return World(
        normalized=folder / "normalized.zip",
        statistics=folder / "statistics.pkl",
        normalized_onnx=folder / "normalized.onnx",
        plain=folder / "plain.zip",
        plain_onnx=folder / "plain.onnx",
    )


def _run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def _assert_equals_zip(onnx_path: Path, zip_path: Path, statistics: Path | None = None) -> None:
    """Hold a file against what Stable-Baselines3 itself loads and predicts."""
    model = PPO.load(zip_path, device="cpu")
    env = make_env(model.observation_space, model.action_space)
    vec_normalize = None if statistics is None else VecNormalize.load(str(statistics), env)
    policy = OnnxPolicy(onnx_path)
    actions = assert_same_actions(
        lambda observation: policy.predict(observation)[0],
        lambda observation: predict_raw(model, observation, vec_normalize),
        model.observation_space,
        model.action_space,
    )
    assert len(np.unique(actions, axis=0)) > 1


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# export -------------------------------------------------------------------------------------------------------------


def test_a_file_is_written_beside_the_zip_and_equals_it(world: World, tmp_path: Path, capsys: Capture) -> None:
    model = tmp_path / "my model 1.5.zip"
    shutil.copy(world.plain, model)
    assert _run("export", "--model", model, "--vecnormalize", "none") == 0
    path = tmp_path / "my model 1.5.onnx"
    assert _names(tmp_path) == ["my model 1.5.onnx", "my model 1.5.zip"]
    _assert_equals_zip(path, model)
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ["ok", stage] for stage in ("structure", "contract", "runtime", "cross_check")
    ]
    assert lines[4:] == ["VecNormalize statistics: none, as was said", f"wrote {path} ({path.stat().st_size:,} bytes)"]
    metadata = read_metadata(path)
    assert (metadata.algorithm, metadata.opset_version, metadata.normalization.status) == ("PPO", 18, "none")
    assert metadata.checkpoint is not None
    assert [file.name for file in metadata.checkpoint.files] == [model.name]


def test_output_may_lie_anywhere_and_gets_its_suffix(world: World, tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "policy.v2"
    assert _run("export", "--model", world.plain, "--vecnormalize", "none", "--output", output) == 0
    assert _names(tmp_path) == ["new folder", "new folder/policy.v2.onnx"]
    _assert_equals_zip(tmp_path / "new folder" / "policy.v2.onnx", world.plain)


def test_an_older_file_is_replaced_and_the_opset_kept_exactly(world: World, tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    shutil.copy(world.normalized_onnx, path)
    assert _run("export", "--model", world.plain, "--vecnormalize", "none", "--output", path, "--opset", "17") == 0
    proto = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert read_metadata(path).opset_version == 17
    _assert_equals_zip(path, world.plain)
    assert _names(tmp_path) == ["policy.onnx"]


def test_statistics_that_are_named_are_folded_in(world: World) -> None:
    _assert_equals_zip(world.normalized_onnx, world.normalized, world.statistics)
    metadata = read_metadata(world.normalized_onnx)
    assert metadata.normalization.status == "folded"
    assert metadata.checkpoint is not None
    assert metadata.checkpoint.statistics_file is not None
    assert metadata.checkpoint.statistics_file.name == "statistics.pkl"


def test_none_leaves_statistics_out_even_where_they_lie_beside_the_zip(
    world: World, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copy(world.normalized, tmp_path / "best_model.zip")
    shutil.copy(world.statistics, tmp_path / "best_model_vecnormalize.pkl")
    assert _run("export", "--model", tmp_path / "best_model.zip", "--vecnormalize", "none") == 0
    _assert_equals_zip(tmp_path / "best_model.onnx", world.normalized)
    assert read_metadata(tmp_path / "best_model.onnx").normalization.status == "none"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("model", "statistics"),
    [
        ("rl_model_32_steps", "rl_model_vecnormalize_32_steps.pkl"),
        ("Walker-v1_3/Walker-v1", "Walker-v1_3/Walker-v1/vecnormalize.pkl"),
    ],
)
def test_statistics_are_found_by_name(
    model: str, statistics: str, world: World, tmp_path: Path, capsys: Capture
) -> None:
    zip_path = tmp_path / f"{model}.zip"
    for source, target in ((world.normalized, zip_path), (world.statistics, tmp_path / statistics)):
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    assert _run("export", "--model", zip_path) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"VecNormalize statistics: {tmp_path / statistics}, by its name\n" in captured.out
    path = zip_path.with_suffix(".onnx")
    _assert_equals_zip(path, world.normalized, world.statistics)
    assert _run("validate", path, "--model", zip_path) == 0
    told = f"VecNormalize statistics: {tmp_path / statistics}, by the record of {path.name}\n"
    assert told in capsys.readouterr().out


@pytest.mark.filterwarnings("always::sb3_clanker.UnknownNormalizationWarning")
@pytest.mark.parametrize("name", ["vec_normalize.pkl", "vecnormalize.pkl"])
def test_statistics_that_may_be_of_any_policy_are_used_only_where_they_are_named(
    name: str, world: World, tmp_path: Path, capsys: Capture
) -> None:
    zip_path, statistics, path = tmp_path / "model.zip", tmp_path / name, tmp_path / "model.onnx"
    shutil.copy(world.normalized, zip_path)
    shutil.copy(world.statistics, statistics)
    assert _run("export", "--model", zip_path) == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert f"{statistics} may be of any policy, and is not used." in captured.err
    assert "--vecnormalize" in captured.err
    assert "VecNormalize statistics: none: nothing says whether there were any\n" in captured.out
    _assert_equals_zip(path, world.normalized)
    assert _run("export", "--model", zip_path, "--vecnormalize", statistics) == 0
    assert f"VecNormalize statistics: {statistics}, which was named\n" in capsys.readouterr().out
    _assert_equals_zip(path, world.normalized, world.statistics)
    assert _run("export", "--model", zip_path) == 0, "the record knows by now"
    assert f"VecNormalize statistics: {statistics}, by the record of model.onnx\n" in capsys.readouterr().out
    _assert_equals_zip(path, world.normalized, world.statistics)
    _other_statistics(statistics)  # another training overwrites them
    before = path.read_bytes()
    assert _run("export", "--model", zip_path) == 1
    assert capsys.readouterr().err.startswith(
        f"sb3-clanker: {path}: by its record, model.zip was trained with VecNormalize, and its statistics are not there"
    )
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("always::sb3_clanker.UnknownNormalizationWarning")
def test_unknown_normalization_is_one_line_of_warning(world: World, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "policy.onnx"
    assert _run("export", "--model", world.plain, "--output", path) == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(
        "sb3-clanker: warning: It is unknown whether this policy was trained with VecNormalize: "
    )
    assert "wrote" in captured.out
    assert read_metadata(path).normalization.status == "unknown"
    _assert_equals_zip(path, world.plain)


def test_the_algorithm_can_be_named(tmp_path: Path) -> None:
    model = make_model(DDPG)
    model.save(tmp_path / "model.zip")
    assert _run("export", "--model", tmp_path / "model.zip", "--vecnormalize", "none", "--algo", "ddpg") == 0
    assert read_metadata(tmp_path / "model.onnx").algorithm == "DDPG"
    policy = OnnxPolicy(tmp_path / "model.onnx")
    assert_same_actions(
        lambda observation: policy.predict(observation)[0],
        lambda observation: predict_raw(model, observation),
        BOX_OBSERVATION,
        BOX_ACTION,
    )


# validate -----------------------------------------------------------------------------------------------------------


def test_a_file_is_proven_again(world: World, capsys: Capture) -> None:
    assert _run("validate", world.plain_onnx, "--model", world.plain, "--vecnormalize", "none") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    whole, pair, *stages, statistics, last = captured.out.splitlines()
    assert statistics == "VecNormalize statistics: none, as was said"
    assert whole == f"{world.plain_onnx} is undamaged"
    assert pair == f"{world.plain} belongs to it"
    assert [line.split()[:2] for line in stages] == [
        ["ok", stage] for stage in ("structure", "contract", "runtime", "cross_check")
    ]
    assert last == f"it equals {world.plain}"


def test_a_file_is_proven_again_with_its_statistics_and_its_algorithm(world: World) -> None:
    arguments = ["validate", world.normalized_onnx, "--model", world.normalized]
    assert _run(*arguments, "--vecnormalize", world.statistics, "--algo", "ppo") == 0


def test_a_file_is_not_that_of_another_model(world: World, tmp_path: Path, capsys: Capture) -> None:
    other = make_model(action_space=spaces.Discrete(4))
    spread(other, seed=1)
    other.save(tmp_path / "other.zip")
    assert _run("validate", world.plain_onnx, "--model", tmp_path / "other.zip", "--vecnormalize", "none") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(
        "sb3-clanker: The file failed its proof at the stage cross_check: the file and Stable-Baselines3 disagree: "
    )


def test_a_file_is_not_that_of_a_model_with_other_spaces(world: World, capsys: Capture) -> None:
    assert _run("validate", world.plain_onnx, "--model", world.normalized, "--vecnormalize", "none") == 1
    assert capsys.readouterr().err.startswith("sb3-clanker: The file failed its proof at the stage cross_check: ")


def test_a_file_is_not_that_of_its_model_without_the_statistics(world: World, capsys: Capture) -> None:
    assert _run("validate", world.normalized_onnx, "--model", world.normalized, "--vecnormalize", "none") == 1
    assert "failed its proof at the stage cross_check" in capsys.readouterr().err


@dataclass
class Counts:
    """How often a policy file was opened, how often any was split, and how many bytes went into digests."""

    opened: int = 0
    split: int = 0
    hashed: int = 0


@contextmanager
def counting(path: Path) -> Iterator[Counts]:
    counts, open_path, new_digest = Counts(), Path.open, hashlib.sha256

    def opening(of: Path, *arguments: Any) -> Any:
        counts.opened += of == path
        return open_path(of, *arguments)

    def splitting(data: bytes) -> tuple[list[memoryview], dict[str, str]]:
        counts.split += 1
        return split_container(data)

    def hashing(data: bytes = b"") -> SimpleNamespace:
        digest = new_digest(data)
        counts.hashed += len(data)

        def update(more: bytes) -> None:
            counts.hashed += len(more)
            digest.update(more)

        return SimpleNamespace(update=update, digest=digest.digest, hexdigest=digest.hexdigest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opening)
        patch.setattr(hashlib, "sha256", hashing)
        for module in ("policy_file.reading", "runtime.session"):
            patch.setattr(f"sb3_clanker.{module}.split_container", splitting)
        yield counts


def test_a_file_is_read_split_and_hashed_once(tmp_path: Path) -> None:
    path = export_policy(make_model(), tmp_path / "policy.onnx", options=ExportOptions(test_vectors=2)).path
    works: tuple[Callable[[], object], ...] = (
        lambda: _run("validate", path),
        lambda: _run("validate", path, "--vectors", path.with_suffix(".vectors.json")),
        lambda: _run("inspect", path, "--target", "tract"),
        lambda: OnnxPolicy(path),
    )
    for work in works:
        with counting(path) as counts:
            assert work() != 1
        assert (counts.opened, counts.split) == (1, 1)
        assert path.stat().st_size / 2 < counts.hashed <= path.stat().st_size


def test_a_file_that_is_proven_again_is_read_once(world: World, tmp_path: Path) -> None:
    for file in (world.normalized, world.statistics, world.normalized_onnx):
        shutil.copy(file, tmp_path)
    path, model = tmp_path / world.normalized_onnx.name, tmp_path / world.normalized.name
    with counting(path) as counts:
        assert _run("validate", path, "--model", model) == 0  # its statistics are found by its record
    assert counts.opened == 1
    with counting(path) as counts:
        assert validate_policy(path, PPO.load(model, device="cpu")).passed
    assert counts.opened == 1


# inspect ------------------------------------------------------------------------------------------------------------


def test_json_is_the_whole_record(world: World, capsys: Capture) -> None:
    assert _run("inspect", world.normalized_onnx, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads(encode(read_metadata(world.normalized_onnx)))
    assert captured.err == ""


def _inspected(path: Path, capsys: Capture) -> list[tuple[str, str]]:
    assert _run("inspect", path) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = [line.split("  ", 1) for line in captured.out.splitlines()]
    return [(label.strip(), text.strip()) for label, text in lines]


def test_the_summary_says_what_a_consumer_must_know(world: World, capsys: Capture) -> None:
    metadata = read_metadata(world.normalized_onnx)
    lines = _inspected(world.normalized_onnx, capsys)
    assert lines[:2] == [
        ("policy", "PPO (stable_baselines3.common.policies.ActorCriticPolicy)"),
        ("trained", "32 timesteps"),
    ]
    assert metadata.cross_check is not None
    assert lines[2][0] == "proven"
    assert lines[2][1].startswith(f"{metadata.cross_check.n_observations} observations, largest difference ")
    for line in (
        ("observation space", "Box float32 [3]"),
        ("action space", "Box float32 [2]"),
        ("input", f"obs float32 [batch, 3]: {metadata.inputs[0].meaning}"),
        ("output", f"action float32 [batch, 2]: {metadata.outputs[0].meaning}"),
        ("normalization", "folded"),
        ("opset", "18 (IR version 8)"),
        ("created", metadata.provenance.created),
        ("belongs to", "normalized.zip"),
        ("belongs to", "statistics.pkl"),
        ("digest", f"{metadata.digest} (verified)"),
    ):
        assert line in lines


def test_the_summary_shows_rewards_keys_of_a_dict_and_own_entries(tmp_path: Path, capsys: Capture) -> None:
    space = spaces.Dict({"arm": spaces.Box(-1, 1, (3,)), "gear": spaces.Discrete(5), "skin": spaces.Box(0, 1, (20,))})
    model = make_model(observation_space=space, policy="MultiInputPolicy")
    model.num_timesteps = 1_234_567
    options = ExportOptions(metadata={"robot": "arm-3"}, observation_names={"arm": ["x", "y", "z"]})
    path = tmp_path / "policy.onnx"
    seen = Ranges(describe_space(space, "observation"))
    seen.add({"arm": np.array([[-0.5, 0, 0], [1, 0.123456, 0]]), "skin": np.zeros((2, 20))})
    evaluation = EvaluationRecord(role="best", num_timesteps=1000, mean_reward=12.5, std_reward=2.0, n_episodes=5)
    proven = Exporter(model, Normalization(vec_normalize=None), options).export(
        evaluation=evaluation, ranges=seen.record()
    )
    path.write_bytes(proven.data)
    lines = _inspected(path, capsys)
    assert ("trained", "1,234,567 timesteps") in lines
    assert ("best by", "evaluation at 1,000 timesteps: mean reward 12.50, standard deviation 2.00, 5 episodes") in lines
    assert ("observation space", "Dict(arm: Box float32 [3], gear: Discrete int64 [], skin: Box float32 [20])") in lines
    assert lines[lines.index(("observed", "2 observations")) + 1 :][:2] == [
        ("range", "arm: x -0.5 to 1, y 0 to 0.123, z 0 to 0"),
        ("range", f"skin: {', '.join(['0 to 0'] * 8)}, and 12 more"),
    ]
    assert [text.split(":")[0] for label, text in lines if label == "input"] == [
        "arm float32 [batch, 3]",
        "gear float32 [batch, 1]",
        "skin float32 [batch, 20]",
    ]
    assert ("robot", "arm-3") in lines
    assert "belongs to" not in dict(lines)


# What cannot be done ------------------------------------------------------------------------------------------------


class _OwnPredict(ActorCriticPolicy):
    def predict(self, *args: object, **kwargs: object) -> tuple[np.ndarray, None]:
        return np.zeros(2), None


def _diverged(*names: str) -> BaseAlgorithm:
    """A model with parameters, all by default, that are not a number."""
    model = make_model()
    with th.no_grad():
        for name, parameter in model.policy.named_parameters():
            if not names or name in names:
                parameter.fill_(th.nan)
    return model


def _save(model: BaseAlgorithm, path: Path) -> Path:
    model.save(path)
    return path


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _other_statistics(path: Path) -> Path:
    VecNormalize(make_env(spaces.Box(-1, 1, (7,)), BOX_ACTION)).save(str(path))
    return path


def _damaged_record(world: World, path: Path) -> Path:
    data = world.plain_onnx.read_bytes()
    damaged = data.replace(b'"recurrent": false', b'"recurrent": 12345').replace(
        b'"num_timesteps": ', b'"num_timestepz": '
    )
    stretches, entries = split_container(damaged)
    return _write(path, resealed(b"".join(stretches), entries))


Arguments = Callable[[World, Path], list[object]]

_NONE = ("--vecnormalize", "none")
_ERRORS: dict[str, tuple[Arguments, str]] = {
    "export, no model": (
        lambda world, folder: ["export", "--model", folder / "missing.zip"],
        "missing.zip: there is no such .zip of Stable-Baselines3. Check the path.",
    ),
    "export, a folder": (
        lambda world, folder: ["export", "--model", folder],
        ": there is no such .zip of Stable-Baselines3. Check the path.",
    ),
    "export, no zip": (
        lambda world, folder: ["export", "--model", _write(folder / "model.zip", b"no zip")],
        "model.zip: this is not a zip file, or it is damaged (File is not a zip file). Save the model again.",
    ),
    "export, opset": (
        lambda world, folder: ["export", "--model", world.plain, "--output", folder / "a.onnx", "--opset", 16],
        "Opset 16 is not supported: expected one of 17 to 23.",
    ),
    "export, algorithm": (
        lambda world, folder: ["export", "--model", world.plain, "--output", folder / "a.onnx", "--algo", "PPO2"],
        "algo='PPO2' cannot be used: expected one of a2c, ars, ",
    ),
    "export, wrong algorithm": (
        lambda world, folder: ["export", "--model", world.plain, "--output", folder / "a.onnx", "--algo", "sac"],
        "plain.zip: SAC cannot load it (",
    ),
    "export, no statistics": (
        lambda world, folder: ["export", "--model", world.plain, "--vecnormalize", folder / "missing.pkl"],
        "missing.pkl: there is no such file of VecNormalize statistics. Check the path.",
    ),
    "export, damaged statistics": (
        lambda world, folder: [
            *("export", "--model", world.plain, "--output", folder / "a.onnx"),
            *("--vecnormalize", _write(folder / "damaged.pkl", b"text")),
        ],
        "damaged.pkl: these are no VecNormalize statistics, or they are damaged (",
    ),
    "export, other statistics": (
        lambda world, folder: [
            *("export", "--model", world.plain, "--output", folder / "a.onnx"),
            *("--vecnormalize", _other_statistics(folder / "other.pkl")),
        ],
        "The VecNormalize statistics for the observation have the shape (7,), and the policy observes (3,).",
    ),
    "export, diverged": (
        lambda world, folder: ["export", "--model", _save(_diverged(), folder / "model.zip"), *_NONE],
        "holds values that are infinite or not a number: training has diverged.",
    ),
    "export, diverged in a parameter that the file does not need": (
        lambda world, folder: ["export", "--model", _save(_diverged("log_std"), folder / "model.zip"), *_NONE],
        "holds values that are infinite or not a number: training has diverged.",
    ),
    "export, unsupported policy": (
        lambda world, folder: [
            *("export", "--model", _save(make_model(policy=_OwnPredict), folder / "own.zip")),  # type: ignore[arg-type]
            *_NONE,
        ],
        "Cannot export _OwnPredict: it overrides predict()",
    ),
    "export, onto a folder": (
        lambda world, folder: ["export", "--model", world.plain, *_NONE, "--output", _folder(folder / "a.onnx")],
        "a.onnx: cannot be written: it is a folder.",
    ),
    "export, below a file": (
        lambda world, folder: [
            *("export", "--model", world.plain, *_NONE),
            *("--output", _write(folder / "file", b"") / "a.onnx"),
        ],
        "file: cannot be written: ",
    ),
    "export, this folder as model": (
        lambda world, folder: ["export", "--model", "."],
        "there is no such .zip of Stable-Baselines3",
    ),
    "export, this folder as output": (
        lambda world, folder: ["export", "--model", world.plain, *_NONE, "--output", "."],
        "cannot be written: it is a folder.",
    ),
    "export, name too long": (
        lambda world, folder: ["export", "--model", world.plain, *_NONE, "--output", folder / f"{'a' * 300}.onnx"],
        "cannot be written: ",
    ),
    "inspect, name too long": (
        lambda world, folder: ["inspect", folder / f"{'a' * 300}.onnx"],
        "there is no such policy file",
    ),
    "validate, no file": (
        lambda world, folder: ["validate", folder / "missing.onnx", "--model", world.plain],
        "missing.onnx: there is no such policy file. Check the path.",
    ),
    "validate, no model": (
        lambda world, folder: ["validate", world.plain_onnx, "--model", folder / "missing.zip"],
        "missing.zip: there is no such .zip of Stable-Baselines3. Check the path.",
    ),
    "validate, damaged": (
        lambda world, folder: [
            *("validate", _write(folder / "a.onnx", world.plain_onnx.read_bytes()[:-50])),
            *("--model", world.plain),
        ],
        "a.onnx: ",
    ),
    "inspect, no file": (
        lambda world, folder: ["inspect", folder / "missing.onnx"],
        "missing.onnx: there is no such policy file. Check the path.",
    ),
    "inspect, no policy": (
        lambda world, folder: ["inspect", world.plain],
        "plain.zip: this is not an ONNX file, or it is damaged: ",
    ),
    "inspect, two bad fields": (
        lambda world, folder: ["inspect", _damaged_record(world, folder / "a.onnx")],
        "a.onnx: the record in the file is damaged: ",
    ),
}


@pytest.mark.parametrize("name", _ERRORS)
def test_an_error_is_one_line_and_leaves_nothing_behind(
    name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = _ERRORS[name]
    words = arguments(world, tmp_path)
    before = _names(tmp_path)
    assert _run(*words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sb3-clanker: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert _names(tmp_path) == before


def test_a_bad_field_is_named_in_the_one_line(world: World, tmp_path: Path, capsys: Capture) -> None:
    assert _run("inspect", _damaged_record(world, tmp_path / "a.onnx")) == 1
    error = capsys.readouterr().err
    assert "the record in the file is damaged: recurrent: expected `bool`, got `int`" in error


def test_a_failed_export_leaves_the_older_file_as_it_is(world: World, tmp_path: Path) -> None:
    _save(_diverged(), tmp_path / "model.zip")
    shutil.copy(world.plain_onnx, tmp_path / "model.onnx")
    assert _run("export", "--model", tmp_path / "model.zip", *_NONE) == 1
    assert (tmp_path / "model.onnx").read_bytes() == world.plain_onnx.read_bytes()
    assert _names(tmp_path) == ["model.onnx", "model.zip"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train"],
        ["export"],
        ["export", "--model"],
        ["export", "--model", "a.zip", "--opset", "latest"],
        ["export", "--model", "a.zip", "b.zip"],
        ["validate", "--model", "a.zip"],
        ["inspect"],
        ["inspect", "a.onnx", "--yaml"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: sb3-clanker")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--version"], f"sb3-clanker {__version__}"),
        (["--help"], "exit codes: 0 it worked, 1 it did not"),
        (["export", "--help"], "Loading a .zip or a .pkl runs code that is in it: use files that you trust."),
        (["validate", "--help"], "Loading a .zip or a .pkl runs code that is in it: use files that you trust."),
    ],
    ids=" ".join,
)
def test_help_is_exit_code_0(words: list[str], text: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    captured = capsys.readouterr()
    assert text in " ".join(captured.out.split())
    assert captured.err == ""


# As a process -------------------------------------------------------------------------------------------------------


def _python(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(str(word) for word in words)], capture_output=True, text=True, check=False, timeout=120
    )


def test_the_package_runs_as_a_program() -> None:
    done = _python("-m", "sb3_clanker", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sb3-clanker {__version__}\n", "")


def test_an_error_of_the_program_is_one_line(tmp_path: Path) -> None:
    done = _python("-m", "sb3_clanker", "export", "--model", tmp_path / "missing.zip")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"sb3-clanker: {tmp_path / 'missing.zip'}: there is no such .zip of Stable-Baselines3. Check the path.\n"
    )
    assert _names(tmp_path) == []


def test_an_export_by_the_program_says_nothing_on_standard_error_but_its_warning(world: World, tmp_path: Path) -> None:
    done = _python("-m", "sb3_clanker", "export", "--model", world.plain, "--output", tmp_path / "policy.onnx")
    assert done.returncode == 0
    assert done.stdout.endswith(
        f"wrote {tmp_path / 'policy.onnx'} ({(tmp_path / 'policy.onnx').stat().st_size:,} bytes)\n"
    )
    assert done.stderr.startswith("sb3-clanker: warning: It is unknown whether")
    assert done.stderr.count("\n") == 1
    _assert_equals_zip(tmp_path / "policy.onnx", world.plain)


def test_inspecting_needs_no_training_side(world: World) -> None:
    code = (
        "import sys; from sb3_clanker.cli.main import main; code = main(['inspect', sys.argv[1]]); "
        "sys.exit(code or bool({'torch', 'stable_baselines3', 'onnx', 'gymnasium'} & set(sys.modules)))"
    )
    done = _python("-c", code, world.plain_onnx)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stable_baselines3.common.policies.ActorCriticPolicy" in done.stdout


def test_the_command_line_writes_what_the_function_writes(world: World, tmp_path: Path) -> None:
    model = PPO.load(world.plain, device="cpu")
    shutil.copy(world.plain, tmp_path / "plain.zip")
    report = export_policy(model, tmp_path / "plain.onnx", vec_normalize=None)
    of_command_line = json.loads(encode(read_metadata(world.plain_onnx)))
    of_function = json.loads(encode(report.metadata))
    for record in (of_command_line, of_function):
        del record["provenance"]["created"]
    assert of_function == of_command_line


# Whatever the streams are -------------------------------------------------------------------------------------------

_CLI = (sys.executable, "-m", "sb3_clanker")


def _shell(command: str, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of bash, in which ``$@`` are the words."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, "bash", *map(str, words)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize(
    "words", [["inspect"], ["inspect", "--json"], ["validate"], ["inspect", "--help"]], ids=" ".join
)
def test_a_reader_that_wants_no_more_is_no_error(words: list[str], world: World) -> None:
    done = _shell('"$@" | true', *_CLI, *words, world.plain_onnx)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_verdict_does_not_depend_on_the_reader(world: World, tmp_path: Path) -> None:
    done = _shell('"$@" | true', *_CLI, "inspect", "--json", "--target", "clankers", _of_other_target(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("sb3-clanker: clankers does not take this policy: ")
    assert done.stderr.count("\n") == 1


def _of_other_target(folder: Path) -> Path:
    """A policy that clankers does not take."""
    path: Path = export_policy(
        make_model(observation_space=spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), policy="MultiInputPolicy"),
        folder / "dict.onnx",
    ).path
    return path


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--json"]], ids=" ".join)
def test_a_full_device_is_one_line(words: list[str], world: World) -> None:
    done = _shell('"$@" > /dev/full', *_CLI, *words, world.plain_onnx)
    assert done.returncode == 1
    assert done.stderr == (
        "sb3-clanker: standard output: cannot be written: No space left on device. "
        "Check that the folder exists, is writable and not full.\n"
    )


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}], ids=str)
def test_any_encoding_of_standard_output_will_do(env: dict[str, str], tmp_path: Path) -> None:
    options = ExportOptions(metadata={"робот": "±1"})
    path = export_policy(make_model(), tmp_path / "политика.onnx", options=options).path
    ascii_ = env | {"PYTHONCOERCECLOCALE": "0"}
    done = _shell('"$@"', *_CLI, "inspect", path, **ascii_)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u0440\\u043e\\u0431\\u043e\\u0442" in done.stdout
    assert "\\xb11" in done.stdout
    assert json.loads(_shell('"$@"', *_CLI, "inspect", "--json", path, **ascii_).stdout)["entries"] == options.metadata
    missing = _shell('"$@"', *_CLI, "validate", tmp_path / "нет.onnx", **ascii_)
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_closed_streams_change_neither_the_exit_code_nor_the_file(closed: str, world: World, tmp_path: Path) -> None:
    done = _shell(f'"$@" {closed}', *_CLI, "inspect", tmp_path / "missing.onnx")
    assert (done.returncode, done.stdout) == (1, "")
    done = _shell(f'"$@" {closed}', *_CLI, "inspect", world.plain_onnx)
    assert (done.returncode, done.stderr) == (0, "")
    words = ["export", "--model", world.plain, "--output", tmp_path / "policy.onnx", "--vecnormalize", "none"]
    if closed == ">&- 2>&- <&-":
        assert _shell(f'"$@" {closed}', *_CLI, *words).returncode == 0
        _assert_equals_zip(tmp_path / "policy.onnx", world.plain)


# Whatever goes wrong ------------------------------------------------------------------------------------------------


def _exit_when_loaded(path: Path) -> Path:
    path.write_bytes(b"\x80\x04cbuiltins\nexit\n)R.")
    return path


def _with_attribute(world: World, path: Path, **attributes: object) -> Path:
    """A .zip in which somebody changed what was saved."""
    with zipfile.ZipFile(world.plain) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, json.dumps(json.loads(content) | attributes) if name == "data" else content)
    return path


def _with_statistics(world: World, path: Path, **attributes: object) -> Path:
    """Statistics in which somebody changed what was saved."""
    vec_normalize = VecNormalize.load(str(world.statistics), make_env(UNBOUNDED_OBSERVATION, BOX_ACTION))
    for name, value in attributes.items():
        setattr(vec_normalize, name, value)
    vec_normalize.save(str(path))
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


_DIVERGED = RunningMeanStd(shape=(3,))
_DIVERGED.mean = np.array([0.0, np.nan, 0.0])
_NEGATIVE = RunningMeanStd(shape=(3,))
_NEGATIVE.var = np.array([1.0, -1.0, 1.0])

_HOSTILE: dict[str, tuple[Arguments, str]] = {
    "a NUL in a path": (lambda world, folder: ["inspect", "a\0b"], "a\\x00b: there is no such policy"),
    "bytes that are no text": (
        lambda world, folder: ["inspect", "\udcff.onnx"],
        "\\udcff.onnx: there is no such ",
    ),
    "a pipe as policy": (
        lambda world, folder: ["inspect", _pipe(folder / "a.onnx")],
        "a.onnx: there is no such policy",
    ),
    "a pipe as .zip": (lambda world, folder: ["export", "--model", _pipe(folder / "a.zip")], "there is no such .zip"),
    "an endless device": (lambda world, folder: ["validate", "/dev/zero"], "/dev/zero: there is no such policy file."),
    "an empty output": (
        lambda world, folder: ["export", "--model", world.plain, *_NONE, "--output", ""],
        ".: cannot be written: it is a folder.",
    ),
    "a huge number": (
        lambda world, folder: ["export", "--model", world.plain, *_NONE, "--test-vectors", 10**30],
        f"test_vectors={10**30} cannot be used: expected 100,000 at most, or None.",
    ),
    "a number of steps that is none": (
        lambda world, folder: [
            "export",
            "--model",
            _with_attribute(world, folder / "a.zip", num_timesteps="x"),
            *_NONE,
        ],
        "a.zip: PPO cannot load it (ValueError: invalid literal for int() with base 10: 'x').",
    ),
    "a policy class that is none": (
        lambda world, folder: ["export", "--model", _with_attribute(world, folder / "a.zip", policy_class=3), *_NONE],
        "a.zip: its algorithm cannot be recognised. Pass --algo",
    ),
    "statistics that are not a number": (
        lambda world, folder: [
            *("export", "--model", world.normalized, "--output", folder / "a.onnx"),
            *("--vecnormalize", _with_statistics(world, folder / "a.pkl", obs_rms=_DIVERGED)),
        ],
        "The VecNormalize statistics for the observation hold values that are infinite, negative or not a number",
    ),
    "a negative variance": (
        lambda world, folder: [
            *("export", "--model", world.normalized, "--output", folder / "a.onnx"),
            *("--vecnormalize", _with_statistics(world, folder / "a.pkl", obs_rms=_NEGATIVE)),
        ],
        "The VecNormalize statistics for the observation hold values that are infinite, negative or not a number",
    ),
    "statistics without numbers": (
        lambda world, folder: [
            *("export", "--model", world.normalized, "--output", folder / "a.onnx"),
            *("--vecnormalize", _with_statistics(world, folder / "a.pkl", obs_rms=3)),
        ],
        "These VecNormalize statistics are damaged ('int' object has no attribute 'mean').",
    ),
    "statistics that end the program": (
        lambda world, folder: [
            *("export", "--model", world.normalized, "--output", folder / "a.onnx"),
            *("--vecnormalize", _exit_when_loaded(folder / "a.pkl")),
        ],
        "unexpected SystemExit: None (python -X dev -m sb3_clanker shows where)",
    ),
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_arguments_are_one_line_and_leave_nothing_behind(
    name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    arguments, message = _HOSTILE[name]
    words = arguments(world, tmp_path)
    before = _names(tmp_path)
    assert _run(*words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sb3-clanker: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert _names(tmp_path) == before


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ZeroDivisionError("by\nzero"), "sb3-clanker: unexpected ZeroDivisionError: by zero (python -X dev "),
        (KeyboardInterrupt(), "sb3-clanker: interrupted\n"),
        (MemoryError(), "sb3-clanker: unexpected MemoryError: (python -X dev "),
    ],
    ids=repr,
)
def test_what_nobody_expects_is_one_line_too(
    error: BaseException, line: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("sb3_clanker.cli.inspect.read_metadata", fail)
    assert _run("inspect", world.plain_onnx) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == 1


def test_a_developer_sees_where(world: World) -> None:
    code = (
        "import sys; from sb3_clanker.cli import inspect, main; inspect.read_metadata = lambda path: 1 / 0; "
        "sys.exit(main.main(['inspect', sys.argv[1]]))"
    )
    for flags, traceback in (((), False), (("-X", "dev"), True)):
        done = _python(*flags, "-c", code, world.plain_onnx)
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is traceback
