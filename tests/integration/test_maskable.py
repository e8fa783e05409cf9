"""Forbidden actions: the file takes them as Stable-Baselines3 does, and never chooses one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_clanker import ClankerError, ExportOptions, OnnxCheckpointCallback, OnnxPolicy, export_policy
from sb3_clanker.errors import ObservationError
from tests.worlds import BOX_OBSERVATION, SpacesEnv, draw, make_model

DISCRETE = spaces.Discrete(4)
WORLDS: dict[str, tuple[spaces.Space[Any], tuple[int, ...]]] = {
    "Discrete": (DISCRETE, (4,)),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 2, 4]), (3, 2, 4)),
    "MultiBinary": (spaces.MultiBinary(3), (2, 2, 2)),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """A model and the policy in its file; how many choices each dimension of its action has."""

    model: Any
    policy: OnnxPolicy
    path: Path
    choices: tuple[int, ...]


Worlds = Callable[[str], World]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Worlds by name, each exported once."""
    made: dict[str, World] = {}

    def world(name: str) -> World:
        if name not in made:
            action_space, choices = WORLDS[name]
            model = make_model(MaskablePPO, action_space=action_space)
            path = export_policy(model, tmp_path_factory.mktemp("world") / "policy").path
            made[name] = World(model=model, policy=OnnxPolicy(path), path=path, choices=choices)
        return made[name]

    return world


def _draw_masks(choices: tuple[int, ...], rng: np.random.Generator, n: int) -> np.ndarray:
    """Random masks; at least one choice of each dimension is allowed."""
    parts = []
    for dim in choices:
        part = rng.random((n, dim)) < 0.4
        part[np.arange(n), rng.integers(0, dim, n)] = True
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _allowed(actions: np.ndarray, masks: np.ndarray, choices: tuple[int, ...]) -> np.ndarray:
    """For each dimension of each action, whether it is allowed."""
    offsets = np.concatenate([[0], np.cumsum(choices)[:-1]])
    chosen = actions.reshape(len(actions), -1).astype(int) + offsets
    return np.take_along_axis(masks, chosen, axis=1)


