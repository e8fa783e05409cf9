"""Spaces as plain data: exactly the JSON of the contract, and back to an equal gymnasium space."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_clanker.errors import ClankerError, UnsupportedSpaceError
from sb3_clanker.policy_file.documents import decode, encode
from sb3_clanker.policy_file.spaces import (
    BoxSpace,
    DictSpace,
    DiscreteSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
    describe_space,
)

INF = np.inf
ROLES: list[Literal["observation", "action"]] = ["observation", "action"]
FLOAT32 = np.finfo(np.float32)


def box(low: object, high: object, dtype: type[np.generic] = np.float32) -> spaces.Box:
    """A Box with bounds of its own for each element."""
    return spaces.Box(np.asarray(low, dtype), np.asarray(high, dtype), dtype=dtype)  # type: ignore[arg-type]


LEAVES: dict[str, spaces.Space[Any]] = {
    "Box": spaces.Box(-1.0, 2.0, (2,), np.float32),
    "Box scalar": spaces.Box(0.0, 1.0, (), np.float32),
    "Box matrix": box([[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]),
    "Box no float32 digits": box([-0.1, 1e-300], [0.3, 1e300], np.float64),
    "Box largest float32": box([FLOAT32.min, 0.0], [FLOAT32.max, FLOAT32.tiny]),
    "Box unbounded": spaces.Box(-INF, INF, (2, 2), np.float32),
    "Box half bounded": box([-INF, 0.0, -INF], [1.0, INF, INF], np.float64),
    "Box image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
    "Box int64": spaces.Box(-5, 5, (2,), np.int64),
    "Box unbounded int64": spaces.Box(-INF, INF, (2,), np.int64),
    "Box int32": spaces.Box(np.iinfo(np.int32).min, np.iinfo(np.int32).max, (1,), np.int32),
    "Discrete": spaces.Discrete(4),
    "Discrete 1": spaces.Discrete(1),
    "Discrete int32": spaces.Discrete(4, dtype=np.int32),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "MultiDiscrete int32": spaces.MultiDiscrete(np.array([3, 2], np.int32), dtype=np.int32),
    "MultiBinary": spaces.MultiBinary(3),
    "MultiBinary 1": spaces.MultiBinary(1),
    "MultiBinary matrix": spaces.MultiBinary([2, 3]),
    "MultiBinary list": spaces.MultiBinary([2]),
}


def as_json(space: spaces.Space[Any], role: Literal["observation", "action"]) -> str:
    return encode(describe_space(space, role))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (
            box([-1.0, -0.5], [2.0, 0.25]),
            '{"type": "Box", "shape": [2], "dtype": "float32", "low": [-1.0, -0.5], "high": [2.0, 0.25]}',
        ),
        (
            spaces.Box(-1.0, 1.0, (2,), np.float64),
            '{"type": "Box", "shape": [2], "dtype": "float64", "low": [-1.0, -1.0], "high": [1.0, 1.0]}',
        ),
        (
            box([[0, 1], [2, 3]], [[4, 5], [6, 7]]),
            '{"type": "Box", "shape": [2, 2], "dtype": "float32", '
            '"low": [0.0, 1.0, 2.0, 3.0], "high": [4.0, 5.0, 6.0, 7.0]}',
        ),
        (
            box([-INF, 0.0], [INF, INF]),
            '{"type": "Box", "shape": [2], "dtype": "float32", "low": [null, 0.0], "high": [null, null]}',
        ),
        (spaces.Discrete(2), '{"type": "Discrete", "n": 2, "shape": [], "dtype": "int64"}'),
        (
            spaces.MultiDiscrete([3, 2, 4]),
            '{"type": "MultiDiscrete", "nvec": [3, 2, 4], "shape": [3], "dtype": "int64"}',
        ),
        (spaces.MultiBinary(3), '{"type": "MultiBinary", "n": 3, "shape": [3], "dtype": "int8"}'),
        (spaces.MultiBinary([2, 3]), '{"type": "MultiBinary", "n": [2, 3], "shape": [2, 3], "dtype": "int8"}'),
    ],
    ids=str,
)
def test_an_action_space_has_the_json_of_the_contract(space: spaces.Space[Any], expected: str) -> None:
    assert as_json(space, "action") == expected


def test_equal_bounds_of_an_observation_are_one_number() -> None:
    assert as_json(spaces.Box(0, 255, (64, 64, 3), np.uint8), "observation") == (
        '{"type": "Box", "shape": [64, 64, 3], "dtype": "uint8", "low": 0.0, "high": 255.0}'
    )
    assert as_json(spaces.Box(-INF, INF, (3,), np.float32), "observation") == (
        '{"type": "Box", "shape": [3], "dtype": "float32", "low": null, "high": null}'
    )
    assert as_json(box([0.0, 0.0], [1.0, INF]), "observation") == (
        '{"type": "Box", "shape": [2], "dtype": "float32", "low": 0.0, "high": [1.0, null]}'
    )


def test_a_dict_has_its_leaves_in_json() -> None:
    space = spaces.Dict({"image": spaces.Box(0, 255, (1, 4, 4), np.uint8), "mode": spaces.Discrete(3)})
    assert as_json(space, "observation") == (
        '{"type": "Dict", "spaces": {'
        '"image": {"type": "Box", "shape": [1, 4, 4], "dtype": "uint8", "low": 0.0, "high": 255.0}, '
        '"mode": {"type": "Discrete", "n": 3, "shape": [], "dtype": "int64"}}}'
    )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", LEAVES)
def test_a_space_comes_back_equal(name: str, role: Literal["observation", "action"]) -> None:
    space = LEAVES[name]
    description = describe_space(space, role)
    read = decode(type(description), json.loads(encode(description)))
    assert read == description
    built = read.to_gymnasium()
    assert built == space
    assert type(built) is type(space)
    assert (built.shape, built.dtype) == (space.shape, space.dtype)
    assert hash(description) == hash(read)


def test_a_dict_comes_back_equal() -> None:
    space = spaces.Dict({name: leaf for name, leaf in LEAVES.items() if name not in _DAMAGED})
    description = describe_space(space, "observation")
    read = decode(DictSpace, json.loads(encode(description)))
    assert read == description
    built = read.to_gymnasium()
    assert built == space
    assert isinstance(built, spaces.Dict)
    assert list(built.spaces) == list(space.spaces)


_DAMAGED = ("Discrete int32", "Box unbounded int64")  # shown above, one at a time


def test_every_kind_of_space_has_its_class() -> None:
    assert describe_space(spaces.Discrete(np.int64(4)), "action") == DiscreteSpace(n=4)
    assert describe_space(spaces.MultiDiscrete([3, 2]), "action") == MultiDiscreteSpace(nvec=(3, 2), shape=(2,))
    assert describe_space(spaces.MultiBinary(3), "action") == MultiBinarySpace(n=3, shape=(3,))
    assert describe_space(spaces.Box(-1, 1, (1,), np.float32), "observation") == BoxSpace(
        shape=(1,), dtype="float32", low=-1.0, high=1.0
    )
    assert describe_space(spaces.Dict(a=spaces.Discrete(2)), "observation") == DictSpace(
        spaces={"a": DiscreteSpace(n=2)}
    )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", [name for name in LEAVES if name.startswith("Box") and name not in _DAMAGED])
def test_bounds_are_those_of_the_space(name: str, role: Literal["observation", "action"]) -> None:
    space, description = LEAVES[name], describe_space(LEAVES[name], role)
    assert isinstance(space, spaces.Box)
    assert isinstance(description, BoxSpace)
    for got, expected in zip(description.bounds(), (space.low, space.high), strict=True):
        assert (str(got.dtype), got.shape) == ("float64", space.shape)
        np.testing.assert_array_equal(got, expected.astype(np.float64))


@pytest.mark.parametrize("name", [name for name in LEAVES if name not in {"MultiBinary matrix", "MultiBinary list"}])
def test_the_width_of_an_action_is_that_of_stable_baselines3(name: str) -> None:
    assert describe_space(LEAVES[name], "action").n_elements == get_action_dim(LEAVES[name])


def test_the_width_of_a_matrix_of_bits_is_its_size() -> None:
    assert MultiBinarySpace(n=(2, 3), shape=(2, 3)).n_elements == 6


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (spaces.Discrete(3, start=1), "it starts at 1, and Stable-Baselines3 works with 0 to n-1"),
        (spaces.Discrete(3, start=-1), "it starts at -1, and Stable-Baselines3 works with 0 to n-1"),
        (spaces.MultiDiscrete([2, 3], start=[0, 1]), "only one dimension, starting at 0, is supported"),
        (spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])), "only one dimension, starting at 0, is supported"),
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple is not among Box, Discrete, MultiDiscrete, MultiBinary"),
        (spaces.Text(3, charset="ab"), "Text is not among Box, Discrete, MultiDiscrete, MultiBinary"),
        (spaces.Sequence(spaces.Discrete(2)), "Sequence is not among Box, Discrete, MultiDiscrete, MultiBinary"),
    ],
    ids=["start 1", "start -1", "one start 1", "two dimensions", "Tuple", "Text", "Sequence"],
)
def test_a_space_without_a_place_in_the_format_is_refused(
    space: spaces.Space[Any], reason: str, role: Literal["observation", "action"]
) -> None:
    supported = " and Dict" if role == "observation" and "among" in reason else ""
    message = f"Cannot export the {role} space {space}: {reason}{supported}."
    with pytest.raises(UnsupportedSpaceError, match=f"^{re.escape(message)}$") as raised:
        describe_space(space, role)
    assert (raised.value.role, raised.value.space) == (role, str(space))
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            spaces.Dict(inner=spaces.Dict(a=spaces.Discrete(2))),
            "Cannot export the observation space Dict('inner': Dict('a': Discrete(2))): "
            "a Dict within a Dict (key 'inner') is not supported.",
        ),
        (
            spaces.Dict(good=spaces.Discrete(2), bad=spaces.Discrete(2, start=1)),
            "Cannot export the observation space Discrete(2, start=1): it starts at 1",
        ),
        (
            spaces.Dict(bad=spaces.Tuple([spaces.Discrete(2)])),
            "Cannot export the observation space Tuple(Discrete(2)): Tuple is not among Box, Discrete",
        ),
    ],
    ids=str,
)
def test_a_dict_with_a_leaf_without_a_place_is_refused(space: spaces.Dict, message: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=re.escape(message)) as raised:
        describe_space(space, "observation")
    assert raised.value.role == "observation"


def test_a_dict_of_actions_is_refused() -> None:
    space = spaces.Dict(a=spaces.Discrete(2))
    with pytest.raises(
        UnsupportedSpaceError,
        match=re.escape(
            "Cannot export the action space Dict('a': Discrete(2)): "
            "Dict is not among Box, Discrete, MultiDiscrete, MultiBinary."
        ),
    ) as raised:
        describe_space(space, "action")
    assert (raised.value.role, raised.value.space) == ("action", "Dict('a': Discrete(2))")
