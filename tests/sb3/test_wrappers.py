"""What wraps an environment: what the record says of it, and that a consumer can stack frames by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_clanker import ExportOptions, OnnxPolicy, export_policy
from sb3_clanker.errors import ClankerWarning, InnerNormalizationWarning
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.policy_file.record import EnvironmentRecord, FrameStackRecord, KeywordArgument, PolicyMetadata
from sb3_clanker.sb3.wrappers import (
    FrameStack,
    environment_spec,
    frame_stacks,
    warn_of_inner_normalization,
    wrapper_names,
)
from sb3_clanker.training.placeholders import environment_id
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, UNBOUNDED_OBSERVATION, SpacesEnv, make_env, make_model

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
CAMERA = spaces.Box(0, 255, (36, 36, 3), np.uint8)  # channels last, as cameras give it
CUBE = spaces.Box(-np.inf, np.inf, (2, 3, 4), np.float32)
DICT = spaces.Dict({"arm": UNBOUNDED_OBSERVATION, "eye": spaces.Box(-1.0, 1.0, (2, 2), np.float32)})
CAMERA_AND_ARM = spaces.Dict({"arm": UNBOUNDED_OBSERVATION, "camera": CAMERA})


def _dummy(observation_space: spaces.Space[Any] = BOX_OBSERVATION) -> VecEnv:
    return DummyVecEnv([lambda: SpacesEnv(observation_space, BOX_ACTION)])


# Names of wrappers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (_dummy, ("DummyVecEnv", "SpacesEnv")),
        (lambda: make_env(BOX_OBSERVATION, BOX_ACTION, n_envs=2), ("DummyVecEnv", "Monitor", "SpacesEnv")),
        (
            lambda: VecFrameStack(VecNormalize(VecMonitor(_dummy())), 2),
            ("VecFrameStack", "VecNormalize", "VecMonitor", "DummyVecEnv", "SpacesEnv"),
        ),
        (lambda: VecTransposeImage(_dummy(CAMERA)), ("VecTransposeImage", "DummyVecEnv", "SpacesEnv")),
        (
            lambda: DummyVecEnv(
                [
                    lambda: gym.wrappers.TimeLimit(
                        gym.wrappers.ClipAction(Monitor(SpacesEnv(BOX_OBSERVATION, BOX_ACTION))), 9
                    )
                ]
            ),
            ("DummyVecEnv", "TimeLimit", "ClipAction", "Monitor", "SpacesEnv"),
        ),
    ],
    ids=["plain", "Monitor", "vectorized wrappers", "transposed", "gymnasium's wrappers"],
)
def test_wrappers_are_named_outermost_first(make: Callable[[], VecEnv], names: tuple[str, ...]) -> None:
    assert wrapper_names(make()) == names


def test_names_end_at_the_border_of_a_subprocess() -> None:
    env = VecNormalize(
        SubprocVecEnv([lambda: Monitor(SpacesEnv(BOX_OBSERVATION, BOX_ACTION))] * 2, start_method="fork")
    )
    try:
        assert wrapper_names(env) == ("VecNormalize", "SubprocVecEnv")
        warn_of_inner_normalization(env)
    finally:
        env.close()


def test_without_an_environment_there_is_nothing_to_say() -> None:
    assert wrapper_names(None) == ()
    assert frame_stacks(None) == {}
    warn_of_inner_normalization(None)


# Stacked frames -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_dummy, {}),
        (lambda: VecNormalize(_dummy()), {}),
        (
            lambda: VecFrameStack(_dummy(), 4),
            {None: FrameStack(n_stack=4, axis=-1, after_normalization=False)},
        ),
        (
            lambda: VecFrameStack(VecNormalize(_dummy()), 3),
            {None: FrameStack(n_stack=3, axis=-1, after_normalization=True)},
        ),
        (
            lambda: VecNormalize(VecFrameStack(_dummy(), 3)),
            {None: FrameStack(n_stack=3, axis=-1, after_normalization=False)},
        ),
        (
            lambda: VecMonitor(VecFrameStack(VecMonitor(VecNormalize(_dummy())), 2)),
            {None: FrameStack(n_stack=2, axis=-1, after_normalization=True)},
        ),
        (
            lambda: VecFrameStack(_dummy(IMAGE), 4),
            {None: FrameStack(n_stack=4, axis=-3, after_normalization=False)},
        ),
        (
            lambda: VecFrameStack(_dummy(CUBE), 4, channels_order="first"),
            {None: FrameStack(n_stack=4, axis=-3, after_normalization=False)},
        ),
        (
            lambda: VecFrameStack(_dummy(CUBE), 4),
            {None: FrameStack(n_stack=4, axis=-1, after_normalization=False)},
        ),
        (
            lambda: VecFrameStack(_dummy(spaces.Box(-1.0, 1.0, (5, 2))), 2, channels_order="first"),
            {None: FrameStack(n_stack=2, axis=-2, after_normalization=False)},
        ),
        (
            lambda: VecFrameStack(_dummy(DICT), 2, channels_order={"arm": "last", "eye": "first"}),
            {
                "arm": FrameStack(n_stack=2, axis=-1, after_normalization=False),
                "eye": FrameStack(n_stack=2, axis=-2, after_normalization=False),
            },
        ),
        (
            lambda: VecFrameStack(VecNormalize(_dummy(DICT), norm_obs_keys=["arm"]), 2),
            {
                "arm": FrameStack(n_stack=2, axis=-1, after_normalization=True),
                "eye": FrameStack(n_stack=2, axis=-1, after_normalization=True),
            },
        ),
    ],
    ids=[
        "none",
        "VecNormalize alone",
        "alone",
        "over VecNormalize",
        "under VecNormalize",
        "between others",
        "image",
        "channels first",
        "channels last",
        "matrix",
        "Dict",
        "Dict over VecNormalize",
    ],
)
def test_stacked_frames_are_recognised(make: Callable[[], VecEnv], expected: dict[str | None, FrameStack]) -> None:
    assert frame_stacks(make()) == expected


class _RecordingEnv(SpacesEnv):
    """Keeps the latest observation, and ends its episodes by chance."""

    latest: Any

    def _observe(self) -> Any:
        self.latest = super()._observe()
        return self.latest

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, bool(self.np_random.random() < 0.2), truncated, info


@dataclass(frozen=True, kw_only=True)
class World:
    """A trained model, its environments from the innermost to the outermost, and the policy in its file."""

    model: BaseAlgorithm
    inner: _RecordingEnv
    env: VecEnv
    policy: OnnxPolicy

    @property
    def metadata(self) -> PolicyMetadata:
        return self.policy.metadata


@dataclass(frozen=True, kw_only=True)
class Stack:
    """How frames are stacked in a world."""

    observation_space: spaces.Space[Any]
    wrap: Callable[[VecEnv], VecEnv]
    axes: dict[str | None, int]
    n_stack: int = 3
    policy: str = "MlpPolicy"
    policy_kwargs: dict[str, Any]


STACKS = {
    "alone": Stack(
        observation_space=BOX_OBSERVATION, wrap=lambda env: VecFrameStack(env, 3), axes={None: -1}, policy_kwargs={}
    ),
    "over VecNormalize": Stack(
        observation_space=UNBOUNDED_OBSERVATION,
        wrap=lambda env: VecFrameStack(VecNormalize(env), 3),
        axes={None: -1},
        policy_kwargs={},
    ),
    "under VecNormalize": Stack(
        observation_space=UNBOUNDED_OBSERVATION,
        wrap=lambda env: VecNormalize(VecFrameStack(env, 3)),
        axes={None: -1},
        policy_kwargs={},
    ),
    "over VecNormalize, channels first": Stack(
        observation_space=CUBE,
        wrap=lambda env: VecFrameStack(VecNormalize(env), 3, channels_order="first"),
        axes={None: -3},
        policy_kwargs={"normalize_images": False},
    ),
    "over VecNormalize of one key": Stack(
        observation_space=DICT,
        wrap=lambda env: VecFrameStack(
            VecNormalize(env, norm_obs_keys=["arm"]), 3, channels_order={"arm": "last", "eye": "first"}
        ),
        axes={"arm": -1, "eye": -2},
        policy="MultiInputPolicy",
        policy_kwargs={},
    ),
    "images with their channels first": Stack(
        observation_space=IMAGE,
        wrap=lambda env: VecFrameStack(env, 2, channels_order="first"),
        axes={None: -3},
        n_stack=2,
        policy="CnnPolicy",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}},
    ),
    "images with their channels last": Stack(
        observation_space=CAMERA,
        wrap=lambda env: VecFrameStack(env, 2),
        axes={None: -3},
        n_stack=2,
        policy="CnnPolicy",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}},
    ),
    "a key beside images with their channels last": Stack(
        observation_space=CAMERA_AND_ARM,
        wrap=lambda env: VecFrameStack(VecNormalize(env, norm_obs_keys=["arm"]), 5),
        axes={"arm": -1, "camera": -3},
        n_stack=5,
        policy="MultiInputPolicy",
        policy_kwargs={"features_extractor_kwargs": {"cnn_output_dim": 16}},
    ),
}


def _make_world(stack: Stack, path: Path) -> World:
    """Train, and stop the statistics where they are; the environment is reset with a seed."""
    inner = _RecordingEnv(stack.observation_space, BOX_ACTION)
    env = stack.wrap(DummyVecEnv([lambda: inner]))
    model = make_model(env=env, policy=stack.policy, policy_kwargs=stack.policy_kwargs)
    model.learn(32)
    vec_normalize = model.get_vec_normalize_env()
    if vec_normalize is not None:
        vec_normalize.training = False
    report = export_policy(model, path, options=ExportOptions(n_samples=64))
    wrapped = model.get_env()
    assert wrapped is not None
    return World(model=model, inner=inner, env=wrapped, policy=OnnxPolicy(report.path))


Worlds = Callable[[str], World]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Worlds by name, each trained and exported once."""
    made: dict[str, World] = {}

    def world(name: str) -> World:
        if name not in made:
            made[name] = _make_world(STACKS[name], tmp_path_factory.mktemp("world") / "policy")
        return made[name]

    return world


