"""A loaded policy warns of what is outside of what training saw, and not more than once in a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from msgspec.structs import replace
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from sb3_clanker import ClankerError, ExportOptions, OnnxPolicy, export_policy
from sb3_clanker.errors import InferenceError, OptionError
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.reading import read_policy_file
from sb3_clanker.policy_file.seal import stamp
from sb3_clanker.runtime.outside import PAUSE, OutsideLog, make_outside_log
from tests.worlds import make_model

NAMES = {"arm": ["shoulder", "elbow"]}
SPACE = spaces.Dict({"arm": spaces.Box(-9.0, 9.0, (2,)), "speed": spaces.Box(-9.0, 9.0, (1,))})
SEEN = {"arm": np.array([[0.0, -1.0], [1.0, 1.0]]), "speed": np.array([[2.0], [2.0]])}
INSIDE = {"arm": np.array([0.5, 0.0]), "speed": np.array([2.0])}
BEGINNING = "The observation is outside of what training saw: "


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model(RecurrentPPO, SPACE, policy="MultiInputLstmPolicy")
    options = ExportOptions(further_outputs=("distribution", "outside"), observation_names=NAMES)
    folder = tmp_path_factory.mktemp("policy")
    return export_policy(model, folder / "policy.onnx", observations=SEEN, options=options).path


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is said, as it is said."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("sb3_clanker").addHandler(handler)
    yield lines
    logging.getLogger("sb3_clanker").removeHandler(handler)


class Clock:
    now = 1e6

    def __call__(self) -> float:
        return self.now


def _policy(path: Path) -> tuple[OnnxPolicy, Clock]:
    policy, clock = OnnxPolicy(path, on_outside="warn"), Clock()
    policy._outside_log = OutsideLog(policy.metadata, clock)
    return policy, clock


def _moved(**components: Any) -> dict[str, Any]:
    return INSIDE | {key: np.array(value) for key, value in components.items()}


def test_says_which_component_is_outside_and_of_what(path: Path, said: list[str]) -> None:
    policy = OnnxPolicy(path, on_outside="warn")
    policy.predict(INSIDE)
    assert said == []
    policy.predict(_moved(arm=[57.3, 0.0], speed=[np.nan]))
    assert said == [
        f"{BEGINNING}shoulder is 57.3, and training saw 0 to 1; speed[0] is nan, and training saw 2 to 2",
    ]


def test_says_the_value_of_the_very_component_where_channels_come_last(tmp_path: Path, said: list[str]) -> None:
    model = make_model(PPO, spaces.Box(0.0, 1.0, (2, 3, 4), np.float32))
    observations = np.random.default_rng(0).random((50, 2, 3, 4), np.float32)
    options = ExportOptions(channels_last=True, further_outputs=("outside",))
    report = export_policy(model, tmp_path / "policy.onnx", observations=observations, options=options)
    assert report.metadata.inputs[0].layout == "channels_last"
    faulty = observations[0].copy()
    faulty[1, 2, 0] = 77.0
    OnnxPolicy(report.path, on_outside="warn").predict(faulty)
    low, high = observations[:, 1, 2, 0].min(), observations[:, 1, 2, 0].max()
    assert said == [f"{BEGINNING}obs[1,2,0] is 77, and training saw {low:g} to {high:g}"]


def test_names_a_component_again_after_a_while_and_counts_meanwhile(path: Path, said: list[str]) -> None:
    policy, clock = _policy(path)
    outside = _moved(speed=[3.0])
    for _ in range(100):
        policy.predict(outside)
    assert said == [f"{BEGINNING}speed[0] is 3, and training saw 2 to 2"]
    clock.now += PAUSE / 2
    policy.predict(_moved(arm=[0.5, -9.0], speed=[4.0]))  # another component is not held back
    assert said[1:] == [f"{BEGINNING}elbow is -9, and training saw -1 to 1"]
    clock.now += PAUSE / 2
    policy.predict(INSIDE)
    policy.predict(_moved(arm=[0.5, -9.0], speed=[5.0]))
    counted = "(in 101 observations since the last warning)"
    assert said[2:] == [f"{BEGINNING}speed[0] is 5, and training saw 2 to 2 {counted}"]


def test_looks_at_every_observation_of_a_batch(path: Path, said: list[str]) -> None:
    policy, _ = _policy(path)
    batch = {"arm": np.array([[0.5, 0.0]] * 3), "speed": np.array([[2.0], [7.0], [8.0]])}
    policy.predict(batch)
    assert said == [f"{BEGINNING}speed[0] is 7, and training saw 2 to 2 (in 2 observations)"]


def test_the_answers_are_the_same_whether_it_warns_or_not(path: Path, said: list[str]) -> None:
    plain, warning = OnnxPolicy(path), OnnxPolicy(path, on_outside="warn")
    for observation in (INSIDE, _moved(arm=[5.0, 5.0])):
        (action, state), (same_action, same_state) = plain.predict(observation), warning.predict(observation)
        np.testing.assert_array_equal(action, same_action)
        assert state is not None
        assert same_state is not None
        assert len(state) == len(same_state) == 2
        np.testing.assert_array_equal(state, same_state)
        plain.rng, warning.rng = np.random.default_rng(0), np.random.default_rng(0)
        drawn = [policy.predict(observation, deterministic=False)[0] for policy in (plain, warning)]
        np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len(said) == 1
    assert OnnxPolicy(path, on_outside="ignore").predict(_moved(arm=[9.0, 9.0]))[0].shape == (2,)
    assert len(said) == 1


def test_outputs_tell_it_as_a_batch(path: Path) -> None:
    policy = OnnxPolicy(path)
    outside = policy.outputs(_moved(arm=[5.0, 0.0]))["outside"]
    assert outside.dtype == np.bool_
    assert outside.tolist() == [[True, False, False]]
    *_, outputs = policy.predict_and_outputs(_moved(speed=[5.0]))
    assert outputs["outside"].tolist() == [[False, False, True]]


def test_a_thousand_components_are_one_line(path: Path, said: list[str]) -> None:
    metadata = OnnxPolicy(path).metadata
    names = tuple(f"\x1b[31m{index}" for index in range(1_000))
    wide = describe_wide(metadata, names)
    OutsideLog(wide, Clock()).look(np.ones((1, 1_000), bool), {"obs": np.zeros((1, 1_000), np.float32)})
    (line,) = said
    assert line.endswith("; and 992 more components")
    assert line.count("training saw nothing") == 8
    assert "\x1b" not in line


def describe_wide(metadata: Any, names: tuple[str, ...]) -> Any:
    """A record of a policy that observes a thousand numbers, and has seen none."""
    from sb3_clanker.policy_file.spaces import BoxSpace

    observed = replace(metadata.inputs[0], name="obs", key=None, shape=("batch", 1_000))
    outside = replace(metadata.outputs[-1], shape=("batch", 1_000), names=names)
    space = BoxSpace(shape=(1_000,), dtype="float32", low=None, high=None)
    return replace(metadata, observation_space=space, inputs=(observed,), outputs=(outside,), observation_ranges=None)


@pytest.mark.parametrize("value", ["log", "Warn", None, True, ["warn"]])
def test_any_other_choice_is_refused(path: Path, value: Any) -> None:
    with pytest.raises(
        OptionError, match=r"on_outside=.* cannot be used: expected one of 'warn', 'ignore'\."
    ) as caught:
        OnnxPolicy(path, on_outside=value)
    assert isinstance(caught.value, ClankerError)


def test_a_file_that_does_not_tell_cannot_warn(path: Path) -> None:
    metadata = OnnxPolicy(path).metadata
    silent = replace(metadata, outputs=metadata.outputs[:-1])
    message = (
        r"on_outside='warn' cannot be used: expected 'ignore': the file does not tell what is outside of what training "
        r"saw\. Export it with ExportOptions\(further_outputs=\['outside'\]\)\."
    )
    with pytest.raises(OptionError, match=message):
        make_outside_log("warn", silent)
    assert make_outside_log("ignore", silent) is None


def test_before_training_saw_anything_only_what_is_no_number_is_outside(path: Path, said: list[str]) -> None:
    file = read_policy_file(path)
    metadata = replace(file.metadata, observation_ranges=None)
    body = b"".join(split_container(file.data)[0])
    unseen = OnnxPolicy.from_bytes(stamp(body, metadata), metadata)
    log = OutsideLog(unseen.metadata, Clock())
    log.look(np.array([[False, True, False]]), {"arm": np.array([[0.0, np.nan]]), "speed": np.array([[0.0]])})
    assert said == [f"{BEGINNING}elbow is nan, and training saw nothing"]


class _OfAnotherShape:
    """A graph that does not give what its record says."""

    def run(self, names: list[str], inputs: Any, /) -> list[Any]:
        return [np.ones((1, 2), bool) if name == "outside" else np.zeros((1, 2), np.float32) for name in names]


def test_a_graph_that_gives_something_else_has_failed(path: Path) -> None:
    policy = OnnxPolicy(path, on_outside="warn")
    policy._session = _OfAnotherShape()
    with pytest.raises(InferenceError, match="The graph failed while it ran"):
        policy.predict(INSIDE)


def test_a_batch_of_none_has_nothing_outside(path: Path, said: list[str]) -> None:
    log = OutsideLog(OnnxPolicy(path).metadata, Clock())
    log.look(np.zeros((0, 3), bool), {"arm": np.zeros((0, 2)), "speed": np.zeros((0, 1))})
    assert said == []
