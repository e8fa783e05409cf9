"""A policy from a file predicts what Stable-Baselines3 does, and refuses what is no observation."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from msgspec.structs import replace
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_clanker import ClankerError, OnnxPolicy, export_policy
from sb3_clanker.errors import MissingFileError, ObservationError, PolicyFileError, StochasticActionError
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.seal import stamp
from sb3_clanker.policy_file.spaces import BoxSpace
from tests.worlds import (
    BOX_ACTION,
    BOX_OBSERVATION,
    MATRIX_ACTION,
    SpacesEnv,
    assert_same_actions,
    draw,
    make_model,
    predict_raw,
)

IMAGE = spaces.Box(0, 255, (2, 8, 8), np.uint8)  # more pixels than channels: SB3 knows which is which
DICT = spaces.Dict({"arm": BOX_OBSERVATION, "eye": spaces.Box(-1.0, 1.0, (2, 2), np.float32)})
WORLDS: dict[str, tuple[spaces.Space[Any], spaces.Space[Any]]] = {
    "Box": (BOX_OBSERVATION, BOX_ACTION),
    "Box (2, 3)": (BOX_OBSERVATION, MATRIX_ACTION),
    "Box float64": (BOX_OBSERVATION, spaces.Box(np.array([-0.1, -0.7]), np.array([0.1, 1.3]), dtype=np.float64)),
    "Discrete": (BOX_OBSERVATION, spaces.Discrete(4)),
    "MultiDiscrete": (BOX_OBSERVATION, spaces.MultiDiscrete([3, 2, 4])),
    "MultiBinary": (BOX_OBSERVATION, spaces.MultiBinary(3)),
    "from Discrete": (spaces.Discrete(5), BOX_ACTION),
    "from MultiDiscrete": (spaces.MultiDiscrete([3, 4]), BOX_ACTION),
    "from MultiBinary": (spaces.MultiBinary(4), BOX_ACTION),
    "from matrix": (spaces.Box(-1.0, 1.0, (2, 3), np.float32), BOX_ACTION),
    "from float64": (spaces.Box(-1.0, 1.0, (3,), np.float64), BOX_ACTION),
    "from image": (IMAGE, spaces.Discrete(4)),
    "from Dict": (DICT, BOX_ACTION),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """A model, and the policy in the file that it was exported to."""

    model: BaseAlgorithm
    path: Path
    policy: OnnxPolicy
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]

    def predict(self, observation: Any) -> np.ndarray:
        return self.policy.predict(observation)[0]

    def expect(self, observation: Any) -> np.ndarray:
        return predict_raw(self.model, observation)


Worlds = Callable[[str], World]


def make_world(folder: Path, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> World:
    policy_class = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    model = make_model(PPO, observation_space, action_space, policy=policy_class)
    path = export_policy(model, folder / "policy.onnx").path
    return World(
        model=model,
        path=path,
        policy=OnnxPolicy(path),
        observation_space=observation_space,
        action_space=action_space,
    )


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Worlds by name, each exported once."""
    made: dict[str, World] = {}

    def world(name: str) -> World:
        if name not in made:
            made[name] = make_world(tmp_path_factory.mktemp("world"), *WORLDS[name])
        return made[name]

    return world


@pytest.fixture(scope="module")
def box(worlds: Worlds) -> World:
    return worlds("Box")


# Actions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_actions_are_those_of_stable_baselines3(worlds: Worlds, name: str) -> None:
    world = worlds(name)
    expected = assert_same_actions(world.predict, world.expect, world.observation_space, world.action_space)
    assert len(np.unique(expected.reshape(len(expected), -1), axis=0)) > 1, "the weights tell no actions apart"