class _Consumer:
    """Stacks raw frames by the record alone, as a robot would."""

    def __init__(self, metadata: PolicyMetadata) -> None:
        self._records = {record.key: record for record in metadata.frame_stacks}
        self._frames: dict[str | None, list[np.ndarray]] = {}

    def reset(self) -> None:
        self._frames = {}

    def stack(self, latest: Any) -> Any:
        """The observation that ends with this frame."""
        if not isinstance(latest, dict):
            return self._stack(None, latest)
        return {key: self._stack(key, frame) for key, frame in latest.items()}

    def _stack(self, key: str | None, frame: np.ndarray) -> np.ndarray:
        record = self._records[key]
        if key not in self._frames:
            padding = np.zeros(frame.shape) + np.reshape(record.padding, frame.shape if _is_tuple(record) else ())
            self._frames[key] = [padding.astype(np.uint8 if frame.dtype == np.uint8 else np.float32)] * record.n_stack
        self._frames[key] = [*self._frames[key][1:], frame]
        return np.concatenate(self._frames[key], axis=record.axis)


def _is_tuple(record: FrameStackRecord) -> bool:
    return isinstance(record.padding, tuple)


def _in_the_layout_of_the_policy(frame: Any) -> Any:
    """Stable-Baselines3 trains on images with their channels first."""
    if isinstance(frame, dict):
        return {key: _in_the_layout_of_the_policy(leaf) for key, leaf in frame.items()}
    return VecTransposeImage.transpose_image(frame) if frame.shape == CAMERA.shape else frame


