"""Points where operators are converted wrongly: they are tried, and what is wrong there is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import ExportOptions, OnnxPolicy, ValidationError, export_policy, validate_policy
from sb3_clanker.actor.normalize import Normalize
from sb3_clanker.proof.lattice import before_normalization, draw_lattice
from sb3_clanker.proof.probes import N_CORNERS, Batch, draw_observations
from sb3_clanker.sb3.statistics import Statistics
from tests.worlds import BOX_ACTION, make_env, make_model, predict_raw

WIDTH = 6
UNBOUNDED = spaces.Box(-np.inf, np.inf, (WIDTH,), np.float32)
DISCRETE = spaces.Discrete(4)
Operator = Callable[[th.Tensor], th.Tensor]

WRONG: dict[str, Operator] = {
    "atan2": lambda x: th.atan2(x[:, :3], x[:, 3:]),
    "//": lambda x: x // 0.7,
    "%": lambda x: x % 0.7,
    "floor_divide": lambda x: th.floor_divide(x, 0.1),
    "div, floor": lambda x: th.div(x, 0.3, rounding_mode="floor"),
    "signbit": lambda x: th.signbit(x).float(),
    "topk of ties": lambda x: x.topk(2, dim=1)[1].float(),
    "logaddexp": lambda x: th.logaddexp(x[:, :3], x[:, 3:]),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
}
"""What torch's exporter converts wrongly at points of the lattice; random observations show none of it."""
RIGHT: dict[str, Operator] = {
    "floor": lambda x: (3 * x).floor(),
    "round": th.round,
    "sign": th.sign,
    "trunc": lambda x: th.div(x, 0.5, rounding_mode="trunc"),
    "argmax": lambda x: x.argmax(1, keepdim=True).float(),
    "sort": lambda x: x.sort(1)[1].float(),
    "at least": lambda x: th.cat([(x >= 0.5).float(), (x > 0).float(), (x == 0).float()], dim=1),
    "clamped inverse": lambda x: (1 / x).clamp(-5, 5),
    "divide or 0": lambda x: th.nan_to_num(x / x),
}


class _Operator(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Space[Any], operator: Operator) -> None:
        super().__init__(observation_space, operator(th.zeros(1, WIDTH)).shape[1])
        self._operator = operator

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self._operator(observations)


def _model(operator: Operator, action_space: spaces.Space[Any] = BOX_ACTION, **kwargs: Any) -> BaseAlgorithm:
    extractor = {"features_extractor_class": _Operator, "features_extractor_kwargs": {"operator": operator}}
    kwargs["policy_kwargs"] = extractor | kwargs.get("policy_kwargs", {})
    return make_model(observation_space=UNBOUNDED, action_space=action_space, **kwargs)


