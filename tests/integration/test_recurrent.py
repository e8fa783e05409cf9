"""A policy with a memory: the file carries the state of its LSTM as Stable-Baselines3 does, step by step."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from gymnasium import spaces
from onnx import numpy_helper
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_clanker import ClankerError, ExportOptions, OnnxPolicy, ValidationError, export_policy, validate_policy
from sb3_clanker.errors import ObservationError
from sb3_clanker.policy_file.entries import contract_entries
from sb3_clanker.policy_file.seal import stamp
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, SpacesEnv, draw, make_model

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "Box": BOX_OBSERVATION,
    "image": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    "Dict": spaces.Dict({"joints": BOX_OBSERVATION, "mode": spaces.Discrete(3)}),
}
ACTIONS: dict[str, spaces.Space[Any]] = {"Box": BOX_ACTION, "Discrete": spaces.Discrete(4)}
OPTIONS = ExportOptions(n_samples=48)
WIDTH, N_ENVS, N_STEPS = 16, 3, 80


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A recurrent policy of one layout."""

    observation: str = "Box"
    action: str = "Box"
    policy_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def observation_space(self) -> spaces.Space[Any]:
        return OBSERVATIONS[self.observation]

    @property
    def action_space(self) -> spaces.Space[Any]:
        return ACTIONS[self.action]

    @property
    def policy(self) -> str:
        return {"image": "CnnLstmPolicy", "Dict": "MultiInputLstmPolicy"}.get(self.observation, "MlpLstmPolicy")


