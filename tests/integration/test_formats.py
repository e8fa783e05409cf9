"""Every format beside ONNX on every row of the support table, held against Stable-Baselines3; and in trainings."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy, export_policy, read_metadata
from sb3_clanker.errors import FormatError, PublicationError
from sb3_clanker.formats.format import FormatName, open_format
from sb3_clanker.policy_file.vectors import TestVectors, read_vectors
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.run_folder.names import VECTORS, Checkpoint, running_kind
from sb3_clanker.runtime.check_vectors import check_format, check_vectors
from sb3_clanker.sb3.normalization import load_statistics
from tests.integration.test_support_table import contexts, make_case, normalized, raw_observation
from tests.integration.trainings import states, states_of_formats
from tests.support import ACTIONS, CASES, Case
from tests.worlds import BOX_OBSERVATION, assert_same_actions, make_model, predict_raw, spread

FORMATS: tuple[FormatName, ...] = get_args(FormatName)
REFUSED: dict[tuple[FormatName, str], str] = {}
"""What a format refuses of the table, with a text of the error."""
_QUICK = {"SAC-unboundedBox-Box-VecNormalize", "RecurrentPPO-twoLSTMlayers-Box-Box", "MaskablePPO-Box-MultiDiscrete"}
"""What the default suite tries of the table; the long tests try all."""
_MOST_SEEDS = 100
_ROW = re.compile(r"^\| `(?P<format>\w+)` \|.*\| (?P<vectors>[\d.e+-]+) \| (?P<random>[\d.e+-]+) \|$", re.MULTILINE)


def _documented() -> dict[str, tuple[float, float]]:
    """By format, the largest differences that the documentation promises: on vectors, and on random observations."""
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    return {row["format"]: (float(row["vectors"]), float(row["random"])) for row in _ROW.finditer(text)}


def _batches() -> Iterator[int | None]:
    """Sizes of batches that make 1,000 observations."""
    yield from [7] * 142
    yield from [1] * 5
    yield None


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if str(case) in _QUICK else pytest.mark.slow) for case in CASES], ids=str
)
def test_a_format_does_what_stable_baselines3_does(case: Case, tmp_path: Path) -> None:
    model: Any = make_case(case)
    model.learn(60)
    if case.wrapper == "SubprocVecEnv":
        model.get_env().close()
    _tell_apart(case, model)
    for name in FORMATS:
        if text := REFUSED.get((name, str(case))):
            with pytest.raises(FormatError, match=text):
                export_policy(model, tmp_path / "refused.onnx", options=ExportOptions(formats=(name,)))
    assert list(tmp_path.iterdir()) == []
    names = [name for name in FORMATS if (name, str(case)) not in REFUSED]
    path = tmp_path / "policy.onnx"
    report = export_policy(model, path, options=ExportOptions(formats=names, test_vectors=16))
    assert set(report.validation.formats) == set(names)
    files, metadata = Checkpoint(path.stem).files, report.metadata
    policies = {
        name: OnnxPolicy.from_runner(open_format(name, (tmp_path / files[running_kind(name)]).read_bytes()), metadata)
        for name in names
    }
    vectors = read_vectors(tmp_path / files[VECTORS])
    space, rng = ACTIONS[case.action], np.random.default_rng(11)
    unit = (space.high.astype(np.float64) - space.low) / 2 if isinstance(space, spaces.Box) else np.ones(())
    largest = {name: [_apart_on_vectors(policy, vectors, unit), 0.0] for name, policy in policies.items()}
    seen = set()
    for n in _batches():
        for context in contexts(model, rng, n):
            raw = raw_observation(case, rng, n)
            observation = normalized(case, raw, model.get_vec_normalize_env())
            expected, state = model.predict(observation, deterministic=True, **context)
            seen |= {row.tobytes() for row in (expected if n else expected[None])}
            for name, policy in policies.items():
                got, got_state = policy.predict(raw, **context)
                assert (got.shape, got.dtype) == (expected.shape, expected.dtype), name
                parts = [(got / unit, expected / unit), *zip(got_state or (), state or (), strict=True)]
                largest[name][1] = max(largest[name][1], *(_apart(*part) for part in parts))
    assert len(seen) > 1, "the weights tell no actions apart"
    print(largest)  # noqa: T201 - shown by -s, for the documentation
    for name, (on_vectors, on_random) in largest.items():
        of_vectors, of_random = _documented()[name]
        assert on_vectors <= of_vectors, name
        assert on_random <= of_random, name


def _tell_apart(case: Case, model: Any) -> None:
    """Where so short a training made of all observations one action, take other weights."""
    raw = raw_observation(case, np.random.default_rng(11), 200)
    observation = normalized(case, raw, model.get_vec_normalize_env())
    for seed in range(_MOST_SEEDS):
        actions, _ = model.predict(observation, deterministic=True)
        if len(np.unique(actions, axis=0)) > 1:
            return
        spread(model, seed=seed)


def _apart_on_vectors(policy: OnnxPolicy, vectors: TestVectors, unit: NDArray[np.float64]) -> float:
    """The largest difference on test vectors, of actions in a unit; all are within their own tolerances."""
    check_vectors(policy, vectors)
    largest = 0.0
    for case in vectors.cases:
        feed = {spec.name: np.array(case.inputs[spec.name], spec.dtype).reshape(spec.shape) for spec in vectors.inputs}
        for name, got in policy.run(feed).items():
            expected = np.array(case.outputs[name]).reshape(got.shape)
            units = unit.reshape(-1) if name == "action" else np.ones(())
            largest = max(largest, _apart(got / units, expected / units))
    return largest


def _apart(got: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(got.astype(np.float64) - expected).max())


# In trainings -------------------------------------------------------------------------------------------------------


def _train(folder: Path, steps: int, model: BaseAlgorithm | None = None, **kwargs: Any) -> BaseAlgorithm:
    model = model or make_model(SAC, normalize=True)
    callback = OnnxCheckpointCallback(
        folder,
        save_freq=20,
        save_final=False,
        on_error="raise",
        options=ExportOptions(formats=FORMATS, test_vectors=2),
        **kwargs,
    )
    return model.learn(steps, callback=callback, reset_num_timesteps=model.num_timesteps == 0)


def _entries(folder: Path) -> set[str]:
    """Files and folders of numbered checkpoints, by the number of timesteps."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def _expected(*steps: int) -> set[str]:
    checkpoints = [Checkpoint.numbered("rl_model", step) for step in steps]
    return {
        entry for each in checkpoints for entry in each.entries if "replay_buffer" not in entry and "card" not in entry
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BaseAlgorithm]:
    """A folder of a training with all formats, whose two newest checkpoints are kept."""
    folder = tmp_path_factory.mktemp("trained") / "arm_1"
    return folder, _train(folder, 60, keep_last=2)


