"""A checkpoint gives back the algorithm that wrote it, normalized as it was, or says what is in the way."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC, MaskablePPO, RecurrentPPO
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)

from sb3_clanker import ClankerError, OnnxCheckpointCallback, export_policy, load_checkpoint
from sb3_clanker.errors import AlgorithmFileError, MissingFileError, OptionError, PolicyFileError, UnmatchedFilesError
from sb3_clanker.policy_file.record import PairedFile
from sb3_clanker.run_folder.identity import pair_with_file, pair_with_zip
from tests.checkpoints import checkpoint_files, contents, flip, names, restamp
from tests.support import OBSERVATIONS
from tests.worlds import (
    BOX_ACTION,
    BOX_OBSERVATION,
    UNBOUNDED_OBSERVATION,
    SpacesEnv,
    draw,
    make_env,
    make_model,
    predict_raw,
)

STEM, ZIP, ONNX, PKL = (
    "rl_model_20_steps",
    "rl_model_20_steps.zip",
    "rl_model_20_steps.onnx",
    "rl_model_vecnormalize_20_steps.pkl",
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training that stopped where its only checkpoint was written."""

    model: BaseAlgorithm
    folder: Path

    @property
    def vec_normalize(self) -> VecNormalize:
        vec_normalize = self.model.get_vec_normalize_env()
        assert vec_normalize is not None
        return vec_normalize


class _Stop(BaseCallback):
    """Stops before the policy changes again."""

    def _on_step(self) -> bool:
        return self.num_timesteps < 20


def _train(folder: Path, model: BaseAlgorithm, **kwargs: Any) -> Trained:
    callback = OnnxCheckpointCallback(folder, save_freq=20 // model.n_envs, save_final=False, **kwargs)
    model.learn(40, callback=[callback, _Stop()])
    assert model.num_timesteps == 20
    return Trained(model=model, folder=folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    model = make_model(observation_space=UNBOUNDED_OBSERVATION, normalize=True)
    return _train(tmp_path_factory.mktemp("ppo"), model)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _train(tmp_path_factory.mktemp("plain"), make_model())


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / "runs"))


@pytest.fixture
def plain_folder(plain: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain.folder, tmp_path / "plain"))


def _env(space: spaces.Space[Any] = UNBOUNDED_OBSERVATION, action: spaces.Space[Any] = BOX_ACTION) -> VecEnv:
    return make_env(space, action)


def _assert_same_policy(
    got: BaseAlgorithm,
    expected: BaseAlgorithm,
    statistics: VecNormalize | None = None,
    space: spaces.Space[Any] = BOX_OBSERVATION,
) -> None:
    """Both act alike on raw observations, each with its own normalization."""
    observation = draw(space, np.random.default_rng(5), 40)
    actions = predict_raw(expected, observation, expected.get_vec_normalize_env())
    np.testing.assert_array_equal(predict_raw(got, observation, statistics), actions)
    assert len(np.unique(actions, axis=0)) > 1


def _assert_same_statistics(got: VecNormalize | None, expected: VecNormalize) -> None:
    assert got is not None
    pairs: list[tuple[Any, Any]] = [(got.obs_rms, expected.obs_rms), (got.ret_rms, expected.ret_rms)]
    for one, other in pairs:
        for key in one if isinstance(one, dict) else (None,):
            ours, theirs = (one, other) if key is None else (one[key], other[key])
            np.testing.assert_array_equal(ours.mean, theirs.mean)
            np.testing.assert_array_equal(ours.var, theirs.var)
            assert ours.count == theirs.count > 20
    for attribute in ("clip_obs", "clip_reward", "gamma", "epsilon", "training", "norm_obs", "norm_reward"):
        assert getattr(got, attribute) == getattr(expected, attribute)


def _assert_goes_on(model: BaseAlgorithm, **kwargs: Any) -> None:
    before = [parameter.clone() for parameter in model.policy.parameters()]
    steps = model.num_timesteps
    model.learn(40, reset_num_timesteps=False, **kwargs)
    assert model.num_timesteps >= steps + 40
    assert any(not th.equal(one, other) for one, other in zip(before, model.policy.parameters(), strict=True))


# Which file, which environment --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".zip", ".onnx", ""])
@pytest.mark.parametrize("kind", [str, Path])
def test_any_of_the_files_names_a_checkpoint(suffix: str, kind: Callable[[Path], Any], trained: Trained) -> None:
    model, vec_normalize = load_checkpoint(kind(trained.folder / f"{STEM}{suffix}"))
    assert type(model) is PPO
    assert model.num_timesteps == 20
    assert model.get_env() is None
    _assert_same_statistics(vec_normalize, trained.vec_normalize)
    _assert_same_policy(model, trained.model, vec_normalize, UNBOUNDED_OBSERVATION)