def _steps(world: World, n: int) -> Iterator[tuple[Any, bool]]:
    """What Stable-Baselines3's environment gives the model, and whether an episode began with it."""
    observation: Any = world.env.reset()
    began = True
    for _ in range(n):
        yield observation, began
        observation, _, dones, _ = world.env.step(world.model.predict(observation, deterministic=True)[0])
        began = bool(dones[0])


@pytest.mark.parametrize("name", STACKS)
def test_frames_stacked_and_padded_by_the_record_give_the_actions_of_the_training(worlds: Worlds, name: str) -> None:
    world = worlds(name)
    consumer, began_at, actions = _Consumer(world.metadata), [], set()
    for step, (observation, began) in enumerate(_steps(world, 40)):
        if began:
            consumer.reset()
            began_at.append(step)
        raw = consumer.stack(_in_the_layout_of_the_policy(world.inner.latest))
        expected, _ = world.model.predict(observation, deterministic=True)
        got, _ = world.policy.predict(raw)
        np.testing.assert_allclose(got, expected[0], rtol=1e-5, atol=1e-5)
        actions.add(expected.tobytes())
    assert len(began_at) > 2
    assert len(actions) > 1, "the weights tell no actions apart"


@pytest.mark.parametrize("name", STACKS)
def test_the_record_says_how_the_recorded_observation_is_stacked(worlds: Worlds, name: str) -> None:
    world, stack = worlds(name), STACKS[name]
    records = {record.key: record for record in world.metadata.frame_stacks}
    assert {key: record.axis for key, record in records.items()} == stack.axes
    assert {record.n_stack for record in records.values()} == {stack.n_stack}