@pytest.fixture
def folder(trained: tuple[Path, BaseAlgorithm], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "arm_1", copy_function=shutil.copy2))


def test_each_checkpoint_of_a_training_is_whole_in_every_format(trained: tuple[Path, BaseAlgorithm]) -> None:
    folder, _ = trained
    assert _entries(folder) == _expected(40, 60)
    for steps in (40, 60):
        policy = folder / f"rl_model_{steps}_steps.onnx"
        assert set(states(policy).values()) == set(states_of_formats(policy).values()) == {"matched"}
        vectors = read_vectors(policy.with_suffix(".vectors.json"))
        saved = SAC.load(policy.with_suffix(".zip"), device="cpu")
        statistics = load_statistics(folder / f"rl_model_vecnormalize_{steps}_steps.pkl")
        for name in FORMATS:
            runner = open_format(name, (folder / Checkpoint(policy.stem).files[running_kind(name)]).read_bytes())
            assert check_format(runner, read_metadata(policy).digest, vectors).n_cases == 2
            loaded = OnnxPolicy.from_runner(runner, read_metadata(policy))
            assert_same_actions(
                lambda observation, loaded=loaded: loaded.predict(observation)[0],  # type: ignore[misc]
                lambda observation: predict_raw(saved, observation, statistics),  # noqa: B023
                BOX_OBSERVATION,
                saved.action_space,
            )
    bundle = json.loads((folder / "rl_model_60_steps_torchscript" / "metadata.json").read_text())
    assert (bundle["run_name"], bundle["algo"]) == ("arm_1", "SAC")


def test_a_training_that_goes_on_deletes_the_folders_of_old_checkpoints_and_nothing_else_in_them(
    trained: tuple[Path, BaseAlgorithm], folder: Path
) -> None:
    notes = folder / "rl_model_60_steps_torchscript" / "notes.txt"
    notes.write_text("mine")
    model = SAC.load(folder / "rl_model_60_steps.zip", env=trained[1].get_env(), device="cpu")
    _train(folder, 40, model, keep_last=2)
    assert _entries(folder) == _expected(80, 100) | {notes.parent.name}
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"]