def test_a_name_with_a_dot_and_a_relative_path_are_names_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in ("zip", "onnx"):
        (folder / f"{STEM}.{suffix}").rename(folder / f"größe v1.5.{suffix}")
    restamp(folder / "größe v1.5.onnx", algorithm_file=pair_with_zip(folder / "größe v1.5.zip"), statistics_file=None)
    monkeypatch.chdir(folder)
    for path in ("größe v1.5", "größe v1.5.zip", "größe v1.5.onnx"):
        assert load_checkpoint(path).model.num_timesteps == 20


@pytest.mark.parametrize("kind", ["gym", "monitored", "vectorized", "three"])
def test_normalization_is_put_around_the_environment(kind: str, trained: Trained) -> None:
    raw = SpacesEnv(UNBOUNDED_OBSERVATION, BOX_ACTION)
    env: Any = {
        "gym": raw,
        "monitored": Monitor(raw),
        "vectorized": _env(),
        "three": make_env(UNBOUNDED_OBSERVATION, BOX_ACTION, n_envs=3),
    }[kind]
    model, vec_normalize = load_checkpoint(trained.folder / ZIP, env=env)
    assert vec_normalize is not None
    assert model.get_env() is vec_normalize
    assert model.get_vec_normalize_env() is vec_normalize
    assert vec_normalize.venv is env or (isinstance(vec_normalize.venv, DummyVecEnv) and kind in ("gym", "monitored"))
    assert vec_normalize.venv.env_is_wrapped(Monitor) == [True] * model.n_envs
    _assert_same_statistics(vec_normalize, trained.vec_normalize)
    _assert_same_policy(model, trained.model, vec_normalize, UNBOUNDED_OBSERVATION)
    _assert_goes_on(model)
    running: Any = vec_normalize.obs_rms
    before: Any = trained.vec_normalize.obs_rms
    assert running.count > before.count


def test_without_normalization_there_is_none(plain: Trained) -> None:
    for env in (None, _env(BOX_OBSERVATION), SpacesEnv(BOX_OBSERVATION, BOX_ACTION)):
        model, vec_normalize = load_checkpoint(plain.folder / ZIP, env=env)
        assert vec_normalize is None
        assert model.get_vec_normalize_env() is None
        _assert_same_policy(model, plain.model)
        if env is not None:
            _assert_goes_on(model)


def test_the_result_can_be_unpacked_or_asked_by_name(trained: Trained) -> None:
    loaded = load_checkpoint(trained.folder / ZIP)
    model, vec_normalize = loaded
    assert (model, vec_normalize) == (loaded.model, loaded.vec_normalize)


class Recording(PPO):
    """Tells what it is loaded with."""

    passed_on: ClassVar[dict[str, Any]] = {}

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> Any:
        cls.passed_on = kwargs
        return super().load(*args, **kwargs)


def test_what_is_passed_on_reaches_the_algorithm(trained: Trained) -> None:
    model, _ = load_checkpoint(
        trained.folder / ZIP, algorithm=Recording, device="cpu", custom_objects={"gamma": 0.5}, n_epochs=3
    )
    assert isinstance(model, PPO)
    assert (model.gamma, model.n_epochs) == (0.5, 3)
    assert Recording.passed_on == {"env": None, "device": "cpu", "custom_objects": {"gamma": 0.5}, "n_epochs": 3}
    plain, _ = load_checkpoint(trained.folder / ZIP)
    assert isinstance(plain, PPO)
    assert (plain.gamma, plain.n_epochs) == (0.99, 10)


# Which algorithm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [(DDPG, {}), (TD3, {}), (TQC, {}), (DQN, {"action_space": spaces.Discrete(3)})],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_an_algorithm_comes_back_as_itself(algorithm: type[BaseAlgorithm], kwargs: Any, tmp_path: Path) -> None:
    trained = _train(tmp_path, make_model(algorithm, learning_starts=5, **kwargs))
    env = _env(BOX_OBSERVATION, kwargs.get("action_space", BOX_ACTION))
    model, _ = load_checkpoint(tmp_path / ZIP, env=env)
    assert type(model) is algorithm
    _assert_same_policy(model, trained.model)
    _assert_goes_on(model)