def test_actions_are_those_of_stable_baselines3_for_a_dict_of_different_spaces(tmp_path: Path) -> None:
    space = spaces.Dict({"arm": BOX_OBSERVATION, "mode": spaces.Discrete(3)})
    world = make_world(tmp_path, space, BOX_ACTION)
    assert_same_actions(world.predict, world.expect, space, BOX_ACTION)


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("Box", "float32", (2,)),
        ("Box (2, 3)", "float32", (2, 3)),
        ("Box float64", "float64", (2,)),  # clipped to float64 bounds
        ("Discrete", "int64", ()),
        ("MultiDiscrete", "int64", (3,)),
        ("MultiBinary", "float32", (3,)),
    ],
)
def test_shape_and_dtype_of_an_action(worlds: Worlds, name: str, dtype: str, shape: tuple[int, ...]) -> None:
    world = worlds(name)
    rng = np.random.default_rng(0)
    for n in (None, 1, 5):
        observation = draw(BOX_OBSERVATION, rng, n)
        action, expected = world.predict(observation), world.expect(observation)
        assert type(action) is type(expected) is np.ndarray
        assert (str(action.dtype), action.shape) == (dtype, shape if n is None else (n, *shape))
        assert (action.dtype, action.shape) == (expected.dtype, expected.shape)


@pytest.mark.parametrize("name", WORLDS)
def test_a_batch_of_none_has_no_actions(worlds: Worlds, name: str) -> None:
    world = worlds(name)
    observation = draw(world.observation_space, np.random.default_rng(0), 0)
    action = world.predict(observation)
    assert action.shape == (0, *(world.action_space.shape or ()))
    assert str(action.dtype) == world.policy.metadata.predict_dtype


@pytest.mark.parametrize("name", WORLDS)
def test_the_spaces_are_those_of_the_model(worlds: Worlds, name: str) -> None:
    world = worlds(name)
    assert world.policy.observation_space == world.model.observation_space
    assert world.policy.action_space == world.model.action_space


def test_actions_stay_within_a_space_that_float32_cannot_carry(worlds: Worlds) -> None:
    world = worlds("Box float64")
    assert isinstance(world.action_space, spaces.Box)
    actions = world.predict(draw(BOX_OBSERVATION, np.random.default_rng(0), 500)).astype(np.float64)
    assert (actions >= world.action_space.low).all()
    assert (actions <= world.action_space.high).all()
    assert np.isclose(actions, world.action_space.high).any(), "no action reaches a bound"


