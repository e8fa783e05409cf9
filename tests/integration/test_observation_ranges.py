"""Ranges are those of all that a training sees, as environments that keep a log tell it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import ARS, MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecFrameStack, VecNormalize

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, read_metadata
from sb3_clanker.policy_file.record import QUANTILES, ObservationRanges
from tests.checkpoints import NoExporter
from tests.worlds import BOX_ACTION, SpacesEnv, make_env, make_model

FAR = spaces.Box(-np.inf, np.inf, (3,), np.float64)
WORLD = spaces.Dict(
    {
        "arm": spaces.Box(-2.0, 3.0, (2, 2), np.float32),
        "camera": spaces.Box(0, 255, (3, 36, 36), np.uint8),
        "mode": spaces.Discrete(3),
        "speed": spaces.Box(-1.0, 1.0, (1,), np.float32),
    }
)


class Log(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps what it gives, but the last of an episode, on which no policy acts.

    :ivar given: observations by key
    :ivar begins: which of them began an episode
    """

    def __init__(self, space: spaces.Space[Any], action_space: spaces.Space[Any] = BOX_ACTION) -> None:
        super().__init__(SpacesEnv(space, action_space))
        self.given: list[dict[str, NDArray[Any]]] = []
        self.begins: list[bool] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**kwargs)
        self._keep(observation, begins=True)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = super().step(action)
        if not (result[2] or result[3]):
            self._keep(result[0], begins=False)
        return result

    def _keep(self, observation: Any, *, begins: bool) -> None:
        self.given.append(dict(observation) if isinstance(observation, dict) else {"": observation})
        self.begins.append(begins)


