"""Which programs take a policy: every rule of a target, sabotaged, and files made for one."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from msgspec.structs import replace
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_clanker import (
    ClankerError,
    ExportOptions,
    OnnxCheckpointCallback,
    OnnxPolicy,
    check_target,
    export_policy,
    read_metadata,
    validate_policy,
)
from sb3_clanker.actor.observation import ObservationInput
from sb3_clanker.cli.main import main
from sb3_clanker.errors import ObservationError, OptionError, TargetError, ValidationError
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.record import FrameStackRecord
from sb3_clanker.policy_file.spaces import DiscreteSpace, LeafSpace, ObservationSpace, describe_space
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.runtime.check_vectors import check_vectors
from sb3_clanker.targets.check import TARGETS, require_target
from sb3_clanker.writers.onnx import Graph
from tests.support import ACTIONS, OBSERVATIONS
from tests.worlds import BOX_OBSERVATION, assert_same_actions, draw, make_env, make_model, predict_raw

Capture = pytest.CaptureFixture[str]

VISION = spaces.Dict(
    {"image": spaces.Box(0, 255, (3, 36, 36), np.uint8), "joint_positions": spaces.Box(-3.0, 3.0, (4,))}
)
SEEN = describe_space(VISION, "observation")
CHOICES = DiscreteSpace(n=2)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Inputs and outputs without a policy."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    observation_space: ObservationSpace = SEEN
    action_space: LeafSpace = CHOICES


def _observation(name: str, *shape: int | str, dtype: str = "float32", **kwargs: Any) -> TensorSpec:
    return TensorSpec(
        name=name, dtype=dtype, shape=("batch", *shape), role="observation", meaning="raw observation", **kwargs
    )


OBS = _observation("obs", 3)
IMAGE = _observation("image", 3, 36, 36, key="image", layout="channels_first", divisor=255.0)
JOINTS = _observation("joint_positions", 4, key="joint_positions")
UNUSED = replace(JOINTS, role="unused", shape=("batch", 1), key=None)
ACTION = TensorSpec(name="action", dtype="float32", shape=("batch", 2), role="action", meaning="the action")
VALUE = TensorSpec(name="value", dtype="float32", shape=("batch", 1), role="further", meaning="the value")
STATE = TensorSpec(name="h_in", dtype="float32", shape=(1, "batch", 8), role="hidden_state", meaning="the state")
MASKS = TensorSpec(name="action_masks", dtype="bool", shape=("batch", 2), role="action_masks", meaning="the masks")


def _problems(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...] = (ACTION,)) -> tuple[str, ...]:
    """What clankers has against a policy."""
    try:
        require_target(Shape(inputs=inputs, outputs=outputs), "clankers")
    except TargetError as error:
        return error.problems
    return ()


# The rules of clankers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [
        (OBS,),
        (replace(OBS, name="observation"),),
        (_observation("obs", 1),),
        (IMAGE, JOINTS),
        (JOINTS, IMAGE),
        (IMAGE, UNUSED),
    ],
    ids=lambda inputs: "-".join(f"{spec.name}{spec.shape[1]}" for spec in inputs),
)
@pytest.mark.parametrize("outputs", [(ACTION,), (ACTION, VALUE), (replace(ACTION, name="velocity"),)])
def test_clankers_takes_what_keeps_its_rules(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    assert _problems(inputs, outputs) == ()


VECTOR_RULES: Mapping[str, tuple[tuple[TensorSpec, ...], str]] = {
    "another name": ((replace(OBS, name="state"),), "the inputs are state, and the loader feeds obs alone"),
    "two vectors": ((OBS, replace(OBS, name="goal")), "the inputs are obs, goal, and the loader feeds obs alone"),
    "both names": ((OBS, replace(OBS, name="observation")), "the inputs are obs, observation, and the loader feeds"),
    "no input": ((), "the inputs are none, and the loader feeds obs alone"),
    "another type": ((replace(OBS, dtype="uint8"),), r"obs uint8 \[batch, 3\] is not float32: export with"),
    "an image of bytes": (
        (_observation("obs", 3, 36, 36, dtype="uint8", layout="channels_first"),),
        r"obs uint8 \[batch, 3, 36, 36\] is not float32: export with ExportOptions\(target='clankers'\)$",
    ),
    "too many dimensions": (
        (_observation("obs", 2, 3),),
        r"obs float32 \[batch, 2, 3\] is not \[batch, width\].*flatten",
    ),
    "no dimension": ((_observation("obs"),), r"obs float32 \[batch\] is not \[batch, width\]"),
    "dynamic width": ((_observation("obs", "n"),), r"obs float32 \[batch, n\] is not \[batch, width\]"),
    "no width": ((_observation("obs", 0),), r"obs float32 \[batch, 0\] is not \[batch, width\]"),
}
VISION_RULES: Mapping[str, tuple[tuple[TensorSpec, ...], str]] = {
    "image alone": ((IMAGE,), "the inputs are image, and the loader feeds exactly image and joint_positions"),
    "joints alone": ((JOINTS,), "the inputs are joint_positions, and the loader feeds exactly"),
    "one more": (
        (IMAGE, JOINTS, _observation("goal", 2)),
        "the inputs are image, joint_positions, goal, and the loader",
    ),
    "obs as well": ((IMAGE, JOINTS, OBS), "the inputs are image, joint_positions, obs, and the loader feeds exactly"),
    "image of bytes": ((replace(IMAGE, dtype="uint8"), JOINTS), r"image uint8 \[.*\] is not float32: export with"),
    "joints of bytes": ((IMAGE, replace(JOINTS, dtype="uint8")), r"joint_positions uint8 \[.*\] is not float32"),
    "image without channels": (
        (replace(IMAGE, shape=("batch", 36, 36)), JOINTS),
        r"is not \[batch, channels, height, width\]",
    ),
    "image with a dynamic height": (
        (replace(IMAGE, shape=("batch", 3, "h", 36)), JOINTS),
        "is not .batch, channels, height",
    ),
    "channels last": ((replace(IMAGE, layout="channels_last"), JOINTS), "is not .batch, channels.*channels_last=False"),
    "image of other values": (
        (replace(IMAGE, divisor=None), JOINTS),
        r"was trained on values from 0 to 255, and the loader feeds 0 to 1: train on bytes .* \(norm_obs_keys\), or on",
    ),
    "matrix of joints": ((IMAGE, _observation("joint_positions", 2, 2)), r"is not \[batch, joints\]: use a Box of one"),
    "no joints": ((IMAGE, _observation("joint_positions", 0)), r"\[batch, 0\] is not \[batch, joints\]"),
}


@pytest.mark.parametrize("rule", [*VECTOR_RULES, *VISION_RULES])
def test_clankers_refuses_inputs_that_it_does_not_feed(rule: str) -> None:
    inputs, expected = {**VECTOR_RULES, **VISION_RULES}[rule]
    (problem,) = _problems(inputs)
    assert re.search(expected, problem), problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (STATE, "the policy is recurrent, and the loader carries no state from step to step"),
        (replace(STATE, role="cell_state"), "the policy is recurrent"),
        (replace(STATE, role="episode_start"), "the policy is recurrent"),
        (MASKS, "the policy takes action_masks, and the loader feeds none"),
    ],
)
def test_clankers_refuses_what_goes_beside_the_observation(spec: TensorSpec, expected: str) -> None:
    (problem,) = _problems((OBS, spec))
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((VALUE,), "of the outputs value, not exactly one is the action"),
        ((), "of the outputs none, not exactly one is the action"),
        ((ACTION, replace(ACTION, name="velocity")), "of the outputs action, velocity, not exactly one is the action"),
        ((replace(ACTION, dtype="int64"),), "action int64 [batch, 2] is not float32 [batch, width]"),
        ((replace(ACTION, shape=("batch",)),), "action float32 [batch] is not float32 [batch, width]"),
        ((replace(ACTION, shape=("batch", "n")),), "action float32 [batch, n] is not float32 [batch, width]"),
        ((replace(ACTION, shape=("batch", 0)),), "action float32 [batch, 0] is not float32 [batch, width]"),
    ],
)
def test_clankers_refuses_outputs_that_it_cannot_read(outputs: tuple[TensorSpec, ...], expected: str) -> None:
    (problem,) = _problems((OBS,), outputs)
    assert problem.startswith(expected)


def test_every_broken_rule_is_told_at_once() -> None:
    shape = Shape(inputs=(_observation("obs", 2, 3, dtype="uint8"), STATE, MASKS), outputs=(VALUE,))
    with pytest.raises(ClankerError, match=r"^clankers does not take this policy: the policy is recurrent") as caught:
        require_target(shape, "clankers")
    error = caught.value
    assert isinstance(error, TargetError)
    assert isinstance(error, ValueError)
    assert error.target == "clankers"
    assert str(error) == f"clankers does not take this policy: {'; '.join(error.problems)}."
    assert [problem.split(",")[0].split(" is not ")[0] for problem in error.problems] == [
        "the policy is recurrent",
        "the policy takes action_masks",
        "obs uint8 [batch",
        "obs uint8 [batch",
        "of the outputs value",
    ]


# Any target ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["ros", "", "CLANKERS", 3, ["clankers"]])
def test_an_unknown_target_is_refused(target: Any) -> None:
    with pytest.raises(OptionError, match=r"target=.* cannot be used: expected one of 'clankers', 'godot', 'onnx"):
        ExportOptions(target=target)


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_takes_anything_and_a_name_is_kept(target: Any) -> None:
    assert ExportOptions().target is None
    assert ExportOptions(target=target).target == target
    require_target(Shape(inputs=(), outputs=()), None)


# Files --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class File:
    path: Path
    model: BaseAlgorithm


@pytest.fixture(scope="module")
def vector(tmp_path_factory: pytest.TempPathFactory) -> File:
    return _export(tmp_path_factory.mktemp("vector"), make_model(normalize=True))


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> File:
    model = make_model(PPO, VISION, policy="MultiInputPolicy")
    return _export(tmp_path_factory.mktemp("vision"), model)


def _export(folder: Path, model: BaseAlgorithm) -> File:
    model.learn(32)
    path = folder / "policy.onnx"
    export_policy(model, path, options=ExportOptions(target="clankers", test_vectors=4))
    return File(path=path, model=model)


def test_a_vector_policy_is_taken(vector: File) -> None:
    report = check_target(read_metadata(vector.path), "clankers")
    assert (report.accepts, report.mode, report.problems) == (True, "vector", ())
    assert report.notes == ("obs needs 3 numbers: the loader fills up fewer with zeros, without a word",)


def test_a_vision_policy_is_fed_float32_and_equals_stable_baselines3(vision: File) -> None:
    metadata = read_metadata(vision.path)
    report = check_target(metadata, "clankers")
    assert (report.accepts, report.mode, report.problems) == (True, "vision", ())
    assert report.notes == (
        "image gets the camera's bytes divided by 255, from 0 to 1",
        "joint_positions needs 4 numbers: the loader fills up fewer with zeros, without a word",
        "joint_positions gets the first 4 numbers after the pixels, and the simulator interleaves positions and "
        "velocities there: train on them in this order",
    )
    assert [(spec.name, spec.dtype, spec.shape) for spec in metadata.inputs] == [
        ("image", "float32", ("batch", 3, 36, 36)),
        ("joint_positions", "float32", ("batch", 4)),
    ]
    assert metadata.inputs[0].layout == "channels_first"

    policy = OnnxPolicy(vision.path)
    actions = assert_same_actions(
        lambda observation: policy.predict(observation)[0],
        lambda observation: predict_raw(vision.model, observation),
        VISION,
        vision.model.action_space,
    )
    assert len(np.unique(actions, axis=0)) > 1
    assert validate_policy(vision.path, vision.model).passed


def test_the_loader_can_feed_a_vision_policy_as_it_does(vision: File) -> None:
    """One row of each input, float32, straight into the graph; the first output cut to the width of the action."""
    session = onnxruntime.InferenceSession(vision.path)
    rng = np.random.default_rng(3)
    for image in _images(rng, 20):
        joints = rng.uniform(-3, 3, (1, 4)).astype(np.float32)
        (action,) = session.run(["action"], {"image": _of_sensor(image[None]), "joint_positions": joints})
        expected = predict_raw(vision.model, {"image": image[None], "joint_positions": joints})
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-5)


def _images(rng: np.random.Generator, n: int) -> np.ndarray:
    return draw(VISION["image"], rng, n)  # type: ignore[no-any-return]


def _of_sensor(image: np.ndarray) -> np.ndarray:
    """What the simulator's camera makes of bytes."""
    return image.astype(np.float32) / np.float32(255)