@pytest.mark.parametrize("name", ["alone", "under VecNormalize", "images with their channels first"])
def test_padding_is_zero_where_nothing_was_normalized_before(worlds: Worlds, name: str) -> None:
    (record,) = worlds(name).metadata.frame_stacks
    assert (record.padding, record.padding_error) == (0.0, 0.0)


def test_padding_is_the_mean_where_frames_were_normalized_before(worlds: Worlds) -> None:
    world = worlds("over VecNormalize")
    (record,) = world.metadata.frame_stacks
    vec_normalize: Any = world.model.get_vec_normalize_env()
    np.testing.assert_allclose(record.padding, vec_normalize.obs_rms.mean, rtol=1e-7)
    assert isinstance(record.padding, tuple)
    assert all(abs(value) > 0.1 for value in record.padding)
    assert 0.0 <= record.padding_error < 1e-6


def test_padding_of_a_matrix_is_in_row_major_order(worlds: Worlds) -> None:
    world = worlds("over VecNormalize, channels first")
    (record,) = world.metadata.frame_stacks
    vec_normalize: Any = world.model.get_vec_normalize_env()
    assert isinstance(record.padding, tuple)
    np.testing.assert_allclose(np.reshape(record.padding, CUBE.shape), vec_normalize.obs_rms.mean, rtol=1e-6)


def test_each_key_has_its_own_padding(worlds: Worlds) -> None:
    world = worlds("over VecNormalize of one key")
    records = {record.key: record for record in world.metadata.frame_stacks}
    vec_normalize: Any = world.model.get_vec_normalize_env()
    np.testing.assert_allclose(records["arm"].padding, vec_normalize.obs_rms["arm"].mean, rtol=1e-6)
    assert (records["eye"].padding, records["eye"].padding_error) == (0.0, 0.0)


def test_padding_that_float32_cannot_carry_is_reported(tmp_path: Path) -> None:
    vec_normalize: Any = VecNormalize(_dummy(UNBOUNDED_OBSERVATION))
    vec_normalize.obs_rms.mean = np.array([0.5, 1e6 + 0.03, 2.0])
    vec_normalize.obs_rms.var = np.array([1.0, 4.0, 9.0])
    model = make_model(env=VecFrameStack(vec_normalize, 2))
    (record,) = export_policy(model, tmp_path / "policy").metadata.frame_stacks
    np.testing.assert_array_equal(record.padding, np.array([0.5, 1e6, 2.0], np.float32))
    padding = np.array(record.padding)
    assert record.padding_error == pytest.approx(np.abs(vec_normalize.normalize_obs(padding)).max(), rel=1e-4)
    assert record.padding_error == pytest.approx(0.015, rel=1e-2)


def test_the_environment_is_in_the_record(worlds: Worlds) -> None:
    assert worlds("over VecNormalize").metadata.environment == (
        "VecFrameStack",
        "VecNormalize",
        "DummyVecEnv",
        "_RecordingEnv",
    )
    assert worlds("images with their channels first").metadata.environment == (
        "VecFrameStack",
        "DummyVecEnv",
        "_RecordingEnv",
    )


# Normalization that no file can fold in -----------------------------------------------------------------------------

INNER = (
    r"^The environment normalizes its observations itself \(gymnasium's NormalizeObservation\)\. That cannot be folded "
    r"into the file, which will expect observations normalized in the same way\. Use Stable-Baselines3's VecNormalize "
    r"in its place\.$"
)


def _normalizing() -> gym.Env[Any, Any]:
    return Monitor(gym.wrappers.NormalizeObservation(SpacesEnv(BOX_OBSERVATION, BOX_ACTION)))


def test_normalization_within_the_environment_is_warned_of(tmp_path: Path) -> None:
    model = make_model(env=DummyVecEnv([_normalizing]))
    with pytest.warns(InnerNormalizationWarning, match=INNER) as warned:
        report = export_policy(model, tmp_path / "policy")
    assert len(warned) == 1
    assert isinstance(warned[0].message, ClankerWarning)
    assert report.metadata.environment == ("DummyVecEnv", "Monitor", "NormalizeObservation", "SpacesEnv")
    assert report.metadata.normalization.status == "none"


def test_the_warning_points_at_the_line_that_exports(tmp_path: Path) -> None:
    model = make_model(env=DummyVecEnv([_normalizing]))
    with pytest.warns(InnerNormalizationWarning, match="normalizes its observations itself") as warned:
        export_policy(model, tmp_path / "policy", options=ExportOptions(n_samples=16))
    assert warned[0].filename == __file__


