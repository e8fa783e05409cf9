"""Test vectors hold what Stable-Baselines3's own predict gives, on observations that tell something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_clanker import ExportOptions, OnnxPolicy, PolicyMetadata, export_policy
from sb3_clanker.errors import NoVectorsWarning
from sb3_clanker.policy_file.vectors import TestVectors, VectorCase, read_vectors
from sb3_clanker.runtime.check_vectors import check_vectors
from tests.support import ACTIONS, OBSERVATIONS
from tests.worlds import make_model, spread

N = 12


@dataclass(frozen=True, kw_only=True)
class Written:
    """A policy, its file and the test vectors beside it."""

    model: BaseAlgorithm
    path: Path
    metadata: PolicyMetadata
    vectors: TestVectors

    def action(self, case: VectorCase) -> np.ndarray:
        """The action of a case, flat."""
        return np.array(case.outputs["action"])


def _write(folder: Path, model: BaseAlgorithm, **options: Any) -> Written:
    model.learn(64)
    path = folder / "policy.onnx"
    metadata = export_policy(model, path, options=ExportOptions(**{"test_vectors": N} | options)).metadata
    return Written(model=model, path=path, metadata=metadata, vectors=read_vectors(path.with_suffix(".vectors.json")))


def _recurrent() -> BaseAlgorithm:
    from sb3_contrib import RecurrentPPO

    return make_model(RecurrentPPO, policy="MlpLstmPolicy", policy_kwargs={"n_lstm_layers": 2})


def _masked() -> BaseAlgorithm:
    from sb3_contrib import MaskablePPO

    return make_model(MaskablePPO, action_space=ACTIONS["MultiDiscrete"])


KINDS: dict[str, Callable[[], BaseAlgorithm]] = {
    "box": lambda: make_model(A2C, action_space=ACTIONS["large Box"]),
    "normalized": lambda: make_model(PPO, OBSERVATIONS["unbounded Box"], normalize=True),
    "squashed": lambda: make_model(SAC, action_space=ACTIONS["Box (2, 3)"]),
    "discrete": lambda: make_model(DQN, action_space=ACTIONS["Discrete"]),
    "bits": lambda: make_model(PPO, OBSERVATIONS["MultiBinary"], ACTIONS["MultiBinary"]),
    "index": lambda: make_model(PPO, OBSERVATIONS["Discrete"], ACTIONS["MultiDiscrete"]),
    "image": lambda: make_model(DQN, OBSERVATIONS["image"], ACTIONS["Discrete"], policy="CnnPolicy"),
    "dict": lambda: make_model(PPO, OBSERVATIONS["Dict"], policy="MultiInputPolicy"),
    "anything": lambda: make_model(PPO, OBSERVATIONS["Dict of anything"], policy="MultiInputPolicy"),
    "recurrent": _recurrent,
    "masked": _masked,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Written]:
    """A policy of a kind, made when it is first asked for."""
    known: dict[str, Written] = {}

    def get(kind: str) -> Written:
        if kind not in known:
            known[kind] = _write(tmp_path_factory.mktemp(kind), KINDS[kind]())
        return known[kind]

    return get


def _decoded(vectors: TestVectors, case: VectorCase) -> dict[str, np.ndarray]:
    """The inputs of the graph, as any consumer would read them."""
    return {
        spec.name: np.array(case.inputs[spec.name]).astype(spec.dtype).reshape(spec.shape) for spec in vectors.inputs
    }


def _observation(written: Written, inputs: dict[str, np.ndarray]) -> Any:
    """What the environment would have given Stable-Baselines3, a batch of one."""
    space = written.model.policy.observation_space
    leaves: dict[Any, Any] = space.spaces if isinstance(space, spaces.Dict) else {None: space}
    observed = {spec.key: inputs[spec.name] for spec in written.metadata.inputs if spec.role == "observation"}
    observation = {key: observed[key].reshape(1, *leaf.shape).astype(leaf.dtype) for key, leaf in leaves.items()}
    return observation if isinstance(space, spaces.Dict) else observation[None]


def _ask(written: Written, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, Any]:
    """Stable-Baselines3's own predict."""
    observation = _observation(written, inputs)
    context: dict[str, Any] = {}
    vec_normalize = written.model.get_vec_normalize_env()
    if vec_normalize is not None:
        observation = vec_normalize.normalize_obs(observation)
    if "h_in" in inputs:
        context = {"state": (inputs["h_in"], inputs["c_in"]), "episode_start": inputs["episode_start"].astype(bool)}
    if "action_masks" in inputs:
        context = {"action_masks": inputs["action_masks"]}
    action, state = written.model.predict(observation, deterministic=True, **context)
    return action.reshape(-1), state


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_expected_is_what_stable_baselines3_predicts(written: Callable[[str], Written], kind: str) -> None:
    file = written(kind)
    vectors = file.vectors
    assert vectors.digest == file.metadata.digest
    assert 0 < len(vectors.cases) <= N
    assert [(spec.name, spec.dtype) for spec in vectors.inputs] == [
        (spec.name, spec.dtype) for spec in file.metadata.inputs
    ]
    for case in vectors.cases:
        action, state = _ask(file, _decoded(vectors, case))
        np.testing.assert_allclose(action, file.action(case), rtol=1e-6, atol=1e-6)  # a batch sums in another order
        for name, part in zip(("h_out", "c_out"), state or (), strict=False):
            np.testing.assert_allclose(part.reshape(-1), case.outputs[name], rtol=1e-6, atol=1e-6)
    assert len({case.outputs["action"] for case in vectors.cases}) > 1, "the vectors tell no actions apart"
    assert check_vectors(OnnxPolicy(file.path), vectors).n_cases == len(vectors.cases)


