"""The callback, in every way that Stable-Baselines3 composes callbacks, in good days and bad."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_clanker import ClankerError, ExportOptions, OnnxCheckpointCallback, OnnxPolicy, read_metadata
from sb3_clanker.errors import (
    NormalizationError,
    OptionError,
    PublicationError,
    UnsupportedOpsetError,
    UnsupportedPolicyError,
    ValidationError,
)
from sb3_clanker.run_folder.identity import pair_with_file, pair_with_zip
from sb3_clanker.runtime.session import Runner, open_session
from sb3_clanker.sb3.normalization import load_statistics
from sb3_clanker.writers import onnx
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, assert_same_actions, make_env, make_model, predict_raw


def _files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != ".sb3_clanker-lock")  # noqa: PTH208


def _eval_env(normalize: bool = False) -> VecEnv:
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    env.seed(3)
    return VecNormalize(env, training=False, norm_reward=False) if normalize else env


def _assert_checkpoint(folder: Path, stem: str, algorithm: type[BaseAlgorithm] = PPO) -> None:
    """A file equals its own .zip and statistics, by digest and by what it does."""
    metadata = read_metadata(folder / f"{stem}.onnx")
    assert metadata.checkpoint is not None
    assert metadata.checkpoint.algorithm_file == pair_with_zip(folder / f"{stem}.zip")
    statistics, vec_normalize = metadata.checkpoint.statistics_file, None
    if statistics is not None:
        assert statistics == pair_with_file(folder / statistics.name)
        vec_normalize = load_statistics(folder / statistics.name)
    saved = algorithm.load(folder / f"{stem}.zip", device="cpu")
    assert saved.num_timesteps == metadata.training.num_timesteps
    policy = OnnxPolicy(folder / f"{stem}.onnx")
    assert_same_actions(
        lambda observation: policy.predict(observation)[0],
        lambda observation: predict_raw(saved, observation, vec_normalize),
        BOX_OBSERVATION,
        BOX_ACTION,
    )


def test_each_new_best_writes_one_checkpoint(tmp_path: Path) -> None:
    model = make_model(normalize=True)
    callback = OnnxCheckpointCallback(
        tmp_path / "run", eval_env=_eval_env(normalize=True), eval_freq=20, n_eval_episodes=2, log_path=tmp_path / "log"
    )
    model.learn(100, callback=callback)
    assert _files(tmp_path / "run") == [
        "best_model.onnx",
        "best_model.zip",
        "best_model_vecnormalize.pkl",
        "final_model.onnx",
        "final_model.zip",
        "final_model_vecnormalize.pkl",
    ]
    _assert_checkpoint(tmp_path / "run", "best_model")
    _assert_checkpoint(tmp_path / "run", "final_model")
    best = read_metadata(tmp_path / "run" / "best_model.onnx").training
    evaluations = np.load(tmp_path / "log" / "evaluations.npz")
    means = evaluations["results"].mean(axis=1)
    assert best.mean_reward == pytest.approx(means.max()) == pytest.approx(callback.best_mean_reward)
    assert best.num_timesteps == evaluations["timesteps"][means.argmax()]
    assert callback.last_mean_reward == pytest.approx(means[-1])


def test_training_on_after_the_best_leaves_the_best_as_it_is(tmp_path: Path) -> None:
    model = make_model(SAC, normalize=True)
    callback = OnnxCheckpointCallback(tmp_path, eval_env=_eval_env(normalize=True), eval_freq=40, n_eval_episodes=1)
    model.learn(50, callback=callback)
    assert callback.evaluation is not None
    callback.evaluation.best_mean_reward = float("inf")
    best = (tmp_path / "best_model.onnx").read_bytes()
    model.learn(80, callback=callback, reset_num_timesteps=False)
    assert (tmp_path / "best_model.onnx").read_bytes() == best
    _assert_checkpoint(tmp_path, "best_model", SAC)
    _assert_checkpoint(tmp_path, "final_model", SAC)
    best_steps, final_steps = (
        read_metadata(tmp_path / f"{stem}.onnx").training.num_timesteps for stem in ("best_model", "final_model")
    )
    assert best_steps < final_steps


def test_it_evaluates_as_eval_callback_does(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    callbacks: list[BaseCallback] = [
        OnnxCheckpointCallback(ours, eval_env=_eval_env(), eval_freq=16, n_eval_episodes=2, log_path=ours),
        EvalCallback(
            _eval_env(),
            eval_freq=16,
            n_eval_episodes=2,
            log_path=str(theirs),
            best_model_save_path=str(theirs),
            verbose=0,
        ),
    ]
    for callback in callbacks:
        make_model().learn(96, callback=callback)
    logs = [np.load(folder / "evaluations.npz") for folder in (ours, theirs)]
    for key in ("timesteps", "results", "ep_lengths"):
        np.testing.assert_array_equal(logs[0][key], logs[1][key])
    first, second = (PPO.load(folder / "best_model.zip", device="cpu") for folder in (ours, theirs))
    for one, other in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert th.equal(one, other)


def test_checkpoints_are_named_and_timed_as_checkpoint_callback_does(tmp_path: Path) -> None:
    callbacks: list[BaseCallback] = [
        OnnxCheckpointCallback(
            tmp_path / "ours", save_freq=15, name_prefix="sac", save_replay_buffer=True, save_final=False
        ),
        CheckpointCallback(15, str(tmp_path / "theirs"), "sac", save_replay_buffer=True, save_vecnormalize=True),
    ]
    make_model(SAC, n_envs=2, normalize=True).learn(60, callback=callbacks)
    ours, theirs = _files(tmp_path / "ours"), _files(tmp_path / "theirs")
    assert [name for name in ours if not name.endswith(".onnx")] == theirs
    assert [name for name in ours if name.endswith(".onnx")] == ["sac_30_steps.onnx", "sac_60_steps.onnx"]
    _assert_checkpoint(tmp_path / "ours", "sac_30_steps", SAC)


def test_as_a_child_of_a_new_best_it_writes_best_model(tmp_path: Path) -> None:
    child = OnnxCheckpointCallback(tmp_path)
    parent = EvalCallback(_eval_env(), callback_on_new_best=child, eval_freq=20, n_eval_episodes=1, verbose=0)
    make_model().learn(64, callback=parent)
    assert _files(tmp_path) == ["best_model.onnx", "best_model.zip"]
    assert read_metadata(tmp_path / "best_model.onnx").training.mean_reward == pytest.approx(parent.best_mean_reward)
    _assert_checkpoint(tmp_path, "best_model")


def test_in_a_list_of_children_of_a_new_best_it_writes_best_model(tmp_path: Path) -> None:
    children = CallbackList([StopTrainingOnRewardThreshold(1e9), CallbackList([OnnxCheckpointCallback(tmp_path)])])
    parent = EvalCallback(_eval_env(), callback_on_new_best=children, eval_freq=20, n_eval_episodes=1, verbose=0)
    make_model().learn(32, callback=parent)
    assert _files(tmp_path) == ["best_model.onnx", "best_model.zip"]


def test_as_a_child_after_each_evaluation_it_writes_checkpoints(tmp_path: Path) -> None:
    child = OnnxCheckpointCallback(tmp_path)
    parent = EvalCallback(_eval_env(), callback_after_eval=child, eval_freq=30, n_eval_episodes=1, verbose=0)
    make_model().learn(64, callback=parent)
    assert _files(tmp_path) == [f"rl_model_{steps}_steps.{suffix}" for steps in (30, 60) for suffix in ("onnx", "zip")]


def test_as_a_child_of_every_n_timesteps_it_writes_checkpoints(tmp_path: Path) -> None:
    make_model(n_envs=2).learn(96, callback=EveryNTimesteps(40, OnnxCheckpointCallback(tmp_path, name_prefix="x")))
    assert _files(tmp_path) == [f"x_{steps}_steps.{suffix}" for steps in (40, 80) for suffix in ("onnx", "zip")]
    _assert_checkpoint(tmp_path, "x_80_steps")


def test_as_a_child_its_own_frequency_counts_events(tmp_path: Path) -> None:
    make_model().learn(96, callback=EveryNTimesteps(20, OnnxCheckpointCallback(tmp_path, save_freq=2)))
    assert _files(tmp_path) == [f"rl_model_{steps}_steps.{suffix}" for steps in (40, 80) for suffix in ("onnx", "zip")]


@pytest.mark.parametrize("wrap", [lambda callback: [callback], lambda callback: CallbackList([callback])])
def test_in_a_list_it_works_as_on_its_own(wrap: Any, tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, eval_env=_eval_env(), eval_freq=30, n_eval_episodes=1)
    make_model().learn(32, callback=wrap(callback))
    assert _files(tmp_path) == ["best_model.onnx", "best_model.zip", "final_model.onnx", "final_model.zip"]


def test_its_own_children_are_called_and_can_stop_training(tmp_path: Path) -> None:
    class Seen(BaseCallback):
        def _on_step(self) -> bool:
            assert isinstance(self.parent, EvalCallback)
            assert (tmp_path / "best_model.onnx").exists()
            return True

    after = Seen()
    callback = OnnxCheckpointCallback(
        tmp_path,
        eval_env=_eval_env(),
        eval_freq=10,
        n_eval_episodes=1,
        callback_on_new_best=CallbackList([Seen(), StopTrainingOnRewardThreshold(-1e9)]),
        callback_after_eval=after,
    )
    model = make_model()
    model.learn(320, callback=callback)
    assert model.num_timesteps == 10
    assert after.n_calls == 0  # as with EvalCallback, which stops at once
    _assert_checkpoint(tmp_path, "best_model")


def test_the_same_callback_serves_a_second_learn(tmp_path: Path) -> None:
    model = make_model()
    callback = OnnxCheckpointCallback(tmp_path, save_freq=30, save_final=False)
    model.learn(32, callback=callback)
    model.learn(32, callback=callback, reset_num_timesteps=False)
    assert [report.path.stem for report in callback.reports] == ["rl_model_30_steps", "rl_model_60_steps"]


def test_stable_baselines3_logger_gets_the_figures(tmp_path: Path) -> None:
    model = make_model()
    model.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    model.learn(64, callback=OnnxCheckpointCallback(tmp_path / "run", save_freq=10, save_final=False))
    header, *rows = (tmp_path / "log" / "progress.csv").read_text().splitlines()
    last = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert (float(last["onnx/exports"]), float(last["onnx/failures"])) == (6, 0)
    assert 0 <= float(last["onnx/max_difference"]) < 1e-5
    assert float(last["onnx/export_time"]) > 0


# Before the first step -----------------------------------------------------------------------------------------------


class _OwnPredict(ActorCriticPolicy):
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        return super().predict(*args, **kwargs)


@pytest.mark.parametrize("on_error", ["warn", "raise"])
@pytest.mark.parametrize(
    ("model", "options", "error", "match"),
    [
        ({"policy": _OwnPredict}, {}, UnsupportedPolicyError, "it overrides predict"),
        ({"policy_kwargs": {"activation_fn": th.nn.Mish}}, {"opset_version": 17}, UnsupportedOpsetError, "Mish"),
    ],
)
def test_what_can_never_work_raises_before_the_first_step(
    model: Any, options: Any, error: type[ClankerError], match: str, on_error: Any, tmp_path: Path
) -> None:
    algorithm = make_model(**model)
    callback = OnnxCheckpointCallback(tmp_path, on_error=on_error, options=ExportOptions(**options))
    with pytest.raises(error, match=match):
        algorithm.learn(64, callback=callback)
    assert algorithm.num_timesteps == 0
    assert _files(tmp_path) == []


def test_a_folder_that_cannot_be_written_raises_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = make_model()
    with pytest.raises(PublicationError, match="cannot be written"):
        model.learn(64, callback=OnnxCheckpointCallback(tmp_path / "file" / "run"))
    assert model.num_timesteps == 0


def test_settings_that_would_never_write_anything_are_refused(tmp_path: Path) -> None:
    for wrap in (lambda callback: callback, lambda callback: [callback]):
        model = make_model()
        with pytest.raises(OptionError, match="nothing would ever be written"):
            model.learn(64, callback=wrap(OnnxCheckpointCallback(tmp_path, save_final=False)))
        assert model.num_timesteps == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"save_freq": 0}, "save_freq=0 cannot be used: expected a positive integer"),
        ({"save_freq": True}, "save_freq=True cannot be used"),
        ({"eval_freq": -1}, "eval_freq=-1 cannot be used"),
        ({"n_eval_episodes": 1.5}, "n_eval_episodes=1.5 cannot be used"),
        ({"on_error": "ignore"}, 'on_error=\'ignore\' cannot be used: expected "warn" or "raise"'),
        ({"name_prefix": "a/b"}, "name_prefix='a/b' cannot be used: expected the beginning of a file name"),
        ({"name_prefix": ""}, "name_prefix='' cannot be used"),
        ({"name_prefix": 3}, "name_prefix=3 cannot be used: expected the beginning of a file name"),
        ({"name_prefix": b"a"}, "name_prefix=b'a' cannot be used: expected the beginning of a file name"),
        ({"eval_env": "CartPole-v1"}, "eval_env='CartPole-v1' cannot be used: expected an environment, or None"),
        ({"log_path": "x"}, "eval_env=None cannot be used: expected an environment"),
    ],
)
def test_bad_arguments_are_refused_when_it_is_made(arguments: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=match):
        OnnxCheckpointCallback(tmp_path, **arguments)


# When something goes wrong -------------------------------------------------------------------------------------------


def _fail_after(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runtime fail after n sessions: a new graph is proven in two of them."""
    calls = 0

    def failing(*args: Any, **kwargs: Any) -> Runner:
        nonlocal calls
        calls += 1
        if calls > n:
            raise RuntimeError("the runtime is gone")
        return open_session(*args, **kwargs)

    monkeypatch.setattr(onnx, "open_session", failing)