def test_a_recurrent_algorithm_comes_back(tmp_path: Path) -> None:
    trained = _train(tmp_path, make_model(RecurrentPPO, policy="MlpLstmPolicy", normalize=True))
    model, vec_normalize = load_checkpoint(tmp_path / ONNX, env=_env(BOX_OBSERVATION))
    assert type(model) is RecurrentPPO
    _assert_same_policy(model, trained.model, vec_normalize)
    _assert_goes_on(model)


def test_a_maskable_algorithm_comes_back(tmp_path: Path) -> None:
    action = spaces.Discrete(3)
    trained = _train(tmp_path, make_model(MaskablePPO, action_space=action))
    model, _ = load_checkpoint(tmp_path / ONNX, env=_env(BOX_OBSERVATION, action))
    assert type(model) is MaskablePPO
    _assert_same_policy(model, trained.model)
    _assert_goes_on(model)


class OwnPPO(PPO):
    """A user's own algorithm."""


class OwnPolicy(ActorCriticPolicy):
    """A user's own policy."""


def test_a_users_own_algorithm_must_be_named_and_is_not_taken_for_what_it_derives_from(tmp_path: Path) -> None:
    model = OwnPPO("MlpPolicy", _env(BOX_OBSERVATION), n_steps=16, batch_size=16, device="cpu", seed=0)
    trained = _train(tmp_path, model)
    with pytest.raises(AlgorithmFileError) as caught:
        load_checkpoint(tmp_path / ZIP)
    assert str(caught.value) == (
        f"{tmp_path / ZIP}: it is of OwnPPO, which is no algorithm of Stable-Baselines3. Pass algorithm=OwnPPO."
    )
    loaded, _ = load_checkpoint(tmp_path / ZIP, env=_env(BOX_OBSERVATION), algorithm=OwnPPO)
    assert type(loaded) is OwnPPO
    _assert_same_policy(loaded, trained.model)
    _assert_goes_on(loaded)


def test_a_policy_of_ones_own_comes_back(tmp_path: Path) -> None:
    policy: Any = OwnPolicy
    trained = _train(tmp_path, make_model(policy=policy))
    model, _ = load_checkpoint(tmp_path / ZIP, env=_env(BOX_OBSERVATION))
    assert type(model.policy) is OwnPolicy
    _assert_same_policy(model, trained.model)


def test_the_wrong_algorithm_is_told(trained: Trained) -> None:
    with pytest.raises(AlgorithmFileError, match=rf"{ZIP}: SAC cannot load it \(\w+: ") as caught:
        load_checkpoint(trained.folder / ZIP, algorithm=SAC)
    assert caught.value.path == trained.folder / ZIP
    assert caught.value.__cause__ is not None


# Which observations -------------------------------------------------------------------------------------------------


def test_images_are_transposed_as_they_were(tmp_path: Path) -> None:
    space = OBSERVATIONS["image, channels last"]
    model = make_model(observation_space=space, policy="CnnPolicy")
    trained = _train(tmp_path, model)
    model, _ = load_checkpoint(tmp_path / ZIP, env=SpacesEnv(space, BOX_ACTION))
    env = model.get_env()
    assert env is not None
    assert is_vecenv_wrapped(env, VecTransposeImage)
    _assert_same_policy(model, trained.model, space=OBSERVATIONS["image"])
    _assert_goes_on(model)


def test_stacked_frames_that_were_normalized_come_back(tmp_path: Path) -> None:
    def stack() -> VecEnv:
        return VecFrameStack(_env(), 3)

    trained = _train(tmp_path, make_model(env=VecNormalize(stack())))
    model, vec_normalize = load_checkpoint(tmp_path / ZIP, env=stack())
    _assert_same_statistics(vec_normalize, trained.vec_normalize)
    assert vec_normalize is not None
    _assert_same_policy(model, trained.model, vec_normalize, vec_normalize.observation_space)
    _assert_goes_on(model)
    with pytest.raises(AlgorithmFileError, match="its statistics are not of such an environment"):
        load_checkpoint(tmp_path / ZIP, env=_env())


def test_normalized_frames_that_were_stacked_are_put_together_by_hand(tmp_path: Path) -> None:
    trained = _train(tmp_path, make_model(env=VecFrameStack(VecNormalize(_env()), 3)))
    for env in (_env(), VecFrameStack(_env(), 3)):
        with pytest.raises(AlgorithmFileError):
            load_checkpoint(tmp_path / ZIP, env=env)
    model, vec_normalize = load_checkpoint(tmp_path / ZIP)
    assert vec_normalize is not None
    vec_normalize.set_venv(_env())
    model.set_env(VecFrameStack(vec_normalize, 3))
    _assert_same_statistics(vec_normalize, trained.vec_normalize)
    _assert_goes_on(model)