_TELLING = ("atan2", "//", "topk of ties", "logaddexp")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _TELLING else pytest.mark.slow) for name in WRONG]
)
def test_what_is_converted_wrongly_at_a_point_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"failed its proof at the stage cross_check: .* disagree"):
        export_policy(_model(WRONG[name]), tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_it_is_refused_for_discrete_actions_too(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="disagree"):
        export_policy(_model(WRONG["atan2"], DISCRETE), tmp_path / "policy.onnx")


def _all_right(x: th.Tensor) -> th.Tensor:
    return th.cat([operator(x) for operator in RIGHT.values()], dim=1)


def test_what_is_right_at_these_points_is_exported(tmp_path: Path) -> None:
    model = _model(_all_right)
    policy = OnnxPolicy(export_policy(model, tmp_path / "policy.onnx").path)
    rng = np.random.default_rng(0)
    observations = np.concatenate([_lattice(5000), rng.normal(size=(5000, WIDTH))]).astype(np.float32)
    expected = predict_raw(model, observations)
    assert len(np.unique(expected, axis=0)) > 3
    np.testing.assert_allclose(policy.predict(observations)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [300, 1000], ids=["100 thousand parameters", "a million"])
@pytest.mark.parametrize("action_space", [BOX_ACTION, DISCRETE], ids=["Box", "Discrete"])
@pytest.mark.parametrize("name", [*WRONG, "all that are right"])
def test_in_large_networks_what_is_exported_is_right_and_nothing_else(
    name: str, action_space: spaces.Space[Any], width: int, tmp_path: Path
) -> None:
    model = _model(
        WRONG.get(name, _all_right), action_space, policy_kwargs={"net_arch": {"pi": [width] * 2, "vf": [8]}}
    )
    try:
        policy = OnnxPolicy(export_policy(model, tmp_path / "policy.onnx").path)
    except ValidationError:
        assert name in WRONG
        return
    assert name not in WRONG
    rng = np.random.default_rng(0)
    observations = np.concatenate([_lattice(5000), rng.normal(size=(5000, WIDTH))]).astype(np.float32)
    got, expected = policy.predict(observations)[0], predict_raw(model, observations)
    if action_space == BOX_ACTION:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    else:
        assert (got != expected).mean() < 1e-3


def test_what_is_wrong_after_normalization_is_refused(tmp_path: Path) -> None:
    vec_normalize: Any = VecNormalize(make_env(UNBOUNDED, BOX_ACTION))
    vec_normalize.obs_rms.mean = np.array([0.3, -1.2, 0.0, 5.0, 1e-3, 0.7])
    vec_normalize.obs_rms.var = np.array([2.0, 0.4, 1.0, 9.0, 0.01, 1.0])
    with pytest.raises(ValidationError, match="disagree"):
        export_policy(_model(WRONG["//"], env=vec_normalize), tmp_path / "policy.onnx")
    metadata = export_policy(_model(RIGHT["floor"], env=vec_normalize), tmp_path / "policy.onnx").metadata
    assert metadata.cross_check is not None
    assert metadata.cross_check.n_ties == 0


def test_a_proof_on_request_tries_the_lattice_and_a_checkpoint_of_a_proven_graph_does_not(tmp_path: Path) -> None:
    from sb3_clanker.export.exporter import Exporter
    from sb3_clanker.sb3.normalization import resolve_normalization

    model = make_model()
    exporter = Exporter(model, resolve_normalization(model, None), ExportOptions(n_samples=4))
    first, second = (exporter.export().metadata.cross_check for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.n_observations, second.n_observations) == (4 + 192 + N_CORNERS, 4 + N_CORNERS)
    path = export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(n_samples=4)).path
    report = validate_policy(path, model)
    assert report.cross_check is not None
    assert report.cross_check.n_observations > 192


def test_a_policy_whose_scores_are_all_equal_at_rest_is_no_false_alarm(tmp_path: Path) -> None:
    """Fresh networks have no biases: at 0 every score is 0, and the first choice is taken, by whoever chooses."""
    for algorithm, action_space in ((DQN, DISCRETE), (PPO, spaces.MultiBinary(3))):
        model = make_model(algorithm, UNBOUNDED, action_space, scale=0.0)
        policy = OnnxPolicy(export_policy(model, tmp_path / "policy.onnx").path)
        rest = np.zeros((1, WIDTH), np.float32)
        np.testing.assert_array_equal(policy.predict(rest)[0], predict_raw(model, rest))


# The points ---------------------------------------------------------------------------------------------------------


def _lattice(n: int, width: int = WIDTH, bound: float = np.inf) -> np.ndarray:
    zeros = np.zeros(width)
    return draw_lattice(zeros - bound, zeros + bound, zeros, zeros + 1, n, np.random.default_rng(1))


