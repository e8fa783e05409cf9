"""What cannot be made as it was in training is refused by its name, and never played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction, TimeLimit
from msgspec.structs import replace
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
)

from sb3_clanker import MissingDependencyError, OnnxPolicy, OptionError, UnfitEnvironmentError, export_policy
from sb3_clanker.play.environment import open_environment
from sb3_clanker.play.episodes import play_episodes
from sb3_clanker.policy_file.record import EnvironmentRecord
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.sb3.wrappers import environment_spec, wrapper_names
from tests.play.games import BALL, DOORS, LIMIT, PARTS, SCREEN, Ball
from tests.worlds import make_model

SAME = (np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))


def _ball(**kwargs: Any) -> gym.Env[Any, Any]:
    return Monitor(gym.make(BALL, **kwargs))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    export_policy(make_model(PPO, env=VecFrameStack(DummyVecEnv([_ball]), 2)), path)
    return path


@pytest.fixture
def policy(exported: Path) -> OnnxPolicy:
    return OnnxPolicy(exported)


def _refused(policy: OnnxPolicy, match: str, env: Any = None) -> None:
    with pytest.raises(UnfitEnvironmentError, match=match):
        play_episodes(policy, env, [0])


def _trained_in(policy: OnnxPolicy, env: VecEnv) -> OnnxPolicy:
    """The policy, with what the record says of one that was trained in this environment."""
    env_record = {"environment": wrapper_names(env), "environment_spec": environment_spec(env)}
    policy.metadata = replace(policy.metadata, **env_record)
    return policy


def test_wrappers_that_leave_episodes_alone_are_no_obstacle(policy: OnnxPolicy) -> None:
    noted = gym.wrappers.RecordEpisodeStatistics(gym.make(BALL, disable_env_checker=True, render_mode="rgb_array"))
    _trained_in(policy, VecMonitor(DummyVecEnv([lambda: noted])))
    assert policy.metadata.environment[:2] == ("VecMonitor", "DummyVecEnv")
    assert play_episodes(policy, None, [0]).lengths[0] > 0


def test_a_wrapper_of_the_environment_is_refused(policy: OnnxPolicy) -> None:
    _trained_in(policy, DummyVecEnv([lambda: RescaleAction(_ball(), *SAME)]))
    message = (
        r"Cannot play this policy in tests/Ball-v0: the policy was trained through RescaleAction, which it lacks\. "
    )
    for env in (None, BALL, SCREEN):
        _refused(policy, message.replace("tests/Ball-v0", env or BALL), env)
    own = TimeLimit(RescaleAction(Ball(), *SAME), LIMIT)
    assert play_episodes(policy, own, [0]).lengths[0] > 0


def test_another_environment_of_the_same_id_is_refused(policy: OnnxPolicy) -> None:
    *wrappers, _ = policy.metadata.environment
    policy.metadata = replace(policy.metadata, environment=(*wrappers, "OldBall"))
    _refused(policy, r"tests/Ball-v0: the policy was trained through OldBall, which it lacks\.")
    _refused(policy, r"tests/Screen-v0: its action is Discrete int64 \[\], and the policy's Box float32 \[1\]", SCREEN)


def test_a_wrapper_that_training_did_without_is_refused(policy: OnnxPolicy) -> None:
    _trained_in(policy, DummyVecEnv([lambda: Monitor(gym.make(BALL, max_episode_steps=-1))]))
    with open_environment(policy.metadata, None) as env:
        assert not isinstance(env, TimeLimit)
    spec = EnvironmentRecord(id=BALL, kwargs={})  # as records were that did not say so
    policy.metadata = replace(policy.metadata, environment_spec=spec)
    _refused(policy, r"tests/Ball-v0: it has TimeLimit, without which the policy was trained\.")


def test_a_wrapper_of_vectorized_environments_is_refused(policy: OnnxPolicy) -> None:
    env = VecExtractDictObs(DummyVecEnv([lambda: Monitor(gym.make(PARTS))]), "place")
    _trained_in(policy, env)
    _refused(policy, r"tests/Parts-v0: the policy was trained through VecExtractDictObs, which the file does not hold")
    _refused(policy, r"tests/Ball-v0: the policy was trained through VecExtractDictObs, which", BALL)
    assert play_episodes(policy, TimeLimit(Ball(), LIMIT), [0]).lengths[0] > 0


def test_of_an_environment_in_another_process_the_id_is_needed(policy: OnnxPolicy) -> None:
    env = SubprocVecEnv([_ball], start_method="fork")
    try:
        _trained_in(policy, env)
    finally:
        env.close()
    _refused(policy, r"in SubprocVecEnv: the record does not say how gymnasium makes it\. Name its id, or make it ")
    assert play_episodes(policy, BALL, [0]).lengths[0] > 0


def test_what_is_made_without_gymnasium_is_refused(policy: OnnxPolicy) -> None:
    _trained_in(policy, DummyVecEnv([lambda: TimeLimit(Ball(), LIMIT)]))
    _refused(policy, r"in DummyVecEnv of TimeLimit of Ball: the record does not say how gymnasium makes it")
    policy.metadata = replace(policy.metadata, environment=())
    _refused(policy, r"in its environment: the record does not say how gymnasium makes it")


def test_arguments_that_are_left_out_are_missing(policy: OnnxPolicy) -> None:
    _trained_in(policy, DummyVecEnv([lambda: _ball(drift=np.float32(0.5))]))
    for env in (None, BALL):
        _refused(policy, r"in tests/Ball-v0\(\): the record leaves out some of its arguments \(drift\)", env)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "problem"),
    [
        ("tests/Nobody-v0", {}, r"gymnasium cannot make it \(NameNotFound: Environment `Nobody` doesn't exist"),
        (BALL, {"gravity": 9.81}, r"gymnasium cannot make it \(TypeError: .*unexpected keyword argument 'gravity'"),
        ("tests.play.games:tests/Ball-v0", {}, r"no module is imported because a record names it\."),
        ("no\x1b[31m such id", {"\x1b]0;title\x07": "\x1b[2J" * 1000}, r"\(.*\)"),
        ("x" * 100_000, {}, r"gymnasium cannot make it"),
    ],
)
def test_a_hostile_record_is_refused_in_plain_words(
    policy: OnnxPolicy, env_id: str, kwargs: dict[str, Any], problem: str
) -> None:
    policy.metadata = replace(policy.metadata, environment_spec=EnvironmentRecord(id=env_id, kwargs=kwargs))
    with pytest.raises(UnfitEnvironmentError, match=problem) as caught:
        play_episodes(policy, None, [0])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "stack", [{"n_stack": 10**15}, {"n_stack": 0}, {"n_stack": -2}, {"axis": 0}, {"axis": -9}, {"padding": (1.0,) * 5}]
)
def test_frames_that_do_not_fit_are_refused(policy: OnnxPolicy, stack: dict[str, Any]) -> None:
    (recorded,) = policy.metadata.frame_stacks
    policy.metadata = replace(policy.metadata, frame_stacks=(replace(recorded, **stack),))
    _refused(policy, r"its observation is Box float32 \[2\], and the policy's Box float32 \[4\]")


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ("CartPole-v1", r"CartPole-v1: its action is Discrete int64 \[\], and the policy's Box float32 \[1\]"),
        (DOORS, r"tests/Doors-v0: its action is MultiDiscrete int64 \[2\], and the policy's Box"),
        (PARTS, r"tests/Parts-v0: its observations have the keys place, screen, and the policy's None"),
        ("Pendulum-v1", r"Pendulum-v1: its action Box float32 \[1\] has other bounds than the policy's\."),
    ],
)
def test_another_space_is_refused(policy: OnnxPolicy, env: str, problem: str) -> None:
    _refused(policy, problem + r".* Play it in the environment that it was trained in\.$", env)


def test_bounds_and_kinds_of_an_own_environment_count(policy: OnnxPolicy) -> None:
    own = Ball()
    own.observation_space = spaces.Box(-5.0, 5.0, (2,), np.float32)
    _refused(policy, r"in Ball: its observation is Box float32 \[2\], and the policy's Box float32 \[4\]", own)
    own.observation_space = spaces.Box(-5.0, 5.0, (4,), np.float32)
    _refused(policy, r"in Ball: its observation Box float32 \[4\] has other bounds than the policy's\.", own)
    unsupported: Any = own
    unsupported.observation_space = spaces.Tuple([Ball.observation_space])
    _refused(policy, r"in Ball: its observation space Tuple\(.*\) is none that a policy can have", own)


def test_masks_must_be_there(policy: OnnxPolicy) -> None:
    masks = TensorSpec(name="action_masks", dtype="bool", shape=("batch", 2), role="action_masks", meaning="")
    policy.metadata = replace(policy.metadata, inputs=(*policy.metadata.inputs, masks))
    _refused(policy, r"tests/Ball-v0: it has no method action_masks, which this policy needs\.")


def test_what_is_no_environment_is_refused(policy: OnnxPolicy) -> None:
    for env in (DummyVecEnv([_ball]), 7):
        with pytest.raises(OptionError, match=r"env=.* cannot be used: expected the id of an environment, a gymnasium"):
            play_episodes(policy, env, [0])  # type: ignore[arg-type]


def test_without_gymnasium_the_error_says_what_to_install(policy: OnnxPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    with pytest.raises(MissingDependencyError, match=r"Playing a policy needs .* gymnasium, .*: pip install gymnasium"):
        play_episodes(policy, BALL, [0])