def test_there_are_as_many_as_were_asked_for(written: Callable[[str], Written], tmp_path: Path) -> None:
    assert len(written("normalized").vectors.cases) == N
    assert len(_write(tmp_path, KINDS["box"](), test_vectors=1).vectors.cases) == 1


def test_none_are_written_unless_asked_for(tmp_path: Path) -> None:
    export_policy(make_model(), tmp_path / "policy.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]


def test_the_corners_of_the_space_come_first(written: Callable[[str], Written], tmp_path: Path) -> None:
    space = OBSERVATIONS["Box"]
    assert isinstance(space, spaces.Box)
    first, second, *_ = (case.inputs["obs"] for case in written("box").vectors.cases)
    assert [first, second] == [tuple(space.low.tolist()), tuple(space.high.tolist())]


def test_actions_at_their_bounds_are_among_them(written: Callable[[str], Written]) -> None:
    file = written("normalized")
    space = file.model.policy.action_space
    assert isinstance(space, spaces.Box)
    actions = np.stack([file.action(case).reshape(space.shape) for case in file.vectors.cases])
    assert (actions == space.low).any()
    assert (actions == space.high).any()
    assert ((actions > space.low) & (actions < space.high)).any()


def test_observations_that_normalization_clips_are_among_them(written: Callable[[str], Written]) -> None:
    file = written("normalized")
    vec_normalize = file.model.get_vec_normalize_env()
    assert vec_normalize is not None
    observations = np.array([case.inputs["obs"] for case in file.vectors.cases])
    normalized = vec_normalize.normalize_obs(observations)
    assert isinstance(normalized, np.ndarray)
    assert (normalized == vec_normalize.clip_obs).any()
    assert (normalized == -vec_normalize.clip_obs).any()
    assert np.abs(normalized).min() < 1


def test_a_choice_has_no_tolerance_and_a_motor_one_of_its_own(written: Callable[[str], Written]) -> None:
    (choice,) = written("discrete").vectors.outputs
    assert (choice.name, choice.atol, choice.rtol) == ("action", (0.0,), 0.0)
    (motor,) = written("box").vectors.outputs
    file = written("box")
    largest = np.abs([file.action(case) for case in file.vectors.cases]).max(axis=0)
    assert motor.rtol == 1e-5
    assert all(1e-5 <= atol <= 1e-5 * 1000 for atol in motor.atol)
    assert (np.array(motor.atol) >= 1e-5 * np.minimum(largest, 1000) * (1 - 1e-9)).all()


def test_the_state_goes_from_step_to_step_with_resets(written: Callable[[str], Written]) -> None:
    file = written("recurrent")
    cases = [(_decoded(file.vectors, case), case) for case in file.vectors.cases]
    starts = [bool(inputs["episode_start"][0]) for inputs, _ in cases]
    assert {True, False} == set(starts)
    chained = 0
    for (_, before), (inputs, _) in pairwise(cases):
        if np.allclose(inputs["h_in"].reshape(-1), before.outputs["h_out"]):
            np.testing.assert_array_equal(inputs["c_in"].reshape(-1), np.array(before.outputs["c_out"], np.float32))
            chained += 1
    assert chained > len(cases) // 2
    resets = [inputs for inputs, _ in cases if inputs["episode_start"][0]]
    assert any(np.abs(inputs["h_in"]).max() > 0 for inputs in resets), "to reset an empty state would tell nothing"


def test_masks_forbid_what_would_have_been_chosen(written: Callable[[str], Written]) -> None:
    file = written("masked")
    policy = OnnxPolicy(file.path)
    differs = 0
    for case in file.vectors.cases:
        inputs = _decoded(file.vectors, case)
        masks = inputs["action_masks"]
        assert masks.dtype == bool
        free = policy.run(inputs | {"action_masks": np.ones_like(masks)})["action"].reshape(-1)
        differs += bool((free != file.action(case)).any())
    assert differs > 0


def test_near_ties_of_scores_are_left_out(tmp_path: Path) -> None:
    """Two scores that are equal but for their last digits: no runtime can be held to either."""
    model = make_model(DQN, action_space=ACTIONS["Discrete"])
    model.learn(32)
    policy: Any = model.policy
    last = policy.q_net.q_net[-1]
    with th.no_grad():  # the first two choices tie everywhere; the third wins on some observations
        last.weight[1], last.bias[1] = last.weight[0] * (1 + 1e-7), last.bias[0]
        last.weight[3], last.bias[3] = 0.0, -1e3
    path = tmp_path / "policy.onnx"
    export_policy(model, path, options=ExportOptions(test_vectors=64))
    vectors = read_vectors(path.with_suffix(".vectors.json"))
    assert {case.outputs["action"] for case in vectors.cases} == {(2.0,)}


def test_ties_are_left_out_whatever_the_tolerance(tmp_path: Path) -> None:
    model = make_model(DQN, action_space=spaces.Discrete(2))
    policy: Any = model.policy
    last = policy.q_net.q_net[-1]
    with th.no_grad():
        last.weight[1], last.bias[1] = last.weight[0] * (1 + 1e-7), last.bias[0]
    with pytest.warns(NoVectorsWarning, match=r"^No test vectors are written: there is no observation on which the"):
        export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(test_vectors=8, atol=0.5))
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]


