"""policy_module: the whole of predict as a torch module of its own, which leaves the policy alone.

``tests/integration/test_support_table.py`` holds it against Stable-Baselines3 on every row.
"""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.torch_layers import BatchRenorm1d
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch.distributions import Distribution

from sb3_clanker import ExportOptions, OnnxPolicy, PolicyModule, export_policy, policy_module
from sb3_clanker.errors import (
    MissingFileError,
    NonFiniteWeightsError,
    NormalizationError,
    ObservationError,
    OptionError,
    PrecisionError,
    TargetError,
    UnknownNormalizationWarning,
    UnsupportedPolicyError,
    UnsupportedWrapperError,
)
from sb3_clanker.sb3.distributions import unchecked
from tests.support import IMAGE
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, draw, make_env, make_model, predict_raw
from tests.wrappers import Scale

DISCRETE = spaces.Discrete(3)
KINDS: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "PPO": (PPO, {"normalize": True}),
    "gSDE": (PPO, {"use_sde": True}),
    "SAC": (SAC, {}),
    "TD3": (TD3, {}),
    "CrossQ": (CrossQ, {}),
    "DQN": (DQN, {"action_space": DISCRETE}),
    "MaskablePPO": (MaskablePPO, {"action_space": spaces.MultiDiscrete([3, 2])}),
    "RecurrentPPO": (RecurrentPPO, {"policy": "MlpLstmPolicy"}),
}


def _trained(kind: str) -> BaseAlgorithm:
    algorithm, kwargs = KINDS[kind]
    model = make_model(algorithm, **kwargs)
    model.learn(40)
    return model