def test_a_training_that_begins_anew_moves_folders_out_of_its_way(folder: Path) -> None:
    _train(folder, 40)
    assert _entries(folder) == _expected(20, 40) | {"previous_1"}
    assert _entries(folder / "previous_1") == _expected(40, 60)
    for policy in (folder / "previous_1").glob("*.onnx"):
        assert set(states_of_formats(policy).values()) == {"matched"}


def test_a_policy_leaves_no_file_of_the_one_whose_name_it_takes(tmp_path: Path) -> None:
    path, model = tmp_path / "policy.onnx", make_model(SAC)
    export_policy(model, path, options=ExportOptions(formats=("torchscript", "weights"), test_vectors=2))
    notes = tmp_path / "policy.h"
    notes.write_text("mine")
    export_policy(model, path, options=ExportOptions(formats=("weights",)))
    spread(model)
    export_policy(model, path, options=ExportOptions(formats=("weights",)))
    assert _entries(tmp_path) == {"policy.onnx", "policy.safetensors", "policy.h"}
    assert states_of_formats(path)["policy.safetensors"] == "matched"
    assert notes.read_text() == "mine"


def test_nothing_is_deleted_that_others_have_there(tmp_path: Path) -> None:
    path, model = tmp_path / "policy.onnx", make_model(SAC)
    export_policy(model, path, options=ExportOptions(formats=("torchscript",)))
    bundle, elsewhere = tmp_path / "policy_torchscript", tmp_path / "elsewhere"
    bundle.rename(elsewhere)
    bundle.symlink_to(elsewhere, target_is_directory=True)
    spread(model)
    export_policy(model, path)
    assert _entries(elsewhere) == {"policy.pt", "metadata.json"}
    bundle.unlink()
    elsewhere.rename(bundle)
    (bundle / "metadata.json").write_text('{"framework": "torchscript", "policy_id": "of another tool"}')
    (bundle / "policy.pt").write_bytes(b"of another tool")
    export_policy(model, path)
    assert _entries(bundle) == {"policy.pt", "metadata.json"}


def test_a_training_without_formats_leaves_none_of_the_policies_that_it_writes_over(folder: Path) -> None:
    with_formats = OnnxCheckpointCallback(folder, options=ExportOptions(formats=("torchscript",)))
    model = make_model(SAC).learn(10, callback=with_formats)
    assert (folder / "final_model_torchscript").exists()
    spread(model)
    model.learn(10, callback=OnnxCheckpointCallback(folder), reset_num_timesteps=False)
    assert {path.name for path in folder.glob("final*")} == {"final_model.onnx", "final_model.zip"}


def test_a_publication_that_is_finished_later_leaves_none_either(folder: Path) -> None:
    for name in ("_torchscript/policy.pt", ".safetensors"):
        shutil.copy2(folder / f"rl_model_40_steps{name}", folder / f"rl_model_60_steps{name}")
    policy = folder / "rl_model_60_steps.onnx"
    policy.rename(folder / ".sb3_clanker-0000000000000000.tmp")
    TrainingFolder(folder).release()
    assert policy.exists()
    assert states_of_formats(policy)["rl_model_60_steps_torchscript/policy.pt"] == "missing"
    assert not (folder / "rl_model_60_steps.safetensors").exists()
    assert (folder / "rl_model_60_steps.h").exists()


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_is_no_folder_is_never_written_through(what: str, folder: Path, tmp_path: Path) -> None:
    bundle, elsewhere = folder / "policy_torchscript", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if what == "file":
        bundle.write_text("mine")
    else:
        bundle.symlink_to(elsewhere, target_is_directory=True)
    model = make_model(SAC)
    before = _entries(folder)
    with pytest.raises(PublicationError, match="policy_torchscript is no folder"):
        export_policy(model, folder / "policy.onnx", options=ExportOptions(formats=("torchscript",)))
    assert _entries(folder) == before
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_got_no_file_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PublicationError, match="disk full"):
        export_policy(make_model(SAC), tmp_path / "policy.onnx", options=ExportOptions(formats=("torchscript",)))
    assert list(tmp_path.iterdir()) == []
