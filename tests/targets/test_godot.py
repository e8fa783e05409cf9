"""Files for the plugin of godot_rl_agents, fed and read as it does, against Stable-Baselines3's own ``predict``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from msgspec.structs import replace
from onnx import helper, numpy_helper
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import (
    ExportOptions,
    OnnxCheckpointCallback,
    OnnxPolicy,
    PolicyMetadata,
    check_target,
    export_policy,
    read_metadata,
)
from sb3_clanker.cli.main import main
from sb3_clanker.errors import MetadataError, TargetError, ValidationError
from sb3_clanker.export.calls import validate_policy
from sb3_clanker.policy_file.reading import parse
from sb3_clanker.policy_file.seal import stamp
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.proof.stages import prove
from sb3_clanker.proof.subject import Subject
from sb3_clanker.runtime.check_vectors import check_vectors
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.writers.formats import FORMATS
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, assert_same_actions, draw, make_env, make_model, predict_raw

OPTIONS = ExportOptions(target="godot")
UNIT = spaces.Box(-1.0, 1.0, (2,), np.float32)
KEYS = spaces.Dict(
    {
        "obs": spaces.Box(-10.0, 10.0, (3,), np.float32),
        "goal": spaces.Box(-10.0, 10.0, (3,), np.float32),
        "grid": spaces.Box(-2.0, 2.0, (2, 3), np.float32),
        "mode": spaces.Discrete(3),
    }
)


class Plugin:
    """What ``ONNXInference.cs``, ``ONNX_wrapper.gd`` and ``sync.gd`` do with a file; see ``targets/godot.py``.

    :param action_space: what ``get_action_space()`` returns: type and size of each action, by name
    """

    def __init__(self, path: Path, action_space: Mapping[str, tuple[str, int]]) -> None:
        self._session = onnxruntime.InferenceSession(str(path))
        self._action_space = action_space
        (width,) = (output.shape[1] for output in self._session.get_outputs() if output.name == "output")
        self._means_only = all(kind == "continuous" for kind, _ in action_space.values()) and width == sum(
            size for _, size in action_space.values()
        )

    def act(self, observation: Mapping[str, list[float]]) -> dict[str, Any]:
        """One step of one agent, from what ``get_obs()`` returns to what ``set_action()`` gets."""
        feed = {"state_ins": np.array([1.0], np.float32)}
        for key, row in observation.items():
            feed[key] = np.array(row, np.float32).reshape(1, len(row))
        output, state_outs = self._session.run(["output", "state_outs"], feed)
        assert output.dtype == state_outs.dtype == np.float32
        action: dict[str, Any] = {}
        numbers, first = output.ravel().tolist(), 0
        for name, (kind, size) in self._action_space.items():
            if kind == "discrete":
                largest, chosen = 0.0, 0
                for index in range(size):
                    if numbers[first + index] > largest:
                        largest, chosen = numbers[first + index], index
                action[name] = chosen
                first += size
            else:
                action[name] = [min(max(number, -1.0), 1.0) for number in numbers[first : first + size]]
                first += size if self._means_only else 2 * size
        return action


def _get_obs(observation: Any) -> dict[str, list[float]]:
    """An observation as a game gives it: flat arrays by key."""
    keyed = observation if isinstance(observation, dict) else {"obs": observation}
    return {key: np.asarray(value).ravel().tolist() for key, value in keyed.items()}


def _get_action_space(space: Any) -> dict[str, tuple[str, int]]:
    if isinstance(space, spaces.Box):
        return {"move": ("continuous", 1), "turn": ("continuous", int(np.prod(space.shape)) - 1)}
    sizes = [2] * space.shape[0] if isinstance(space, spaces.MultiBinary) else getattr(space, "nvec", None)
    return {f"part {i}": ("discrete", int(n)) for i, n in enumerate([space.n] if sizes is None else sizes)}


def _assert_plays(path: Path, model: BaseAlgorithm, n: int = 100) -> None:
    """The plugin does what Stable-Baselines3 does on the raw observation, and not always the same."""
    plugin, rng = Plugin(path, _get_action_space(model.action_space)), np.random.default_rng(3)
    normalize: Any = model.get_vec_normalize_env()
    actions = []
    for _ in range(n):
        observation = draw(normalize.venv.observation_space if normalize else model.observation_space, rng)
        expected = predict_raw(model, observation, normalize)
        got = np.concatenate([np.ravel(part) for part in plugin.act(_get_obs(observation)).values()])
        np.testing.assert_allclose(got, np.ravel(expected), rtol=1e-5, atol=1e-5)
        actions.append(got)
    assert len(np.unique(np.stack(actions), axis=0)) > 1


def _negative(model: BaseAlgorithm) -> BaseAlgorithm:
    """Move all logits or Q-values far below zero, which changes no choice."""
    policy: Any = model.policy
    layer = policy.action_net if hasattr(policy, "action_net") else policy.q_net.q_net[-1]
    with th.no_grad():
        layer.bias -= 100.0
    return model


MODELS: Mapping[str, Callable[[], BaseAlgorithm]] = {
    "Box": lambda: make_model(PPO, action_space=UNIT, normalize=True),
    "Box (2, 3)": lambda: make_model(PPO, action_space=spaces.Box(-1.0, 1.0, (2, 3))),
    "SAC": lambda: make_model(SAC, action_space=UNIT, normalize=True),
    "Discrete": lambda: _negative(make_model(PPO, action_space=spaces.Discrete(4), normalize=True)),
    "DQN": lambda: _negative(make_model(DQN, action_space=spaces.Discrete(4))),
    "MultiDiscrete": lambda: _negative(make_model(PPO, action_space=spaces.MultiDiscrete([3, 2, 4]))),
    "MultiBinary": lambda: make_model(PPO, action_space=spaces.MultiBinary(3)),
    "matrix": lambda: make_model(PPO, KEYS["grid"], UNIT, normalize=True),
    "Dict": lambda: make_model(PPO, KEYS, spaces.MultiDiscrete([3, 2]), policy="MultiInputPolicy"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_plugin_does_what_the_policy_does(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    model.learn(32)
    path = tmp_path / "policy.onnx"
    report = export_policy(model, path, options=OPTIONS)
    assert check_target(read_metadata(path), "godot").accepts
    _assert_plays(path, model)
    normalize: Any = model.get_vec_normalize_env()
    space = normalize.venv.observation_space if normalize else model.observation_space
    policy = OnnxPolicy(path)
    assert_same_actions(
        lambda raw: policy.predict(raw)[0], lambda raw: predict_raw(model, raw, normalize), space, model.action_space
    )
    check = report.validation.cross_check
    assert check is not None
    assert (check.n_mismatches, check.max_score_difference is None) == (0, False)
    assert validate_policy(path, model).passed


def test_some_keys_are_normalized(tmp_path: Path) -> None:
    env = VecNormalize(make_env(KEYS, UNIT), norm_obs_keys=["grid", "goal"])
    model = make_model(PPO, env=env, policy="MultiInputPolicy")
    model.learn(32)
    _assert_plays(export_policy(model, tmp_path / "policy.onnx", options=OPTIONS).path, model)


def test_weights_of_a_training_go_into_the_file(tmp_path: Path) -> None:
    model = make_model(PPO, KEYS, spaces.Discrete(4), policy="MultiInputPolicy")
    callback = OnnxCheckpointCallback(tmp_path, save_freq=16, save_final=True, options=OPTIONS, on_error="raise")
    model.learn(64, callback=callback)
    assert len(list(tmp_path.glob("rl_model_*.onnx"))) == 4
    _assert_plays(tmp_path / "final_model.onnx", model)


# What the file says ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> BaseAlgorithm:
    return make_model(PPO, KEYS, spaces.MultiDiscrete([3, 2]), policy="MultiInputPolicy")


@pytest.fixture(scope="module")
def path(model: BaseAlgorithm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(target="godot", further_outputs=("distribution",), test_vectors=8)
    return export_policy(model, tmp_path_factory.mktemp("godot") / "policy.onnx", options=options).path


def test_the_record_says_names_and_layouts(path: Path) -> None:
    metadata = read_metadata(path)
    assert [(spec.name, spec.key, spec.shape, spec.dtype, spec.role) for spec in metadata.inputs] == [
        ("goal", "goal", ("batch", 3), "float32", "observation"),
        ("grid", "grid", ("batch", 6), "float32", "observation"),
        ("mode", "mode", ("batch", 1), "float32", "observation"),
        ("obs", "obs", ("batch", 3), "float32", "observation"),
        ("state_ins", None, ("batch",), "float32", "unused"),
    ]
    assert [(spec.name, spec.shape, spec.role) for spec in metadata.outputs] == [
        ("output", ("batch", 5), "action"),
        ("state_outs", ("batch",), "unused"),
        ("action_logits", ("batch", 5), "further"),
    ]
    assert metadata.inputs[1].meaning == "raw observation, flattened in row-major order"
    assert metadata.outputs[0].meaning.startswith("1 for each choice that is made, 0 for the others")
    entries = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert set(entries) == {"sb3_clanker", "sb3_clanker_seal"}  # it does not keep the clanker policy contract


def test_a_key_too_many_and_another_width_are_errors_in_the_plugin(path: Path) -> None:
    plugin = Plugin(path, {"choice": ("discrete", 3), "other": ("discrete", 2)})
    observation = _get_obs(draw(KEYS, np.random.default_rng(0)))
    assert plugin.act(observation).keys() == {"choice", "other"}
    for wrong in (observation | {"camera_2d": [0.0]}, observation | {"goal": [0.0]}):
        with pytest.raises(Exception, match=r"(?i)invalid"):
            plugin.act(wrong)


def test_a_batch_is_taken_and_the_state_comes_out_again(path: Path) -> None:
    session = onnxruntime.InferenceSession(str(path))
    feed = {spec.name: np.zeros((7, *spec.shape[1:]), np.float32) for spec in session.get_inputs()}
    feed["state_ins"] = np.arange(7, dtype=np.float32)
    output, state_outs = session.run(["output", "state_outs"], feed)
    assert output.shape == (7, 5)
    np.testing.assert_array_equal(state_outs, feed["state_ins"])
    np.testing.assert_array_equal(output.sum(axis=1), 2.0)


def test_test_vectors_and_samples_are_those_of_the_dialect(path: Path) -> None:
    policy, vectors = OnnxPolicy(path), read_vectors(path.with_suffix(".vectors.json"))
    assert check_vectors(policy, vectors).n_cases == 8
    assert {tuple(case.outputs["state_outs"]) for case in vectors.cases} == {(0.0,)}
    assert all(sorted(case.outputs["output"]) == [0, 0, 0, 1, 1] for case in vectors.cases)
    observation = {key: np.repeat(values[None], 50, 0) for key, values in draw(KEYS, np.random.default_rng(0)).items()}
    samples, _ = policy.predict({**observation, "mode": np.zeros(50, np.int64)}, deterministic=False)
    assert samples.shape == (50, 2)
    assert (samples.max(axis=0) < (3, 2)).all()
    assert len(np.unique(samples, axis=0)) > 1


def test_inspect_says_what_the_game_must_keep(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(path), "--target", "godot"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "godot takes it",
        "note: get_obs() must return flat arrays, row by row, and no other keys: goal (3 numbers), grid (6 numbers), "
        "mode (1 numbers), obs (3 numbers)",
        "note: a plugin from before April 2025 feeds the key obs alone",
        "note: get_action_space() must have discrete actions of the sizes 3, 2, in the order of the training",
    ]
    assert main(["inspect", str(path), "--target", "clankers"]) == 1
    assert "of the outputs output, state_outs, action_logits, not exactly one is the action" in capsys.readouterr().err
    newer = replace(read_metadata(path), opset_version=20)
    assert "onnxruntime 1.15, which takes opsets up to 19" in check_target(newer, "godot").notes[-1]


# What is refused ------------------------------------------------------------------------------------------------------

REFUSED: Mapping[str, tuple[Callable[[], BaseAlgorithm], str]] = {
    "recurrent": (
        lambda: make_model(RecurrentPPO, action_space=UNIT, policy="MlpLstmPolicy"),
        "the policy is recurrent, and the plugin carries no state from step to step",
    ),
    "maskable": (
        lambda: make_model(MaskablePPO, action_space=spaces.Discrete(3)),
        "the policy takes action_masks, and the plugin feeds none",
    ),
    "image": (
        lambda: make_model(DQN, spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Discrete(3), policy="CnnPolicy"),
        r"obs uint8 \[batch, 3, 36, 36\] is an image, and the plugin feeds rows of numbers: its camera gives a string",
    ),
    "large actions": (
        lambda: make_model(PPO, action_space=BOX_ACTION),
        "actions reach from -1 to 2, and the plugin clamps them to -1 and 1: train on actions from -1 to 1",
    ),
    "a key that is taken": (
        lambda: make_model(
            PPO, spaces.Dict({"state_ins": BOX_OBSERVATION, "b": BOX_OBSERVATION}), UNIT, policy="MultiInputPolicy"
        ),
        "the observation key 'state_ins' would be the input obs_state_ins, and the plugin feeds 'state_ins'",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_plugin_cannot_take_is_refused(kind: str, tmp_path: Path) -> None:
    make, text = REFUSED[kind]
    with pytest.raises(TargetError, match=f"^godot does not take this policy: {text}"):
        export_policy(make(), tmp_path / "policy.onnx", options=OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_contract_is_not_taken(tmp_path: Path) -> None:
    report = export_policy(make_model(PPO, KEYS["grid"], UNIT), tmp_path / "policy.onnx")
    assert check_target(report.metadata, "godot").problems == (
        "obs float32 [batch, 2, 3] is not float32 [batch, n]: export with ExportOptions(target='godot')",
        "the outputs are action, and the plugin reads output and state_outs: export with ExportOptions(target='godot')",
    )


# Sabotage -------------------------------------------------------------------------------------------------------------


def _prove(path: Path, model: BaseAlgorithm, tamper: Callable[[onnx.GraphProto], None]) -> None:
    """Prove the file again, after tampering with its graph."""
    proto, metadata = onnx.load(path), read_metadata(path)
    del proto.metadata_props[:]
    tamper(proto.graph)
    data, writer = stamp(proto.SerializeToString(), metadata), FORMATS[".onnx"]
    options = ExportOptions(target="godot", further_outputs=("distribution",))
    with Subject(model, Normalization(vec_normalize=None), options).now() as now:
        prove(writer, writer.reopen(data), metadata, now.reference(), now.probes, options, in_full=True)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values inside, but not the inputs and outputs themselves."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _swap_keys(graph: onnx.GraphProto) -> None:
    _rename(graph, {"obs": "goal", "goal": "obs"})


def _swap_choices(graph: onnx.GraphProto) -> None:
    _rename(graph, {"output": "/output"})
    graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 2, 4, 3]), "/order"))
    graph.node.append(helper.make_node("Gather", ["/output", "/order"], ["output"], axis=1))


def _logits_in_their_place(graph: onnx.GraphProto) -> None:
    """All of them are negative, so that the plugin takes the first choice."""
    _rename(graph, {"output": "/output"})
    graph.node.append(helper.make_node("Identity", ["action_logits"], ["output"]))


def test_an_untouched_file_is_proven_again(path: Path, model: BaseAlgorithm) -> None:
    _prove(path, model, lambda _: None)


@pytest.mark.parametrize("tamper", [_swap_keys, _swap_choices, _logits_in_their_place])
def test_a_file_that_the_plugin_would_misread_is_refused(
    tamper: Callable[[onnx.GraphProto], None], path: Path, model: BaseAlgorithm
) -> None:
    with pytest.raises(ValidationError, match=r"at the stage cross_check: .* disagree: .* mismatches"):
        _prove(path, model, tamper)


def test_a_file_without_the_names_of_the_plugin_is_refused(path: Path, model: BaseAlgorithm) -> None:
    def call_it_action(graph: onnx.GraphProto) -> None:
        _rename(graph, {"output": "action"})
        graph.output[0].name = "action"

    with pytest.raises(ValidationError, match=r"at the stage contract: outputs are .*'action'.*, expected .*'output'"):
        _prove(path, model, call_it_action)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: replace(m, outputs=(m.outputs[0], *m.outputs[2:])), "outputs: they do not give back what goes in"),
        (
            lambda m: replace(m, outputs=(replace(m.outputs[0], shape=("batch", 2)), *m.outputs[1:])),
            "outputs: the first",
        ),
        (
            lambda m: replace(m, inputs=(*m.inputs[:4], replace(m.inputs[4], shape=("batch", 1)))),
            "inputs: 'state_ins' is",
        ),
        (lambda m: replace(m, inputs=(replace(m.inputs[0], shape=("batch", 2)), *m.inputs[1:])), "inputs: 'goal' is"),
    ],
)
def test_a_record_that_does_not_fit_the_dialect_is_refused(
    change: Callable[[PolicyMetadata], PolicyMetadata], text: str, path: Path
) -> None:
    proto = onnx.load(path)
    del proto.metadata_props[:]
    with pytest.raises(MetadataError, match=text):
        parse(stamp(proto.SerializeToString(), change(read_metadata(path))))
