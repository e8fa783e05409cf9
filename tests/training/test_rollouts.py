"""The best by the training's own episodes, down to a simulator that there is one of and that answers no question."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import ARS
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from sb3_clanker import OnnxCheckpointCallback, OptionError, load_checkpoint, read_metadata
from sb3_clanker.run_folder.identity import require_whole
from sb3_clanker.training.evaluation import LastEvaluation
from sb3_clanker.training.rollouts import Rollouts
from tests.integration.trainings import RisingEnv
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model


class Simulator(VecEnv):
    """One instance of two robots, as Isaac Lab, Godot or Gazebo have it: it steps and resets, and refuses all else."""

    def __init__(self) -> None:
        self._robots = [RisingEnv(BOX_OBSERVATION, BOX_ACTION) for _ in range(2)]
        super().__init__(2, BOX_OBSERVATION, BOX_ACTION)

    def reset(self) -> Any:
        return np.stack([robot.reset(seed=index)[0] for index, robot in enumerate(self._robots)])

    def step_async(self, actions: Any) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = [], [], [], []
        for robot, action in zip(self._robots, self._actions, strict=True):
            observation, reward, terminated, truncated, info = robot.step(action)
            if terminated or truncated:
                info["terminal_observation"] = observation
                observation, _ = robot.reset()
            observations.append(observation)
            rewards.append(reward)
            dones.append(terminated or truncated)
            infos.append(info)
        return np.stack(observations), np.array(rewards, np.float32), np.array(dones), infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> Any:
        if attr_name == "render_mode":
            return [None] * self.num_envs
        raise NotImplementedError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        raise NotImplementedError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
        return [False] * self.num_envs  # VecMonitor asks


def _simulated(algorithm: type[BaseAlgorithm], *, normalize: bool) -> BaseAlgorithm:
    env: VecEnv = VecMonitor(Simulator())
    return make_model(algorithm, env=VecNormalize(env) if normalize else env, stats_window_size=4)


class Kept(BaseCallback):
    """What Stable-Baselines3 keeps of episodes at the end of each rollout, by timesteps."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: dict[int, list[float]] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.rewards[self.model.num_timesteps] = [episode["r"] for episode in self.model.ep_info_buffer or ()]


@pytest.mark.parametrize(("algorithm", "normalize"), [(PPO, False), (PPO, True), (SAC, False), (SAC, True)])
def test_one_simulator_gives_best_checkpoints_and_final(
    algorithm: type[BaseAlgorithm], normalize: bool, tmp_path: Path
) -> None:
    model, kept = _simulated(algorithm, normalize=normalize), Kept()
    callback = OnnxCheckpointCallback(tmp_path, best_of="rollout", eval_freq=8, save_freq=16, on_error="raise")
    model.learn(96, callback=[kept, callback])
    training = read_metadata(tmp_path / "best_model.onnx").training
    best = training.evaluation
    assert best is not None
    assert (best.role, best.source, best.deterministic, best.n_episodes) == ("best", "rollout", False, 4)
    rewards = kept.rewards[best.num_timesteps]
    assert (best.mean_reward, best.std_reward) == pytest.approx((np.mean(rewards), np.std(rewards)))
    assert training.mean_reward == best.mean_reward == callback.best_mean_reward
    assert best.num_timesteps == training.num_timesteps
    final = read_metadata(tmp_path / "final_model.onnx").training
    assert final.evaluation is not None
    assert (final.evaluation.role, final.mean_reward) == ("last", None)
    assert best.num_timesteps <= final.evaluation.num_timesteps <= final.num_timesteps
    for name in ("best_model", "final_model", "rl_model_32_steps", "rl_model_64_steps"):
        metadata = read_metadata(tmp_path / f"{name}.onnx")
        assert len(require_whole(tmp_path / f"{name}.onnx", metadata)) == 1 + normalize
        assert metadata.environment_spec is None


def test_it_goes_on_from_the_record_of_the_best(tmp_path: Path) -> None:
    _simulated(PPO, normalize=True).learn(64, callback=OnnxCheckpointCallback(tmp_path, best_of="rollout", eval_freq=8))
    best = read_metadata(tmp_path / "best_model.onnx")
    again = load_checkpoint(tmp_path / "final_model.zip", env=VecMonitor(Simulator())).model  # its episodes are worse
    callback = OnnxCheckpointCallback(tmp_path, best_of="rollout", eval_freq=8, name_prefix="again")
    again.learn(32, callback=callback, reset_num_timesteps=False)
    assert callback.best_mean_reward == best.training.mean_reward
    assert read_metadata(tmp_path / "best_model.onnx") == best
    again.learn(256, callback=callback, reset_num_timesteps=False)
    assert (read_metadata(tmp_path / "best_model.onnx").training.mean_reward or 0) > (best.training.mean_reward or 0)
    assert not (tmp_path / "previous_1").exists()


# When it looks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> BaseAlgorithm:
    """An algorithm that keeps three episodes."""
    model = make_model(stats_window_size=3)
    model.learn(1, callback=lambda *_: False)
    return model


def _end(model: BaseAlgorithm, *rewards: float | None) -> None:
    for reward in rewards:
        assert model.ep_info_buffer is not None
        model.ep_info_buffer.append({"l": 1, "t": 0.0} if reward is None else {"r": reward, "l": 1, "t": 0.0})