def test_constants_single_axes_ties_and_mixtures_are_among_them() -> None:
    rows = _lattice(192)
    constant = {(row[0], bool(np.signbit(row[0]))) for row in rows if (row == row[0]).all()}
    assert {(0.0, False), (0.0, True), (1.0, False), (-1.0, True), (0.5, False), (-0.5, True), (7.0, False)} <= constant
    single = [row for row in rows if np.count_nonzero(row) == 1]
    assert {(int(np.flatnonzero(row)[0]), bool(row.sum() > 0)) for row in single} >= {
        (axis, sign) for axis in range(WIDTH) for sign in (False, True)
    }
    assert {bool(np.signbit(row[row == 0]).all()) for row in single} == {False, True}
    drawn = rows[24 + 48 : 24 + 96]
    magnitudes = [np.abs(row).tolist() for row in drawn]
    assert all(len(set(row)) == WIDTH - 1 for row in magnitudes)
    assert {len(set(row.tolist())) for row in drawn} == {WIDTH - 1, WIDTH}, "equal ones and opposite ones"
    for component in rows[120:].T:
        assert {0.0, 1.0, -0.5, 2.5, 7.0, 100.0} & set(component.tolist())
        assert len(np.unique(component)) > 25


@pytest.mark.parametrize("n", [0, 1, 8, 192])
@pytest.mark.parametrize("width", [0, 1, 2, 50])
def test_there_are_as_many_as_asked_for_and_all_within_the_bounds(n: int, width: int) -> None:
    rows = _lattice(n, width, bound=1.5)
    assert rows.shape == (n, width)
    assert (np.abs(rows) <= 1.5).all()


def test_bounds_that_float32_cannot_carry_are_kept() -> None:
    space = spaces.Box(np.array([-0.1, 0.1]), np.array([0.7, 0.3]), dtype=np.float64)
    observations = draw_observations(space, {}, 8, lattice=True)
    assert isinstance(observations, np.ndarray)
    assert all(space.contains(row) for row in observations)
    np.testing.assert_array_equal(observations, observations.astype(np.float32).astype(np.float64))


def test_all_keys_of_a_dict_have_as_many_rows_and_large_observations_fewer() -> None:
    space = spaces.Dict({"a": UNBOUNDED, "b": DISCRETE, "c": spaces.MultiDiscrete([2, 3]), "d": spaces.MultiBinary(2)})
    batch = draw_observations(space, {}, 5, lattice=True)
    assert isinstance(batch, dict)
    assert {len(rows) for rows in batch.values()} == {5 + 192 + N_CORNERS}
    large: Batch = draw_observations(spaces.Box(0, 255, (3, 200, 300), np.uint8), {}, 2, lattice=True)
    assert isinstance(large, np.ndarray)
    assert len(large) == 2 + 8 + N_CORNERS
    assert large.dtype == np.uint8


def test_before_normalization_they_are_those_that_both_sides_normalize_alike() -> None:
    rng = np.random.default_rng(0)
    statistics = Statistics(
        mean=rng.normal(0.0, 2.0, WIDTH), variance=rng.uniform(0.1, 9.0, WIDTH), epsilon=1e-8, clip_obs=10.0
    )
    lattice, otherwise = _lattice(192), np.full((192, WIDTH), np.inf)
    raw = before_normalization(lattice, statistics, otherwise)
    found = np.isfinite(raw)
    assert found.mean() > 0.25
    np.testing.assert_array_equal(raw[found], raw[found].astype(np.float32))
    normalized = np.clip((raw - statistics.mean) / statistics.deviation, -10.0, 10.0).astype(np.float32)
    in_graph = Normalize(statistics)(th.as_tensor(raw.astype(np.float32))).numpy()
    np.testing.assert_array_equal(in_graph[found], normalized[found])
    np.testing.assert_allclose(normalized[found], np.clip(lattice, -10, 10)[found], atol=1e-5)


def test_images_that_are_normalized_are_drawn_as_bytes() -> None:
    """VecNormalize gives them the bounds of what it makes of them, and the environment still gives bytes."""
    shape = (3, 4, 4)
    statistics = Statistics(mean=np.full(shape, 120.0), variance=np.full(shape, 900.0), epsilon=1e-8, clip_obs=10.0)
    drawn = draw_observations(spaces.Box(-10.0, 10.0, shape, np.float32), {None: statistics}, 50)
    assert isinstance(drawn, np.ndarray)
    assert drawn.min() == 0.0
    assert drawn.max() == 255.0
    assert 100 < np.median(drawn) < 140
