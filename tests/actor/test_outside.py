"""What is outside of what training saw, and what is not, to the last digit of float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO

from sb3_clanker.actor.actor import Actor, make_actor
from sb3_clanker.errors import OptionError
from sb3_clanker.observations.ranges import Ranges
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.spaces import describe_space
from tests.worlds import make_model

MATRIX = spaces.Box(-1.0, 1.0, (2, 2))
DICT = spaces.Dict({"arm": spaces.Box(-9.0, 9.0, (2,)), "gear": spaces.Discrete(3), "grid": MATRIX})


def _actor(space: spaces.Space[Any], **options: Any) -> Actor:
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    model = make_model(PPO, space, policy=policy)
    return make_actor(model.policy, {}, ExportOptions(further_outputs=("outside",), **options))


def _seen(actor: Actor, *rows: Any) -> Actor:
    """The same actor, once training has seen these observations of one array."""
    ranges = Ranges(actor.observation_space)
    ranges.add({None: np.array(rows)})
    actor.see(ranges.record())
    return actor


def _outside(actor: Actor, *rows: Any) -> NDArray[np.bool_]:
    assert actor.outside is not None
    told: NDArray[np.bool_] = actor.outside([th.as_tensor(np.array(rows, np.float32))]).numpy()
    return told


def _unbounded(n: int, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (n,), dtype)


def test_a_component_may_leave_what_training_saw_by_the_margin() -> None:
    actor = _seen(_actor(_unbounded(2)), [0.0, -4.0], [1.0, 4.0])
    assert _outside(actor, [-0.099, 4.79], [-0.101, 4.79], [1.099, -4.81], [np.inf, -np.inf]).tolist() == [
        [False, False],
        [True, False],
        [False, True],
        [True, True],
    ]


def test_without_a_margin_the_extremes_are_the_bounds() -> None:
    actor = _seen(_actor(_unbounded(1), outside_margin=0.0), [-1.5], [2.5])
    beyond = np.nextafter(np.array([-1.5, 2.5], np.float32), np.array([-np.inf, np.inf], np.float32))
    assert _outside(actor, *[[value] for value in (-1.5, 2.5, *beyond)]).tolist() == [[False], [False], [True], [True]]


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_of_a_constant_anything_else_is_outside(margin: float) -> None:
    actor = _seen(_actor(_unbounded(2, np.float64), outside_margin=margin), [0.1, 7.0], [0.1, 7.0])
    above, below = (np.nextafter(np.array([0.1, 7.0], np.float32), np.float32(end)) for end in (np.inf, -np.inf))
    assert _outside(actor, [0.1, 7.0], above).tolist() == [[False, False], [True, True]]
    assert _outside(actor, below).tolist() == [[False, True]]  # 0.1 lies between this one and its own float32


def test_nothing_that_was_seen_is_outside() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4_000, 6)) * 10.0 ** np.array([-40, -8, 0, 3, 20, 38]) / 10
    actor = _seen(_actor(_unbounded(6, np.float64), outside_margin=0.0), *rows)
    assert not _outside(actor, *rows).any()


def test_before_any_data_only_what_is_no_number_is_outside() -> None:
    actor = _actor(_unbounded(3))
    rows = [[0.0, 3e38, -np.inf], [np.inf, np.nan, 0.0]]
    assert _outside(actor, *rows).tolist() == [[False, False, False], [False, True, False]]
    _seen(actor, [0.0, 0.0, 0.0])
    assert _outside(actor, *rows).tolist() == [[False, True, True], [True, True, False]]
    actor.see(None)
    assert _outside(actor, *rows).tolist() == [[False, False, False], [False, True, False]]


def test_the_components_are_those_of_the_vectors_in_order() -> None:
    actor = _actor(DICT, observation_names={"arm": ["shoulder", "elbow"]})
    assert actor.outside is not None
    spec = actor.outputs[-1]
    assert (spec.name, spec.dtype, spec.shape, spec.role) == ("outside", "bool", ("batch", 6), "further")
    assert spec.names == ("shoulder", "elbow", "grid[0,0]", "grid[0,1]", "grid[1,0]", "grid[1,1]")
    ranges = Ranges(actor.observation_space)
    ranges.add({"arm": np.array([[1.0, 2.0]]), "gear": np.array([1]), "grid": np.array([[[3.0, 4.0], [5.0, 6.0]]])})
    actor.see(ranges.record())
    rows = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], np.float32) + np.eye(6, dtype=np.float32)
    arm, grid = th.as_tensor(rows[:, :2]), th.as_tensor(rows[:, 2:].reshape(-1, 2, 2))
    assert actor.outside([arm, th.zeros(6, 1), grid]).numpy().tolist() == np.eye(6, dtype=bool).tolist()


def test_floats_with_their_channels_last_are_told_in_the_order_of_the_space() -> None:
    space = spaces.Box(0.0, 1.0, (2, 3, 4))
    actor = _actor(space, channels_last=True)
    assert actor.inputs[0].shape == ("batch", 3, 4, 2)
    seen = np.arange(24.0).reshape(1, 2, 3, 4)
    ranges = Ranges(describe_space(space, "observation"))
    ranges.add({None: seen})
    actor.see(ranges.record())
    assert actor.outside is not None
    rows = np.repeat(seen, 24, axis=0).astype(np.float32)
    rows.reshape(24, 24)[np.diag_indices(24)] += 0.5
    told = actor.outside([th.as_tensor(np.moveaxis(rows, 1, 3))])
    assert told.numpy().tolist() == np.eye(24, dtype=bool).tolist()
    names = actor.outputs[-1].names
    assert names is not None
    assert names[5] == "obs[0,1,1]"


def test_one_number_is_a_component_too() -> None:
    actor = _actor(spaces.Dict({"speed": spaces.Box(-1.0, 1.0, ()), "arm": MATRIX}))
    assert actor.outputs[-1].names == ("arm[0,0]", "arm[0,1]", "arm[1,0]", "arm[1,1]", "speed")


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-1.0, 1.0, (1_001,))], ids=["choices", "too wide"])
def test_an_observation_without_a_vector_is_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(OptionError, match=r"further_outputs=\['outside'\] cannot be used: .* observes no vector"):
        _actor(space)
