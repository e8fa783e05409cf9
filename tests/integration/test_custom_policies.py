"""Policies that Stable-Baselines3 lets one write: whatever torch traces is exported, and the rest is refused."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from sb3_clanker import ClankerError, ExportOptions, OnnxCheckpointCallback, OnnxPolicy, export_policy
from sb3_clanker.errors import GraphError, UnsupportedPolicyError, ValidationError
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.export.publish import ExportReport
from sb3_clanker.sb3.normalization import Normalization, load_statistics
from tests.worlds import (
    BOX_ACTION,
    BOX_OBSERVATION,
    UNBOUNDED_OBSERVATION,
    assert_same_actions,
    draw,
    make_model,
    predict_raw,
)

DISCRETE = spaces.Discrete(4)
OPTIONS = ExportOptions(n_samples=64)


def _assert_same(policy: OnnxPolicy, model: BaseAlgorithm, vec_normalize: VecNormalize | None = None) -> None:
    expected = assert_same_actions(
        lambda observation: policy.predict(observation)[0],
        lambda observation: predict_raw(model, observation, vec_normalize),
        model.policy.observation_space,
        model.policy.action_space,
    )
    assert len(np.unique(expected, axis=0)) > 1, "the weights tell no actions apart"


def _assert_exported(model: BaseAlgorithm, folder: Path) -> OnnxPolicy:
    """Export, and hold the file against the model's own predict."""
    policy = OnnxPolicy(export_policy(model, folder / "policy", options=OPTIONS).path)
    _assert_same(policy, model)
    return policy


def _actions(predictor: Any) -> np.ndarray:
    actions: np.ndarray = predictor.predict(draw(BOX_OBSERVATION, np.random.default_rng(0), 64), deterministic=True)[0]
    return actions


# Methods of the policy ----------------------------------------------------------------------------------------------


class _Damped(ActorCriticPolicy):
    """Overrides what predict() calls."""

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return 0.5 * th.tanh(super()._predict(-observation, deterministic)) - 0.1


class _Residual(ActorCriticPolicy):
    """Has further layers, and a constant of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        width = self.mlp_extractor.latent_dim_pi
        self.norm = nn.LayerNorm(width)
        self.residual = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.register_buffer("gate", th.linspace(0.0, 1.0, width))

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        latent = self.norm(latent_pi + self.get_buffer("gate") * self.residual(latent_pi))
        return super()._get_action_dist_from_latent(latent)


class _OwnForward(ActorCriticPolicy):
    """Overrides what collects experience, which predict() does not call."""

    def forward(self, obs: Any, deterministic: bool = False) -> Any:
        actions, values, log_prob = super().forward(obs, deterministic)
        return 0.0 * actions, values, log_prob

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        return super().extract_features(2.0 * obs, features_extractor)


class _SquaringActor(SACActor):
    def extract_features(self, obs: Any, features_extractor: Any) -> th.Tensor:
        return super().extract_features(obs, features_extractor).square() - 1.0


class _SquaringSAC(SACPolicy):
    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SACActor:
        return _SquaringActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)


class _HalvingActor(TD3Actor):
    def forward(self, obs: th.Tensor) -> th.Tensor:
        return th.sin(3.0 * super().forward(obs)) / 2


class _HalvingTD3(TD3Policy):
    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> TD3Actor:
        return _HalvingActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)


class _DuelingNetwork(QNetwork):
    def forward(self, obs: Any) -> th.Tensor:
        scores = super().forward(obs)
        return th.flip(scores - scores.mean(dim=1, keepdim=True), dims=[1])


class _Dueling(DQNPolicy):
    def make_q_net(self) -> QNetwork:
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return _DuelingNetwork(**arguments).to(self.device)


@pytest.mark.parametrize(
    ("algorithm", "policy", "plain"),
    [
        (PPO, _Damped, "MlpPolicy"),
        (PPO, _Residual, "MlpPolicy"),
        (SAC, _SquaringSAC, "MlpPolicy"),
        (TD3, _HalvingTD3, "MlpPolicy"),
        (DQN, _Dueling, "MlpPolicy"),
    ],
    ids=["_predict", "further layers", "extract_features", "forward of an actor", "forward of a Q-network"],
)
def test_what_a_policy_overrides_is_in_the_file(algorithm: Any, policy: Any, plain: str, tmp_path: Path) -> None:
    action_space = DISCRETE if algorithm is DQN else BOX_ACTION
    exported = _assert_exported(make_model(algorithm, action_space=action_space, policy=policy), tmp_path)
    assert exported.metadata.policy_class == f"{__name__}.{policy.__qualname__}"
    without = make_model(algorithm, action_space=action_space, policy=plain)
    assert not np.allclose(_actions(exported), _actions(without), atol=1e-3)


def test_what_predict_does_not_call_is_not_in_the_file(tmp_path: Path) -> None:
    exported = _assert_exported(make_model(policy=_OwnForward), tmp_path)  # type: ignore[arg-type]
    np.testing.assert_allclose(_actions(exported), _actions(make_model()), atol=1e-5)


# Feature extractors -------------------------------------------------------------------------------------------------


class _Normalizing(BaseFeaturesExtractor):
    """Running statistics that training changes, and a layer that is random in training alone."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 12) -> None:
        super().__init__(observation_space, features_dim)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.BatchNorm1d(spaces.flatdim(observation_space)),
            nn.Linear(spaces.flatdim(observation_space), features_dim),
            nn.ReLU(),
            nn.BatchNorm1d(features_dim),
            nn.Dropout(0.5),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features: th.Tensor = self.layers(observations)
        return features