# What is an observation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [None, 4])
@pytest.mark.parametrize(
    "convert",
    [
        lambda array: array.tolist(),
        lambda array: tuple(array.tolist()),
        lambda array: array.astype(np.float64),
        lambda array: array.astype(np.float16),
        lambda array: array.astype(np.int64),
        lambda array: array.astype(np.uint8),
        lambda array: array.astype(bool),
        lambda array: array.astype(">f4"),
        lambda array: np.asfortranarray(array),
        lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
        lambda array: array[..., ::-1],
        lambda array: np.broadcast_to(array[..., :1], array.shape),
        lambda array: np.lib.stride_tricks.as_strided(array, writeable=False),
    ],
    ids=[
        "list",
        "tuple",
        "float64",
        "float16",
        "int64",
        "uint8",
        "bool",
        "big-endian",
        "Fortran order",
        "every second",
        "backwards",
        "broadcast",
        "read-only",
    ],
)
def test_whatever_holds_real_numbers_is_an_observation(
    box: World, convert: Callable[[Any], Any], n: int | None
) -> None:
    # whole numbers from 0 to 3, which every one of these types carries
    observation = convert(np.round(np.abs(draw(BOX_OBSERVATION, np.random.default_rng(3), n))))
    plain = np.array(np.asarray(observation).tolist(), np.float32)
    np.testing.assert_allclose(box.predict(observation), box.expect(plain), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(box.predict(observation), box.predict(plain))


def test_a_matrix_may_lie_in_memory_in_any_order(worlds: Worlds) -> None:
    world = worlds("from matrix")
    batch = draw(world.observation_space, np.random.default_rng(0), 4)
    expected = world.expect(batch)
    for observation in (np.asfortranarray(batch), np.ascontiguousarray(batch.transpose(2, 1, 0)).transpose(2, 1, 0)):
        assert not observation.flags.c_contiguous
        np.testing.assert_allclose(world.predict(observation), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(world.predict(observation[1]), expected[1], rtol=1e-5, atol=1e-5)


def test_a_python_number_is_an_observation_of_a_discrete_space(worlds: Worlds) -> None:
    world = worlds("from Discrete")
    for category in range(5):
        expected = world.expect(np.int64(category))
        np.testing.assert_allclose(world.predict(category), expected, rtol=1e-5, atol=1e-5)
    batch = world.predict([0, 4, 2])
    np.testing.assert_allclose(batch, world.expect(np.array([0, 4, 2])), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [None, 1, 3])
def test_an_image_may_have_its_channels_last(worlds: Worlds, n: int | None) -> None:
    world = worlds("from image")
    image = np.moveaxis(draw(IMAGE, np.random.default_rng(0), n), -3, -1)
    assert image.shape[-3:] == (8, 8, 2)
    np.testing.assert_array_equal(world.predict(image), world.expect(image))
    np.testing.assert_array_equal(world.predict(np.ascontiguousarray(image)), world.expect(image))


def test_leaves_of_a_dict_come_in_any_order(worlds: Worlds) -> None:
    world = worlds("from Dict")
    observation = draw(DICT, np.random.default_rng(0), 3)
    turned = dict(reversed(observation.items()))
    assert list(turned) != list(observation)
    np.testing.assert_array_equal(world.predict(turned), world.predict(observation))
    lists = {key: leaf.tolist() for key, leaf in observation.items()}
    np.testing.assert_array_equal(world.predict(lists), world.predict(observation))


def refused(world: World, observation: Any, message: str) -> None:
    """See that it is no observation, for this reason."""
    with pytest.raises(ObservationError, match=f"^{re.escape(message)}$") as raised:
        world.policy.predict(observation)
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    "observation",
    [np.zeros(2), np.zeros((3, 2)), np.zeros((2, 2, 3)), np.zeros((3, 1)), 0.5, [], [[]], [1.0] * 4],
    ids=repr,
)
def test_an_observation_of_the_wrong_shape_is_refused(box: World, observation: Any) -> None:
    shape = np.shape(observation)
    refused(
        box,
        observation,
        f"The observation for input 'obs' must have the shape (3,), or (n, *(3,)) for a batch, got {shape}.",
    )


def test_an_observation_of_the_wrong_shape_is_refused_by_other_spaces(worlds: Worlds) -> None:
    of_input = "The observation for input 'obs' must have the shape"
    refused(worlds("from Discrete"), [[1]], f"{of_input} (), or (n, *()) for a batch, got (1, 1).")
    refused(worlds("from matrix"), np.zeros(6), f"{of_input} (2, 3), or (n, *(2, 3)) for a batch, got (6,).")
    refused(worlds("from matrix"), np.zeros((3, 2)), f"{of_input} (2, 3), or (n, *(2, 3)) for a batch, got (3, 2).")
    refused(
        worlds("from image"),
        np.zeros((8, 2, 8), np.uint8),
        f"{of_input} (2, 8, 8), or (n, *(2, 8, 8)) for a batch, got (8, 2, 8).",
    )


@pytest.mark.parametrize(
    ("observation", "dtype"),
    [
        (np.array(["0.1", "0.2", "0.3"]), "<U3"),
        (["a", "b", "c"], "<U1"),
        ([b"a", b"b", b"c"], "|S1"),
        (np.array([0.1, 0.2, 0.3], dtype=object), "object"),
        ([None, None, None], "object"),
        (np.zeros(3, np.complex64), "complex64"),
        ([1j, 2j, 3j], "complex128"),
        (np.zeros(3, "datetime64[s]"), "datetime64[s]"),
        (np.zeros(3, "timedelta64[s]"), "timedelta64[s]"),
    ],
    ids=str,
)
def test_an_observation_of_the_wrong_dtype_is_refused(box: World, observation: Any, dtype: str) -> None:
    refused(box, observation, f"The observation for input 'obs' must be float32, got {dtype}.")


@pytest.mark.parametrize("observation", [None, {"obs": [0.0, 0.0, 0.0]}, "text", object(), {1.0, 2.0, 3.0}], ids=type)
def test_an_observation_of_the_wrong_type_is_refused(box: World, observation: Any) -> None:
    refused(
        box, observation, "The observation for input 'obs' must have the shape (3,), or (n, *(3,)) for a batch, got ()."
    )


@pytest.mark.parametrize(
    ("observation", "match"),
    [
        ([[0.0, 0.0, 0.0], [0.0]], "The observation for input 'obs' is not an array: "),
        ((np.zeros(3), {}), "Got a pair of observation and info, as env.reset\\(\\) returns: pass the observation."),
    ],
    ids=["ragged", "from reset"],
)
def test_an_observation_that_is_no_array_is_refused(box: World, observation: Any, match: str) -> None:
    with pytest.raises(ObservationError, match=match):
        box.policy.predict(observation)


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint16", "int8", "bool"])
def test_an_image_is_of_bytes_alone(worlds: Worlds, dtype: str) -> None:
    refused(
        worlds("from image"),
        np.zeros((3, 2, 8, 8), dtype),
        f"The observation for input 'obs' must be uint8, got {dtype}.",
    )


@pytest.mark.parametrize(
    ("observation", "got"),
    [
        ({}, "[]"),
        ({"arm": np.zeros(3)}, "['arm']"),
        ({"arm": np.zeros(3), "eye": np.zeros((2, 2)), "ear": 0.0}, "['arm', 'ear', 'eye']"),
        (np.zeros(3), "ndarray"),
        ([np.zeros(3), np.zeros((2, 2))], "list"),
        (None, "NoneType"),
    ],
    ids=["empty", "one missing", "one more", "array", "list", "None"],
)
def test_a_mapping_of_other_keys_is_refused(worlds: Worlds, observation: Any, got: str) -> None:
    message = f"The observation must be a mapping with the keys ['arm', 'eye'], got {got}."
    refused(worlds("from Dict"), observation, message)


def test_a_mapping_with_keys_of_different_types_is_refused(worlds: Worlds) -> None:
    with pytest.raises(ObservationError, match=re.escape("a mapping with the keys ['arm', 'eye'], got")):
        worlds("from Dict").policy.predict({"arm": np.zeros(3), 1: np.zeros((2, 2))})  # type: ignore[dict-item]


def test_a_leaf_of_a_dict_is_named_where_it_is_wrong(worlds: Worlds) -> None:
    world, arm, eye = worlds("from Dict"), np.zeros(3), np.zeros((2, 2))
    refused(
        world,
        {"arm": arm, "eye": np.zeros(4)},
        "The observation for input 'eye' must have the shape (2, 2), or (n, *(2, 2)) for a batch, got (4,).",
    )
    refused(
        world,
        {"arm": arm.astype(complex), "eye": eye},
        "The observation for input 'arm' must be float32, got complex128.",
    )


@pytest.mark.parametrize(("n_arm", "n_eye"), [((), (2,)), ((2,), ()), ((2,), (3,)), ((3,), (1,))], ids=str)
def test_leaves_of_different_batches_are_refused(
    worlds: Worlds, n_arm: tuple[int, ...], n_eye: tuple[int, ...]
) -> None:
    with pytest.raises(ObservationError, match=r"arm|eye"):
        worlds("from Dict").policy.predict({"arm": np.zeros((*n_arm, 3)), "eye": np.zeros((*n_eye, 2, 2))})


# The rest of predict ------------------------------------------------------------------------------------------------


def test_a_random_action_is_refused(box: World) -> None:
    message = "This file holds the deterministic policy alone: call predict(..., deterministic=True)."
    with pytest.raises(StochasticActionError, match=f"^{re.escape(message)}$") as raised:
        box.policy.predict(np.zeros(3), deterministic=False)
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


def test_action_masks_are_refused_where_there_is_no_use_for_them(box: World) -> None:
    with pytest.raises(ObservationError, match=r"^This policy takes no action masks, got some\.$"):
        box.policy.predict(np.zeros(3), action_masks=np.ones(2, bool))


def test_a_state_is_passed_through(box: World) -> None:
    observation, state = np.zeros(3, np.float32), (np.ones(2), np.zeros(1))
    assert box.policy.predict(observation)[1] is None
    action, passed = box.policy.predict(observation, state, np.array([True]), True)
    assert passed is state
    np.testing.assert_array_equal(action, box.predict(observation))
    assert box.policy.predict(observation, state=state, episode_start=None, deterministic=True)[1] is state


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("n", [None, 1, 3])
def test_an_action_is_the_callers_own(worlds: Worlds, name: str, n: int | None) -> None:
    world = worlds(name)
    observation = draw(world.observation_space, np.random.default_rng(1), n)
    first, second = world.predict(observation), world.predict(observation)
    kept = second.copy()
    assert not np.shares_memory(first, second)
    first[...] = 77
    np.testing.assert_array_equal(second, kept)
    np.testing.assert_array_equal(world.predict(observation), kept)


def test_an_observation_is_not_changed_and_may_change_afterwards(box: World) -> None:
    for observation in (draw(BOX_OBSERVATION, np.random.default_rng(2), n) for n in (None, 3)):
        before = observation.copy()
        action = box.predict(observation)
        kept = action.copy()
        np.testing.assert_array_equal(observation, before)
        observation[...] = 0.5
        np.testing.assert_array_equal(action, kept)
        assert not np.array_equal(box.predict(observation), kept)


def test_the_same_observation_gives_the_same_action_from_every_load(box: World) -> None:
    observation = draw(BOX_OBSERVATION, np.random.default_rng(4), 32)
    np.testing.assert_array_equal(OnnxPolicy(str(box.path)).predict(observation)[0], box.predict(observation))


# Evaluation ---------------------------------------------------------------------------------------------------------


class SteeredEnv(SpacesEnv):
    """The reward is told by the actions alone."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype))
        observation, _, terminated, truncated, info = super().step(action)
        reward = float(np.arange(1.0, np.size(action) + 1.0) @ np.ravel(action))
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize("name", ["Box", "Box (2, 3)", "Discrete", "MultiDiscrete", "MultiBinary", "from Dict"])
def test_an_evaluation_gives_the_returns_of_the_model(worlds: Worlds, name: str) -> None:
    world = worlds(name)

    def evaluate(policy: BaseAlgorithm | OnnxPolicy) -> tuple[list[float], list[int]]:
        env = DummyVecEnv([lambda: Monitor(SteeredEnv(world.observation_space, world.action_space))] * 2)
        env.seed(5)
        returns, lengths = evaluate_policy(policy, env, n_eval_episodes=6, return_episode_rewards=True)
        assert isinstance(returns, list)
        assert isinstance(lengths, list)
        return returns, lengths

    (got, lengths), (expected, expected_lengths) = evaluate(world.policy), evaluate(world.model)
    assert len(expected) == 6
    assert len(set(expected)) > 1, "the returns tell nothing"
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
    assert lengths == expected_lengths == [20] * 6


# Files --------------------------------------------------------------------------------------------------------------


def graph_of(world: World) -> bytes:
    body, _ = split_container(world.path.read_bytes())
    return b"".join(body)


def test_a_policy_is_loaded_from_bytes(box: World) -> None:
    observation = draw(BOX_OBSERVATION, np.random.default_rng(6), 8)
    for policy in (
        OnnxPolicy.from_bytes(box.path.read_bytes()),
        OnnxPolicy.from_bytes(graph_of(box), box.policy.metadata),
    ):
        assert policy.metadata == box.policy.metadata
        np.testing.assert_array_equal(policy.predict(observation)[0], box.predict(observation))


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "missing.onnx"
    with pytest.raises(
        MissingFileError, match=re.escape(f"{path}: there is no such policy file. Check the path.")
    ) as raised:
        OnnxPolicy(path)
    assert raised.value.path == path
    assert isinstance(raised.value, FileNotFoundError)


def test_a_damaged_file_is_not_loaded(box: World, tmp_path: Path) -> None:
    data = bytearray(box.path.read_bytes())
    data[len(graph_of(box)) // 2] ^= 1
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data)
    with pytest.raises(PolicyFileError, match=f"^{re.escape(str(path))}: .*damaged") as of_file:
        OnnxPolicy(path)
    with pytest.raises(PolicyFileError, match=r"^these bytes: .*damaged") as of_bytes:
        OnnxPolicy.from_bytes(bytes(data))
    assert (of_file.value.path, of_bytes.value.path) == (path, None)


@pytest.mark.parametrize(
    "break_graph",
    [lambda graph: b"", lambda graph: b"\x08\x08\x3a\x00", lambda graph: graph.replace(b"Gemm", b"Gaga")],
    ids=["empty", "no graph", "unknown operator"],
)
def test_a_graph_that_onnxruntime_cannot_load_is_refused(
    box: World, tmp_path: Path, break_graph: Callable[[bytes], bytes]
) -> None:
    graph = graph_of(box)
    broken = break_graph(graph)
    assert broken != graph
    data = stamp(broken, box.policy.metadata)
    path = tmp_path / "broken.onnx"
    path.write_bytes(data)
    with pytest.raises(PolicyFileError, match=f"^{re.escape(str(path))}: onnxruntime cannot load it: .") as of_file:
        OnnxPolicy(path)
    with pytest.raises(PolicyFileError, match=r"^these bytes: onnxruntime cannot load it: .") as of_bytes:
        OnnxPolicy.from_bytes(data)
    assert (of_file.value.path, of_bytes.value.path) == (path, None)
    assert isinstance(of_file.value, ClankerError)
    assert isinstance(of_file.value, ValueError)
    assert of_file.value.__cause__ is not None


def _replace_input(metadata: PolicyMetadata, **changes: Any) -> PolicyMetadata:
    return replace(metadata, inputs=(replace(metadata.inputs[0], **changes),))


def _replace_action(metadata: PolicyMetadata, **changes: Any) -> PolicyMetadata:
    assert isinstance(metadata.action_space, BoxSpace)
    return replace(metadata, action_space=replace(metadata.action_space, **changes))


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: replace(metadata, inputs=()),
        lambda metadata: replace(metadata, predict_dtype="banana"),
        lambda metadata: _replace_input(metadata, dtype="banana"),
        lambda metadata: _replace_input(metadata, shape=("batch", "many")),
        lambda metadata: _replace_input(metadata, name="another"),
        lambda metadata: _replace_action(metadata, shape=(-1, -2)),
        lambda metadata: _replace_action(metadata, low=(1.0,) * 5),
        lambda metadata: _replace_action(metadata, dtype="banana"),
    ],
    ids=[
        "no inputs",
        "dtype of actions",
        "dtype of input",
        "shape of input",
        "name of input",
        "shape of actions",
        "bounds of actions",
        "dtype of action space",
    ],
)
def test_a_record_that_does_not_fit_its_graph_is_refused(
    box: World, change: Callable[[PolicyMetadata], PolicyMetadata]
) -> None:
    data = stamp(graph_of(box), change(box.policy.metadata))
    with pytest.raises(PolicyFileError, match=r"^these bytes: "):
        OnnxPolicy.from_bytes(data)
