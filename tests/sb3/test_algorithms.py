"""Every algorithm is recognised by what it saved, and what cannot be loaded is named."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import sys
import tracemalloc
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from sb3_clanker import export_policy
from sb3_clanker.errors import AlgorithmFileError, ClankerError, MissingDependencyError, MissingFileError, OptionError
from sb3_clanker.sb3.algorithms import ALGORITHMS, holds_policy_of, load_algorithm
from tests.worlds import BOX_OBSERVATION, draw, make_model, predict_raw

_DISCRETE = {"action_space": spaces.Discrete(4)}
_KWARGS: Mapping[str, dict[str, Any]] = {
    "A2C": {},
    "PPO": {},
    "DQN": _DISCRETE,
    "SAC": {},
    "TD3": {},
    "DDPG": {},
    "TRPO": {},
    "ARS": {},
    "QRDQN": _DISCRETE,
    "TQC": {},
    "CrossQ": {},
    "MaskablePPO": {**_DISCRETE, "n_steps": 16, "batch_size": 16},
    "RecurrentPPO": {"policy": "MlpLstmPolicy", "n_steps": 16, "batch_size": 16},
}
_NAMES = {"MaskablePPO": "maskable_ppo", "RecurrentPPO": "ppo_lstm"}


def _algorithm(name: str) -> type[BaseAlgorithm]:
    cls: type[BaseAlgorithm] = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    return cls


@dataclass(frozen=True, kw_only=True)
class Saved:
    model: BaseAlgorithm
    path: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    folder = tmp_path_factory.mktemp("saved")
    files = {}
    for name, kwargs in _KWARGS.items():
        model = make_model(_algorithm(name), **kwargs)
        learning: dict[str, Any] = {"use_masking": False} if name == "MaskablePPO" else {}
        model.learn(20, **learning)
        model.save(folder / f"{name}.zip")
        files[name] = Saved(model=model, path=folder / f"{name}.zip")
    return files


@pytest.fixture(scope="module")
def ppo(saved: dict[str, Saved]) -> Saved:
    return saved["PPO"]


def _assert_same_policy(got: BaseAlgorithm, expected: BaseAlgorithm) -> None:
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 50)
    actions = predict_raw(expected, observations)
    np.testing.assert_array_equal(predict_raw(got, observations), actions)
    assert len(np.unique(actions, axis=0)) > 1


# Recognising --------------------------------------------------------------------------------------------------------


def test_every_algorithm_has_a_name() -> None:
    assert sorted(ALGORITHMS) == sorted(_NAMES.get(name, name.lower()) for name in _KWARGS)
    for name, algorithm in ALGORITHMS.items():
        module, _, attribute = algorithm.module.rpartition(".")
        cls = getattr(importlib.import_module(module), attribute)
        assert issubclass(cls, BaseAlgorithm)
        assert name == _NAMES.get(attribute, attribute.lower())


@pytest.mark.parametrize("name", _KWARGS)
def test_every_algorithm_is_recognised(name: str, saved: dict[str, Saved]) -> None:
    loaded = load_algorithm(saved[name].path)
    # DDPG's file is TD3's to the last byte of its names, and so is its actor.
    assert type(loaded) is (stable_baselines3.TD3 if name == "DDPG" else _algorithm(name))
    assert loaded.get_env() is None
    assert loaded.device.type == "cpu"
    assert loaded.num_timesteps == saved[name].model.num_timesteps > 0
    _assert_same_policy(loaded, saved[name].model)


@pytest.mark.parametrize("name", _KWARGS)
def test_every_algorithm_can_be_named(name: str, saved: dict[str, Saved]) -> None:
    loaded = load_algorithm(str(saved[name].path), _NAMES.get(name, name.lower()))
    assert type(loaded) is _algorithm(name)
    _assert_same_policy(loaded, saved[name].model)


class OwnPolicy(ActorCriticPolicy):
    """A user's own policy."""


class OwnOffPolicy(SACPolicy):
    """A user's own policy."""


@pytest.mark.parametrize(("algorithm", "policy"), [(PPO, OwnPolicy), (SAC, OwnOffPolicy)])
def test_a_policy_of_ones_own_is_recognised_by_what_it_derives_from(
    algorithm: type[BaseAlgorithm], policy: Any, tmp_path: Path
) -> None:
    model = make_model(algorithm, policy=policy)
    model.save(tmp_path / "own.zip")
    loaded = load_algorithm(tmp_path / "own.zip")
    assert type(loaded) is algorithm
    assert type(loaded.policy) is policy
    _assert_same_policy(loaded, model)