@pytest.mark.parametrize(
    ("algorithm", "normalize", "share"),
    [(PPO, False, True), (PPO, True, False), (SAC, False, False)],
    ids=["PPO", "PPO with VecNormalize and separate extractors", "SAC"],
)
def test_batch_norm_and_dropout_are_exported_from_inside_a_training(
    algorithm: Any, normalize: bool, share: bool, tmp_path: Path
) -> None:
    model = make_model(
        algorithm,
        UNBOUNDED_OBSERVATION,
        normalize=normalize,
        policy_kwargs={"features_extractor_class": _Normalizing, "share_features_extractor": share},
    )
    before = {name: tensor.clone() for name, tensor in model.policy.named_buffers()}
    callback = OnnxCheckpointCallback(tmp_path, save_freq=24, save_final=False, on_error="raise", options=OPTIONS)
    model.learn(80, callback=callback)
    assert len(callback.reports) == 3
    used: set[str] = set()
    for report in callback.reports:
        saved = _saved_with(report, algorithm)
        _assert_same(OnnxPolicy(report.path), *saved)
        buffers = saved[0].policy.named_buffers()
        used |= {name for name, tensor in buffers if "running_mean" in name and not th.equal(tensor, before[name])}
    assert len({report.metadata.digest for report in callback.reports}) == 3
    assert any("target" not in name for name in used), "no running statistics have changed"


def _saved_with(report: ExportReport, algorithm: Any) -> tuple[BaseAlgorithm, VecNormalize | None]:
    """The algorithm and the statistics that were saved in the same instant."""
    folder, files = report.path.parent, report.metadata.checkpoint
    assert files is not None
    assert files.algorithm_file is not None
    statistics = load_statistics(folder / files.statistics_file.name) if files.statistics_file else None
    return algorithm.load(folder / files.algorithm_file.name, device="cpu"), statistics