def _of_training(values: np.ndarray) -> np.ndarray:
    """What the simulator's gymnasium side makes of the camera's values, for Stable-Baselines3."""
    scaled: np.ndarray = np.clip(values, 0, 1) * np.float32(255)
    return scaled.astype(np.uint8)


# Images alone -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_alone(tmp_path_factory: pytest.TempPathFactory) -> File:
    model = make_model(PPO, VISION["image"], policy="CnnPolicy")
    return _export(tmp_path_factory.mktemp("image"), model)


def test_an_image_alone_gets_the_two_inputs_that_the_loader_feeds(image_alone: File) -> None:
    metadata = read_metadata(image_alone.path)
    specs = [(spec.name, spec.dtype, spec.shape, spec.role, spec.divisor, spec.meaning) for spec in metadata.inputs]
    unused = "not looked at: the loader runs no policy on an image alone"
    assert specs == [
        (
            *("image", "float32", ("batch", 3, 36, 36), "observation", 255.0),
            "image from 0 to 1: each byte divided by 255",
        ),
        ("joint_positions", "float32", ("batch", 1), "unused", None, unused),
    ]
    report = check_target(metadata, "clankers")
    assert (report.accepts, report.mode, report.problems) == (True, "vision", ())
    assert report.notes == (
        "image gets the camera's bytes divided by 255, from 0 to 1",
        f"joint_positions is {unused}",
    )
    session = onnxruntime.InferenceSession(image_alone.path)
    assert [(value.name, value.type, value.shape) for value in session.get_inputs()] == [
        ("image", "tensor(float)", ["batch", 3, 36, 36]),
        ("joint_positions", "tensor(float)", ["batch", 1]),
    ]


