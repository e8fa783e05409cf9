"""A policy that is played from its file has the returns that Stable-Baselines3's own evaluation gives its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation, TransformObservation
from msgspec.structs import replace
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable import evaluation as maskable
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common import evaluation
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_clanker import ExportOptions, OnnxPolicy, UnfitEnvironmentError, export_policy
from sb3_clanker.play.episodes import Episodes, play_episodes
from tests.play.games import BALL, BLIND, DOORS, LIMIT, PARTS, SCREEN, Ball
from tests.worlds import make_model

SEEDS = range(40, 44)


def _vectorized(env_id: str, **kwargs: Any) -> VecEnv:
    return DummyVecEnv([lambda: Monitor(gym.make(env_id, **kwargs))])


def _normalized(env: VecEnv, **kwargs: Any) -> VecNormalize:
    """With statistics that are not those of the start."""
    normalized = VecNormalize(env, **kwargs)
    for _ in range(3):
        normalized.reset()
        for _ in range(10):
            normalized.step(np.array([env.action_space.sample()]))
    return normalized


def _expected(model: BaseAlgorithm) -> tuple[list[float], list[int]]:
    """What ``evaluate_policy`` finds in an episode after each seed."""
    env: Any = model.get_env()
    if (normalized := model.get_vec_normalize_env()) is not None:
        normalized.training = False
    evaluate: Any = maskable.evaluate_policy if isinstance(model, MaskablePPO) else evaluation.evaluate_policy
    returns, lengths = [], []
    for seed in SEEDS:
        env.seed(seed)
        (one,), (length,) = evaluate(model, env, n_eval_episodes=1, return_episode_rewards=True)
        returns.append(one)
        lengths.append(length)
    return returns, lengths


def _exported(model: BaseAlgorithm, folder: Path, **options: Any) -> OnnxPolicy:
    export_policy(model, folder / "policy.onnx", options=ExportOptions(**options))
    return OnnxPolicy(folder / "policy.onnx")


def _assert_equal(episodes: Episodes, model: BaseAlgorithm) -> None:
    returns, lengths = _expected(model)
    assert episodes.lengths.tolist() == lengths
    assert np.round(episodes.returns, 6) == pytest.approx(returns, abs=1e-4, rel=1e-5)
    assert len(set(returns)) > 2


CASES: dict[str, Callable[[], BaseAlgorithm]] = {
    "CartPole": lambda: make_model(PPO, env=_vectorized("CartPole-v1"), scale=0.2),
    "Pendulum, normalized": lambda: make_model(PPO, env=_normalized(_vectorized("Pendulum-v1"))),
    "arguments": lambda: make_model(PPO, env=_vectorized(BALL, drift=0.5)),
    "recurrent": lambda: make_model(RecurrentPPO, policy="MlpLstmPolicy", env=_normalized(_vectorized(BALL))),
    "masked": lambda: make_model(MaskablePPO, env=_vectorized(DOORS)),
    "image": lambda: make_model(DQN, policy="CnnPolicy", env=_vectorized(SCREEN)),
    "normalized image": lambda: make_model(
        PPO,
        policy="CnnPolicy",
        env=_normalized(VecTransposeImage(_vectorized(SCREEN))),
        policy_kwargs={"normalize_images": False},
        scale=0.1,
    ),
    "Dict": lambda: make_model(
        PPO, policy="MultiInputPolicy", env=_normalized(_vectorized(PARTS), norm_obs_keys=["place"])
    ),
    "frames of normalized": lambda: make_model(PPO, env=VecFrameStack(_normalized(_vectorized(BALL)), 3)),
    "normalized frames": lambda: make_model(A2C, env=_normalized(VecFrameStack(_vectorized(BALL), 3))),
    "frames of images": lambda: make_model(DQN, policy="CnnPolicy", env=VecFrameStack(_vectorized(SCREEN), 4)),
    "frames of images in front": lambda: make_model(
        PPO, policy="CnnPolicy", env=VecFrameStack(_vectorized(SCREEN), 2, channels_order="first")
    ),
    "frames of a Dict": lambda: make_model(
        PPO, policy="MultiInputPolicy", env=VecFrameStack(_normalized(_vectorized(PARTS), norm_obs_keys=["place"]), 2)
    ),
}


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseAlgorithm, Path]:
    """A policy that sees frames of normalized observations, and its file."""
    model, folder = CASES["frames of normalized"](), tmp_path_factory.mktemp("stacked")
    _exported(model, folder)
    return model, folder / "policy.onnx"


_OFTEN = ("Pendulum, normalized", "recurrent", "masked", "normalized frames")
"""The others are tried by ``make soak``; one more is tried below."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in _OFTEN else pytest.mark.slow) for case in CASES]
)
def test_returns_are_those_of_evaluate_policy(case: str, tmp_path: Path) -> None:
    model = CASES[case]()
    _assert_equal(play_episodes(_exported(model, tmp_path), None, SEEDS), model)


@pytest.mark.parametrize(("index", "padding"), [(0, 7.0), (None, 7.0)], ids=["of one component", "of all"])
def test_a_wrong_padding_would_be_seen(index: int | None, padding: float, stacked: tuple[BaseAlgorithm, Path]) -> None:
    model, policy = stacked[0], OnnxPolicy(stacked[1])
    _assert_equal(play_episodes(policy, None, SEEDS), model)
    (stack,) = policy.metadata.frame_stacks
    wrong = padding if index is None else (padding, *stack.padding[1:])  # type: ignore[index]
    policy.metadata = replace(policy.metadata, frame_stacks=(replace(stack, padding=wrong),))
    with pytest.raises(AssertionError):
        _assert_equal(play_episodes(policy, None, SEEDS), model)