def test_a_failed_export_is_loud_and_counted_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = make_model()
    undisturbed.learn(64)
    _fail_after(3, monkeypatch)
    disturbed = make_model()
    callback = OnnxCheckpointCallback(tmp_path, save_freq=20)
    with caplog.at_level(logging.ERROR, "sb3_clanker"):
        disturbed.learn(64, callback=callback)
    assert [failure.name for failure in callback.failures] == ["rl_model_40_steps", "rl_model_60_steps", "final_model"]
    assert [failure.num_timesteps for failure in callback.failures] == [40, 60, 64]
    assert all(isinstance(failure.error, ValidationError) for failure in callback.failures)
    assert "The export of rl_model_40_steps.onnx at 40 timesteps failed; training goes on." in caplog.text
    assert "the runtime is gone" in caplog.text
    assert "3 of 4 exports failed; the last was final_model.onnx at 64 timesteps" in caplog.messages[-1]
    assert _files(tmp_path) == [
        "final_model.zip",
        "rl_model_20_steps.onnx",
        "rl_model_20_steps.zip",
        "rl_model_40_steps.zip",
        "rl_model_60_steps.zip",
    ]
    for one, other in zip(undisturbed.policy.parameters(), disturbed.policy.parameters(), strict=True):
        assert th.equal(one, other)


