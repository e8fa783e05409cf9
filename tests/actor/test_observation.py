"""From raw observations to what a policy gets: names of inputs, layouts of images, and digits that must not be lost."""

from __future__ import annotations

import re
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import ClankerError, ExportOptions, OnnxPolicy, export_policy
from sb3_clanker.actor.observation import RESERVED_NAMES, check_precision, observation_inputs
from sb3_clanker.errors import ClankerWarning, ObservationError, PrecisionError, PrecisionWarning
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.policy_file.spaces import describe_space
from sb3_clanker.sb3.normalization import resolve_normalization
from sb3_clanker.sb3.statistics import Statistics
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, draw, make_env, make_model, predict_raw

VECTOR = spaces.Box(-1.0, 1.0, (2,), np.float32)
UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,), np.float32)
UNBOUNDED_FLOAT64 = spaces.Box(-np.inf, np.inf, (3,), np.float64)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
CUBE = spaces.Box(-5.0, 5.0, (2, 3, 4), np.float32)


def _names(*keys: str) -> dict[str | None, str]:
    space = spaces.Dict([(key, VECTOR) for key in keys])
    return {
        leaf.spec.key: leaf.spec.name for leaf in observation_inputs(describe_space(space, "observation"), {}, False)
    }


# Names of inputs ----------------------------------------------------------------------------------------------------


def test_an_observation_without_keys_has_a_name_of_its_own() -> None:
    (leaf,) = observation_inputs(describe_space(VECTOR, "observation"), {}, False)
    assert (leaf.spec.key, leaf.spec.name) == (None, "obs")


@pytest.mark.parametrize("key", ["joints", "_x", "Camera_2", "x" * 300, "observation", "batch"])
def test_a_key_that_is_a_plain_name_is_the_name(key: str) -> None:
    assert _names(key) == {key: key}


@pytest.mark.parametrize("key", RESERVED_NAMES)
def test_a_name_that_the_format_needs_is_not_taken(key: str) -> None:
    assert _names(key) == {key: f"obs_{key}"}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("two words", "obs_two_words"),
        ("two-words", "obs_two_words"),
        ("a.b", "obs_a_b"),
        ("a/b", "obs_a_b"),
        ("/Add_0", "obs__Add_0"),
        ("2nd", "obs_2nd"),
        ("ключ", "obs_____"),
        ("größe", "obs_gr__e"),
        ("x\n", "obs_x_"),
        ("x\x00", "obs_x_"),
        (" ", "obs__"),
        ("", "obs_"),
    ],
)
def test_any_other_key_is_made_a_plain_name(key: str, name: str) -> None:
    assert _names(key) == {key: name}


def test_names_that_would_be_the_same_are_told_apart() -> None:
    names = _names("a b", "a.b", "a-b", "obs_a_b_2", "x y", "obs_x_y", "obs", "obs_obs", "", "obs_")
    assert len(set(names.values())) == len(names)
    assert {key: names[key] for key in ("obs_a_b_2", "obs_x_y", "obs_obs", "obs_")} == {
        key: key for key in ("obs_a_b_2", "obs_x_y", "obs_obs", "obs_")
    }
    assert {names[key] for key in ("a b", "a.b", "a-b")} == {"obs_a_b", "obs_a_b_3", "obs_a_b_4"}
    assert (names["x y"], names["obs"], names[""]) == ("obs_x_y_2", "obs_obs_2", "obs__2")


