"""The statistics of a policy are found where they are, and where nothing tells of them, that is said."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, UnknownNormalizationWarning, export_policy
from sb3_clanker.errors import (
    ClankerError,
    ClankerWarning,
    MissingFileError,
    NormalizationError,
    OptionError,
    UnmatchedFilesError,
)
from sb3_clanker.policy_file.reading import read_metadata
from sb3_clanker.policy_file.record import NormalizationRecord, PairedFile
from sb3_clanker.run_folder.identity import require_matched
from sb3_clanker.sb3.normalization import Normalization, load_statistics, resolve_normalization
from tests.worlds import BOX_ACTION, UNBOUNDED_OBSERVATION, make_env, make_model


@dataclass(frozen=True, kw_only=True)
class World:
    live: BaseAlgorithm
    vec_normalize: VecNormalize
    loaded: BaseAlgorithm
    statistics: Path

    def same_statistics(self, found: Normalization) -> bool:
        """Whether these are the statistics that training collected."""
        if found.vec_normalize is None:
            return False
        other: Any = found.vec_normalize.obs_rms
        own: Any = self.vec_normalize.obs_rms
        return np.array_equal(other.mean, own.mean) and np.array_equal(other.var, own.var)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    live = make_model(observation_space=UNBOUNDED_OBSERVATION, normalize=True)
    live.learn(32)
    vec_normalize = live.get_vec_normalize_env()
    assert vec_normalize is not None
    running: Any = vec_normalize.obs_rms
    assert np.abs(running.mean).min() > 0.1
    live.save(folder / "model.zip")
    vec_normalize.save(str(folder / "saved.pkl"))
    loaded = PPO.load(folder / "model.zip", device="cpu")
    return World(live=live, vec_normalize=vec_normalize, loaded=loaded, statistics=folder / "saved.pkl")


@pytest.fixture(scope="module")
def plain() -> BaseAlgorithm:
    return make_model()


def _digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _other_statistics(path: Path) -> None:
    VecNormalize(make_env(UNBOUNDED_OBSERVATION, BOX_ACTION)).save(str(path))


# What the model or the caller tells ---------------------------------------------------------------------------------


def test_a_model_in_training_tells_its_own_vec_normalize(world: World, tmp_path: Path) -> None:
    found = resolve_normalization(world.live, "auto")
    assert found == Normalization(vec_normalize=world.vec_normalize, known=True, file=None)
    assert found.vec_normalize is world.vec_normalize
    assert found.record() == NormalizationRecord(status="folded", keys=(), clip_obs=10.0, epsilon=1e-8)


def test_a_model_in_training_without_vec_normalize_tells_that_too(
    plain: BaseAlgorithm, world: World, tmp_path: Path
) -> None:
    shutil.copy(world.statistics, tmp_path / "best_model_vecnormalize.pkl")
    found = resolve_normalization(plain, "auto", tmp_path / "best_model.zip")
    assert found == Normalization(vec_normalize=None, known=True, file=None)
    assert found.record() == NormalizationRecord(status="none")


def test_the_caller_is_believed_whatever_the_model_and_its_folder_say(
    world: World, plain: BaseAlgorithm, tmp_path: Path
) -> None:
    shutil.copy(world.statistics, tmp_path / "best_model_vecnormalize.pkl")
    zip_path = tmp_path / "best_model.zip"
    other = VecNormalize(make_env(UNBOUNDED_OBSERVATION, BOX_ACTION), clip_obs=3.0, epsilon=1e-4)
    for model in (world.live, world.loaded, plain):
        none = resolve_normalization(model, None, zip_path)
        assert (none.vec_normalize, none.known, none.file) == (None, True, None)
        assert none.record().status == "none"
        given = resolve_normalization(model, other, zip_path)
        assert given.vec_normalize is other
        assert given.file is None
        assert given.record() == NormalizationRecord(status="folded", clip_obs=3.0, epsilon=1e-4)


@pytest.mark.parametrize("convert", [str, Path])
def test_a_path_is_loaded_and_remembered(convert: Callable[[Path], str | Path], world: World, tmp_path: Path) -> None:
    path = tmp_path / "my statistics é.pkl"
    shutil.copy(world.statistics, path)
    found = resolve_normalization(world.loaded, convert(path))
    assert world.same_statistics(found)
    assert found.file == PairedFile(name="my statistics é.pkl", digest=_digest(path))
    assert found.record().status == "folded"


def test_a_file_that_is_called_auto_can_be_passed_as_a_path(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(world.statistics, "auto")
    found = resolve_normalization(world.loaded, Path("auto"))
    assert found.file is not None
    assert found.file.name == "auto"


def test_only_the_keys_that_are_normalized_are_recorded(plain: BaseAlgorithm) -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3), "c": spaces.Box(-1, 1, (1,))})
    vec_normalize = VecNormalize(make_env(space, BOX_ACTION), norm_obs_keys=["a", "c"], clip_obs=5.0)
    record = resolve_normalization(plain, vec_normalize).record()
    assert record == NormalizationRecord(status="folded", keys=("a", "c"), clip_obs=5.0, epsilon=1e-8)


def test_vec_normalize_that_leaves_observations_alone_is_none(plain: BaseAlgorithm, tmp_path: Path) -> None:
    vec_normalize = VecNormalize(make_env(UNBOUNDED_OBSERVATION, BOX_ACTION), norm_obs=False)
    assert resolve_normalization(plain, vec_normalize).record() == NormalizationRecord(status="none")
    vec_normalize.save(str(tmp_path / "statistics.pkl"))
    from_file = resolve_normalization(plain, tmp_path / "statistics.pkl")
    assert from_file.record() == NormalizationRecord(status="none")


# What lies beside the .zip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zip_name", "statistics_name"),
    [
        ("best_model.zip", "best_model_vecnormalize.pkl"),
        ("final_model.zip", "final_model_vecnormalize.pkl"),
        ("my model.zip", "my model_vecnormalize.pkl"),
        ("rl_model_300_steps.zip", "rl_model_vecnormalize_300_steps.pkl"),
        ("CartPole-v1_2/CartPole-v1.zip", "CartPole-v1_2/CartPole-v1/vecnormalize.pkl"),
    ],
)
def test_statistics_of_a_loaded_model_are_found_by_name(
    zip_name: str, statistics_name: str, world: World, tmp_path: Path
) -> None:
    statistics = tmp_path / statistics_name
    statistics.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(world.statistics, statistics)
    found = resolve_normalization(world.loaded, "auto", tmp_path / zip_name)
    assert world.same_statistics(found)
    assert found.known
    assert found.file == PairedFile(name=statistics.name, digest=_digest(statistics))


def test_statistics_of_the_same_instant_go_before_those_of_the_run(world: World, tmp_path: Path) -> None:
    run = tmp_path / "Walker-v1_1"
    (run / "Walker-v1").mkdir(parents=True)
    shutil.copy(world.statistics, run / "Walker-v1_vecnormalize.pkl")
    _other_statistics(run / "Walker-v1" / "vecnormalize.pkl")
    assert world.same_statistics(resolve_normalization(world.loaded, "auto", run / "Walker-v1.zip"))


@pytest.mark.parametrize(
    ("zip_name", "statistics_name"),
    [
        ("model.zip", "vecnormalize.pkl"),
        ("ppo_halfcheetah.zip", "vec_normalize.pkl"),
        ("CartPole-v1_2/best_model.zip", "CartPole-v1_2/CartPole-v1/vecnormalize.pkl"),
        ("CartPole-v1_2/rl_model_300_steps.zip", "CartPole-v1_2/CartPole-v1/vecnormalize.pkl"),
    ],
)
def test_statistics_that_may_be_of_any_policy_are_named_and_not_used(
    zip_name: str, statistics_name: str, world: World, tmp_path: Path
) -> None:
    statistics = tmp_path / statistics_name
    statistics.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(world.statistics, statistics)
    message = (
        "It is unknown whether this policy was trained with VecNormalize: the model has no environment, and no "
        f"statistics of that name lie beside its .zip. {statistics} may be of any policy, and is not used. The file "
        "will expect observations as the policy saw them. Name the statistics, or say that there were none "
        "(vec_normalize= in Python, --vecnormalize on the command line)."
    )
    with pytest.warns(UnknownNormalizationWarning, match=f"^{re.escape(message)}$"):
        found = resolve_normalization(world.loaded, "auto", tmp_path / zip_name)
    assert found == Normalization(vec_normalize=None, known=False, file=None)
    assert world.same_statistics(resolve_normalization(world.loaded, statistics, tmp_path / zip_name))


# What the .onnx beside the .zip proves ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Triple:
    """What a training wrote at one instant."""

    folder: Path
    algorithm: BaseAlgorithm

    @property
    def zip_path(self) -> Path:
        return self.folder / "final_model.zip"

    @property
    def onnx(self) -> Path:
        return self.folder / "final_model.onnx"

    @property
    def statistics(self) -> Path:
        return self.folder / "final_model_vecnormalize.pkl"

    def resolve(self) -> Normalization:
        return resolve_normalization(self.algorithm, "auto", self.zip_path)

    def export(self) -> Path:
        return export_policy(self.algorithm, self.onnx, options=ExportOptions(n_samples=8)).path


def _trained(folder: Path, *, normalize: bool = True, steps: int = 16) -> Triple:
    live = make_model(observation_space=UNBOUNDED_OBSERVATION, normalize=normalize)
    live.learn(steps, callback=OnnxCheckpointCallback(folder))
    return Triple(folder=folder, algorithm=PPO.load(folder / "final_model.zip", device="cpu"))


@pytest.fixture(scope="module")
def instants(tmp_path_factory: pytest.TempPathFactory) -> tuple[Triple, Triple]:
    """Two instants; read-only."""
    return _trained(tmp_path_factory.mktemp("first")), _trained(tmp_path_factory.mktemp("second"), steps=32)


@pytest.fixture
def triple(instants: tuple[Triple, Triple], tmp_path: Path) -> Triple:
    """A copy of the first."""
    copied = Triple(folder=tmp_path / "copy", algorithm=instants[0].algorithm)
    shutil.copytree(instants[0].folder, copied.folder)
    return copied


MIXED = (
    r"final_model\.onnx: {} beside it: of another instant of training, or damaged, by the digest in its record\. Take "
    r"all files from the same instant, or name the statistics \(vec_normalize= in Python, --vecnormalize on the "
    r"command line\)\.$"
)


def test_statistics_whatever_they_are_called_are_the_own_ones_where_the_record_proves_it(triple: Triple) -> None:
    for name in ("vecnormalize.pkl", "vec_normalize.pkl"):
        statistics = triple.statistics.replace(triple.folder / name)
        found = triple.resolve()
        assert found.origin == f"{statistics}, by the record of final_model.onnx"
        assert found.file == PairedFile(name=name, digest=_digest(statistics))
        statistics.replace(triple.statistics)


def test_statistics_that_were_named_once_need_not_be_named_again(triple: Triple) -> None:
    triple.onnx.unlink()
    named = triple.statistics.replace(triple.folder / "of my robot.pkl")
    export_policy(triple.algorithm, triple.onnx, vec_normalize=named)
    assert triple.resolve().origin == f"{named}, by the record of final_model.onnx"


def test_a_zip_with_statistics_of_another_instant_is_refused_and_nothing_is_overwritten(
    triple: Triple, instants: tuple[Triple, Triple]
) -> None:
    before = triple.onnx.read_bytes()
    shutil.copy(instants[1].statistics, triple.statistics)
    with pytest.raises(UnmatchedFilesError, match=MIXED.format(r"final_model_vecnormalize\.pkl")) as caught:
        triple.export()
    assert caught.value.others == ("final_model_vecnormalize.pkl",)
    assert triple.onnx.read_bytes() == before


def test_statistics_with_the_zip_of_another_instant_are_refused_and_nothing_is_overwritten(
    triple: Triple, instants: tuple[Triple, Triple]
) -> None:
    before = triple.onnx.read_bytes()
    shutil.copy(instants[1].zip_path, triple.zip_path)
    mixed = Triple(folder=triple.folder, algorithm=instants[1].algorithm)
    with pytest.raises(UnmatchedFilesError, match=MIXED.format(r"final_model\.zip")) as caught:
        mixed.export()
    assert caught.value.others == ("final_model.zip",)
    assert triple.onnx.read_bytes() == before


def test_the_caller_may_name_the_statistics_of_another_instant(triple: Triple, instants: tuple[Triple, Triple]) -> None:
    shutil.copy(instants[1].statistics, triple.statistics)
    report = export_policy(triple.algorithm, triple.onnx, vec_normalize=triple.statistics)
    assert report.metadata.checkpoint is not None
    assert report.metadata.checkpoint.statistics_file == PairedFile(
        name=triple.statistics.name, digest=_digest(triple.statistics)
    )


def test_a_zip_and_statistics_that_are_both_newer_are_exported_anew(
    triple: Triple, instants: tuple[Triple, Triple]
) -> None:
    for name in (triple.zip_path.name, triple.statistics.name):
        shutil.copy(instants[1].folder / name, triple.folder / name)
    newer = Triple(folder=triple.folder, algorithm=instants[1].algorithm)
    assert newer.resolve().origin == f"{triple.statistics}, by its name"
    assert {partner.state for partner in require_matched(newer.export(), read_metadata(newer.onnx))} == {"matched"}


def test_a_policy_that_was_normalized_is_not_exported_without_its_statistics(triple: Triple) -> None:
    before = triple.onnx.read_bytes()
    triple.statistics.unlink()
    with pytest.raises(
        NormalizationError,
        match=r"final_model\.onnx: by its record, final_model\.zip was trained with VecNormalize, and its statistics "
        r"are not there\. Name the statistics, or say that there were none \(",
    ):
        triple.export()
    assert triple.onnx.read_bytes() == before


def test_what_a_training_without_vec_normalize_wrote_needs_no_answer(tmp_path: Path, world: World) -> None:
    plain = _trained(tmp_path, normalize=False)
    shutil.copy(world.statistics, plain.statistics)  # an earlier training into the folder left them
    found = plain.resolve()
    assert found == Normalization(vec_normalize=None, known=True, file=None)
    assert found.origin == "none, by the record of final_model.onnx"


def test_a_record_that_cannot_be_read_proves_nothing(triple: Triple) -> None:
    triple.onnx.write_bytes(b"text")
    assert triple.resolve().origin == f"{triple.statistics}, by its name"


def test_the_file_that_is_used_is_logged(triple: Triple, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sb3_clanker")
    triple.export()
    assert [record.message for record in caplog.records] == [
        f"VecNormalize statistics: {triple.statistics}, by the record of final_model.onnx."
    ]


@pytest.mark.parametrize("zip_path", [None, Path("best_model.zip")])
def test_where_nothing_tells_it_is_said_and_recorded(
    zip_path: Path | None, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best_model_vecnormalize.pkl").mkdir()  # a folder of the right name holds no statistics
    shutil.copy(world.statistics, tmp_path / "other_model_vecnormalize.pkl")
    with pytest.warns(
        UnknownNormalizationWarning,
        match=r"It is unknown whether this policy was trained with VecNormalize: the model has no environment, and no "
        r"statistics lie beside its \.zip\. .* Name the statistics, or say that there were none",
    ) as caught:
        found = resolve_normalization(world.loaded, "auto", zip_path)
    assert len(caught) == 1
    assert isinstance(caught[0].message, ClankerWarning)
    assert isinstance(caught[0].message, UserWarning)
    assert found == Normalization(vec_normalize=None, known=False, file=None)
    assert found.record() == NormalizationRecord(status="unknown")


def test_the_warning_points_at_the_line_that_exports(world: World) -> None:
    with pytest.warns(UnknownNormalizationWarning, match="It is unknown") as caught:
        resolve_normalization(world.loaded, "auto")
    first_line = test_the_warning_points_at_the_line_that_exports.__code__.co_firstlineno
    assert caught[0].filename == __file__
    assert caught[0].lineno == first_line + 2


def test_damaged_statistics_beside_the_zip_are_not_passed_over(world: World, tmp_path: Path) -> None:
    (tmp_path / "best_model_vecnormalize.pkl").write_bytes(b"")
    shutil.copy(world.statistics, tmp_path / "vecnormalize.pkl")
    with pytest.raises(NormalizationError, match=r"best_model_vecnormalize\.pkl: these are no VecNormalize statistics"):
        resolve_normalization(world.loaded, "auto", tmp_path / "best_model.zip")


# What is wrong ------------------------------------------------------------------------------------------------------


def test_saved_statistics_are_loaded_as_stable_baselines3_loads_them(world: World) -> None:
    env = make_env(UNBOUNDED_OBSERVATION, BOX_ACTION)
    observations = np.random.default_rng(0).normal(3.0, 5.0, (20, 3)).astype(np.float32)
    expected = VecNormalize.load(str(world.statistics), env).normalize_obs(observations)
    np.testing.assert_array_equal(load_statistics(world.statistics).normalize_obs(observations), expected)
    assert not np.allclose(np.asarray(expected), observations)


@pytest.mark.parametrize("name", ["missing.pkl", "folder", ""])
def test_statistics_that_are_not_there_are_a_missing_file(
    name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingFileError, match=r"there is no such file of VecNormalize statistics\. Check") as caught:
        resolve_normalization(world.live, name)
    assert caught.value.path == Path(name)
    assert str(caught.value).startswith(f"{Path(name)}: ")
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, ClankerError)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-40], lambda data: b"text", lambda data: b"\0"]
)
def test_a_damaged_pickle_is_named(damage: Callable[[bytes], bytes], world: World, tmp_path: Path) -> None:
    path = tmp_path / "statistics.pkl"
    path.write_bytes(damage(world.statistics.read_bytes()))
    with pytest.raises(
        NormalizationError,
        match=r"statistics\.pkl: these are no VecNormalize statistics, or they are damaged \(\w+: .*\)\. "
        r"Save them with VecNormalize\.save\(\)\.",
    ) as caught:
        resolve_normalization(world.loaded, path)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClankerError)
    assert caught.value.__cause__ is not None


def test_a_pickle_of_a_class_that_is_gone_is_named(world: World, tmp_path: Path) -> None:
    path = tmp_path / "statistics.pkl"
    path.write_bytes(b"cmodule_that_is_gone\nStatistics\n.")
    with pytest.raises(NormalizationError, match=r"damaged \(ModuleNotFoundError: No module named 'module_that_is"):
        resolve_normalization(world.loaded, path)


@pytest.mark.parametrize("value", [{"mean": 0.0}, None, np.zeros(3)])
def test_a_pickle_of_something_else_is_named(value: object, world: World, tmp_path: Path) -> None:
    path = tmp_path / "statistics.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(
        NormalizationError,
        match=rf"statistics\.pkl: expected VecNormalize statistics, got {type(value).__name__}\. Save them with",
    ) as caught:
        resolve_normalization(world.loaded, path)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClankerError)


@pytest.mark.parametrize("value", [3, True, b"statistics.pkl", ["statistics.pkl"]])
def test_anything_else_is_no_source_of_statistics(value: Any, world: World) -> None:
    for model in (world.live, world.loaded):
        with pytest.raises(OptionError) as caught:
            resolve_normalization(model, value)
        assert str(caught.value) == (
            f'vec_normalize={value!r} cannot be used: expected "auto", a VecNormalize, the path of saved statistics, '
            "or None."
        )
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, ClankerError)
