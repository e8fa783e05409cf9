"""What is said of two policies is what Stable-Baselines3's own ``predict`` of both would tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import pytest
from msgspec.structs import replace
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_clanker import (
    ExportOptions,
    IncomparablePoliciesError,
    ObservationError,
    OnnxPolicy,
    OptionError,
    UnfitEnvironmentError,
    compare_policies,
    export_policy,
    read_metadata,
)
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.record import EnvironmentRecord, ObservationRange, ObservationRanges, PolicyMetadata
from sb3_clanker.policy_file.seal import stamp
from tests.play.games import BALL, Ball
from tests.support import ACTIONS, OBSERVATIONS
from tests.worlds import BOX_OBSERVATION, draw, make_model, spread

Find: TypeAlias = Callable[[str], Path]

_MODELS: dict[str, Callable[[], BaseAlgorithm]] = {
    "Box": lambda: make_model(PPO, normalize=True),
    "Dict": lambda: make_model(PPO, OBSERVATIONS["Dict"], policy="MultiInputPolicy"),
    "image": lambda: make_model(PPO, OBSERVATIONS["image"], policy="CnnPolicy"),
    "recurrent": lambda: make_model(RecurrentPPO, policy="MlpLstmPolicy"),
    "masked": lambda: make_model(MaskablePPO, action_space=ACTIONS["MultiDiscrete"]),
    "ball": lambda: make_model(PPO, env=_vectorized()),
    "wider": lambda: make_model(PPO, Ball.observation_space, gym.spaces.Box(-1.0, 3.0, (1,))),
    "discrete": lambda: make_model(PPO, action_space=gym.spaces.Discrete(3)),
    "more choices": lambda: make_model(PPO, action_space=gym.spaces.Discrete(4)),
}


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Find:
    """The file of each kind of policy, exported once."""
    folder = tmp_path_factory.mktemp("policies")

    def path(name: str) -> Path:
        file = folder / f"{name}.onnx"
        return file if file.exists() else _export(_MODELS[name](), file)

    return path


def _vectorized(**kwargs: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(gym.make(BALL, **kwargs))])


def _export(model: BaseAlgorithm, path: Path, **options: Any) -> Path:
    export_policy(model, path, options=ExportOptions(**options))
    return path


def _two(model: BaseAlgorithm, folder: Path) -> tuple[Path, Path]:
    """The files of a policy before and after some training."""
    first, second = folder / "first.onnx", folder / "second.onnx"
    for file in (first, second):
        model.save(file.with_suffix(".zip"))
        if (statistics := model.get_vec_normalize_env()) is not None:
            statistics.save(str(file.with_suffix(".pkl")))
        _export(model, file)
        if file is first:
            model.learn(32)
            spread(model, 0.1, seed=1)
    return first, second


def _restamped(path: Path, folder: Path, change: Callable[[PolicyMetadata], PolicyMetadata]) -> Path:
    """The file with another record, as sound by its seal as before."""
    body, _ = split_container(path.read_bytes())
    changed = folder / "changed.onnx"
    changed.write_bytes(stamp(b"".join(body), change(read_metadata(path))))
    return changed


def _slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["large Box", "Discrete", "MultiDiscrete", "MultiBinary"])
def test_figures_are_those_of_predict_of_both_zips(action: str, tmp_path: Path) -> None:
    files = _two(make_model(PPO, action_space=ACTIONS[action]), tmp_path)
    observations = draw(BOX_OBSERVATION, np.random.default_rng(1), 300)
    np.save(tmp_path / "seen.npy", observations)
    one, other = (
        PPO.load(file.with_suffix(".zip"), device="cpu").predict(observations, deterministic=True)[0].reshape(300, -1)
        for file in files
    )
    scale = 1000.0 if action == "large Box" else 1.0
    apart = np.abs(one.astype(float) - other)
    differs = apart > 1e-5 * scale
    for given in (observations, tmp_path / "seen.npy"):
        found = compare_policies(*files, observations=given)
        assert not found.act_the_same
        assert not found.same_digest
        assert found.actions.n_observations == 300
        assert found.actions.n_differing == differs.any(axis=1).sum() > 10
        for place, component in enumerate(found.actions.components):
            assert component.share == differs[:, place].mean()
            if action == "large Box":
                assert component.half_range == scale
                assert component.mean == pytest.approx(apart[:, place].mean(), rel=1e-4, abs=1e-3)
                assert component.largest == pytest.approx(apart[:, place].max(), rel=1e-4, abs=1e-3)
            else:
                before, after = (actions[differs[:, place], place] for actions in (one, other))
                assert len(component.changes) == min(3, len(set(zip(before.tolist(), after.tolist(), strict=True))))
                for was, becomes, n in component.changes:
                    assert n == ((before == int(was)) & (after == int(becomes))).sum() > 0
    changed = {difference.path: str(difference) for difference in found.differences}
    assert changed == {"training.num_timesteps": "0 -> 32"}


@pytest.mark.parametrize("case", ["Box", *map(_slow, ("recurrent", "masked", "Dict", "image"))])
def test_a_policy_does_not_differ_from_itself(case: str, find: Find) -> None:
    found = compare_policies(find(case), find(case), n_observations=120)
    assert found.act_the_same
    assert found.same_digest
    assert found.differences == ()
    assert found.actions.n_differing == 0
    assert found.actions.n_observations == (240 if case == "masked" else 120)
    assert all((part.share, part.largest or 0.0) == (0.0, 0.0) for part in found.actions.components)
    assert found.returns is None
    assert dict(found.facts())["record"] == "no field differs"


@pytest.mark.slow
def test_one_policy_in_two_layouts_acts_the_same(tmp_path: Path) -> None:
    model = make_model(PPO, OBSERVATIONS["image"], policy="CnnPolicy")
    first = _export(model, tmp_path / "first.onnx")
    second = _export(model, tmp_path / "second.onnx", channels_last=True, opset_version=20)
    found = compare_policies(first, second, n_observations=40)
    assert found.act_the_same
    changed = {difference.path: str(difference) for difference in found.differences}
    assert changed["opset_version"] == "18 -> 20"
    assert changed["inputs[obs].layout"] == "channels_first -> channels_last"
    assert changed["inputs[obs].shape"] == "[batch, 3, 36, 36] -> [batch, 36, 36, 3]"


def test_recurrent_policies_carry_their_state(tmp_path: Path) -> None:
    """Two that act alike after a reset, and differ later, are told apart."""
    model: Any = make_model(RecurrentPPO, policy="MlpLstmPolicy")
    first = _export(model, tmp_path / "first.onnx")
    model.policy.lstm_actor.weight_hh_l0.data.mul_(-1.0)  # without a state it makes no difference
    second = _export(model, tmp_path / "second.onnx")
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 130)
    one, other = OnnxPolicy(first), OnnxPolicy(second)
    np.testing.assert_array_equal(one.predict(observations)[0], other.predict(observations)[0])
    found = compare_policies(one, other, observations=observations)
    assert found.actions.source == "observations that were given, in sequences of 50 steps with resets"
    assert found.actions.n_observations == 130
    assert 0.3 < found.actions.n_differing / 130 < 0.99  # the first steps of 3 sequences, at least, are the same
    assert (found.first, found.second) == ("first", "second")
    assert compare_policies(one, one, observations=observations).act_the_same


def test_masks_are_tried(tmp_path: Path) -> None:
    """Two that prefer the same choice, and differ in the next best, are told apart."""
    model: Any = make_model(MaskablePPO, action_space=ACTIONS["Discrete"])
    layer, names = model.policy.action_net, ["stay", "left", "right", "jump"]
    files: list[Path] = []
    for scores in ([9.0, 5.0, 3.0, 1.0], [9.0, 3.0, 5.0, 1.0]):
        layer.weight.data.zero_()
        layer.bias.data[:] = layer.bias.data.new_tensor(scores)
        files.append(_export(model, tmp_path / f"{len(files)}.onnx", action_names=names))
    found = compare_policies(files[0], files[1], n_observations=400)
    (component,) = found.actions.components
    assert found.actions.source.endswith("with everything allowed and with random masks")
    assert found.actions.n_observations == 800
    assert 0.05 < component.share < 0.25
    assert [change[:2] for change in component.changes] == [("left", "right")]
    assert compare_policies(files[0], files[0]).act_the_same


def test_observations_are_drawn_from_what_training_saw(find: Find, tmp_path: Path) -> None:
    path = find("discrete")
    seen = ObservationRange(
        key=None,
        minimum=(0.0,) * 3,
        maximum=(1.0,) * 3,
        mean=(0.5,) * 3,
        deviation=(0.1,) * 3,
        quantiles=((0.5,) * 7,) * 3,
    )
    ranges = ObservationRanges(n_observations=9, ranges=(seen,))
    known = _restamped(path, tmp_path, lambda metadata: replace(metadata, observation_ranges=ranges))
    for pair, whose in (((known, path), "the first"), ((path, known), "the second")):
        found = compare_policies(*pair)
        assert found.actions.source == f"observations drawn from what training of {whose} saw"
        assert found.act_the_same
        assert {difference.path.partition(".")[0] for difference in found.differences} == {"observation_ranges"}
    assert compare_policies(path, path).actions.source == "observations drawn from the observation space"


def test_actions_and_returns_are_those_of_both_zips(tmp_path: Path) -> None:
    files = _two(make_model(PPO, env=VecNormalize(_vectorized())), tmp_path)
    observations = np.random.default_rng(1).normal(2.0, 3.0, (200, 2)).astype(np.float32)
    found = compare_policies(*files, observations=observations, n_episodes=4, seed=11)
    assert found.returns is not None
    actions = []
    for file, got in zip(files, (found.returns.first, found.returns.second), strict=True):
        loaded = PPO.load(file.with_suffix(".zip"), device="cpu")
        env = VecNormalize.load(str(file.with_suffix(".pkl")), _vectorized())
        actions.append(loaded.predict(env.normalize_obs(observations), deterministic=True)[0])
        env.training, expected = False, []
        for seed in range(11, 15):
            env.seed(seed)
            expected.append(evaluate_policy(loaded, env, n_eval_episodes=1)[0])
        assert got == pytest.approx(expected, rel=1e-4)
    apart, (component,) = np.abs(actions[0].astype(float) - actions[1]), found.actions.components
    assert found.actions.n_differing == (apart > 1e-5).sum() > 100
    assert (component.mean, component.largest) == pytest.approx((apart.mean(), apart.max()), rel=1e-3)
    np.testing.assert_array_equal(found.returns.differences, found.returns.second - found.returns.first)
    assert found.returns.seeds == (11, 12, 13, 14)
    assert (found.returns.differences != 0.0).all()
    facts = dict(found.facts())
    assert facts["played in"] == "tests/Ball-v0, 4 episodes each, from seed 11 on"
    assert {"return of the first", "return of the second", "second less first", "  seed 11", "  seed 14"} <= set(facts)
    itself = compare_policies(files[0], files[0], env=BALL, n_episodes=3)
    assert itself.returns is not None
    np.testing.assert_array_equal(itself.returns.differences, 0.0)
    assert itself.act_the_same


def test_what_earns_something_else_does_not_act_the_same(
    find: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = iter(range(1000))
    monkeypatch.setattr(Ball, "reward", lambda *_: float(next(rewards)))
    other = _export(_MODELS["ball"](), tmp_path / "other.onnx", opset_version=17)
    found = compare_policies(find("ball"), other, n_episodes=1)
    assert found.actions.n_differing == 0
    assert not found.act_the_same
    itself = compare_policies(other, other, n_episodes=1)
    assert itself.act_the_same
    assert dict(itself.facts())["note"].startswith("it is one policy: the environment does not do the same")


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_returns_that_are_no_numbers_are_told(reward: float, find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ball, "reward", lambda *_: reward)
    found = compare_policies(find("ball"), find("ball"), env=gym.wrappers.TimeLimit(Ball(), 5), n_episodes=2)
    assert f"mean {reward}, standard deviation nan" in dict(found.facts())["return of the first"]
    assert "nan" in dict(found.facts())["second less first"]


def test_what_differs_on_nothing_that_was_tried_is_said_so(find: Find, tmp_path: Path) -> None:
    other = _export(_MODELS["ball"](), tmp_path / "other.onnx", opset_version=17)
    verdicts = [dict(compare_policies(find("ball"), file).facts())["verdict"] for file in (find("ball"), other)]
    assert verdicts == ["they act the same", "they act the same on all that was tried"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("ball", "discrete", "observation of the first is Box float32 [2], and that of the second Box float32 [3]."),
        ("Box", "discrete", "action of the first is Box float32 [2], and that of the second Discrete int64 []."),
        pytest.param(
            "ball",
            "wider",
            "action of the first Box float32 [1] has other bounds than that of the second.",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "discrete",
            "more choices",
            "action of the first has [3] choices, and that of the second [4].",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_another_space_is_refused_and_what_differs_is_told(
    first: str, second: str, message: str, find: Find, tmp_path: Path
) -> None:
    with pytest.raises(IncomparablePoliciesError) as caught:
        compare_policies(find(first), find(second), env=BALL, n_episodes=1)
    assert str(caught.value) == (
        f"Cannot compare how these policies act: the {message} Compare policies of the same spaces."
    )
    assert caught.value.role == message.split()[0]
    assert any(difference.path.startswith(f"{caught.value.role}_space") for difference in caught.value.differences)


def test_other_bounds_of_observations_are_no_obstacle(find: Find, tmp_path: Path) -> None:
    def widen(metadata: PolicyMetadata) -> PolicyMetadata:
        space: Any = metadata.observation_space
        return replace(metadata, observation_space=replace(space, high=9.0))

    found = compare_policies(find("Box"), _restamped(find("Box"), tmp_path, widen))
    assert found.act_the_same
    assert [str(difference) for difference in found.differences] == ["3 -> 9"]


def test_two_environments_are_none(find: Find, tmp_path: Path) -> None:
    spec = EnvironmentRecord(id=BALL, kwargs={"drift": 2.0})
    path = find("ball")
    other = _restamped(path, tmp_path, lambda metadata: replace(metadata, environment_spec=spec))
    match = r"in tests/Ball-v0\(\): the second was trained in tests/Ball-v0\(drift=2.0\)\. Make one for both yourself"
    for env in (None, BALL):
        with pytest.raises(UnfitEnvironmentError, match=match):
            compare_policies(path, other, env=env, n_episodes=1)
    assert compare_policies(path, other, env=gym.make(BALL), n_episodes=1).act_the_same
    rendered = EnvironmentRecord(id=BALL, kwargs={"render_mode": "human"})
    same = _restamped(path, tmp_path, lambda metadata: replace(metadata, environment_spec=rendered))
    assert compare_policies(path, same, n_episodes=1).act_the_same


def test_what_is_no_batch_of_observations_is_refused(find: Find) -> None:
    cases: list[tuple[Any, str]] = [
        (np.zeros(3), r"must be a batch of at least one, \(n, \*\(3,\)\), got \(3,\)"),
        (np.zeros((0, 3)), r"must be a batch of at least one"),
        (np.zeros((5, 4)), r"must have the shape \(3,\)"),
        ([[1.0], [1.0, 2.0]], r"The observations are not arrays"),
        ({"a": np.zeros((5, 3))}, r"have the keys a, expected None"),
        (np.array([["a", "b", "c"]]), r"must be float32, got <U1"),
    ]
    for given, match in cases:
        with pytest.raises(ObservationError, match=match):
            compare_policies(find("Box"), find("Box"), observations=given)


@pytest.mark.slow
def test_a_batch_by_key(find: Find) -> None:
    batch: dict[str, Any] = {"camera": np.zeros((3, 3, 36, 36), np.uint8), "joints": np.zeros((3, 4), np.float32)}
    assert compare_policies(find("Dict"), find("Dict"), observations=batch).actions.n_observations == 3
    with pytest.raises(ObservationError, match=r"equally many, got \[2, 3\]"):
        compare_policies(find("Dict"), find("Dict"), observations=batch | {"joints": batch["joints"][:2]})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_observations": 0}, "n_observations=0 cannot be used: expected a whole number from 1 to 100,000"),
        ({"n_observations": 1e3}, "n_observations=1000.0 cannot be used"),
        ({"n_episodes": -1}, "n_episodes=-1 cannot be used: expected a whole number from 0 to 100,000"),
        ({"n_episodes": True}, "n_episodes=True cannot be used"),
        ({"seed": -1}, r"seed=-1 cannot be used: expected a whole number from 0 to 2\*\*31 - 1"),
        ({"seed": None}, "seed=None cannot be used"),
        ({"env": "CartPole-v1"}, "n_episodes=0 cannot be used: expected at least 1 where an environment is given"),
    ],
)
def test_options_are_checked_before_a_file_is_read(options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        compare_policies("nowhere.onnx", "nowhere.onnx", **options)


def test_what_a_stranger_wrote_is_shown_plainly(find: Find, tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07<script>alert(1)</script>\n\u202e" * 3

    def change(metadata: PolicyMetadata) -> PolicyMetadata:
        action = replace(metadata.outputs[0], names=(evil, "b" * 10**6), units=(evil, evil))
        return replace(
            metadata,
            policy_class=evil,
            outputs=(action, *metadata.outputs[1:]),
            training=replace(metadata.training, num_timesteps=10**400),
            environment=(evil,) * 10**4,
            entries={f"{evil}{number}": evil for number in range(2000)},
        )

    found = compare_policies(_restamped(find("Box"), tmp_path, change), find("Box"))
    texts = [text for fact in found.facts() for text in fact]
    assert all(text.isprintable() and len(text) < 1000 for text in texts)
    assert len(texts) < 100
    assert "<script>" not in found._repr_html_()
    assert len(repr(found)) < 1000
    assert len(found.differences) > 2000