class _Logarithm(BaseFeaturesExtractor):
    """Not a number for half of all observations."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, features_dim=3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations.log()


def test_observations_without_a_finite_answer_are_left_out(tmp_path: Path) -> None:
    model = make_model(TD3, policy_kwargs={"features_extractor_class": _Logarithm})
    path = tmp_path / "policy.onnx"
    export_policy(model, path, options=ExportOptions(test_vectors=8))
    vectors = read_vectors(path.with_suffix(".vectors.json"))
    assert vectors.cases
    assert all(min(case.inputs["obs"]) > 0 for case in vectors.cases)


def test_sensitive_policies_are_held_to_what_they_can_keep(tmp_path: Path) -> None:
    """Wide layers with large weights: rounding shows, and every case that is left is one that the file itself keeps."""
    net = {"net_arch": [256, 256, 256]}
    for seed in (1, 11):
        model = make_model(PPO, OBSERVATIONS["unbounded Box"], scale=3.0, policy_kwargs=net)
        spread(model, 3.0, seed)
        path = tmp_path / f"{seed}.onnx"
        export_policy(model, path, options=ExportOptions(test_vectors=32))
        assert check_vectors(OnnxPolicy(path), read_vectors(path.with_suffix(".vectors.json"))).n_cases > 0


def test_further_outputs_are_among_them(tmp_path: Path) -> None:
    file = _write(tmp_path, make_model(PPO, normalize=True), further_outputs=("distribution", "value"))
    assert [spec.name for spec in file.vectors.outputs] == ["action", "action_mean", "action_std", "value"]
    vec_normalize = file.model.get_vec_normalize_env()
    assert vec_normalize is not None
    policy: Any = file.model.policy
    for case in file.vectors.cases:
        inputs = _decoded(file.vectors, case)
        tensor, _ = policy.obs_to_tensor(vec_normalize.normalize_obs(inputs["obs"]))
        with th.no_grad():
            value = policy.predict_values(tensor).numpy().reshape(-1)
            mean = policy.get_distribution(tensor).distribution.mean.numpy().reshape(-1)
        np.testing.assert_allclose(case.outputs["value"], value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(case.outputs["action_mean"], mean, rtol=1e-5, atol=1e-5)


def test_the_training_is_left_as_it_was(tmp_path: Path) -> None:
    model = make_model(PPO, normalize=True)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    state = th.get_rng_state()
    export_policy(model, tmp_path / "policy.onnx", options=ExportOptions(test_vectors=8))
    assert th.equal(state, th.get_rng_state())
    assert all(th.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())