def test_a_dict_with_hindsight_comes_back_with_its_replay_buffer(tmp_path: Path) -> None:
    space = OBSERVATIONS["goal"]
    model = make_model(
        SAC,
        space,
        policy="MultiInputPolicy",
        normalize=True,
        replay_buffer_class=HerReplayBuffer,
        learning_starts=25,
    )
    trained = _train(tmp_path, model, save_replay_buffer=True)
    with pytest.warns(UserWarning, match="The last trajectory in the replay buffer will be truncated"):  # env is reset
        loaded, vec_normalize = load_checkpoint(tmp_path / ZIP, env=SpacesEnv(space, BOX_ACTION))
    assert isinstance(loaded, SAC)
    assert isinstance(trained.model, SAC)
    assert isinstance(loaded.replay_buffer, HerReplayBuffer)
    assert isinstance(trained.model.replay_buffer, HerReplayBuffer)
    assert loaded.replay_buffer.env is loaded.get_env() is vec_normalize
    assert loaded.replay_buffer.size() == trained.model.replay_buffer.size() == 19  # as yet
    for key, values in trained.model.replay_buffer.observations.items():
        np.testing.assert_array_equal(loaded.replay_buffer.observations[key], values)
    _assert_same_statistics(vec_normalize, trained.vec_normalize)
    _assert_same_policy(loaded, trained.model, vec_normalize, space)
    _assert_goes_on(loaded)
    with pytest.raises(AlgorithmFileError, match="Pass the environment that it was trained in"):
        load_checkpoint(tmp_path / ZIP)


# The wrong environment ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (spaces.Box(-1.0, 1.0, (7,)), BOX_ACTION),
        (spaces.Dict({"a": UNBOUNDED_OBSERVATION}), BOX_ACTION),
        (UNBOUNDED_OBSERVATION, spaces.Discrete(3)),
        (UNBOUNDED_OBSERVATION, spaces.Box(-1.0, 1.0, (2,))),
    ],
)
@pytest.mark.parametrize("normalized", [True, False])
def test_an_environment_of_other_spaces_is_refused(
    observation: spaces.Space[Any], action: spaces.Space[Any], normalized: bool, trained: Trained, plain: Trained
) -> None:
    path = (trained if normalized else plain).folder / ZIP
    for env in (_env(observation, action), SpacesEnv(observation, action)):
        with pytest.raises(AlgorithmFileError, match=r"\. Pass the (one|environment) that it was trained in") as caught:
            load_checkpoint(path, env=env)
        assert caught.value.path.stem == STEM
        assert isinstance(caught.value, ValueError)


def test_an_environment_that_is_normalized_already_is_refused(trained: Trained, plain: Trained) -> None:
    for path in (trained.folder, plain.folder):
        for env in (VecNormalize(_env(BOX_OBSERVATION)), VecFrameStack(VecNormalize(_env(BOX_OBSERVATION)), 2)):
            with pytest.raises(OptionError, match="expected an environment without VecNormalize") as caught:
                load_checkpoint(path / ZIP, env=env)
            assert caught.value.option == "env"


# Files that are missing, others or damaged --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [ZIP, PKL, ONNX])
def test_a_file_that_is_not_there_is_missing(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(MissingFileError) as caught:
        load_checkpoint(folder / STEM)
    what = "policy file" if name == ONNX else f"file, and {ONNX} belongs to it"
    assert str(caught.value) == f"{folder / name}: there is no such {what}. Check the path."
    assert caught.value.path == folder / name
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, ClankerError)


def test_a_replay_buffer_that_is_not_there_is_missing(tmp_path: Path) -> None:
    _train(tmp_path, make_model(SAC), save_replay_buffer=True)
    assert names(tmp_path) == sorted(checkpoint_files(20, "replay_buffer"))
    buffer = tmp_path / "rl_model_replay_buffer_20_steps.pkl"
    buffer.write_bytes(pickle.dumps("no replay buffer"))
    with pytest.raises(AlgorithmFileError, match=r"SAC cannot load it \(AssertionError: .*replay buffer"):
        load_checkpoint(tmp_path / ZIP)
    buffer.unlink()
    with pytest.raises(MissingFileError) as caught:
        load_checkpoint(tmp_path / ZIP)
    assert caught.value.path == buffer