def test_with_raise_a_failed_export_raises_and_the_zip_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_after(2, monkeypatch)
    model = make_model()
    with pytest.raises(ValidationError, match="the runtime is gone"):
        model.learn(64, callback=OnnxCheckpointCallback(tmp_path, save_freq=20, on_error="raise"))
    assert _files(tmp_path) == ["rl_model_20_steps.zip"]
    assert PPO.load(tmp_path / "rl_model_20_steps.zip", device="cpu").num_timesteps == 20


def test_a_policy_that_diverges_is_refused_and_the_last_good_best_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Diverge(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 30:
                with th.no_grad():
                    dict(self.model.policy.named_parameters())["q_net.q_net.0.weight"].fill_(float("nan"))
            return True

    model = make_model(DQN, action_space=spaces.Discrete(2), learning_starts=1000)
    callback = OnnxCheckpointCallback(tmp_path, save_freq=20, save_final=False)
    model.learn(60, callback=[Diverge(), callback])
    assert [report.path.name for report in callback.reports] == ["rl_model_20_steps.onnx"]
    assert len(callback.failures) == 2
    assert "training has diverged" in caplog.text


def test_the_normalization_of_another_environment_is_noticed_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(normalize=True)
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    callback = OnnxCheckpointCallback(tmp_path)
    model.set_env(vec_normalize)
    monkeypatch.setattr(vec_normalize.obs_rms, "mean", np.zeros(7))
    with pytest.raises(NormalizationError, match=r"have the shape \(7,\)"):
        callback.init_callback(model)


def test_what_the_code_of_a_policy_raises_is_typed_before_the_first_step(tmp_path: Path) -> None:
    model = make_model()
    model.policy.double()  # its own predict() hands it float32
    with pytest.raises(UnsupportedPolicyError, match=r"RuntimeError: .* See whether model.predict\(\) works"):
        model.learn(16, callback=OnnxCheckpointCallback(tmp_path))
    assert model.num_timesteps == 0