@pytest.mark.parametrize(
    "policy_class", ["a string", dict, ActorCriticPolicy], ids=["no class", "no policy", "nothing saved"]
)
def test_a_file_that_tells_no_algorithm_asks_for_one(policy_class: object, tmp_path: Path) -> None:
    path = tmp_path / "unknown.zip"
    save_to_zip_file(path, data={"policy_class": policy_class}, params={})
    with pytest.raises(AlgorithmFileError) as caught:
        load_algorithm(path)
    assert str(caught.value) == (
        f"{path}: its algorithm cannot be recognised. Pass --algo, one of a2c, ars, crossq, ddpg, dqn, maskable_ppo, "
        "ppo, ppo_lstm, qrdqn, sac, td3, tqc, trpo."
    )


def test_the_algorithms_that_it_may_be_of_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ambiguous.zip"
    save_to_zip_file(path, data={"policy_class": _Ambiguous}, params={})
    with pytest.raises(AlgorithmFileError) as caught:
        load_algorithm(path)
    assert str(caught.value) == (
        f"{path}: it may be of ddpg or sac or td3. Pass --algo, one of a2c, ars, crossq, ddpg, dqn, maskable_ppo, ppo, "
        "ppo_lstm, qrdqn, sac, td3, tqc, trpo."
    )
    assert caught.value.path == path
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClankerError)


class _Ambiguous(SACPolicy, TD3Policy):  # type: ignore[misc]
    pass


def test_a_named_algorithm_needs_no_recognising(ppo: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{load_algorithm.__module__}.ALGORITHMS", {"ppo": ALGORITHMS["ppo"], "a2c": ALGORITHMS["ppo"]})
    with pytest.raises(AlgorithmFileError, match=r"it may be of a2c or ppo\. Pass --algo, one of ppo, a2c\."):
        load_algorithm(ppo.path)
    assert type(load_algorithm(ppo.path, "ppo")) is PPO


# What cannot be loaded ----------------------------------------------------------------------------------------------


def test_an_algorithm_of_another_name_is_an_option_error(ppo: Saved) -> None:
    with pytest.raises(OptionError) as caught:
        load_algorithm(ppo.path, "PPO")
    assert str(caught.value) == (
        "algo='PPO' cannot be used: expected one of a2c, ars, crossq, ddpg, dqn, maskable_ppo, ppo, ppo_lstm, qrdqn, "
        "sac, td3, tqc, trpo."
    )
    assert (caught.value.option, caught.value.value) == ("algo", "PPO")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClankerError)


@pytest.mark.parametrize("algo", ["sac", "dqn", "ars", "crossq", "maskable_ppo", "ppo_lstm"])
def test_the_wrong_algorithm_is_told(algo: str, ppo: Saved) -> None:
    cls = ALGORITHMS[algo].module.rpartition(".")[2]
    with pytest.raises(
        AlgorithmFileError, match=rf"PPO\.zip: {cls} cannot load it \(\w+: .*\)\. Is it of another algorithm\?"
    ) as caught:
        load_algorithm(ppo.path, algo)
    assert caught.value.path == ppo.path
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", ["missing.zip", "folder"])
def test_a_file_that_is_not_there_is_missing(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingFileError) as caught:
        load_algorithm(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: there is no such .zip of Stable-Baselines3. Check the path."
    assert caught.value.path == tmp_path / name
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, ClankerError)


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_what_is_no_zip_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    with pytest.raises(AlgorithmFileError) as caught:
        load_algorithm(path)
    expected = f"{path}: this is not a zip file, or it is damaged (File is not a zip file). Save the model again."
    assert str(caught.value) == expected
    assert caught.value.path == path
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClankerError)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_a_zip_that_was_cut_off_is_damaged(kept: float, ppo: Saved, tmp_path: Path) -> None:
    data = ppo.path.read_bytes()
    path = tmp_path / "model.zip"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(AlgorithmFileError, match=r"model\.zip: .*it is damaged.*\. Save the model again\."):
        load_algorithm(path)