def test_an_environment_of_the_callers_own_is_taken_as_it_is(stacked: tuple[BaseAlgorithm, Path]) -> None:
    model, policy = stacked[0], OnnxPolicy(stacked[1])
    own = Ball()
    limited = gym.wrappers.TimeLimit(own, LIMIT)
    _assert_equal(play_episodes(policy, limited, SEEDS), model)
    assert not own.closed
    by_itself = TransformObservation(
        FrameStackObservation(limited, 3, padding_type=np.array([0, 0], np.float32)),
        lambda frames: frames.reshape(-1),
        policy.observation_space,
    )
    assert play_episodes(policy, by_itself, SEEDS).lengths.tolist() == _expected(model)[1]


def test_the_environment_that_is_made_is_closed(
    stacked: tuple[BaseAlgorithm, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = OnnxPolicy(stacked[1])
    made: list[Ball] = []
    monkeypatch.setattr(Ball, "close", lambda self: made.append(self))
    play_episodes(policy, None, [0])
    assert len(made) == 1
    monkeypatch.setattr(Ball, "step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        play_episodes(policy, None, [0])
    assert len(made) == 2


def test_an_id_with_the_arguments_of_the_record_or_plain(tmp_path: Path) -> None:
    model = CASES["arguments"]()
    policy = _exported(model, tmp_path)
    for env_id in (BALL, f"tests.play.games:{BALL}"):
        episodes = play_episodes(policy, env_id, SEEDS, n_frames=1)
        _assert_equal(episodes, model)
        assert len(episodes.frames) == 1
    policy.metadata = replace(policy.metadata, environment_spec=None)
    plain = make_model(PPO, env=_vectorized(BALL))
    plain.policy.load_state_dict(model.policy.state_dict())
    _assert_equal(play_episodes(policy, BALL, SEEDS), plain)
    _assert_equal(play_episodes(policy, f"tests.play.games:{BALL}", SEEDS), plain)


def test_actions_and_pictures_are_kept_on_demand(stacked: tuple[BaseAlgorithm, Path]) -> None:
    policy = OnnxPolicy(stacked[1])
    nothing = play_episodes(policy, None, SEEDS)
    assert (nothing.actions.shape, nothing.frames) == ((0, 1), ())
    episodes = play_episodes(policy, None, SEEDS, n_kept=50, n_frames=10)
    assert 25 <= len(episodes.actions) <= 50 < episodes.lengths.sum()
    every = play_episodes(policy, None, SEEDS, n_kept=1000)
    step = int(np.ceil(episodes.lengths.sum() / 50))
    kept = every.actions[:: 1 << (step - 1).bit_length()]
    np.testing.assert_array_equal(episodes.actions, kept)
    assert len(every.actions) == episodes.lengths.sum()
    assert [frame.shape for frame in episodes.frames] == [(8, 12, 3)] * 10
    assert episodes.frames_per_second == 20.0
    whole = play_episodes(policy, None, SEEDS, n_frames=1000)
    assert len(whole.frames) == whole.lengths[0] + 1
    shrunk = play_episodes(policy, None, SEEDS, n_frames=5, shrink=lambda frame: frame[:4])
    assert [frame.shape for frame in shrunk.frames] == [(4, 12, 3)] * 5


@pytest.mark.parametrize("limit", [7, -1])
def test_an_episode_is_as_long_as_in_training(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = iter(step % 40 == 39 for step in range(10_000))
    monkeypatch.setattr(Ball, "step", lambda self, _: (self.observe(), 1.0, next(ended), False, {}))
    model = make_model(PPO, env=_vectorized(BALL, max_episode_steps=limit))
    policy = _exported(model, tmp_path)
    assert policy.metadata.environment_spec is not None
    assert policy.metadata.environment_spec.kwargs["max_episode_steps"] == limit
    assert play_episodes(policy, None, [0]).lengths.tolist() == [7 if limit > 0 else 40]
    assert play_episodes(policy, gym.make(BALL), [0]).lengths.tolist() == [LIMIT]


@pytest.mark.parametrize("fails", [lambda self: 1 / 0, lambda self: None], ids=["error", "none"])
def test_one_that_cannot_draw_is_played_without_pictures(
    fails: Callable[[Ball], Any],
    stacked: tuple[BaseAlgorithm, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, policy = stacked[0], OnnxPolicy(stacked[1])
    monkeypatch.setattr(Ball, "render", fails)
    episodes = play_episodes(policy, None, SEEDS, n_frames=5)
    _assert_equal(episodes, model)
    assert episodes.frames == ()
    (said,) = caplog.messages
    assert said.startswith("tests/Ball-v0 is played without pictures: it cannot draw (")


def test_one_that_takes_no_render_mode_is_played_without_pictures(tmp_path: Path) -> None:
    model = make_model(PPO, env=_vectorized(BLIND))
    episodes = play_episodes(_exported(model, tmp_path), None, SEEDS, n_frames=5)
    _assert_equal(episodes, model)
    assert episodes.frames == ()


def test_an_episode_without_an_end_is_refused(
    stacked: tuple[BaseAlgorithm, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = OnnxPolicy(stacked[1])
    monkeypatch.setattr("sb3_clanker.play.episodes.MOST_STEPS", 3)
    monkeypatch.setattr(Ball, "step", lambda self, _: (self.observe(), 1.0, False, False, {}))
    with pytest.raises(UnfitEnvironmentError, match=r"tests/Ball-v0: an episode did not end in 3 steps\."):
        play_episodes(policy, None, [0])