def test_normalization_within_one_of_several_environments_is_warned_of() -> None:
    env = DummyVecEnv([lambda: Monitor(SpacesEnv(BOX_OBSERVATION, BOX_ACTION)), _normalizing])
    with pytest.warns(InnerNormalizationWarning, match=INNER):
        warn_of_inner_normalization(VecNormalize(env))


def test_normalization_within_a_subprocess_is_warned_of() -> None:
    env = SubprocVecEnv([_normalizing], start_method="fork")
    try:
        with pytest.warns(InnerNormalizationWarning, match=INNER):
            warn_of_inner_normalization(env)
    finally:
        env.close()


# What gymnasium knows of an environment -----------------------------------------------------------------------------


def _made(**kwargs: Any) -> gym.Env[Any, Any]:
    env = SpacesEnv(BOX_OBSERVATION, BOX_ACTION)
    env.spec = EnvSpec("robots/Arm-v3", entry_point="robots:Arm", kwargs=kwargs)
    return env


def test_an_environment_is_known_by_its_id_and_keyword_arguments() -> None:
    env = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1", render_mode="rgb_array"))])
    spec = environment_spec(VecNormalize(env))
    assert spec is not None
    assert spec.id == "CartPole-v1"
    assert (spec.kwargs["render_mode"], spec.omitted) == ("rgb_array", ())


def test_the_record_has_it(tmp_path: Path) -> None:
    model = make_model(env=DummyVecEnv([lambda: gym.make("CartPole-v1", sutton_barto_reward=True)]))
    spec = export_policy(model, tmp_path / "policy.onnx").metadata.environment_spec
    assert spec is not None
    assert (spec.id, spec.kwargs["sutton_barto_reward"]) == ("CartPole-v1", True)


def test_keyword_arguments_are_kept_as_far_as_a_file_may_hold_them() -> None:
    kept: dict[str, KeywordArgument] = {
        "n": 3,
        "x": 0.5,
        "on": True,
        "none": None,
        "goal": (1.0, 2),
        "sizes": {"a": 1},
        "name": "arm 1/2 a:b",
    }
    omitted = {
        "function": len,
        "array": np.zeros(3),
        "nan": math.nan,
        "infinite": [1.0, -math.inf],
        "nested": [[1]],
        "numbered": {1: 2},
        "long": "x" * 1_001,
        "home": "/home/me/model.xml",
        "tilde": "~/model.xml",
        "windows": "C:\\Users\\me",
        "share": r"\\server\share",
        "within": {"file": "/tmp/x"},  # noqa: S108
        "option": ["--config=/etc/x"],
        "url": "http://me:secret@host",
        "path": Path("x"),
        "api_key": "sk-1",
        "dbPassword": "x",
        "login": {"user": "me", "auth_token": "x"},
    }
    spec = environment_spec(DummyVecEnv([lambda: _made(**kept, **omitted)]))
    assert spec == EnvironmentRecord(id="robots/Arm-v3", kwargs=kept, omitted=tuple(omitted))
    many = environment_spec(DummyVecEnv([lambda: _made(**{f"k{n}": "x" * 900 for n in range(20)})]))
    assert many is not None
    assert 0 < len(encode(many.kwargs)) <= 10_000
    assert {*many.kwargs, *many.omitted} == {f"k{n}" for n in range(20)}


class _Refusing(DummyVecEnv):
    """Answers no question."""

    def _refuse(self, *_: object, **__: object) -> Any:
        raise NotImplementedError

    env_method = env_is_wrapped = _refuse


def test_an_environment_that_cannot_be_asked_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    env = _Refusing([lambda: _made(n=1)])
    assert environment_spec(env) == EnvironmentRecord(id="robots/Arm-v3", kwargs={"n": 1})
    assert environment_id(env) == "robots-Arm-v3"
    warn_of_inner_normalization(env)
    monkeypatch.setattr(env, "envs", [object()])
    assert environment_spec(env) is None
    assert environment_spec(None) is None
    assert environment_spec(make_env(BOX_OBSERVATION, BOX_ACTION)) is None


def test_an_environment_in_another_process_is_not_asked() -> None:
    """Its spec holds a lambda: a worker of SubprocVecEnv would die of sending it."""
    env = SubprocVecEnv([lambda: Monitor(_made(f=lambda: 1))], start_method="fork")
    try:
        assert environment_spec(env) is None
        env.reset()
    finally:
        env.close()