VARIANTS = {
    "Box": Variant(),
    "Discrete": Variant(action="Discrete"),
    "image": Variant(observation="image", policy_kwargs={"features_extractor_kwargs": {"features_dim": 32}}),
    "Dict": Variant(observation="Dict"),
    "shared LSTM": Variant(policy_kwargs={"shared_lstm": True, "enable_critic_lstm": False}),
    "no critic LSTM": Variant(policy_kwargs={"enable_critic_lstm": False}),
    "two layers": Variant(policy_kwargs={"n_lstm_layers": 2, "lstm_kwargs": {"dropout": 0.5}}),
    "without biases": Variant(action="Discrete", policy_kwargs={"lstm_kwargs": {"bias": False}}),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """A model, its file, and the policy in it."""

    variant: Variant
    model: BaseAlgorithm
    path: Path
    policy: OnnxPolicy

    @property
    def n_layers(self) -> int:
        return int(self.variant.policy_kwargs.get("n_lstm_layers", 1))


Worlds = Callable[[str], World]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Worlds by name, each exported once."""
    made: dict[str, World] = {}

    def world(name: str) -> World:
        if name not in made:
            variant = VARIANTS[name]
            model = make_model(
                RecurrentPPO,
                variant.observation_space,
                variant.action_space,
                policy=variant.policy,
                policy_kwargs=variant.policy_kwargs,
            )
            path = export_policy(model, tmp_path_factory.mktemp("world") / "policy", options=OPTIONS).path
            made[name] = World(variant=variant, model=model, path=path, policy=OnnxPolicy(path))
        return made[name]

    return world


@pytest.fixture(scope="module")
def box(worlds: Worlds) -> World:
    return worlds("Box")


def _assert_equal(got: Any, expected: Any) -> None:
    """Actions and both arrays of the state."""
    for one, other in ((got[0], expected[0]), *zip(got[1], expected[1], strict=True)):
        assert type(one) is type(other) is np.ndarray
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


# What it does -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_with_its_own_state_it_does_what_stable_baselines3_does_with_its_own(worlds: Worlds, name: str) -> None:
    world, rng = worlds(name), np.random.default_rng(5)
    got_state: Any = None
    expected_state: Any = None
    starts, actions = np.ones(N_ENVS, bool), set()
    for _ in range(N_STEPS):
        observation = draw(world.variant.observation_space, rng, N_ENVS)
        got = world.policy.predict(observation, state=got_state, episode_start=starts)
        expected = world.model.predict(observation, state=expected_state, episode_start=starts, deterministic=True)
        _assert_equal(got, expected)
        got_state, expected_state = got[1], expected[1]
        actions |= {row.tobytes() for row in expected[0]}
        starts = rng.random(N_ENVS) < 0.15
    assert len(actions) > 1, "the weights tell no actions apart"


@pytest.mark.parametrize("name", ["Box", "Discrete", "Dict", "two layers"])
def test_a_single_observation_without_a_state_begins_an_episode(worlds: Worlds, name: str) -> None:
    world, rng = worlds(name), np.random.default_rng(6)
    first, second = (draw(world.variant.observation_space, rng) for _ in range(2))
    got, expected = world.policy.predict(first), world.model.predict(first, deterministic=True)
    _assert_equal(got, expected)
    assert got[0].shape == world.variant.action_space.shape
    assert got[1] is not None
    assert [part.shape for part in got[1]] == [(world.n_layers, 1, WIDTH)] * 2
    _assert_equal(
        world.policy.predict(second, state=got[1]),
        world.model.predict(second, state=expected[1], deterministic=True),
    )


def test_without_a_start_of_an_episode_the_state_is_kept(box: World) -> None:
    rng = np.random.default_rng(7)
    observation = draw(BOX_OBSERVATION, rng, N_ENVS)
    state = tuple(rng.normal(size=(1, N_ENVS, WIDTH)).astype(np.float32) for _ in range(2))
    kept = box.policy.predict(observation, state=state)
    _assert_equal(kept, box.model.predict(observation, state=state, deterministic=True))
    _assert_equal(kept, box.policy.predict(observation, state=state, episode_start=np.zeros(N_ENVS)))
    reset = box.policy.predict(observation, state=state, episode_start=np.ones(N_ENVS))
    _assert_equal(reset, box.policy.predict(observation))
    assert np.abs(kept[0] - reset[0]).max() > 1e-2


def test_a_reset_of_one_environment_leaves_the_others_as_they_are(box: World) -> None:
    rng = np.random.default_rng(8)
    observation = draw(BOX_OBSERVATION, rng, N_ENVS)
    state = tuple(rng.normal(size=(1, N_ENVS, WIDTH)).astype(np.float32) for _ in range(2))
    _, kept = box.policy.predict(observation, state=state)
    _, partly = box.policy.predict(observation, state=state, episode_start=np.array([False, True, False]))
    assert kept is not None
    assert partly is not None
    for of_all, of_some in zip(kept, partly, strict=True):
        np.testing.assert_array_equal(of_all[:, [0, 2]], of_some[:, [0, 2]])
        assert np.abs(of_all[:, 1] - of_some[:, 1]).max() > 1e-2


def test_the_callers_state_is_left_as_it_is(box: World) -> None:
    observation = draw(BOX_OBSERVATION, np.random.default_rng(9), 2)
    state = tuple(np.full((1, 2, WIDTH), value, np.float32) for value in (0.25, -0.5))
    box.policy.predict(observation, state=state, episode_start=np.array([True, False]))
    assert [np.unique(part).tolist() for part in state] == [[0.25], [-0.5]]


def test_a_state_may_be_of_float64_and_a_list(box: World) -> None:
    rng = np.random.default_rng(10)
    observation = draw(BOX_OBSERVATION, rng, 2)
    state: Any = [rng.normal(size=(1, 2, WIDTH)).astype(np.float32).astype(np.float64) for _ in range(2)]
    expected = box.model.predict(observation, state=state, episode_start=[True, False], deterministic=True)  # type: ignore[arg-type]
    _assert_equal(box.policy.predict(observation, state=state, episode_start=[True, False]), expected)  # type: ignore[arg-type]


# What stands in the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Box", "two layers"])
def test_the_state_and_its_reset_are_inputs_and_outputs(worlds: Worlds, name: str) -> None:
    world = worlds(name)
    state = (world.n_layers, "batch", WIDTH)
    metadata = world.policy.metadata
    assert [(spec.name, spec.dtype, spec.shape, spec.role) for spec in metadata.inputs] == [
        ("obs", "float32", ("batch", 3), "observation"),
        ("h_in", "float32", state, "hidden_state"),
        ("c_in", "float32", state, "cell_state"),
        ("episode_start", "float32", ("batch",), "episode_start"),
    ]
    assert [(spec.name, spec.dtype, spec.shape, spec.role) for spec in metadata.outputs] == [
        ("action", "float32", ("batch", 2), "action"),
        ("h_out", "float32", state, "hidden_state"),
        ("c_out", "float32", state, "cell_state"),
    ]
    session = onnxruntime.InferenceSession(world.path, providers=["CPUExecutionProvider"])
    for values, specs in ((session.get_inputs(), metadata.inputs), (session.get_outputs(), metadata.outputs)):
        assert [(value.name, tuple(value.shape)) for value in values] == [(spec.name, spec.shape) for spec in specs]


def test_the_contract_tells_that_it_is_recurrent(box: World) -> None:
    assert box.policy.metadata.recurrent is True
    entries = {entry.key: entry.value for entry in onnx.load(box.path).metadata_props}
    assert entries["recurrent"] == contract_entries(box.policy.metadata)["recurrent"] == "true"


def test_the_graph_alone_takes_a_batch_of_any_size(box: World) -> None:
    session = onnxruntime.InferenceSession(box.path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(11)
    for n in (1, 5):
        observation = draw(BOX_OBSERVATION, rng, n)
        state = [rng.normal(size=(1, n, WIDTH)).astype(np.float32) for _ in range(2)]
        start = (rng.random(n) < 0.5).astype(np.float32)
        feed = {"obs": observation, "h_in": state[0], "c_in": state[1], "episode_start": start}
        action, *next_state = session.run(["action", "h_out", "c_out"], feed)
        expected = box.model.predict(observation, state=tuple(state), episode_start=start, deterministic=True)
        _assert_equal((action, next_state), expected)


# What is refused ----------------------------------------------------------------------------------------------------


def _refused(world: World, message: str, **context: Any) -> None:
    with pytest.raises(ObservationError, match=f"^{re.escape(message)}$") as raised:
        world.policy.predict(np.zeros((2, 3), np.float32), **context)
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("hidden", "cell"),
    [
        ((1, 3, WIDTH), (1, 2, WIDTH)),
        ((1, 2, WIDTH), (1, 1, WIDTH)),
        ((2, 2, WIDTH), (2, 2, WIDTH)),
        ((1, 2, WIDTH - 1), (1, 2, WIDTH)),
        ((2, WIDTH), (2, WIDTH)),
    ],
)
def test_a_state_of_another_shape_is_refused(box: World, hidden: tuple[int, ...], cell: tuple[int, ...]) -> None:
    message = f"The state for 2 observations must be two arrays of the shape (1, 2, {WIDTH}), got {hidden} and {cell}."
    _refused(box, message, state=(np.zeros(hidden), np.zeros(cell)))


def test_a_batch_of_none_is_refused(box: World) -> None:
    """There onnxruntime would end the process."""
    none = np.zeros((0, 3), np.float32)
    with pytest.raises(ValueError, match="need at least one array"):
        box.model.predict(none)
    message = "A recurrent policy needs at least one observation, got a batch of none."
    for ask in (box.policy.predict, box.policy.outputs, box.policy.inputs):
        with pytest.raises(ObservationError, match=message):
            ask(none)


@pytest.mark.parametrize("n_arrays", [0, 1, 3])
def test_a_state_of_another_number_of_arrays_is_refused(box: World, n_arrays: int) -> None:
    state = (np.zeros((1, 2, WIDTH), np.float32),) * n_arrays
    with pytest.raises(ObservationError, match=r"The state for 2 observations must be two arrays of the shape \(1, 2,"):
        box.policy.predict(np.zeros((2, 3), np.float32), state=state)


@pytest.mark.parametrize(
    "state",
    [("a", "b"), (None, {}), (np.zeros((1, 2, WIDTH)), [[0.0], [0.0, 1.0]])],
    ids=["strings", "objects", "ragged"],
)
def test_a_state_that_is_no_array_is_refused(box: World, state: Any) -> None:
    with pytest.raises(ObservationError, match="The state for 2 observations must be two arrays of the shape"):
        box.policy.predict(np.zeros((2, 3), np.float32), state=state)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_a_start_of_an_episode_of_another_shape_is_refused(box: World, shape: tuple[int, ...]) -> None:
    message = f"episode_start for 2 observations must have the shape (2,), got {shape}."
    _refused(box, message, episode_start=np.zeros(shape, bool))


@pytest.mark.parametrize("start", [["a", "b"], [[1], [1, 0]], [None, {}]], ids=["strings", "ragged", "objects"])
def test_a_start_of_an_episode_that_is_no_array_is_refused(box: World, start: Any) -> None:
    with pytest.raises(ObservationError, match=r"episode_start for 2 observations must"):
        box.policy.predict(np.zeros((2, 3), np.float32), episode_start=start)


def test_masks_are_refused(box: World) -> None:
    _refused(box, "This policy takes no action masks, got some.", action_masks=np.ones((2, 4), bool))


# In the hands of Stable-Baselines3 ----------------------------------------------------------------------------------


class _RewardingEnv(SpacesEnv):
    """Its reward tells the action, and its episodes are of different lengths."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, _, truncated, info = super().step(action)
        reward = float(np.dot(np.atleast_1d(action), np.arange(1, 1 + np.size(action))))
        return observation, reward, bool(self.np_random.random() < 0.1), truncated, info


class _Forgetful:
    """The same policy, that is never told its state."""

    def __init__(self, policy: OnnxPolicy) -> None:
        self._policy = policy

    def predict(self, observation: Any, **_: Any) -> Any:
        return self._policy.predict(observation)


def _returns(predictor: Any, action_space: spaces.Space[Any]) -> tuple[list[float], list[int]]:
    env: VecEnv = DummyVecEnv([lambda: Monitor(_RewardingEnv(BOX_OBSERVATION, action_space))] * N_ENVS)
    env.seed(3)
    returns = evaluate_policy(predictor, env, n_eval_episodes=12, return_episode_rewards=True)
    rewards, lengths = returns
    assert isinstance(rewards, list)
    assert isinstance(lengths, list)
    return rewards, lengths


@pytest.mark.parametrize("name", ["Box", "Discrete"])
def test_its_returns_are_those_of_the_model(worlds: Worlds, name: str) -> None:
    world = worlds(name)
    got, expected, forgetful = (
        _returns(predictor, world.variant.action_space)
        for predictor in (world.policy, world.model, _Forgetful(world.policy))
    )
    assert got[1] == expected[1] == forgetful[1]
    assert len(set(got[1])) > 1
    np.testing.assert_allclose(got[0], expected[0], atol=1e-4)
    assert np.abs(np.subtract(got[0], forgetful[0])).max() > 0.1


# The proof finds what is wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_one_weight_of_the_lstm_changed_by_one_percent_is_refused(box: World, name: str, tmp_path: Path) -> None:
    proto = onnx.load(box.path)
    del proto.metadata_props[:]
    tensor = next(weight for weight in proto.graph.initializer if weight.name == f"policy.lstm_actor.{name}")
    values = numpy_helper.to_array(tensor).copy()
    values.flat[np.abs(values).argmax()] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path = tmp_path / "policy.onnx"
    path.write_bytes(stamp(proto.SerializeToString(), box.policy.metadata))
    with pytest.raises(ValidationError, match=r"failed its proof at the stage cross_check: .*disagree") as caught:
        validate_policy(path, box.model, options=OPTIONS)
    assert caught.value.report.cross_check is not None
    assert caught.value.report.cross_check.n_mismatches > caught.value.report.cross_check.n_ties