class Logged(DummyVecEnv):
    """Environments that each keep a log."""

    def __init__(
        self, space: spaces.Space[Any] = FAR, n_envs: int = 1, action_space: spaces.Space[Any] = BOX_ACTION
    ) -> None:
        self.logs = [Log(space, action_space) for _ in range(n_envs)]
        super().__init__([lambda log=log: Monitor(log) for log in self.logs])  # type: ignore[misc]

    def rows(self, key: str | None = None) -> NDArray[np.float64]:
        """All observations of a key, flattened."""
        given = [observation[key or ""] for log in self.logs for observation in log.given]
        return np.array(given, np.float64).reshape(len(given), -1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is exported: what was seen by the end is what matters."""
    monkeypatch.setattr("sb3_clanker.training.callback.Exporter", NoExporter)


def seen(callback: OnnxCheckpointCallback) -> ObservationRanges:
    assert callback._seen is not None
    record = callback._seen.record()
    assert record is not None
    return record


def assert_same(record: ObservationRanges, rows: dict[str | None, NDArray[np.float64]]) -> None:
    """What numpy finds in all rows at once is in the record; of few rows it holds all in its sample."""
    assert [each.key for each in record.ranges] == list(rows)
    for each, of_key in zip(record.ranges, rows.values(), strict=True):
        assert record.n_observations == len(of_key) <= 4_096
        assert each.minimum == tuple(of_key.min(axis=0))
        assert each.maximum == tuple(of_key.max(axis=0))
        np.testing.assert_allclose(each.mean, of_key.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(each.deviation, of_key.std(axis=0), rtol=1e-9)
        np.testing.assert_allclose(each.quantiles, np.quantile(of_key, QUANTILES, axis=0).T, rtol=1e-9)


Wrap = Callable[[VecEnv], VecEnv]


def _bare(env: VecEnv) -> VecEnv:
    return env


def _unnormalized(env: VecEnv) -> VecEnv:
    return VecNormalize(env, norm_obs=False)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("algorithm", "n_envs", "wrap"),
    [
        (PPO, 1, _bare),
        (PPO, 3, _bare),
        (PPO, 1, VecNormalize),
        (PPO, 3, _unnormalized),
        (RecurrentPPO, 2, VecNormalize),
        (MaskablePPO, 1, _bare),
        (SAC, 1, VecNormalize),
        (SAC, 2, _bare),
        (DQN, 2, VecNormalize),
    ],
)
def test_they_are_of_every_observation_raw(
    algorithm: type[BaseAlgorithm], n_envs: int, wrap: Wrap, tmp_path: Path
) -> None:
    discrete = algorithm in (DQN, MaskablePPO)
    env = Logged(FAR, n_envs, spaces.Discrete(3) if discrete else BOX_ACTION)
    policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
    callback = OnnxCheckpointCallback(tmp_path)
    make_model(algorithm, env=wrap(env), policy=policy).learn(96, callback=callback)
    assert_same(seen(callback), {None: env.rows()})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("normalizes", [False, True])
@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_each_vector_of_a_dict_has_its_own(algorithm: type[BaseAlgorithm], normalizes: bool, tmp_path: Path) -> None:
    env = Logged(WORLD)
    wrapped = VecNormalize(env, norm_obs_keys=["arm"]) if normalizes else env
    callback = OnnxCheckpointCallback(tmp_path)
    make_model(algorithm, env=wrapped, policy="MultiInputPolicy").learn(16, callback=callback)
    assert_same(seen(callback), {key: env.rows(key) for key in ("arm", "speed")})


def stacked(log: Log, n_stack: int, *, normalized: bool) -> NDArray[np.float64]:
    """What a policy acts on where frames are stacked, raw: padded with zero, or with the mean of all until then."""
    rows, frames = [], list[NDArray[Any]]()
    total, count = np.zeros(3), 1e-4  # as stable_baselines3.common.running_mean_std counts
    for observation, begins in zip(log.given, log.begins, strict=True):
        total, count = total + observation[""], count + 1
        padding = total / count if normalized else np.zeros(3)
        frames = [*([padding] * (n_stack - 1) if begins else frames[1:]), observation[""]]
        rows.append(np.concatenate(frames))
    return np.array(rows)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("order", ["alone", "inside", "outside", "outside, unnormalized"])
def test_stacked_frames_are_stacks_of_raw_frames(order: str, tmp_path: Path) -> None:
    env = Logged()
    orders: dict[str, Wrap] = {
        "alone": lambda env: VecFrameStack(env, 3),
        "inside": lambda env: VecNormalize(VecFrameStack(env, 3)),
        "outside": lambda env: VecFrameStack(VecNormalize(env), 3),
        "outside, unnormalized": lambda env: VecFrameStack(_unnormalized(env), 3),
    }
    callback = OnnxCheckpointCallback(tmp_path)
    model = make_model(PPO, env=orders[order](env))
    model.learn(64, callback=callback)
    assert_same(seen(callback), {None: stacked(env.logs[0], 3, normalized=order == "outside")})
    model.learn(32, callback=callback, reset_num_timesteps=False)
    assert_same(seen(callback), {None: stacked(env.logs[0], 3, normalized=order == "outside")})


@pytest.mark.usefixtures("quick")
def test_a_frame_that_nobody_knows_is_not_made_up(tmp_path: Path) -> None:
    """A new callback comes in the middle of an episode: of what is stacked then, only the newest frame is known raw."""
    env = Logged()
    model = make_model(PPO, env=VecFrameStack(VecNormalize(env), 3))
    model.learn(48, callback=OnnxCheckpointCallback(tmp_path / "first"))
    before = len(env.logs[0].given)
    assert env.logs[0].begins[-3:] == [False] * 3
    callback = OnnxCheckpointCallback(tmp_path / "second")
    model.learn(32, callback=callback, reset_num_timesteps=False)
    assert_same(seen(callback), {None: stacked(env.logs[0], 3, normalized=True)[before + 1 :]})


# Wherever the callback is --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", ["list", "every", "best", "after", "followed", "followed from an event"])
def test_every_step_is_seen_wherever_the_callback_is(place: str, tmp_path: Path) -> None:
    env, eval_env = Logged(), make_env(FAR, BOX_ACTION)
    ours = OnnxCheckpointCallback(None if place.startswith("followed") else tmp_path)

    def evaluation(**kwargs: Any) -> EvalCallback:
        return EvalCallback(eval_env, eval_freq=10, n_eval_episodes=1, verbose=0, **kwargs)

    places: dict[str, Callable[[], list[BaseCallback]]] = {
        "list": lambda: [CheckpointCallback(10, str(tmp_path)), ours],
        "every": lambda: [EveryNTimesteps(20, ours)],
        "best": lambda: [evaluation(callback_on_new_best=ours)],
        "after": lambda: [evaluation(callback_after_eval=ours)],
        "followed": lambda: [ours, CheckpointCallback(10, str(tmp_path))],
        "followed from an event": lambda: [evaluation(callback_on_new_best=ours, best_model_save_path=str(tmp_path))],
    }
    callbacks = places[place]()
    make_model(PPO, env=env).learn(64, callback=callbacks if len(callbacks) > 1 else callbacks[0])
    assert_same(seen(ours), {None: env.rows()})
    assert all("on_step" not in vars(callback) for callback in [*callbacks, ours])


@pytest.mark.usefixtures("quick")
def test_one_that_is_made_in_the_middle_sees_what_comes_from_then_on(tmp_path: Path) -> None:
    made: list[OnnxCheckpointCallback] = []

    class Late(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 20:
                made.append(OnnxCheckpointCallback(tmp_path))
                made[0].init_callback(self.model)
            return made[0].on_step() if made else True

    env = Logged()
    make_model(PPO, env=env).learn(48, callback=Late())
    rows, record = env.rows(), seen(made[0])
    assert record.n_observations in (29, 30)
    assert record.ranges[0].maximum == tuple(rows[-record.n_observations :].max(axis=0))


class InPlace(VecEnvWrapper):
    """Gives one and the same array each time, with other numbers in it."""

    def __init__(self, env: VecEnv) -> None:
        super().__init__(env)
        self.given: NDArray[Any] = np.empty((env.num_envs, 3))

    def reset(self) -> Any:
        self.given[:] = self.venv.reset()
        return self.given

    def step_wait(self) -> Any:
        self.given[:], *others = self.venv.step_wait()
        return self.given, *others


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("wrap", [_bare, VecNormalize])
def test_every_step_is_seen_though_each_gives_the_same_array(wrap: Wrap, tmp_path: Path) -> None:
    env, callback = Logged(n_envs=2), OnnxCheckpointCallback(tmp_path)
    make_model(PPO, env=wrap(InPlace(env))).learn(64, callback=callback)
    assert_same(seen(callback), {None: env.rows()})


# From one training to the next ---------------------------------------------------------------------------------------


def trained(folder: Path, timesteps: int, model: BaseAlgorithm, **kwargs: Any) -> ObservationRanges:
    """What the final policy says after some more steps, by a callback of its own."""
    options = kwargs.pop("options", ExportOptions())
    model.learn(timesteps, callback=OnnxCheckpointCallback(folder, options=options), **kwargs)
    record = read_metadata(folder / "final_model.onnx").observation_ranges
    assert record is not None
    return record


def test_a_training_that_goes_on_goes_on_with_those_of_its_newest_file(tmp_path: Path) -> None:
    env = Logged()
    model = make_model(PPO, env=env)
    assert_same(trained(tmp_path, 32, model), {None: env.rows()})
    loaded = PPO.load(tmp_path / "final_model.zip", env=env)
    whole = trained(tmp_path, 32, loaded, reset_num_timesteps=False)
    rows = env.rows()
    assert whole.n_observations == len(rows) == 66  # two of them of a reset
    assert whole.ranges[0].minimum == tuple(rows.min(axis=0))
    assert whole.ranges[0].maximum == tuple(rows.max(axis=0))
    np.testing.assert_allclose(whole.ranges[0].mean, rows.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(whole.ranges[0].deviation, rows.std(axis=0), rtol=1e-9)
    n_before = len(rows)
    anew = trained(tmp_path, 32, loaded)
    assert_same(anew, {None: env.rows()[n_before:]})


@pytest.mark.usefixtures("quick")
def test_one_callback_goes_on_with_its_own_algorithm_alone(tmp_path: Path) -> None:
    env, other = Logged(), Logged()
    callback, model = OnnxCheckpointCallback(tmp_path), make_model(PPO, env=env)
    model.learn(32, callback=callback)
    model.learn(32, callback=callback, reset_num_timesteps=False)
    assert_same(seen(callback), {None: env.rows()})
    assert len(env.rows()) == 65
    make_model(PPO, env=other).learn(32, callback=callback)
    assert_same(seen(callback), {None: other.rows()})
    n_before = len(env.rows())
    model.learn(32, callback=callback)
    assert_same(seen(callback), {None: env.rows()[n_before:]})


@pytest.mark.usefixtures("quick")
def test_a_training_that_goes_on_elsewhere_is_seen_there(tmp_path: Path) -> None:
    env, other = Logged(), Logged()
    callback, model = OnnxCheckpointCallback(tmp_path), make_model(PPO, env=VecNormalize(env))
    model.learn(32, callback=callback)
    model.set_env(VecNormalize(other))
    model.learn(32, callback=callback, reset_num_timesteps=False)
    assert_same(seen(callback), {None: np.concatenate([env.rows(), other.rows()])})


def test_going_on_without_a_step_keeps_those_of_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, options = make_model(PPO, env=Logged()), ExportOptions(further_outputs=["outside"])
    before = trained(tmp_path, 32, model, options=options)
    loaded = PPO.load(tmp_path / "final_model.zip", env=Logged())
    after = trained(tmp_path, 0, loaded, options=options, reset_num_timesteps=False)
    assert (after.n_observations, after.ranges[0].maximum) == (33, before.ranges[0].maximum)
    assert not [text for text in caplog.messages if "ranges" in text]


def test_they_are_of_the_instant_of_each_file(tmp_path: Path) -> None:
    env = Logged()
    make_model(PPO, env=VecNormalize(env)).learn(40, callback=OnnxCheckpointCallback(tmp_path, save_freq=16))
    for steps in (16, 32):
        record = read_metadata(tmp_path / f"rl_model_{steps}_steps.onnx").observation_ranges
        assert record is not None
        assert_same(record, {None: env.rows()[: steps + 1]})


# Where there are none -----------------------------------------------------------------------------------------------


def test_they_can_be_switched_off(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, options={"observation_ranges": False})
    make_model(PPO).learn(16, callback=callback)
    assert callback._seen is None
    assert read_metadata(tmp_path / "final_model.onnx").observation_ranges is None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(0, 255, (3, 36, 36), np.uint8)], ids=str)
def test_choices_and_images_have_none(
    space: spaces.Space[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = OnnxCheckpointCallback(tmp_path)
    policy = "CnnPolicy" if isinstance(space, spaces.Box) else "MlpPolicy"
    make_model(PPO, space, policy=policy).learn(16, callback=callback)
    assert callback._seen is not None
    assert callback._seen.record() is None
    assert not [text for text in caplog.messages if "ranges" in text]


class Odd(VecEnvWrapper):
    """Tells the algorithm what it needs, and nobody else anything that can be read."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observation, rewards, dones, infos = self.venv.step_wait()
        return np.asarray(observation).view(_Unreadable), rewards, dones, infos


class _Unreadable(np.ndarray[Any, Any]):
    def __len__(self) -> int:
        raise RuntimeError("not today")


@pytest.mark.usefixtures("quick")
def test_a_training_goes_on_where_observations_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = OnnxCheckpointCallback(tmp_path)
    model = make_model(PPO, env=Odd(Logged()))
    with caplog.at_level(logging.WARNING):
        model.learn(32, callback=callback)
    assert model.num_timesteps == 32
    assert callback._seen is not None
    assert callback._seen.record() is None
    said = [text for text in caplog.messages if "ranges" in text]
    assert said == ["No observation ranges are kept: RuntimeError: not today."]


@pytest.mark.usefixtures("quick")
def test_an_algorithm_that_tells_of_no_observation_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = OnnxCheckpointCallback(tmp_path)
    make_model(ARS, env=Logged()).learn(200, callback=callback)
    assert callback._seen is not None
    assert callback._seen.record() is callback._seen.record() is None
    said = [text for text in caplog.messages if "ranges" in text]
    assert said == ["No observation ranges are kept: ARS tells callbacks of no new observation."]


@pytest.mark.usefixtures("quick")
def test_the_checks_notice_normalized_observations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sb3_clanker.sb3.seen.SeenObservations._raw", lambda self, observation, dones: {None: observation}
    )
    with pytest.raises(AssertionError):
        test_they_are_of_every_observation_raw(PPO, 1, VecNormalize, tmp_path)