def _reached_from(thing: object, found: dict[int, object]) -> None:
    """Everything that a pickle of a thing would hold."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> None:
            found[id(obj)] = obj

    Pickler(io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump(thing)


def _act(module: PolicyModule, observations: Any) -> np.ndarray:
    action: np.ndarray = module(th.as_tensor(observations))[0].numpy()
    return action


@pytest.mark.parametrize("kind", KINDS)
def test_it_holds_nothing_of_the_training(kind: str) -> None:
    model = _trained(kind)
    module = policy_module(model)
    found: dict[int, object] = {}
    _reached_from(module, found)
    foreign = (BaseAlgorithm, BaseBuffer, VecEnv, th.optim.Optimizer)
    assert not [thing for thing in found.values() if isinstance(thing, foreign)]
    live = {tensor.untyped_storage().data_ptr() for tensor in model.policy.state_dict().values()}
    own = [tensor for tensor in found.values() if isinstance(tensor, th.Tensor) and tensor.numel()]
    assert not live & {tensor.untyped_storage().data_ptr() for tensor in own}
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    names = " ".join(module.state_dict())
    assert not [name for name in ("critic", "target", "value_net", "vf_", "qf") if name in names]


def test_a_critic_stays_where_its_value_was_asked_for() -> None:
    model = _trained("PPO")
    options = ExportOptions(further_outputs=("value", "distribution"))
    module = policy_module(model, options=options)
    assert [spec.name for spec in module.outputs] == ["action", "value", "action_mean", "action_std"]
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 7)
    policy: Any = model.policy
    with th.no_grad():
        expected = policy.predict_values(th.as_tensor(vec_normalize.normalize_obs(observations)))
    np.testing.assert_allclose(module(th.as_tensor(observations))[1].numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["PPO", "SAC", "MaskablePPO", "RecurrentPPO"])
def test_the_training_is_the_one_without_it_bit_for_bit(kind: str) -> None:
    weights = []
    for makes_modules in (False, True):
        algorithm, kwargs = KINDS[kind]
        model = make_model(algorithm, **kwargs)
        for _ in range(2):
            model.learn(32, reset_num_timesteps=False)
            model.policy.train()
            if makes_modules:
                module = policy_module(model)
                module(*module.example_inputs())
                assert model.policy.training
        drawn = th.rand(1), np.random.rand(), model.action_space.sample()  # noqa: NPY002
        weights.append((model.policy.state_dict(), drawn))
    (plain, drawn), (observed, drawn_too) = weights
    assert str(drawn) == str(drawn_too)
    assert all(th.equal(plain[name], observed[name]) for name in plain)


def test_it_stays_as_it_was_when_training_goes_on() -> None:
    model = _trained("PPO")
    vec_normalize = model.get_vec_normalize_env()
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 20)
    module, before = policy_module(model), predict_raw(model, observations, vec_normalize)
    model.learn(64, reset_num_timesteps=False)
    with th.no_grad():
        model.policy.get_parameter("action_net.bias").add_(1.0)
    np.testing.assert_allclose(_act(module, observations), before, atol=1e-5)
    assert np.abs(predict_raw(model, observations, vec_normalize) - before).max() > 0.1


def test_training_mode_changes_neither_actions_nor_running_statistics() -> None:
    model = _trained("CrossQ")
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 20)
    module = policy_module(model)
    expected = predict_raw(model, observations, None)
    assert any(isinstance(part, BatchRenorm1d) for part in module.modules())
    th.nn.Sequential(module).train()
    for _ in range(2):
        np.testing.assert_allclose(_act(module, observations), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_pickled_copied_and_exported_in_any_order(kind: str) -> None:
    module = policy_module(_trained(kind))
    inputs = module.example_inputs(7)
    expected = module(*inputs)
    with warnings.catch_warnings():
        if kind == "RecurrentPPO":  # its LSTM keeps a list of its weights, which torch puts back
            warnings.filterwarnings("ignore", "The tensor attributes .*_flat_weights")
        program = th.export.export(module, module.example_inputs(), dynamic_shapes=module.dynamic_shapes())
    exported = program.module()
    saved = io.BytesIO()
    th.save(module, saved)
    saved.seek(0)
    loaded = th.load(saved, weights_only=False)
    assert isinstance(loaded, PolicyModule)
    assert (loaded.inputs, loaded.outputs) == (module.inputs, module.outputs)
    for other in (exported, loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        for got, wanted, spec in zip(other(*inputs), expected, module.outputs, strict=True):
            assert got.shape == tuple(7 if dim == "batch" else dim for dim in spec.shape)
            assert th.allclose(got, wanted, atol=1e-6)


def test_it_takes_what_a_file_takes(tmp_path: Path) -> None:
    """Inputs and outputs are those of an exported file, and OnnxPolicy makes the inputs of an observation."""
    space = spaces.Dict({"camera": IMAGE, "joints": spaces.Box(-3.0, 3.0, (4,)), "two words": spaces.Discrete(3)})
    model = make_model(observation_space=space, policy="MultiInputPolicy")
    options = ExportOptions(channels_last=True, further_outputs=("distribution",), action_names=("x", "y"))
    policy = OnnxPolicy(export_policy(model, tmp_path / "policy", options=options).path)
    module = policy_module(model, options=options)
    assert module.inputs == policy.metadata.inputs
    assert module.outputs == policy.metadata.outputs
    raw = draw(space, np.random.default_rng(0), 7)
    inputs = policy.inputs(raw)
    assert inputs["camera"].shape == (7, 36, 36, 3)
    action = module(*(th.as_tensor(inputs[spec.name]) for spec in module.inputs))[0]
    np.testing.assert_allclose(action.numpy(), predict_raw(model, raw), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [0, -1, 1.0, True, None, "2"])
def test_a_batch_is_a_positive_integer(batch: Any) -> None:
    with pytest.raises(OptionError, match=r"batch=.* cannot be used: .* a positive integer"):
        policy_module(make_model()).example_inputs(batch)


def test_example_inputs_are_of_the_types_and_shapes_of_the_inputs() -> None:
    module = policy_module(_trained("MaskablePPO"))
    assert [(str(tensor.dtype), tuple(tensor.shape)) for tensor in module.example_inputs(1)] == [
        ("torch.float32", (1, 3)),
        ("torch.bool", (1, 5)),
    ]


# What is refused -----------------------------------------------------------------------------------------------------


class _OwnPredict(ActorCriticPolicy):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        action, state = super().predict(*args, **kwargs)
        return -action, state


class _Raising(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        raise RuntimeError("no camera")


def _diverged() -> BaseAlgorithm:
    model = make_model()
    with th.no_grad():
        model.policy.get_parameter("action_net.bias").fill_(float("nan"))
    return model


def _wrapped() -> BaseAlgorithm:
    return make_model(env=Scale(make_env(BOX_OBSERVATION, BOX_ACTION, normalize=True)))


def _far() -> BaseAlgorithm:
    model = make_model(observation_space=spaces.Box(-np.inf, np.inf, (3,), np.float64), normalize=True)
    vec_normalize: Any = model.get_vec_normalize_env()
    vec_normalize.obs_rms.mean, vec_normalize.obs_rms.var = np.full(3, 1e6), np.full(3, 1e-12)
    return model


def _uncopyable() -> BaseAlgorithm:
    model = make_model()
    model.policy.log = (n for n in range(3))  # type: ignore[assignment]
    return model


REFUSED: dict[str, tuple[type[Exception], Any, dict[str, Any]]] = {
    "no algorithm": (UnsupportedPolicyError, object, {}),
    "own predict": (UnsupportedPolicyError, lambda: make_model(policy=_OwnPredict), {}),  # type: ignore[arg-type]
    "uncopyable": (UnsupportedPolicyError, _uncopyable, {}),
    "wrapper": (UnsupportedWrapperError, _wrapped, {}),
    "diverged": (NonFiniteWeightsError, _diverged, {}),
    "precision": (PrecisionError, _far, {}),
    "no such statistics": (MissingFileError, make_model, {"vec_normalize": "nowhere.pkl"}),
    "no such source": (OptionError, make_model, {"vec_normalize": 7}),
    "no such option": (OptionError, make_model, {"options": {"opset": 17}}),
    "no such output": (OptionError, make_model, {"options": {"further_outputs": ["q_values"]}}),
    "target": (TargetError, lambda: make_model(RecurrentPPO, policy="MlpLstmPolicy"), {"options": {"target": "godot"}}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_file_can_be_made_of_is_refused_in_the_same_words(what: str, tmp_path: Path) -> None:
    error, make, kwargs = REFUSED[what]
    model = make()
    with pytest.raises(error) as of_a_file:
        export_policy(model, tmp_path / "policy", **kwargs)
    with pytest.raises(error) as of_a_module:
        policy_module(model, **kwargs)
    assert str(of_a_module.value) == str(of_a_file.value)
    assert type(of_a_module.value) is type(of_a_file.value)


def test_a_policy_whose_own_code_fails_is_refused() -> None:
    with pytest.raises(UnsupportedPolicyError, match="RuntimeError: no camera"):
        policy_module(make_model(policy=_Raising))  # type: ignore[arg-type]


def test_statistics_of_another_policy_are_refused() -> None:
    other = VecNormalize(make_env(spaces.Box(-1.0, 1.0, (5,)), BOX_ACTION))
    with pytest.raises(NormalizationError, match=r"have the shape \(5,\), and the policy observes \(3,\)"):
        policy_module(make_model(), vec_normalize=other)


def test_a_loaded_model_is_warned_of(tmp_path: Path) -> None:
    model = _trained("PPO")
    model.save(tmp_path / "model")
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    vec_normalize.save(str(tmp_path / "statistics.pkl"))
    loaded = PPO.load(tmp_path / "model", device="cpu")
    with pytest.warns(UnknownNormalizationWarning, match="It is unknown whether this policy was trained with"):
        unknown = policy_module(loaded)
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 20)
    module = policy_module(loaded, vec_normalize=tmp_path / "statistics.pkl")
    np.testing.assert_allclose(_act(module, observations), predict_raw(model, observations, vec_normalize), atol=1e-5)
    np.testing.assert_allclose(_act(unknown, observations), predict_raw(loaded, observations), atol=1e-5)


# The checks of distributions -----------------------------------------------------------------------------------------


def test_checks_are_off_while_any_thread_needs_it_and_on_afterwards() -> None:
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with unchecked():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    with unchecked():
        leave.set()
        thread.join()
        off = Distribution._validate_args
    assert (off, Distribution._validate_args) == (False, True)


def test_nan_in_gives_nan_out_as_in_a_file_and_checks_are_on_again() -> None:
    module = policy_module(_trained("PPO"))
    assert _act(module, np.full((2, 3), np.nan, np.float32)).shape == (2, 2)
    assert np.isnan(_act(module, np.full((2, 3), np.nan, np.float32))).all()
    assert Distribution._validate_args


@pytest.mark.parametrize("n_inputs", [0, 1, 3])
def test_inputs_are_counted(n_inputs: int) -> None:
    module = policy_module(_trained("MaskablePPO"))
    inputs = (*module.example_inputs(), th.zeros(2))[:n_inputs]
    with pytest.raises(ObservationError, match=f"takes the inputs obs, action_masks, got {n_inputs}"):
        module(*inputs)
    assert Distribution._validate_args