def test_an_image_alone_equals_stable_baselines3_whatever_the_loader_feeds_beside_it(image_alone: File) -> None:
    session, policy = onnxruntime.InferenceSession(image_alone.path), OnnxPolicy(image_alone.path)
    rng = np.random.default_rng(3)
    images = _images(rng, 200)
    expected = predict_raw(image_alone.model, images)
    assert len(np.unique(expected, axis=0)) > 1
    for beside in (np.zeros((200, 1)), rng.normal(size=(200, 1)), np.full((200, 1), np.nan)):
        feed = {"image": _of_sensor(images), "joint_positions": beside.astype(np.float32)}
        np.testing.assert_allclose(session.run(["action"], feed)[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(policy.predict(images)[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(policy.predict(images[7])[0], expected[7], rtol=1e-5, atol=1e-5)
    assert policy.inputs(images[7])["joint_positions"].tolist() == [[0.0]]
    assert validate_policy(image_alone.path, image_alone.model).passed


def test_predict_takes_the_bytes_of_the_environment_and_nothing_else(image_alone: File) -> None:
    policy = OnnxPolicy(image_alone.path)
    (image,) = _images(np.random.default_rng(0), 1)
    for wrong in (_of_sensor(image), image.astype(np.int64)):
        with pytest.raises(ObservationError, match=f"for input 'image' must be uint8, got {wrong.dtype}"):
            policy.predict(wrong)
    with pytest.raises(ObservationError, match="takes no action masks"):
        policy.predict(image, action_masks=np.ones(2, bool))


def test_every_byte_survives_and_values_between_are_truncated_as_in_training(image_alone: File) -> None:
    session = onnxruntime.InferenceSession(image_alone.path)
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(_of_training(_of_sensor(every)), every)
    rng = np.random.default_rng(5)
    shape = (64, 3, 36, 36)
    steps = rng.integers(0, 256, shape)
    fed = {
        "bytes": steps / 255,
        "between": (steps + 0.5) / 255,
        "anywhere, and beyond": rng.uniform(-0.5, 1.5, shape),
        "below": np.full(shape, -3.0),
        "above": np.full(shape, 7.0),
        "infinite": rng.choice([-np.inf, np.inf], shape),
    }
    for values in fed.values():
        image = values.astype(np.float32)
        feed = {"image": image, "joint_positions": np.zeros((64, 1), np.float32)}
        expected = predict_raw(image_alone.model, _of_training(image))
        np.testing.assert_allclose(session.run(["action"], feed)[0], expected, rtol=1e-5, atol=1e-5)


def test_test_vectors_keep_away_from_the_steps_between_bytes(image_alone: File, vision: File) -> None:
    for file in (image_alone, vision):
        vectors = read_vectors(file.path.with_suffix(".vectors.json"))
        assert check_vectors(OnnxPolicy(file.path), vectors).n_cases == 4
        pixels = np.array([case.inputs["image"] for case in vectors.cases])
        within = pixels[(pixels > 0) & (pixels < 1)] * 255
        np.testing.assert_allclose(within - np.floor(within), 0.5, atol=1e-4)
        assert pixels.min() < 0
        assert pixels.max() > 1
        for case in vectors.cases:
            observation: Any = _of_training(np.array(case.inputs["image"], np.float32).reshape(1, 3, 36, 36))
            if file is vision:
                observation = {"image": observation, "joint_positions": np.array([case.inputs["joint_positions"]])}
            np.testing.assert_allclose(
                [case.outputs["action"]], predict_raw(file.model, observation), rtol=1e-5, atol=1e-5
            )


def _unscaled(_: ObservationInput, image: th.Tensor) -> th.Tensor:
    return image.to(th.uint8)


def _rounded(_: ObservationInput, image: th.Tensor) -> th.Tensor:
    return (image.clamp(0, 1) * 255).round().to(th.uint8)


def _unclamped(_: ObservationInput, image: th.Tensor) -> th.Tensor:
    return (image * 255).floor().to(th.uint8)


def _not_truncated(_: ObservationInput, image: th.Tensor) -> th.Tensor:
    return image.clamp(0, 1) * 255


@pytest.mark.parametrize(
    ("forward", "problem"),
    [
        (_unscaled, "disagree"),
        (_rounded, "action changes between one byte of an image and the next"),
        (_unclamped, "action changes between one byte of an image and the next"),
        (_not_truncated, "action changes between one byte of an image and the next"),
    ],
)
def test_a_graph_that_makes_other_bytes_is_refused(
    image_alone: File, forward: Any, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObservationInput, "forward", forward)
    with pytest.raises(ValidationError, match=f"at the stage cross_check: .*{problem}"):
        export_policy(image_alone.model, tmp_path / "policy.onnx", options=ExportOptions(target="clankers"))
    assert list(tmp_path.iterdir()) == []


def test_a_callback_exports_an_image_alone_at_each_checkpoint(tmp_path: Path) -> None:
    model = make_model(DQN, VISION["image"], ACTIONS["Discrete"], policy="CnnPolicy")
    options = ExportOptions(target="clankers", n_samples=2)
    model.learn(64, callback=OnnxCheckpointCallback(tmp_path, save_freq=32, options=options))
    images = _images(np.random.default_rng(0), 50)
    for steps in (32, 64):
        saved = DQN.load(tmp_path / f"rl_model_{steps}_steps.zip")
        policy = OnnxPolicy(tmp_path / f"rl_model_{steps}_steps.onnx")
        np.testing.assert_array_equal(policy.predict(images)[0], predict_raw(saved, images))


def test_an_image_that_vecnormalize_changes_is_refused(tmp_path: Path) -> None:
    """The loader's values are not those of which the statistics are."""
    env = VecNormalize(make_env(copy.deepcopy(VISION), ACTIONS["Box"]))  # which changes the space that it is given
    model = make_model(PPO, policy="MultiInputPolicy", env=env)
    with pytest.raises(TargetError, match=r"image float32 \[batch, 3, 36, 36\] was trained on values from -10 to 10"):
        export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(target="clankers"))
    metadata = export_policy(model, tmp_path / "policy.onnx").metadata
    assert not check_target(metadata, "clankers").accepts
    partly = VecNormalize(make_env(VISION, ACTIONS["Box"]), norm_obs_keys=["joint_positions"])
    model = make_model(PPO, policy="MultiInputPolicy", env=partly)
    metadata = export_policy(model, tmp_path / "partly.onnx", options=ExportOptions(target="clankers")).metadata
    assert check_target(metadata, "clankers").accepts


def test_an_image_of_floats_from_0_to_1_goes_in_as_it_is(tmp_path: Path) -> None:
    space = spaces.Dict({**VISION.spaces, "image": spaces.Box(0.0, 1.0, (3, 36, 36), np.float32)})
    model = make_model(PPO, space, policy="MultiInputPolicy")
    metadata = export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(target="clankers")).metadata
    assert check_target(metadata, "clankers").accepts
    assert metadata.inputs[0].divisor is None


@pytest.mark.slow
@pytest.mark.parametrize("features_dim", [40, 700], ids=["100 thousand parameters", "a million"])
@pytest.mark.parametrize("action", ["Box", "Discrete"])
def test_in_large_networks_too_the_simulator_gets_what_training_had(
    action: str, features_dim: int, tmp_path: Path
) -> None:
    model = make_model(
        PPO,
        VISION["image"],
        ACTIONS[action],
        policy="CnnPolicy",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": features_dim}, "net_arch": [features_dim] * 2},
    )
    path = export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(target="clankers")).path
    session = onnxruntime.InferenceSession(path)
    rng = np.random.default_rng(3)
    for _ in range(50):
        images = _images(rng, 100)
        feed = {"image": _of_sensor(images), "joint_positions": np.zeros((100, 1), np.float32)}
        got, expected = session.run(["action"], feed)[0], predict_raw(model, images)
        if action == "Box":
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(got.reshape(-1), expected)


def test_images_stay_bytes_without_the_target(vision: File, tmp_path: Path) -> None:
    metadata = export_policy(vision.model, tmp_path / "policy.onnx").metadata
    assert metadata.inputs[0].dtype == "uint8"
    report = check_target(metadata, "clankers")
    assert (report.accepts, report.mode, report.notes) == (False, None, ())
    assert report.problems == (
        "image uint8 [batch, 3, 36, 36] is not float32: export with ExportOptions(target='clankers')",
    )


def test_other_targets_take_whatever_was_exported(vision: File, vector: File) -> None:
    for file in (vision, vector):
        for target in ("onnxruntime-web", "tract"):
            report = check_target(read_metadata(file.path), target)
            assert (report.accepts, report.mode, report.problems) == (True, None, ())


def test_what_no_target_checks_is_noted(vector: File) -> None:
    metadata = read_metadata(vector.path)
    masked = replace(metadata, inputs=(*metadata.inputs, MASKS))
    assert check_target(metadata, "onnxruntime-web").notes == ()
    assert check_target(masked, "onnxruntime-web").notes == ("a tensor of type bool takes a Uint8Array of 0 and 1",)
    names = "it does not keep the names of outputs: take them by position (action)"
    assert check_target(metadata, "tract").notes == (names,)
    stack = FrameStackRecord(key=None, n_stack=4, axis=-1, padding=0.0, padding_error=0.0)
    stacked = replace(metadata, frame_stacks=(stack, replace(stack, key="camera")))
    assert check_target(stacked, "onnxruntime-web").notes == (
        "an observation holds 4 frames, which the caller has to stack",
        "an observation of camera holds 4 frames, which the caller has to stack",
    )
    discrete = replace(metadata, action_space=DiscreteSpace(n=2))
    assert check_target(discrete, "clankers").notes[1] == (
        "the action is a Discrete one, in whole numbers; the loader, which finds no bounds for it, takes them for -1 "
        "and 1"
    )


def test_frames_are_noted_in_a_real_file(tmp_path: Path) -> None:
    env = VecFrameStack(make_env(BOX_OBSERVATION, ACTIONS["Box"]), n_stack=3)
    metadata = export_policy(make_model(env=env), tmp_path / "policy.onnx").metadata
    assert check_target(metadata, "clankers").notes == (
        "obs needs 9 numbers: the loader fills up fewer with zeros, without a word",
        "an observation holds 3 frames, which the caller has to stack",
    )


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_each_kind_of_observation_is_taken_or_refused_before_the_trace(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vector goes through, of any kind, and an image of bytes; nothing else does, and a refusal costs no trace."""
    space = OBSERVATIONS[name]
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    policy = "CnnPolicy" if is_image_space(space) else policy
    model = make_model(PPO, space, policy=policy)
    taken = {"Box", "unbounded Box", "Box float64", "integer Box", "Discrete", "MultiDiscrete", "MultiBinary"}
    images = {"image", "image, channels last"}
    options = ExportOptions(target="clankers")
    path = tmp_path / "policy.onnx"
    if name in taken | images:
        metadata = export_policy(model, path, vec_normalize=None, options=options).metadata
        assert check_target(metadata, "clankers").mode == ("vision" if name in images else "vector")
        return
    monkeypatch.setattr("sb3_clanker.writers.onnx.Graph", _no_trace)
    with pytest.raises(TargetError, match=r"^clankers does not take this policy: "):
        export_policy(model, path, options=options)
    assert not path.exists()


def _no_trace(*_: object) -> Graph:
    raise AssertionError("it was traced")


def test_a_training_is_refused_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_contrib import RecurrentPPO

    monkeypatch.setattr("sb3_clanker.writers.onnx.Graph", _no_trace)
    model = make_model(RecurrentPPO, policy="MlpLstmPolicy")
    callback = OnnxCheckpointCallback(tmp_path, options=ExportOptions(target="clankers"))
    with pytest.raises(TargetError, match="the policy is recurrent"):
        model.learn(64, callback=callback)
    assert model.num_timesteps == 0
    assert list(tmp_path.iterdir()) == []


def test_a_masked_policy_is_refused(tmp_path: Path) -> None:
    from sb3_contrib import MaskablePPO

    model = make_model(MaskablePPO, action_space=spaces.Discrete(3))
    with pytest.raises(TargetError, match="takes action_masks, and the loader feeds none: train one without masks"):
        export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(target="clankers"))


def test_channels_last_does_not_go_with_clankers(tmp_path: Path) -> None:
    model = make_model(PPO, VISION, policy="MultiInputPolicy")
    options = ExportOptions(target="clankers", channels_last=True)
    with pytest.raises(TargetError, match=r"image float32 \[batch, 36, 36, 3\] is not \[batch, channels, height"):
        export_policy(model, tmp_path / "policy.onnx", options=options)


def test_an_environment_that_gives_channels_last_is_taken(tmp_path: Path) -> None:
    """Stable-Baselines3 transposes the images of such an environment, and trains on channels first."""
    space = spaces.Dict({**VISION.spaces, "image": spaces.Box(0, 255, (36, 36, 3), np.uint8)})
    model = make_model(DQN, space, ACTIONS["Discrete"], policy="MultiInputPolicy")
    metadata = export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(target="clankers")).metadata
    assert metadata.inputs[0].shape == ("batch", 3, 36, 36)
    assert check_target(metadata, "clankers").mode == "vision"


# The command line ---------------------------------------------------------------------------------------------------


def _run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_inspect_says_that_a_target_takes_a_file(vector: File, vision: File, capsys: Capture) -> None:
    assert _run("inspect", vector.path, "--target", "clankers") == 0
    assert capsys.readouterr() == (
        "clankers takes it, in vector mode\n"
        "note: obs needs 3 numbers: the loader fills up fewer with zeros, without a word\n",
        "",
    )
    assert _run("inspect", vision.path, "--target", "clankers") == 0
    assert capsys.readouterr().out.startswith("clankers takes it, in vision mode\n")
    assert _run("inspect", vision.path, "--target", "onnxruntime-web") == 0
    assert capsys.readouterr() == ("onnxruntime-web takes it\n", "")


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model(observation_space=OBSERVATIONS["Box (2, 3)"])
    return export_policy(model, tmp_path_factory.mktemp("refused") / "policy.onnx").path


def test_inspect_says_which_rule_fails_in_one_line(refused: Path, capsys: Capture) -> None:
    assert _run("inspect", refused, "--target", "clankers") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "sb3-clanker: clankers does not take this policy: obs float32 [batch, 2, 3] is not [batch, width], and the "
        "loader feeds one row of numbers: flatten the observation with gymnasium's FlattenObservation, or observe a "
        "Dict of image and joint_positions.\n"
    )


def test_inspect_gives_the_same_as_json(vector: File, refused: Path, capsys: Capture) -> None:
    for path, code in ((vector.path, 0), (refused, 1)):
        assert _run("inspect", path, "--target", "clankers", "--json") == code
        captured = capsys.readouterr()
        assert json.loads(captured.out) == json.loads(encode(check_target(read_metadata(path), "clankers")))
        assert bool(captured.err) == bool(code)


def test_the_command_line_knows_the_targets(vector: File, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        _run("inspect", vector.path, "--target", "ros")
    assert "invalid choice: 'ros' (choose from" in capsys.readouterr().err


def test_export_makes_a_file_for_a_target_or_refuses(
    vision: File, refused: Path, tmp_path: Path, capsys: Capture
) -> None:
    vision.model.save(tmp_path / "vision.zip")
    command = ("export", "--vecnormalize", "none", "--target", "clankers", "--model")
    assert _run(*command, tmp_path / "vision.zip") == 0
    assert read_metadata(tmp_path / "vision.onnx").inputs[0].dtype == "float32"
    make_model(observation_space=OBSERVATIONS["Box (2, 3)"]).save(tmp_path / "matrix.zip")
    capsys.readouterr()
    assert _run(*command, tmp_path / "matrix.zip") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("sb3-clanker: clankers does not take this policy: obs float32 [batch, 2, 3]")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "matrix.onnx").exists()