class _Constant(BaseFeaturesExtractor):
    """Picks components by an index, and knows a number that is no parameter."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 4)
        self.index = th.tensor([2, 0, 1, 0])
        self.scale = th.tensor([1.0, -2.0, 0.5, 3.0])

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations[:, self.index] * self.scale


def test_tensors_that_are_no_parameters_are_in_the_file(tmp_path: Path) -> None:
    _assert_exported(make_model(policy_kwargs={"features_extractor_class": _Constant}), tmp_path)


# Layers -------------------------------------------------------------------------------------------------------------


class _SteepLeakyReLU(nn.LeakyReLU):
    def __init__(self) -> None:
        super().__init__(negative_slope=0.3)


@pytest.mark.parametrize(
    "activation_fn", [nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU, _SteepLeakyReLU, nn.Mish, nn.Softplus]
)
def test_activations_are_those_of_torch(activation_fn: type[nn.Module], tmp_path: Path) -> None:
    _assert_exported(make_model(policy_kwargs={"activation_fn": activation_fn}), tmp_path)


@pytest.mark.parametrize(
    ("algorithm", "net_arch"),
    [
        (PPO, []),
        (PPO, {"pi": [8], "vf": [32, 4]}),
        (PPO, {"pi": [], "vf": [8]}),
        (SAC, {"pi": [8, 5], "qf": [6]}),
        (SAC, []),
    ],
    ids=["PPO without layers", "PPO with two nets", "PPO with a critic alone", "SAC with two nets", "SAC without"],
)
def test_networks_of_any_size_are_exported(algorithm: Any, net_arch: Any, tmp_path: Path) -> None:
    _assert_exported(make_model(algorithm, policy_kwargs={"net_arch": net_arch}), tmp_path)


def _tie(model: BaseAlgorithm) -> None:
    net: Any = model.policy.mlp_extractor
    net.policy_net[2].weight = net.value_net[2].weight = net.policy_net[4].weight


def _norm_weights(model: BaseAlgorithm) -> None:
    net: Any = model.policy.mlp_extractor
    weight_norm(net.policy_net[0])
    weight_norm(net.policy_net[2], dim=1)
    with th.no_grad():
        net.policy_net[2].parametrizations.weight.original0.mul_(1.5)


@pytest.mark.parametrize("change", [_tie, _norm_weights], ids=["tied weights", "weight norm"])
def test_weights_that_are_not_plain_are_exported(change: Callable[[BaseAlgorithm], None], tmp_path: Path) -> None:
    model = make_model(policy_kwargs={"net_arch": [16, 16, 16]})
    plain = _actions(model)
    change(model)
    exported = _assert_exported(model, tmp_path)
    assert np.abs(_actions(exported) - plain).max() > 1e-2


def test_tied_weights_stay_tied_when_training_goes_on(tmp_path: Path) -> None:
    model = make_model(policy_kwargs={"net_arch": [16, 16, 16]})
    _tie(model)
    _assert_exported(model, tmp_path)
    model.learn(32)
    _assert_exported(model, tmp_path)


# What is refused ----------------------------------------------------------------------------------------------------


class _OwnPredict(ActorCriticPolicy):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        action, state = super().predict(*args, **kwargs)
        return -action, state


class _OwnPredictSAC(SACPolicy):
    predict = _OwnPredict.predict


@pytest.mark.parametrize(("algorithm", "policy"), [(PPO, _OwnPredict), (SAC, _OwnPredictSAC)])
def test_a_policy_with_its_own_predict_is_refused(algorithm: Any, policy: Any, tmp_path: Path) -> None:
    message = (
        f"Cannot export {policy.__qualname__}: it overrides predict(), and what it does there would be missing from "
        "the file. Move that code into _predict(), which is traced."
    )
    with pytest.raises(UnsupportedPolicyError, match=f"^{re.escape(message)}$") as raised:
        export_policy(make_model(algorithm, policy=policy), tmp_path / "policy")
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, TypeError)
    assert not list(tmp_path.iterdir())


class _OwnObservation(ActorCriticPolicy):
    def obs_to_tensor(self, observation: Any) -> Any:
        return super().obs_to_tensor(np.where(np.abs(observation - 0.5) < 1e-3, np.float32(0), observation))


class _OwnUnscaling(ActorCriticPolicy):
    def unscale_action(self, scaled_action: Any) -> Any:
        return super().unscale_action(np.where(np.abs(scaled_action - 0.5) < 1e-3, 0, scaled_action))


class _ShieldedPPO(PPO):
    """Takes no action in some few places, of which the proof need not see any."""

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        action, state = super().predict(observation, *args, **kwargs)
        risky = np.abs(np.asarray(observation)[..., :1] - 0.5) < 1e-3
        return np.where(risky, np.float32(0), action), state


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"policy": _OwnObservation}, r"_OwnObservation: it overrides obs_to_tensor\(\)"),
        ({"policy": _OwnUnscaling}, r"_OwnUnscaling: it overrides unscale_action\(\)"),
        ({"algorithm": _ShieldedPPO}, r"_ShieldedPPO: it overrides predict\(\)"),
    ],
)
def test_what_predict_does_around_the_policy_is_refused_where_it_is_changed(
    kwargs: Any, named: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedPolicyError, match=named):
        export_policy(make_model(**kwargs), tmp_path / "policy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("owner", ["model", "policy"])
def test_what_is_changed_after_the_first_export_is_refused_too(owner: str) -> None:
    model: Any = make_model(policy_kwargs={"features_extractor_class": _Normalizing})
    exporter = Exporter(model, Normalization(vec_normalize=None), ExportOptions())
    exporter.export()
    changed = model if owner == "model" else model.policy
    changed.predict = functools.partial(type(changed).predict, changed)
    with pytest.raises(UnsupportedPolicyError, match=r"it overrides predict\(\)"):
        exporter.export()


class _BranchingPolicy(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return super()._predict(-observation if observation.sum() > 0 else observation, deterministic)


class _LeavingTorch(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return th.as_tensor(super()._predict(observation, deterministic).numpy() * 2)


class _BranchingExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations if bool((observations > 0).any()) else 2 * observations


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"policy": _BranchingPolicy}, "_BranchingPolicy"),
        ({"policy": _LeavingTorch}, "_LeavingTorch"),
        ({"policy_kwargs": {"features_extractor_class": _BranchingExtractor}}, "ActorCriticPolicy"),
    ],
    ids=["policy", "numpy", "features extractor"],
)
def test_a_policy_that_cannot_be_traced_is_refused(kwargs: Any, name: str, tmp_path: Path) -> None:
    match = (
        rf"^{name} cannot be traced: .+ "
        r"Its _predict\(\) must be made of torch operations, without branches on the values of tensors\.$"
    )
    with pytest.raises(GraphError, match=match) as raised:
        export_policy(make_model(**kwargs), tmp_path / "policy")
    assert isinstance(raised.value, ClankerError)
    assert isinstance(raised.value, RuntimeError)
    assert not list(tmp_path.iterdir())


class _Stateful(ActorCriticPolicy):
    """Does something else at each call, which no graph can do."""

    n_calls: int = 0

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        self.n_calls += 1
        return super()._predict(observation * (1 + self.n_calls % 7), deterministic)


class _Noisy(ActorCriticPolicy):
    """Is random even where it should not be."""

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return super()._predict(observation, deterministic) + 0.01 * th.randn(1, 1)


@pytest.mark.parametrize("policy", [_Stateful, _Noisy])
def test_a_policy_that_is_no_function_of_its_observation_is_never_written(policy: Any, tmp_path: Path) -> None:
    with pytest.raises(ClankerError):
        export_policy(make_model(policy=policy), tmp_path / "policy")
    assert not list(tmp_path.iterdir())


class _OtherwiseAlone(BaseFeaturesExtractor):
    """Sees a single observation with other eyes than a batch, which no graph can say."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, features_dim=3)
        self.flatten = nn.Flatten()

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features: th.Tensor = self.flatten(observations)
        return features if observations.shape[0] > 1 else 2.0 * features


def test_a_policy_that_acts_otherwise_on_one_observation_alone_is_refused(tmp_path: Path) -> None:
    model = make_model(policy_kwargs={"features_extractor_class": _OtherwiseAlone})
    with pytest.raises(ClankerError, match="cross_check"):
        export_policy(model, tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_was_refused_is_not_taken_for_proven_at_the_next_export() -> None:
    model = make_model(policy_kwargs={"features_extractor_class": _OtherwiseAlone})
    exporter = Exporter(model, Normalization(vec_normalize=None), OPTIONS)
    for _ in range(3):
        with pytest.raises(ValidationError, match="stage cross_check"):
            exporter.export()