class _Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def _arm(folder: Path, marker: Path, name: str) -> None:
    """Put a file that runs code where a file of a checkpoint lies."""
    if name == PKL:
        (folder / PKL).write_bytes(pickle.dumps(_Bomb(marker)))
        return
    data, params, variables = load_from_zip_file(folder / ZIP, device="cpu")
    assert data is not None
    save_to_zip_file(
        folder / ZIP, data=data | {"policy_class": _Bomb(marker)}, params=dict(params), pytorch_variables=variables
    )


@pytest.mark.parametrize("name", [ZIP, PKL])
def test_files_of_another_instant_are_refused_before_anything_in_them_is_run(
    name: str, folder: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    _arm(folder, marker, name)
    for algorithm in (None, PPO):
        with pytest.raises(UnmatchedFilesError, match=f"{name} beside it") as caught:
            load_checkpoint(folder / ZIP, env=_env(), algorithm=algorithm)
        assert caught.value.others == (name,)
        assert not marker.exists()
    restamp(
        folder / ONNX,
        algorithm_file=pair_with_zip(folder / ZIP),
        statistics_file=pair_with_file(folder / PKL),
    )
    with pytest.raises(ClankerError):
        load_checkpoint(folder / ZIP, env=_env())
    assert marker.exists(), "the file would have run code"


def test_a_missing_zip_is_told_before_the_statistics_are_loaded(folder: Path, tmp_path: Path) -> None:
    _arm(folder, tmp_path / "marker", PKL)
    restamp(folder / ONNX, statistics_file=pair_with_file(folder / PKL))
    (folder / ZIP).unlink()
    with pytest.raises(MissingFileError):
        load_checkpoint(folder / ZIP)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("member", ["policy.pth", "data", "policy.optimizer.pth"])
def test_a_flipped_byte_within_the_zip_is_found_though_its_directory_is_whole(member: str, folder: Path) -> None:
    with zipfile.ZipFile(folder / ZIP) as archive:
        entry = archive.getinfo(member)
    before = pair_with_zip(folder / ZIP)
    flip(folder / ZIP, entry.header_offset + entry.compress_size // 2 + 60)
    assert pair_with_zip(folder / ZIP) == before
    with pytest.raises(AlgorithmFileError, match=rf"{ZIP}: PPO cannot load it \(ValueError: ") as caught:
        load_checkpoint(folder / ZIP)
    cause = caught.value.__cause__
    assert cause is not None
    assert f"Bad CRC-32 for file '{member}'" in str(cause.__cause__ or cause.__context__)


@pytest.mark.parametrize("position", [0, 100, None, -1])
def test_a_damaged_policy_is_told(position: int | None, folder: Path) -> None:
    flip(folder / ONNX, position)
    with pytest.raises(PolicyFileError) as caught:
        load_checkpoint(folder / ZIP)
    assert caught.value.path == folder / ONNX


def test_a_policy_that_was_written_without_a_zip_says_what_to_do(tmp_path: Path) -> None:
    export_policy(make_model(), tmp_path / "policy.onnx")
    for path in ("policy", "policy.onnx", "policy.zip"):
        with pytest.raises(AlgorithmFileError) as caught:
            load_checkpoint(tmp_path / path)
        assert str(caught.value) == (
            f"{tmp_path / 'policy.onnx'}: no .zip was written with it. Load the .zip with its algorithm's load()."
        )


@pytest.mark.parametrize("name", ["../outside/", "/"])
def test_a_record_leads_to_no_file_out_of_its_folder(name: str, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for file in (ZIP, PKL):
        shutil.copy(folder / file, outside / file)
    prefix = name if name != "/" else f"{outside}/"
    restamp(
        folder / ONNX,
        algorithm_file=PairedFile(name=prefix + ZIP, digest=pair_with_zip(folder / ZIP).digest),
        statistics_file=PairedFile(name=prefix + PKL, digest=pair_with_file(folder / PKL).digest),
    )
    marker = tmp_path / "marker"
    for file in (ZIP, PKL):  # what is verified is what is loaded
        _arm(outside, marker, file)
    assert load_checkpoint(folder / ZIP).vec_normalize is not None
    assert not marker.exists()


def test_loading_changes_no_file(folder: Path) -> None:
    before = contents(folder)
    load_checkpoint(folder / ZIP, env=_env())
    assert contents(folder) == before