@pytest.mark.parametrize("name", WORLDS)
def test_no_forbidden_action_is_ever_chosen(worlds: Worlds, name: str) -> None:
    world, rng = worlds(name), np.random.default_rng(1)
    observations = draw(BOX_OBSERVATION, rng, 1000)
    masks = _draw_masks(world.choices, rng, 1000)
    actions, _ = world.policy.predict(observations, action_masks=masks)
    assert _allowed(actions, masks, world.choices).all()
    expected, _ = world.model.predict(observations, deterministic=True, action_masks=masks)
    assert (actions.shape, actions.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(actions, expected)
    unmasked, _ = world.policy.predict(observations)
    assert not _allowed(unmasked, masks, world.choices).all(), "no mask forbids what the policy would do"


@pytest.mark.parametrize("name", WORLDS)
def test_without_masks_everything_is_allowed(worlds: Worlds, name: str) -> None:
    world = worlds(name)
    observations = draw(BOX_OBSERVATION, np.random.default_rng(2), 200)
    actions, _ = world.policy.predict(observations)
    np.testing.assert_array_equal(actions, world.model.predict(observations, deterministic=True)[0])
    everything = np.ones((200, sum(world.choices)), bool)
    np.testing.assert_array_equal(actions, world.policy.predict(observations, action_masks=everything)[0])
    assert len(np.unique(actions, axis=0)) > 1


@pytest.mark.parametrize("name", WORLDS)
def test_a_single_observation_takes_a_single_mask(worlds: Worlds, name: str) -> None:
    world, rng = worlds(name), np.random.default_rng(3)
    for mask in _draw_masks(world.choices, rng, 20):
        observation = draw(BOX_OBSERVATION, rng)
        expected, _ = world.model.predict(observation, deterministic=True, action_masks=mask)
        for masks in (mask, mask[None], mask.tolist(), mask.astype(np.int8)):
            action, state = world.policy.predict(observation, action_masks=masks)
            assert state is None
            assert (action.shape, action.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_array_equal(action, expected)


def test_the_only_allowed_choice_is_taken(worlds: Worlds) -> None:
    observation = draw(BOX_OBSERVATION, np.random.default_rng(4))
    for choice, mask in enumerate(np.eye(4, dtype=bool)):
        assert worlds("Discrete").policy.predict(observation, action_masks=mask)[0] == choice


@pytest.mark.parametrize("name", WORLDS)
def test_masks_are_an_input_of_the_file(worlds: Worlds, name: str) -> None:
    world, rng = worlds(name), np.random.default_rng(5)
    spec = world.policy.metadata.inputs[1]
    assert (spec.name, spec.dtype, spec.role) == ("action_masks", "bool", "action_masks")
    assert spec.shape == ("batch", sum(world.choices))
    assert len(world.policy.metadata.inputs) == 2
    session = onnxruntime.InferenceSession(world.path.read_bytes(), providers=["CPUExecutionProvider"])
    of_graph = session.get_inputs()[1]
    assert (of_graph.name, of_graph.type) == ("action_masks", "tensor(bool)")
    assert tuple(of_graph.shape) == spec.shape
    for n in (1, 6):
        observations, masks = draw(BOX_OBSERVATION, rng, n), _draw_masks(world.choices, rng, n)
        (actions,) = session.run(["action"], {"obs": observations, "action_masks": masks})
        expected, _ = world.model.predict(observations, deterministic=True, action_masks=masks)
        np.testing.assert_array_equal(actions, expected.reshape(n, -1))


@pytest.mark.parametrize(
    ("observation", "masks", "message"),
    [
        (np.zeros((3, 3)), np.ones((2, 4)), "for 3 observations must have the shape (3, 4), got (2, 4)."),
        (np.zeros((3, 3)), np.ones((3, 5)), "for 3 observations must have the shape (3, 4), got (3, 5)."),
        (np.zeros((3, 3)), np.ones(4), "for 3 observations must have the shape (3, 4), got (4,)."),
        (np.zeros(3), np.ones(3), "for 1 observations must have the shape (1, 4), got (3,)."),
        (np.zeros(3), np.ones((2, 4)), "for 1 observations must have the shape (1, 4), got (2, 4)."),
        (np.zeros(3), True, "for 1 observations must have the shape (1, 4), got ()."),
    ],
)
def test_masks_of_another_size_are_refused(worlds: Worlds, observation: Any, masks: Any, message: str) -> None:
    with pytest.raises(ObservationError, match=f"^{re.escape(f'The action masks {message}')}$") as raised:
        worlds("Discrete").policy.predict(observation, action_masks=masks)
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


def test_masks_that_are_no_array_are_refused(worlds: Worlds) -> None:
    ragged: Any = [[True, True, True, True], [True]]
    with pytest.raises(ObservationError, match=r"The action masks for 2 observations must have the shape \(2, 4\)"):
        worlds("Discrete").policy.predict(np.zeros((2, 3)), action_masks=ragged)


def test_a_policy_without_masks_refuses_them(tmp_path: Path) -> None:
    policy = OnnxPolicy(export_policy(make_model(action_space=DISCRETE), tmp_path / "policy").path)
    with pytest.raises(ObservationError, match=r"^This policy takes no action masks, got some\.$"):
        policy.predict(np.zeros(3), action_masks=np.ones(4, bool))
    with pytest.raises(ObservationError, match=r"^This policy takes no action masks, got some\.$"):
        policy.predict(np.zeros((2, 3)), action_masks=np.ones((2, 4), bool))


class _StrictEnv(SpacesEnv):
    """A forbidden action is an error, and the reward tells which was taken."""

    allowed: np.ndarray

    def action_masks(self) -> np.ndarray:
        self.allowed = super().action_masks()
        return self.allowed

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.allowed[action]:
            raise ValueError(f"the action {action} is forbidden")
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(action), terminated, truncated, info


def test_each_new_best_is_evaluated_with_masks_and_equals_its_zip(tmp_path: Path) -> None:
    def make() -> Monitor[Any, Any]:
        return Monitor(_StrictEnv(BOX_OBSERVATION, DISCRETE))

    model = make_model(MaskablePPO, env=DummyVecEnv([make]))
    callback = OnnxCheckpointCallback(
        tmp_path,
        eval_env=DummyVecEnv([make]),
        eval_freq=20,
        n_eval_episodes=2,
        on_error="raise",
        options=ExportOptions(n_samples=64),
    )
    model.learn(64, callback=callback)
    assert type(callback.evaluation) is MaskableEvalCallback
    assert np.isfinite(callback.best_mean_reward)
    saved = MaskablePPO.load(tmp_path / "best_model.zip", device="cpu")
    policy, rng = OnnxPolicy(tmp_path / "best_model.onnx"), np.random.default_rng(6)
    assert policy.metadata.training.mean_reward == pytest.approx(callback.best_mean_reward)
    observations, masks = draw(BOX_OBSERVATION, rng, 300), _draw_masks((4,), rng, 300)
    actions, _ = policy.predict(observations, action_masks=masks)
    np.testing.assert_array_equal(actions, saved.predict(observations, deterministic=True, action_masks=masks)[0])
    assert _allowed(actions, masks, (4,)).all()