class _Flattened(BaseFeaturesExtractor):
    """Takes keys that no torch module can be named after."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, spaces.flatdim(observation_space))

    def forward(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        return th.cat([observations[key].flatten(1) for key in sorted(observations)], dim=1)


ODD_KEYS = ("action", "obs", "h_in", "two words", "two-words", "ключ", "", "a.b", "a_b", "obs_two_words", "joints")


def test_a_policy_with_odd_keys_is_given_them_as_they_are(tmp_path: Path) -> None:
    space = spaces.Dict({key: spaces.Box(-np.inf, np.inf, (2,), np.float32) for key in ODD_KEYS})
    model = make_model(
        observation_space=space,
        policy="MultiInputPolicy",
        policy_kwargs={"features_extractor_class": _Flattened},
        normalize=True,
    )
    vec_normalize: Any = model.get_vec_normalize_env()
    rng = np.random.default_rng(0)
    for running in vec_normalize.obs_rms.values():
        running.mean, running.var = rng.normal(3.0, 2.0, 2), rng.uniform(1.0, 20.0, 2)
    policy = OnnxPolicy(export_policy(model, tmp_path / "policy").path)
    names = {spec.key: spec.name for spec in policy.metadata.inputs}
    assert set(names) == set(ODD_KEYS)
    assert len(set(names.values())) == len(names)
    assert all(name.isidentifier() and name.isascii() for name in names.values())
    assert not set(names.values()) & set(RESERVED_NAMES)
    assert set(policy.metadata.normalization.keys) == set(ODD_KEYS)
    for n in (None, 1, 20):
        observation = draw(space, rng, n)
        expected = predict_raw(model, observation, vec_normalize)
        np.testing.assert_allclose(policy.predict(observation)[0], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ObservationError, match="The observation must be a mapping with the keys"):
        policy.predict({names[key]: value for key, value in observation.items()})


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        (("action_low", "action_high"), ExportOptions()),
        (("value", "action_mean", "action_std"), ExportOptions(further_outputs=("value", "distribution"))),
    ],
    ids=["of weights", "of further outputs"],
)
def test_keys_may_have_the_names_of_other_parts_of_the_graph(
    keys: tuple[str, ...], options: ExportOptions, tmp_path: Path
) -> None:
    space = spaces.Dict(dict.fromkeys(keys, VECTOR))
    model = make_model(observation_space=space, policy="MultiInputPolicy")
    policy = OnnxPolicy(export_policy(model, tmp_path / "policy", options=options).path)
    assert {spec.key for spec in policy.metadata.inputs} == set(keys)
    observation = draw(space, np.random.default_rng(0), 20)
    np.testing.assert_allclose(policy.predict(observation)[0], predict_raw(model, observation), rtol=1e-5, atol=1e-5)


def test_a_batch_in_one_key_makes_a_batch_as_it_does_for_stable_baselines3(tmp_path: Path) -> None:
    space = spaces.Dict({"a": VECTOR, "b": VECTOR})
    model = make_model(observation_space=space, policy="MultiInputPolicy")
    policy = OnnxPolicy(export_policy(model, tmp_path / "policy").path)
    one = np.array([0.25, -0.5], np.float32)
    for observation in ({"a": one[None], "b": one}, {"a": one, "b": one[None]}):
        expected = predict_raw(model, observation)
        got, _ = policy.predict(observation)
        assert got.shape == expected.shape == (1, 2)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


# Layouts of images --------------------------------------------------------------------------------------------------


def _last(array: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(array, -3, -1))


def test_a_file_takes_images_with_their_channels_last_on_request(tmp_path: Path) -> None:
    model = make_model(
        observation_space=IMAGE,
        action_space=spaces.MultiDiscrete([3, 3, 3]),
        policy="CnnPolicy",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}},
    )
    options = ExportOptions(channels_last=True, n_samples=32)
    report = export_policy(model, tmp_path / "policy", options=options)
    (spec,) = report.metadata.inputs
    assert (spec.dtype, spec.shape, spec.layout) == ("uint8", ("batch", 36, 36, 3), "channels_last")
    policy, rng = OnnxPolicy(report.path), np.random.default_rng(0)
    assert policy.observation_space == IMAGE
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    images = draw(IMAGE, rng, 30)
    expected = predict_raw(model, images)
    assert len(np.unique(expected, axis=0)) > 1
    np.testing.assert_array_equal(session.run(["action"], {"obs": _last(images)})[0], expected)
    for of_layout in (images, _last(images), np.moveaxis(images, -3, -1)):
        np.testing.assert_array_equal(policy.predict(of_layout)[0], expected)
        np.testing.assert_array_equal(policy.predict(of_layout[3])[0], expected[3])


def test_images_have_their_channels_first_by_default(tmp_path: Path) -> None:
    space = spaces.Dict({"camera": IMAGE, "cube": CUBE, "joints": VECTOR})
    model = make_model(observation_space=space, policy="MultiInputPolicy")
    report = export_policy(model, tmp_path / "policy")
    assert {spec.name: (spec.shape, spec.layout) for spec in report.metadata.inputs} == {
        "camera": (("batch", 3, 36, 36), "channels_first"),
        "cube": (("batch", 2, 3, 4), None),
        "joints": (("batch", 2), None),
    }


def test_channels_last_concerns_only_the_keys_of_images_and_goes_with_normalization(tmp_path: Path) -> None:
    space = spaces.Dict({"camera": CUBE, "joints": UNBOUNDED})
    model = make_model(observation_space=space, policy="MultiInputPolicy", normalize=True)
    vec_normalize: Any = model.get_vec_normalize_env()
    rng = np.random.default_rng(0)
    for running in vec_normalize.obs_rms.values():
        running.mean = rng.normal(1.0, 2.0, running.mean.shape)
        running.var = rng.uniform(0.5, 9.0, running.var.shape)
    report = export_policy(model, tmp_path / "policy", options=ExportOptions(channels_last=True))
    layouts = {spec.name: (spec.shape, spec.layout) for spec in report.metadata.inputs}
    assert layouts == {"camera": (("batch", 3, 4, 2), "channels_last"), "joints": (("batch", 3), None)}
    policy = OnnxPolicy(report.path)
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    observation = draw(space, rng, 30)
    expected = predict_raw(model, observation, vec_normalize)
    turned = {**observation, "camera": _last(observation["camera"])}
    (of_graph,) = session.run(["action"], turned)
    np.testing.assert_allclose(of_graph, expected, rtol=1e-5, atol=1e-5)
    for of_layout in (observation, turned):
        np.testing.assert_allclose(policy.predict(of_layout)[0], expected, rtol=1e-5, atol=1e-5)


# Digits -------------------------------------------------------------------------------------------------------------


def _far_away(path: Path, mean: Any, variance: Any, space: spaces.Space[Any] = UNBOUNDED) -> tuple[Any, Any, Any]:
    """A model whose statistics are these, its VecNormalize, and the policy in its file."""
    vec_normalize: Any = VecNormalize(make_env(space, BOX_ACTION))
    vec_normalize.obs_rms.mean = np.array(mean, np.float64)
    vec_normalize.obs_rms.var = np.array(variance, np.float64)
    model = make_model(env=vec_normalize)
    return model, vec_normalize, OnnxPolicy(export_policy(model, path).path)


def test_observations_far_from_zero_keep_their_digits(tmp_path: Path) -> None:
    mean = np.array([1e6 + 0.03, -1e6 - 0.41, 1e6])
    model, vec_normalize, policy = _far_away(tmp_path / "policy", mean, np.ones(3))
    observations = np.random.default_rng(0).normal(mean, 1.0, (200, 3)).astype(np.float32)
    expected = predict_raw(model, observations, vec_normalize)
    assert len(np.unique(expected.round(3), axis=0)) > 50, "the weights tell no actions apart"
    np.testing.assert_allclose(policy.predict(observations)[0], expected, rtol=1e-5, atol=1e-5)
    coarse = vec_normalize.normalize_obs(observations + np.float32(0.0625))
    assert np.abs(model.predict(coarse, deterministic=True)[0] - expected).max() > 1e-3


def test_dimensions_that_never_changed_do_what_they_do_for_stable_baselines3(tmp_path: Path) -> None:
    model, vec_normalize, policy = _far_away(tmp_path / "policy", [0.1, 1e6 + 0.03, -4.0], [0.0, 0.0, 1.0])
    rng = np.random.default_rng(0)
    observations = rng.normal([0.1, 1e6, -4.0], [1e-5, 1.0, 1.0], (200, 3)).astype(np.float32)
    observations[:50, 0], observations[:50, 1] = 0.1, 1e6
    expected = predict_raw(model, observations, vec_normalize)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(policy.predict(observations)[0], expected, rtol=1e-5, atol=1e-5)


def _lost(where: str, lost: str, dtype: str = "float64") -> str:
    """The whole text of a warning, as a pattern."""
    message = (
        f"{where} is {dtype} and lies so far from zero that float32, the type of the file's input, rounds it by {lost} "
        "of its standard deviation. Subtract a constant in the environment."
    )
    return f"^{re.escape(message)}$"


def _wrong(where: str, lost: str) -> str:
    """The whole text of an error, as a pattern."""
    message = (
        f"{where} lies so far from zero, for how little it varies, that float32, the type of the file's input, rounds "
        f"it by {lost} of its standard deviation: actions would be wrong. Subtract a constant in the environment."
    )
    return f"^{re.escape(message)}$"


def test_digits_that_float32_cannot_carry_are_warned_of(tmp_path: Path) -> None:
    with pytest.warns(PrecisionWarning, match=_lost("The observation", "0.003")) as warned:
        _far_away(tmp_path / "policy", [0.0, 1e6, 0.0], [1.0, 100.0, 1.0], UNBOUNDED_FLOAT64)
    assert len(warned) == 1
    assert isinstance(warned[0].message, ClankerWarning)
    assert not isinstance(warned[0].message, ClankerError)


def test_the_warning_points_at_the_line_that_exports(tmp_path: Path) -> None:
    with pytest.warns(PrecisionWarning, match="far from zero") as warned:
        _far_away(tmp_path / "policy", [0.0, 1e6, 0.0], [1.0, 100.0, 1.0], UNBOUNDED_FLOAT64)
    assert warned[0].filename == __file__


def test_digits_without_which_actions_are_wrong_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match=_wrong("The observation", "3e+01")) as caught:
        _far_away(tmp_path / "policy", [0.0, 1e6, 0.0], [1.0, 1e-6, 1.0], UNBOUNDED_FLOAT64)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClankerError)
    assert caught.value.key is None
    assert caught.value.lost == pytest.approx(31.25, rel=0.01)
    assert not (tmp_path / "policy.onnx").exists()


def _statistics(mean: float, deviation: float, latest: Any = None) -> Statistics:
    return Statistics(
        mean=np.full(3, mean), variance=np.full(3, deviation**2), epsilon=1e-8, clip_obs=10.0, latest=latest
    )


def test_digits_lost_in_one_key_are_warned_of_by_its_name() -> None:
    space = spaces.Dict({"near": UNBOUNDED_FLOAT64, "far": UNBOUNDED_FLOAT64, "raw": UNBOUNDED_FLOAT64})
    statistics: dict[str | None, Statistics] = {"near": _statistics(1.0, 1.0), "far": _statistics(-1e6, 10.0)}
    with pytest.warns(PrecisionWarning, match=_lost("The observation key 'far'", "0.003")) as warned:
        check_precision(space, statistics)
    assert len(warned) == 1
    statistics["far"] = _statistics(-1e6, 1.0)
    with pytest.raises(PrecisionError, match=_wrong("The observation key 'far'", "0.03")) as caught:
        check_precision(space, statistics)
    assert caught.value.key == "far"


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint64, np.int32, np.uint32])
def test_every_type_that_float32_cannot_carry_is_looked_at(dtype: Any) -> None:
    space = spaces.Box(0, 2**31 - 1, (3,), dtype)
    with pytest.warns(PrecisionWarning, match=_lost("The observation", "0.006", np.dtype(dtype).name)):
        check_precision(space, {None: _statistics(1.7e9, 1e4)})
    with pytest.raises(PrecisionError, match=_wrong("The observation", "0.06")):
        check_precision(space, {None: _statistics(1.7e9, 1e3)})


def test_the_type_that_was_really_seen_counts() -> None:
    seen = np.full((2, 3), 1e6 + 0.01)
    with pytest.raises(PrecisionError, match=_wrong("The observation", "0.3")):
        check_precision(UNBOUNDED, {None: _statistics(1e6, 0.1, seen)})  # a SubprocVecEnv does not convert
    check_precision(UNBOUNDED_FLOAT64, {None: _statistics(1e6, 0.1, seen.astype(np.float32))})


def test_a_constant_that_float32_holds_is_not_refused() -> None:
    held, rounded = np.full((1, 3), 1e6), np.full((1, 3), 1e6 + 0.01)
    with pytest.warns(PrecisionWarning, match=_lost("The observation", "0.3")):
        check_precision(UNBOUNDED_FLOAT64, {None: _statistics(1e6, 0.1, held)})
    with pytest.raises(PrecisionError, match=_wrong("The observation", "0.3")):
        check_precision(UNBOUNDED_FLOAT64, {None: _statistics(1e6, 0.1, rounded)})


def _clock(deviation: float, action_space: spaces.Space[Any] = BOX_ACTION) -> tuple[BaseAlgorithm, Any]:
    """A model that observes seconds since 1970, and its VecNormalize after a long training."""
    space = spaces.Box(0, 2**40, (3,), np.int64)
    vec_normalize: Any = VecNormalize(make_env(space, action_space))
    model = make_model(env=vec_normalize)
    vec_normalize.reset()
    vec_normalize.obs_rms.mean, vec_normalize.obs_rms.var = np.full(3, 1.7e9), np.full(3, deviation**2)
    vec_normalize.old_obs = np.random.default_rng(1).normal(1.7e9, deviation, (1, 3)).astype(np.int64)
    return model, vec_normalize


def test_what_is_let_through_keeps_the_actions_and_what_is_refused_does_not(tmp_path: Path) -> None:
    """The bounds of warning and refusal, held against 5,000 actions."""
    half = (BOX_ACTION.high - BOX_ACTION.low) / 2
    off = {}
    for deviation in (1e6, 1e4, 5e3):
        model, vec_normalize = _clock(deviation)
        times = np.random.default_rng(0).normal(1.7e9, deviation, (5000, 3)).astype(np.int64)
        expected = predict_raw(model, times, vec_normalize)
        if deviation == 5e3:
            with pytest.raises(PrecisionError, match=_wrong("The observation", "0.01")):
                export_policy(model, tmp_path / "policy")
            got = predict_raw(model, times.astype(np.float32).astype(np.int64), vec_normalize)
        else:
            with nullcontext() if deviation == 1e6 else pytest.warns(PrecisionWarning, match="rounds it by 0.006"):
                policy = OnnxPolicy(export_policy(model, tmp_path / "policy").path)
            got, _ = policy.predict(times)
        off[deviation] = np.abs((got - expected) / half).max(axis=1)
    assert off[1e6].max() < 1e-3
    assert np.median(off[1e4]) < 1e-2
    assert (off[5e3] > 1e-2).mean() > 0.1
    assert off[5e3].max() > 0.05


def test_a_training_is_refused_the_export_once_its_statistics_lose_the_digits(tmp_path: Path) -> None:
    model, vec_normalize = _clock(1e6)
    exporter = Exporter(model, resolve_normalization(model, "auto"), ExportOptions(n_samples=8))
    exporter.export()
    vec_normalize.obs_rms.var = np.full(3, 1.0)
    with pytest.raises(PrecisionError, match=_wrong("The observation", "6e+01")):
        exporter.export()


@pytest.mark.parametrize(
    ("space", "mean", "deviation"),
    [
        (UNBOUNDED, 1e6, 1e-3),
        (UNBOUNDED_FLOAT64, 1e6, 1e3),
        (UNBOUNDED_FLOAT64, 0.0, 1e-6),
        (UNBOUNDED_FLOAT64, 3.0, 1.0),
        (spaces.Box(-(10**6), 10**6, (3,), np.int64), 1e6, 1.0),
    ],
    ids=["float32", "wide", "at zero", "usual", "integers"],
)
def test_digits_that_are_not_lost_are_not_warned_of(space: spaces.Box, mean: float, deviation: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_precision(space, {None: _statistics(mean, deviation)})
        check_precision(space, {})


def test_an_observation_far_away_gives_no_warning_in_float32(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, _, policy = _far_away(tmp_path / "policy", [0.0, 1e6, 0.0], [1.0, 1e-6, 1.0])
    assert policy.metadata.normalization.status == "folded"


def test_spaces_without_digits_to_lose_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_precision(spaces.Discrete(3), {})
        check_precision(spaces.Dict({"a": BOX_OBSERVATION, "b": spaces.MultiBinary(2)}), {})
