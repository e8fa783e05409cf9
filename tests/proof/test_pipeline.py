"""What changes observations between VecNormalize and the policy is refused by its name, and nothing else is."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy, export_policy, validate_policy
from sb3_clanker.errors import ClankerError, UnsupportedWrapperError
from sb3_clanker.proof.pipeline import check_pipeline
from tests import wrappers
from tests.worlds import BOX_ACTION, UNBOUNDED_OBSERVATION, SpacesEnv, make_env, make_model

WHOLE_NUMBERS = spaces.Box(-50, 50, (3,), np.int64)
DICT = spaces.Dict({"arm": UNBOUNDED_OBSERVATION, "camera": spaces.Box(0, 255, (36, 36, 3), np.uint8)})
INSIDE = " Put it inside VecNormalize, where it belongs to the environment."
CHANGES = "it changes observations between VecNormalize and the policy, which no file can fold in." + INSIDE
OWN_WAY = (
    "it normalizes in its own way ({}), and the file would do it in that of VecNormalize. Use VecNormalize itself, and "
    "put what is more inside it, into a wrapper of its own."
)
SECOND = (
    "a second VecNormalize normalizes observations too, and a file folds in one. Use one VecNormalize, or "
    "norm_obs=False in all but one, which must be the outermost."
)


def _env(space: spaces.Space[Any] = UNBOUNDED_OBSERVATION, n_envs: int = 1) -> VecEnv:
    return DummyVecEnv([lambda: SpacesEnv(space, BOX_ACTION)] * n_envs)


def _model(env: VecEnv) -> BaseAlgorithm:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    small = {"features_extractor_kwargs": {"cnn_output_dim": 16}} if policy == "MultiInputPolicy" else {}
    return make_model(env=env, policy=policy, policy_kwargs=small)


def _check(env: VecEnv) -> None:
    model: Any = _model(env)
    check_pipeline(model, model.get_vec_normalize_env())


def _of_arm(env: VecEnv) -> VecNormalize:
    return VecNormalize(env, norm_obs_keys=["arm"])


def _around_vec_normalize(wrapper: type[wrappers.Mapped]) -> Callable[[], VecEnv]:
    return lambda: wrapper(VecNormalize(_env()))


REFUSED: dict[str, tuple[Callable[[], VecEnv], str, str]] = {
    changing.__name__: (_around_vec_normalize(changing), changing.__name__, CHANGES)
    for changing in (
        *(wrappers.Scale, wrappers.Clip, wrappers.ClipFar, wrappers.InPlace, wrappers.Noise, wrappers.Seldom),
        *(wrappers.StepsOnly, wrappers.ResetOnly),
    )
} | {
    "beneath others": (
        lambda: VecMonitor(VecFrameStack(wrappers.Log(wrappers.ClipFar(VecNormalize(_env()))), 2)),
        "ClipFar",
        CHANGES,
    ),
    "above a stack": (lambda: wrappers.ClipFar(VecFrameStack(VecNormalize(_env()), 2)), "ClipFar", CHANGES),
    "a key of a Dict": (lambda: wrappers.InPlace(_of_arm(_env(DICT))), "InPlace", CHANGES),
    "an array out of a Dict": (lambda: VecExtractDictObs(_of_arm(_env(DICT)), "arm"), "VecExtractDictObs", CHANGES),
    "another stack": (lambda: wrappers.HalfStack(VecNormalize(_env()), 2), "HalfStack", CHANGES),
    "fails": (
        lambda: wrappers.NeedsInfo(VecNormalize(_env())),
        "NeedsInfo",
        "it stands between VecNormalize and the policy, and cannot be shown to leave observations alone "
        "(KeyError: 'of_my_env')." + INSIDE,
    ),
    "two stacks": (
        lambda: VecFrameStack(VecFrameStack(VecNormalize(_env()), 2), 2),
        "VecFrameStack",
        "frames are stacked twice outside VecNormalize. Stack them once.",
    ),
    "a stack of whole numbers": (
        lambda: VecFrameStack(VecNormalize(_env(WHOLE_NUMBERS)), 2),
        "VecFrameStack",
        "it stacks in int64, the type of the observation space, which cuts off what VecNormalize made. Make the "
        "observation space one of float32, or stack inside VecNormalize.",
    ),
    "within another": (lambda: VecNormalize(VecNormalize(_env())), "VecNormalize", SECOND),
    "within another of rewards": (
        lambda: VecNormalize(VecMonitor(VecNormalize(_env())), norm_obs=False),
        "VecNormalize",
        SECOND,
    ),
    "step_wait and reset": (
        lambda: wrappers.HalfNormalize(_env()),
        "HalfNormalize",
        OWN_WAY.format("step_wait, reset"),
    ),
    "_normalize_obs": (lambda: wrappers.MeanNormalize(_env()), "MeanNormalize", OWN_WAY.format("_normalize_obs")),
    "by hand": (
        lambda: wrappers.patched(VecNormalize(_env())),
        "VecNormalize",
        OWN_WAY.format("normalize_obs"),
    ),
}


@pytest.mark.parametrize(("make", "name", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_changes_observations_is_refused_by_its_name(make: Callable[[], VecEnv], name: str, reason: str) -> None:
    message = f"Cannot export a policy that observes through {name}: {reason}"
    with pytest.raises(UnsupportedWrapperError, match=f"^{re.escape(message)}$") as caught:
        _check(make())
    assert caught.value.wrapper == name
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClankerError)


HARMLESS: dict[str, Callable[[], VecEnv]] = {
    "of Stable-Baselines3": lambda: VecMonitor(VecCheckNan(VecNormalize(_env()))),
    "a subclass of one": lambda: wrappers.NamedMonitor(VecNormalize(_env())),
    "a log": lambda: wrappers.Log(VecNormalize(_env(n_envs=3))),
    "of rewards": lambda: wrappers.HalfReward(VecNormalize(_env())),
    "around a stack": lambda: wrappers.Log(VecFrameStack(wrappers.Log(VecNormalize(_env(n_envs=2))), 3)),
    "stacks on both sides": lambda: wrappers.Log(VecFrameStack(VecNormalize(VecFrameStack(_env(), 2)), 3)),
    "around a transposed Dict": lambda: wrappers.Log(VecTransposeImage(VecFrameStack(_of_arm(_env(DICT)), 2))),
    "a subclass of VecNormalize": lambda: wrappers.NamedNormalize(_env()),
    "within another, without observations": lambda: VecNormalize(VecNormalize(_env(), norm_obs=False)),
    "inside": lambda: VecNormalize(wrappers.Noise(wrappers.Scale(_env()))),
    "without observations": lambda: wrappers.Scale(wrappers.HalfNormalize(_env(), norm_obs=False)),
    "without VecNormalize": lambda: wrappers.Noise(wrappers.Scale(_env())),
    "a stack of whole numbers inside": lambda: VecNormalize(VecFrameStack(_env(WHOLE_NUMBERS), 2)),
}


@pytest.mark.parametrize("make", HARMLESS.values(), ids=HARMLESS)
def test_what_leaves_observations_alone_passes(make: Callable[[], VecEnv]) -> None:
    env = make()
    model: Any = _model(env)
    check_pipeline(model, model.get_vec_normalize_env())
    model._last_obs = model.env.reset()
    check_pipeline(model, model.get_vec_normalize_env())


def test_a_wrapper_is_tried_on_a_copy_and_no_generator_advances() -> None:
    class Watch(wrappers.Log):
        def step_wait(self) -> Any:
            random.random()  # noqa: S311
            np.random.random()  # noqa: NPY002
            th.rand(1)
            self.generator.random()
            return super().step_wait()

    env = Watch(VecNormalize(_env()))
    model = _model(env)
    own, torch_state, python_state = env.generator.bit_generator.state, th.get_rng_state(), random.getstate()
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    check_pipeline(model, model.get_vec_normalize_env())
    assert (env.calls, env.returns) == (0, [])
    assert env.generator.bit_generator.state == own
    assert th.equal(th.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    after: Any = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(after[1], numpy_state[1])
    assert after[2] == numpy_state[2]


def test_a_wrapper_that_cannot_be_copied_is_refused(tmp_path: Path) -> None:
    env = wrappers.Log(VecNormalize(_env()))
    expected = pytest.raises(UnsupportedWrapperError, match=r"Log: it stands .* \(TypeError: cannot pickle '_io")
    with (tmp_path / "log.csv").open("w") as env.file, expected:  # type: ignore[attr-defined]
        _check(env)


def test_what_the_policy_really_sees_is_held_against_what_is_folded_in() -> None:
    model: Any = _model(VecMonitor(VecNormalize(_env())))
    model._last_obs = model.env.reset()
    model._last_obs[0, 0] += 1e-6
    message = (
        "Cannot export a policy that observes through VecMonitor, VecNormalize: what the policy sees is not what "
        "VecNormalize makes of the raw observation. Put every wrapper inside VecNormalize."
    )
    with pytest.raises(UnsupportedWrapperError, match=f"^{re.escape(message)}$"):
        check_pipeline(model, model.get_vec_normalize_env())
    model.num_timesteps = 1  # by now the environment may be a step ahead
    check_pipeline(model, model.get_vec_normalize_env())


def test_statistics_from_a_file_do_not_hide_the_wrappers_of_the_model(tmp_path: Path) -> None:
    vec_normalize = VecNormalize(_env())
    vec_normalize.save(str(tmp_path / "statistics.pkl"))
    model = _model(wrappers.Scale(vec_normalize))
    for source in ("auto", vec_normalize, tmp_path / "statistics.pkl"):
        with pytest.raises(UnsupportedWrapperError, match="observes through Scale: it changes"):
            export_policy(model, tmp_path / "policy.onnx", vec_normalize=source)
    assert not (tmp_path / "policy.onnx").exists()


def test_statistics_of_a_subclass_in_a_file_are_refused(tmp_path: Path) -> None:
    wrappers.MeanNormalize(_env()).save(str(tmp_path / "statistics.pkl"))
    _model(_env()).save(tmp_path / "model.zip")
    model = PPO.load(tmp_path / "model.zip", device="cpu")
    with pytest.raises(UnsupportedWrapperError, match="observes through MeanNormalize: it normalizes in its own way"):
        export_policy(model, tmp_path / "policy", vec_normalize=tmp_path / "statistics.pkl")


def test_a_file_is_not_proven_again_through_what_changes_observations(tmp_path: Path) -> None:
    model = _model(VecNormalize(_env()))
    path = export_policy(model, tmp_path / "policy").path
    model.set_env(wrappers.Scale(VecNormalize(_env())))
    with pytest.raises(UnsupportedWrapperError, match="observes through Scale"):
        validate_policy(path, model)


def test_what_begins_to_change_observations_later_fails_the_exports_from_then_on(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, save_freq=8, options=ExportOptions(n_samples=8))
    _model(wrappers.Late(VecNormalize(_env()))).learn(32, callback=callback)
    assert [report.path.name for report in callback.reports] == ["rl_model_8_steps.onnx", "rl_model_16_steps.onnx"]
    assert {failure.name for failure in callback.failures} == {
        "rl_model_24_steps",
        "rl_model_32_steps",
        "final_model",
    }
    for failure in callback.failures:
        assert isinstance(failure.error, UnsupportedWrapperError)
        assert failure.error.wrapper == "Late"
    assert (tmp_path / "final_model.zip").is_file()
    assert not (tmp_path / "final_model.onnx").exists()


def _off(model: BaseAlgorithm, policy: OnnxPolicy, n_steps: int) -> float:
    """How far the actions of a file are from those of the pipeline of the training, in units of half their range."""
    vec_normalize, env = model.get_vec_normalize_env(), model.get_env()
    assert vec_normalize is not None
    assert env is not None
    vec_normalize.training = False
    half, worst, observation = (BOX_ACTION.high - BOX_ACTION.low) / 2, 0.0, env.reset()
    for _ in range(n_steps):
        action, _ = model.predict(observation, deterministic=True)  # type: ignore[arg-type]
        got, _ = policy.predict(vec_normalize.get_original_obs())
        worst = max(worst, float(np.abs((got - action) / half).max()))
        observation, *_ = env.step(action)
    return worst


@pytest.mark.parametrize("net_arch", [[16, 16], [950, 950]], ids=["small", "a million parameters"])
def test_five_thousand_actions_of_a_file_through_harmless_wrappers(net_arch: list[int], tmp_path: Path) -> None:
    model = make_model(
        env=wrappers.HalfReward(wrappers.Log(VecNormalize(make_env(UNBOUNDED_OBSERVATION, BOX_ACTION, n_envs=50)))),
        policy_kwargs={"net_arch": net_arch},
        batch_size=800,
        n_epochs=1,
        scale=0.5,
    )
    model.learn(800, callback=OnnxCheckpointCallback(tmp_path))
    assert _off(model, OnnxPolicy(tmp_path / "final_model.onnx"), 100) < 2e-5


def test_without_the_check_the_file_would_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_clanker.proof.subject.check_pipeline", lambda *_: None)
    model = make_model(env=wrappers.Scale(VecNormalize(_env(n_envs=50))), batch_size=800, n_epochs=1)
    model.learn(800, callback=OnnxCheckpointCallback(tmp_path))
    assert _off(model, OnnxPolicy(tmp_path / "final_model.onnx"), 100) > 0.1
