"""Each kind of space in the table is handled by every user of it, and nobody else looks at the class of a space."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution, make_proba_distribution
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim, preprocess_obs

import sb3_clanker
from sb3_clanker import ExportOptions, OnnxPolicy, export_policy
from sb3_clanker.actor.actor import make_actor, masked_choices
from sb3_clanker.actor.observation import observation_inputs
from sb3_clanker.policy_file.consistency import contradictions
from sb3_clanker.policy_file.spaces import KINDS, DictSpace, LeafSpace, ObservationSpace, describe_space
from sb3_clanker.policy_file.tensors import Sampling
from sb3_clanker.proof.probes import N_CORNERS, draw_observations
from sb3_clanker.sb3.standard import space_bounds
from sb3_clanker.targets.check import TARGETS, check_target
from sb3_clanker.training.settings import _layout
from tests.worlds import draw, make_model

EXAMPLES: dict[str, spaces.Space[Any]] = {
    "Box": spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([2.0, 0.5], np.float32)),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(3),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def _described(kind: str) -> LeafSpace:
    return describe_space(EXAMPLES[kind], "action")


def test_the_table_has_every_kind_of_leaf() -> None:
    assert list(KINDS) == list(EXAMPLES)
    assert set(KINDS.values()) | {DictSpace} == set(get_args(ObservationSpace))


# What the table says is what gymnasium and Stable-Baselines3 do ---------------------------------------------------


@kinds
def test_a_kind_has_the_name_of_gymnasium_and_can_be_built(kind: str) -> None:
    space = _described(kind)
    assert (space.type, type(space)) == (kind, KINDS[kind])
    assert space.to_gymnasium() == EXAMPLES[kind]
    assert space.leaves() == {None: space}
    assert str(space) == f"{kind} {EXAMPLES[kind].dtype} {list(EXAMPLES[kind].shape or ())}"


@kinds
def test_the_bounds_hold_every_value_and_are_reached(kind: str) -> None:
    low, high = _described(kind).bounds()
    for bound in (low, high):
        assert EXAMPLES[kind].contains(bound.astype(EXAMPLES[kind].dtype)[()])
    assert not EXAMPLES[kind].contains((high + 1).astype(EXAMPLES[kind].dtype)[()])


@kinds
def test_widths_are_those_of_the_distributions_of_stable_baselines3(kind: str) -> None:
    space, example = _described(kind), EXAMPLES[kind]
    assert space.n_elements == get_action_dim(example)
    net: Any = make_proba_distribution(example).proba_distribution_net
    if space.is_continuous:
        squashed: Any = SquashedDiagGaussianDistribution(space.n_elements).proba_distribution_net
        found = {"gaussian": net(8)[0].out_features, "squashed_gaussian": squashed(8)[0].out_features}
    else:
        masked: Any = make_masked_proba_distribution(example).proba_distribution_net
        name = "bernoulli" if "bernoulli" in space.widths else "categorical"
        found = {name: net(8).out_features, "categorical": masked(8).out_features}
    assert space.widths == found


@kinds
def test_a_kind_is_categorical_where_stable_baselines3_encodes_it_one_hot(kind: str) -> None:
    space, example = _described(kind), EXAMPLES[kind]
    one_hot = sum(space.choices) if space.is_categorical else space.n_elements
    assert get_flattened_obs_dim(example) == one_hot
    (leaf,) = observation_inputs(space, {}, channels_last=False)
    raw: Any = draw(example, np.random.default_rng(0), 5)
    seen = leaf(th.as_tensor(raw.reshape(5, *space.input_shape), dtype=th.float32))
    expected = preprocess_obs(th.as_tensor(raw), example)
    assert isinstance(expected, th.Tensor)
    assert th.equal(preprocess_obs(seen, example), expected)  # type: ignore[arg-type]


# Every user handles every kind ------------------------------------------------------------------------------------


@kinds
def test_an_observation_of_each_kind_goes_through_a_file(kind: str, tmp_path: Path) -> None:
    model, space = make_model(PPO, EXAMPLES[kind]), _described(kind)
    labels = [f"part {index}" for index in range(space.n_labels)]
    export_policy(model, tmp_path / "p.onnx", options=ExportOptions(observation_names=labels, test_vectors=3))
    policy = OnnxPolicy(tmp_path / "p.onnx")
    assert policy.metadata.observation_space == describe_space(EXAMPLES[kind], "observation")
    assert policy.metadata.inputs[0].meaning == space.observation_meaning
    assert policy.metadata.inputs[0].names == tuple(labels)
    observation: Any = draw(EXAMPLES[kind], np.random.default_rng(0), 7)
    np.testing.assert_allclose(policy.predict(observation)[0], model.predict(observation, deterministic=True)[0], 1e-4)
    assert {check_target(policy.metadata, target).target for target in TARGETS} == set(TARGETS)


@kinds
def test_a_dict_holds_every_kind(kind: str) -> None:
    space = describe_space(spaces.Dict(a=EXAMPLES[kind]), "observation")
    assert space.leaves() == {"a": describe_space(EXAMPLES[kind], "observation")}
    assert str(space) == f"Dict(a: {_described(kind)})"


@kinds
def test_an_action_of_each_kind_comes_out_of_a_file(kind: str, tmp_path: Path) -> None:
    model, space = make_model(PPO, action_space=EXAMPLES[kind]), _described(kind)
    labels = [f"part {index}" for index in range(space.n_labels)]
    options = ExportOptions(action_names=labels, further_outputs=("distribution",), test_vectors=3)
    export_policy(model, tmp_path / "p.onnx", options=options)
    policy = OnnxPolicy(tmp_path / "p.onnx")
    assert policy.metadata.action_space == space
    assert (policy.metadata.outputs[0].meaning, policy.metadata.outputs[0].names) == (
        space.action_meaning,
        tuple(labels),
    )
    observation: Any = draw(model.observation_space, np.random.default_rng(0), 7)
    np.testing.assert_allclose(policy.predict(observation)[0], model.predict(observation, deterministic=True)[0], 1e-4)
    drawn, _ = policy.predict(observation, deterministic=False)
    assert all(EXAMPLES[kind].contains(action) for action in drawn)


@kinds
def test_a_record_is_sound_with_what_each_kind_can_sample_and_with_nothing_else(kind: str) -> None:
    space, actor = _described(kind), make_actor(make_model(PPO, action_space=EXAMPLES[kind]).policy, {}, _DISTRIBUTION)
    of_maskable = {"categorical"} if kind == "MultiBinary" else set()
    for sampling in get_args(Sampling):
        found = contradictions(
            actor.observation_space, space, actor.inputs, actor.outputs, "float32", sampling=sampling
        )
        fits = sampling in set(space.widths) - of_maskable
        assert found == ([] if fits else [f"sampling: {sampling!r} does not fit the action space and the outputs"])


_DISTRIBUTION = ExportOptions(further_outputs=("distribution",))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not KINDS[kind].is_continuous])  # MaskablePPO has no other
def test_masks_are_as_wide_as_the_choices_of_each_kind(kind: str) -> None:
    policy = make_model(MaskablePPO, action_space=EXAMPLES[kind]).policy
    assert masked_choices(policy) == _described(kind).choices
    assert make_actor(policy, {}, ExportOptions()).inputs[1].shape == ("batch", sum(_described(kind).choices))


@kinds
def test_probes_of_each_kind_lie_in_the_space_and_reach_its_corners(kind: str) -> None:
    rows: Any = draw_observations(EXAMPLES[kind], {}, 20, lattice=True)
    assert rows.dtype == EXAMPLES[kind].dtype
    assert all(EXAMPLES[kind].contains(row) for row in rows)
    low, high = _described(kind).bounds()
    np.testing.assert_array_equal(rows[-N_CORNERS:][:2], np.stack([low, high]))


@kinds
def test_what_two_environments_must_have_in_common_tells_kinds_apart(kind: str) -> None:
    others = [_layout(example) for name, example in EXAMPLES.items() if name != kind]
    assert _layout(EXAMPLES[kind]) not in others
    assert _layout(EXAMPLES[kind]) == _layout(_described(kind).to_gymnasium())


@kinds
def test_a_change_of_a_space_is_noticed(kind: str) -> None:
    policy = make_model(PPO, EXAMPLES[kind]).policy
    before = space_bounds(policy)
    policy.observation_space = spaces.Discrete(99)
    assert space_bounds(policy) != before


# Nobody else looks at the class of a space ------------------------------------------------------------------------

NAMES = {*KINDS, "Dict", *(f"{kind}Space" for kind in (*KINDS, "Dict"))}
MAY_LOOK = ["policy_file/spaces.py"]


def _looks(tree: ast.AST) -> Iterator[str]:
    """Where a kind of space is named in code: as a class, an attribute, or in a text that is compared."""
    for node in ast.walk(tree):
        named = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name", ast.Constant: "value"}.get(type(node))
        if named is not None and getattr(node, named) in NAMES:
            yield ast.unparse(node)
        if isinstance(node, ast.Call) and re.match(r"type\(.*(space|leaf)\)", ast.unparse(node)):
            yield ast.unparse(node)


def test_one_module_alone_looks_at_the_class_of_a_space() -> None:
    package = Path(sb3_clanker.__file__).parent
    looking = {
        path.relative_to(package).as_posix(): list(_looks(ast.parse(path.read_text(encoding="utf-8"))))
        for path in package.rglob("*.py")
    }
    assert [name for name, found in looking.items() if found] == MAY_LOOK, looking


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(x, spaces.Box)",
        "from m import BoxSpace",
        "x.type == 'Discrete'",
        "type(x.action_space)",
        "Dict(a=1)",
    ],
)
def test_a_look_at_the_class_of_a_space_is_found(code: str) -> None:
    assert list(_looks(ast.parse(code)))