def test_it_looks_once_in_so_many_calls(model: BaseAlgorithm) -> None:
    rollouts = Rollouts(model, 10, 5, LastEvaluation())
    _end(model, 1.0, 2.0, 3.0)
    assert [n for n in range(5, 16) if rollouts.look(n)] == [15]
    _end(model, 4.0, 5.0, 6.0)
    assert [n for n in range(16, 26) if rollouts.look(n)] == [25]
    assert rollouts.best_mean_reward == 5.0


def test_only_a_full_buffer_of_episodes_since_the_last_best_counts(model: BaseAlgorithm) -> None:
    _end(model, 9.0)  # from before: not of this training
    rollouts = Rollouts(model, 1, 0, LastEvaluation())
    found = []
    for n_calls, rewards in enumerate([[1.0], [2.0], [3.0], [4.0], [9.0, 9.0], [8.0], [8.0, 8.0, 8.0]], 1):
        _end(model, *rewards)
        if rollouts.look(n_calls):
            found.append((n_calls, rollouts.best_mean_reward))
    assert found == [(3, 2.0), (5, pytest.approx(22 / 3)), (7, 8.0)]  # in the sixth, two of 26 / 3 are known


def test_no_number_is_no_best(model: BaseAlgorithm, caplog: pytest.LogCaptureFixture) -> None:
    last = LastEvaluation()
    rollouts = Rollouts(model, 1, 0, last)
    for n_calls, reward in enumerate([math.nan, math.inf, -math.inf], 1):
        _end(model, reward, 1.0, 1.0)
        assert not rollouts.look(n_calls)
    assert last.record is not None
    _end(model, 1.0, 1.0, 1.0)
    assert rollouts.look(4)
    assert not caplog.messages


@pytest.mark.parametrize("malformed", [[], [None, None, None]])
def test_without_statistics_it_says_so_once(
    model: BaseAlgorithm, malformed: list[None], caplog: pytest.LogCaptureFixture
) -> None:
    rollouts = Rollouts(model, 1, 0, LastEvaluation())
    _end(model, *malformed)
    assert not any(rollouts.look(n_calls) for n_calls in (1, 2, 3))
    assert caplog.messages == [
        "No best policy can be found by rollouts yet: after 1 calls there is no episode in ep_info_buffer. None has "
        "ended, or the environment is in no Monitor or VecMonitor."
    ]


# What does not go together ------------------------------------------------------------------------------------------


def test_what_belongs_to_evaluations_is_refused() -> None:
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    with pytest.raises(OptionError, match=r'best_of=.x. cannot be used: expected "evaluation" or "rollout"'):
        OnnxCheckpointCallback("runs", best_of="x")  # type: ignore[arg-type]
    for option, value in (("eval_env", env), ("log_path", "log"), ("callback_after_eval", CheckpointCallback(1, "x"))):
        expected = f"best_of='rollout' cannot be used: expected \"evaluation\", or no {option}"
        options: dict[str, Any] = {option: value}
        with pytest.raises(OptionError, match=expected):
            OnnxCheckpointCallback("runs", best_of="rollout", **options)


def test_beside_another_that_finds_the_best_it_is_refused(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: RisingEnv(BOX_OBSERVATION, BOX_ACTION)])
    evaluation = EvalCallback(env, best_model_save_path=str(tmp_path / "theirs"), warn=False)
    with pytest.raises(
        OptionError, match=r'best_of=.rollout. cannot be used: expected "evaluation", as an EvalCallback'
    ):
        make_model().learn(16, callback=[evaluation, OnnxCheckpointCallback(best_of="rollout")])
    child = OnnxCheckpointCallback(tmp_path / "run", best_of="rollout")
    with pytest.raises(OptionError, match="as a EveryNTimesteps calls it, which decides on what is written"):
        make_model().learn(16, callback=EveryNTimesteps(4, child))
    assert list(tmp_path.glob("**/*.onnx")) == []


def test_an_algorithm_that_never_rolls_out_its_own_policy_is_refused(tmp_path: Path) -> None:
    model = make_model(ARS, action_space=spaces.Discrete(3))
    with pytest.raises(OptionError, match=r'expected "evaluation", as no episode of ARS is of the policy itself'):
        model.learn(16, callback=OnnxCheckpointCallback(tmp_path / "run", best_of="rollout"))
    assert model.num_timesteps == 0


def test_episodes_that_are_kept_otherwise_end_no_training(model: BaseAlgorithm) -> None:
    rollouts = Rollouts(model, 1, 0, LastEvaluation())
    vars(model)["ep_info_buffer"] = [{"r": 1.0}]
    assert not rollouts.look(1)


def test_beside_a_checkpoint_callback_it_writes_the_best_there(tmp_path: Path) -> None:
    model = _simulated(PPO, normalize=False)
    theirs = CheckpointCallback(16, str(tmp_path), name_prefix="model")
    model.learn(64, callback=[theirs, OnnxCheckpointCallback(best_of="rollout", eval_freq=8, on_error="raise")])
    assert {path.stem for path in tmp_path.glob("*.onnx")} == {
        *("best_model", "final_model", "model_32_steps", "model_64_steps")
    }