def _rewrite(source: Path, target: Path, members: Mapping[str, bytes | None]) -> None:
    """Copy a zip with members replaced, or left out where they are None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        contents = {**{name: old.read(name) for name in old.namelist()}, **members}
        for name, content in contents.items():
            if content is not None:
                new.writestr(name, content)


@pytest.mark.parametrize(
    "members",
    [{"data": b"{"}, {"data": b"\xff\xfe"}, {"policy.pth": b"no tensors"}, {"data": b'{"a": {":serialized:": "!"}}'}],
)
def test_a_damaged_member_is_told(members: dict[str, bytes | None], ppo: Saved, tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    _rewrite(ppo.path, path, members)
    with pytest.raises(
        AlgorithmFileError, match=r"(?s)damaged\.zip: it is damaged \(\w+: .*\)\. Save the model again\."
    ) as e:
        load_algorithm(path)
    assert e.value.__cause__ is not None


def test_flipped_bytes_are_told(ppo: Saved, tmp_path: Path) -> None:
    data = bytearray(ppo.path.read_bytes())
    with zipfile.ZipFile(ppo.path) as archive:
        member = archive.getinfo("policy.pth")
    data[member.header_offset + member.file_size // 2] ^= 0xFF
    path = tmp_path / "damaged.zip"
    path.write_bytes(data)
    with pytest.raises(AlgorithmFileError, match=r"damaged\.zip: it is damaged \(\w+: .*\)\. Save the model again\."):
        load_algorithm(path)


def test_a_zip_of_something_else_is_told(ppo: Saved, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.jpg", b"")
    _rewrite(ppo.path, tmp_path / "no data.zip", {"data": None})
    _rewrite(ppo.path, tmp_path / "other data.zip", {"data": b'{"a": 1}'})
    ppo.model.policy.save(str(tmp_path / "policy.pth"))  # torch's files are zip files too
    for name in ("photos.zip", "no data.zip", "other data.zip", "policy.pth"):
        with pytest.raises(AlgorithmFileError) as caught:
            load_algorithm(tmp_path / name)
        assert str(caught.value) == (
            f"{tmp_path / name}: it was not written by a Stable-Baselines3 algorithm. Pass what model.save() wrote."
        )


def test_a_file_without_weights_is_told(ppo: Saved, tmp_path: Path) -> None:
    _rewrite(ppo.path, tmp_path / "empty.zip", {"policy.pth": None})
    with pytest.raises(AlgorithmFileError, match=r"empty\.zip: PPO cannot load it \(ValueError: .*policy"):
        load_algorithm(tmp_path / "empty.zip")


# Without sb3-contrib ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_contrib(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: dict[str, Any] = {**sys.modules}
    for name in modules:
        if name.startswith("sb3_contrib."):
            monkeypatch.delitem(sys.modules, name)
    blocked: Any = None
    monkeypatch.setitem(sys.modules, "sb3_contrib", blocked)


@pytest.mark.parametrize("name", ["TRPO", "ARS", "QRDQN", "TQC", "CrossQ", "MaskablePPO", "RecurrentPPO"])
def test_an_algorithm_of_sb3_contrib_says_what_to_install(name: str, saved: dict[str, Saved], no_contrib: None) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        load_algorithm(saved[name].path)
    assert str(caught.value).endswith(
        "needs the package sb3-contrib, which is not installed. Install it: pip install 'sb3-clanker[contrib]'"
    )
    assert caught.value.package == "sb3-contrib"
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, ClankerError)


def test_a_named_algorithm_of_sb3_contrib_says_what_to_install(saved: dict[str, Saved], no_contrib: None) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        load_algorithm(saved["TRPO"].path, "trpo")
    assert str(caught.value) == (
        "The algorithm TRPO needs the package sb3-contrib, which is not installed. "
        "Install it: pip install 'sb3-clanker[contrib]'"
    )


@pytest.mark.parametrize("name", ["A2C", "PPO", "DQN", "SAC", "TD3"])
def test_algorithms_of_stable_baselines3_do_without_sb3_contrib(
    name: str, saved: dict[str, Saved], no_contrib: None
) -> None:
    assert type(load_algorithm(saved[name].path)) is _algorithm(name)


def test_a_policy_of_ones_own_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(policy=OwnPolicy).save(tmp_path / "own.zip")  # type: ignore[arg-type]
    blocked: Any = None
    monkeypatch.setitem(sys.modules, __name__, blocked)
    with pytest.raises(AlgorithmFileError, match=rf"own\.zip: it needs a module that cannot be imported .*{__name__}"):
        load_algorithm(tmp_path / "own.zip")


# Whose weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _KWARGS)
def test_a_file_holds_the_policy_that_was_saved_in_it(name: str, saved: dict[str, Saved]) -> None:
    assert holds_policy_of(saved[name].path, saved[name].model)
    assert holds_policy_of(saved[name].path, load_algorithm(saved[name].path))


def test_a_file_does_not_hold_a_policy_that_went_on_training(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path / "model.zip")
    assert holds_policy_of(tmp_path / "model.zip", model)
    model.learn(16)
    assert not holds_policy_of(tmp_path / "model.zip", model)


def test_one_weight_makes_another_policy(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path / "model.zip")
    with th.no_grad():
        weight = next(model.policy.parameters()).view(-1)[:1]
        weight.copy_(th.nextafter(weight, th.tensor(th.inf)))
    assert not holds_policy_of(tmp_path / "model.zip", model)


def test_a_file_does_not_hold_the_policy_of_another_model(saved: dict[str, Saved]) -> None:
    smaller = make_model(policy_kwargs={"net_arch": [8]})
    wider = make_model(observation_space=spaces.Box(-1, 1, (5,)))
    for model in (saved["A2C"].model, saved["SAC"].model, smaller, wider):
        assert not holds_policy_of(saved["PPO"].path, model)


@pytest.mark.parametrize("name", ["missing.zip", "folder", "text.zip", "photos.zip", "truncated.zip"])
def test_what_is_no_readable_file_holds_no_policy(name: str, ppo: Saved, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.jpg", b"")
    (tmp_path / "truncated.zip").write_bytes(ppo.path.read_bytes()[:-30])
    assert holds_policy_of(tmp_path / name, ppo.model) is False


def _torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    th.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["empty", "list", "number", "no tensors"])
def test_weights_that_are_none_hold_no_policy(kind: str, ppo: Saved, tmp_path: Path) -> None:
    value: object = {
        "empty": {},
        "list": [1, 2],
        "number": 3,
        "no tensors": dict.fromkeys(ppo.model.policy.state_dict(), 1),
    }[kind]
    _rewrite(ppo.path, tmp_path / "other.zip", {"policy.pth": _torch_bytes(value)})
    assert holds_policy_of(tmp_path / "other.zip", ppo.model) is False


_ZEROS = 1 << 25


def _packed(member: str, folder: Path, source: Path) -> Path:
    """A file of a few kilobytes that takes 32 MiB when it is unpacked: in the ``.zip``, or in the weights within it."""
    path = folder / "packed.zip"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        if member == "policy.pth":
            new.writestr("policy.pth", bytes(_ZEROS))
            return path
        weights = io.BytesIO()
        with (
            zipfile.ZipFile(old.open("policy.pth")) as inner,
            zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as out,
        ):
            for name in inner.namelist():
                out.writestr(name, bytes(_ZEROS) if name.endswith(member) else inner.read(name))
        new.writestr("policy.pth", weights.getvalue())
    return path


def _understated(path: Path) -> Path:
    """The same, with a directory that tells of one byte."""
    data = path.read_bytes()
    assert data.count(_ZEROS.to_bytes(4, "little")) == 2
    path.write_bytes(data.replace(_ZEROS.to_bytes(4, "little"), (1).to_bytes(4, "little")))
    return path


@pytest.mark.parametrize(
    ("member", "understated"), [("policy.pth", False), ("policy.pth", True), ("/data/0", False), ("/data.pkl", False)]
)
def test_a_file_that_unpacks_to_more_than_the_model_is_not_unpacked(
    member: str, understated: bool, ppo: Saved, tmp_path: Path
) -> None:
    path = _packed(member, tmp_path, ppo.path)
    if understated:
        path = _understated(path)
    tracemalloc.start()
    try:
        assert holds_policy_of(path, ppo.model) is False
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < _ZEROS / 4


def test_a_file_that_unpacks_to_more_is_not_in_the_way_of_an_export(ppo: Saved, tmp_path: Path) -> None:
    _packed("policy.pth", tmp_path, ppo.path)
    assert export_policy(ppo.model, tmp_path / "packed.onnx").metadata.checkpoint is None


def test_a_pipe_that_is_called_like_a_zip_is_not_read(ppo: Saved, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policy.zip")
    assert holds_policy_of(tmp_path / "policy.zip", ppo.model) is False


def test_weights_that_cannot_be_compared_hold_no_policy(ppo: Saved, tmp_path: Path) -> None:
    weights = {name: tensor.to_sparse() for name, tensor in ppo.model.policy.state_dict().items()}
    _rewrite(ppo.path, tmp_path / "sparse.zip", {"policy.pth": _torch_bytes(weights)})
    assert holds_policy_of(tmp_path / "sparse.zip", ppo.model) is False


def test_a_zip_that_unpacks_to_far_more_than_itself_is_not_loaded(
    ppo: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sb3_clanker.sb3.algorithms._ALWAYS_UNPACKED", 1 << 20)
    path = _packed("policy.pth", tmp_path, ppo.path)
    with pytest.raises(AlgorithmFileError, match=r"packed\.zip: what is in it takes 33,554,432 bytes, and the file"):
        load_algorithm(path)


class _Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_telling_whose_weights_they_are_runs_no_code_of_the_file(ppo: Saved, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data, params, variables = load_from_zip_file(ppo.path, device="cpu")
    assert data is not None
    armed = tmp_path / "armed.zip"
    save_to_zip_file(
        armed, data=data | {"policy_class": _Bomb(marker)}, params=dict(params), pytorch_variables=variables
    )
    load_from_zip_file(armed, device="cpu")
    assert marker.exists(), "the file would have run code"
    marker.unlink()
    assert holds_policy_of(armed, ppo.model)
    assert not marker.exists()

    weights = _torch_bytes({"log_std": _Bomb(marker)})
    for member in (weights, pickle.dumps(_Bomb(marker))):
        _rewrite(ppo.path, tmp_path / "armed weights.zip", {"policy.pth": member})
        assert not holds_policy_of(tmp_path / "armed weights.zip", ppo.model)
        assert not marker.exists()
