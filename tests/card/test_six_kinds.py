"""The cards of six kinds of policies: valid, readable without seeing it, and the code on them runs as it stands."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

from sb3_clanker import ExportOptions, export_policy, policy_card
from tests.card.records import parse, section, text_of
from tests.support import IMAGE, VECTOR_AND_IMAGE
from tests.worlds import BOX_OBSERVATION, make_model, predict_raw

LARGEST = 300_000


def _vector() -> tuple[BaseAlgorithm, ExportOptions]:
    names = ["position", "velocity", "angle", "angular velocity"]
    options = ExportOptions(
        observation_names=names,
        observation_units=["m", "m/s", "rad", "rad/s"],
        action_names=["left", "right"],
        control_period=0.02,
        further_outputs=("distribution",),
    )
    return make_model(env=make_vec_env("CartPole-v1")), options


def _forty() -> tuple[BaseAlgorithm, ExportOptions]:
    observations = spaces.Box(-2.0, 2.0, (40,), np.float32)
    return make_model(SAC, observations, spaces.Box(-1, 1, (2, 3)), normalize=True), ExportOptions()


def _image() -> tuple[BaseAlgorithm, ExportOptions]:
    return make_model(PPO, IMAGE, spaces.Discrete(4), policy="CnnPolicy"), ExportOptions(channels_last=True)


def _dict() -> tuple[BaseAlgorithm, ExportOptions]:
    observations = spaces.Dict({**VECTOR_AND_IMAGE, "it's  # a mode": spaces.Discrete(3)})
    return make_model(PPO, observations, policy="MultiInputPolicy"), ExportOptions(
        observation_names={"joints": ["shoulder", "elbow", "wrist", "grip"]}
    )


def _recurrent() -> tuple[BaseAlgorithm, ExportOptions]:
    return make_model(RecurrentPPO, policy="MlpLstmPolicy"), ExportOptions()


def _masked() -> tuple[BaseAlgorithm, ExportOptions]:
    return make_model(MaskablePPO, action_space=spaces.MultiDiscrete([3, 4])), ExportOptions()


KINDS: dict[str, Callable[[], tuple[BaseAlgorithm, ExportOptions]]] = {
    "vector": _vector,
    "forty": _forty,
    "image": _image,
    "dict": _dict,
    "recurrent": _recurrent,
    "masked": _masked,
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, BaseAlgorithm, Path]:
    model, options = KINDS[request.param]()
    path = tmp_path_factory.mktemp(request.param) / "my policy.onnx"
    export_policy(model, path, options=options)
    return request.param, model, path


def test_a_card_is_sound(kind: tuple[str, BaseAlgorithm, Path]) -> None:
    name, model, path = kind
    card = policy_card(path)
    assert len(card.encode()) < LARGEST
    document = parse(card)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    assert [each.get("content") for each in document.iter("meta") if each.get("http-equiv")] == [policy]
    assert not list(document.iter("script"))
    assert not [each for each in document.iter() if each.get("src") or each.get("href")]
    assert "http:" not in card
    assert "https:" not in card
    assert "@import" not in card
    assert "url(" not in card
    ids = collections.Counter(each.get("id") for each in document.iter() if each.get("id"))
    assert set(ids.values()) == {1}
    named = [each.get("aria-labelledby") for each in document.iter("section")]
    order = "what run learning responses actions ranges speed proof provenance files limits"
    assert named == order.split() == list(ids)
    levels = [str(each.tag) for each in document.iter() if str(each.tag) in ("h1", "h2", "h3")]
    assert levels.count("h1") == 1
    assert levels.count("h2") == len(named)
    pictures = [each for each in document.iter() if str(each.tag).endswith("svg")]
    for picture in pictures:
        assert picture.get("aria-hidden") == "true" or (picture.get("role") == "img" and picture.get("aria-label"))
    assert (name == "image") == (not [each for each in pictures if each.get("role")])
    assert model.__class__.__name__ in text_of(next(document.iter("h1")))


def test_the_code_on_it_runs_and_does_what_the_policy_does(
    kind: tuple[str, BaseAlgorithm, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, path = kind
    monkeypatch.chdir(path.parent)
    programs = [text_of(each) for each in parse(policy_card(path)).iter("pre")]
    assert len(programs) == 2
    ran = []
    for program in programs:
        names: dict[str, Any] = {}
        exec(program, names)  # noqa: S102 - it is for people to copy
        ran.append(names)
    expected = _predict(model, ran[0]["observation"], "state" in ran[0])
    for names in ran:
        np.testing.assert_allclose(names["action"], expected, rtol=1e-4, atol=1e-5)


def _predict(model: BaseAlgorithm, observation: Any, is_recurrent: bool) -> np.ndarray:
    """What Stable-Baselines3 itself does, in three steps if it remembers."""
    if not is_recurrent:
        return predict_raw(model, observation, model.get_vec_normalize_env())
    state, start = None, np.array([True])
    for _ in range(3):
        action, state = model.predict(observation, state=state, episode_start=start, deterministic=True)
        start = np.array([False])
    return action


def test_it_says_what_this_policy_needs(kind: tuple[str, BaseAlgorithm, Path]) -> None:
    name, _, path = kind
    document = parse(policy_card(path))
    run, responses = section(document, "run"), section(document, "responses")
    if name == "vector":
        assert "# angle [rad]" in run
        assert "# one action every 0.02 seconds (50 a second), as in training" in run
        assert "# action: 0 left, 1 right" in run
        assert "The probability of each choice" in responses
    elif name == "forty":
        assert "VecNormalize is in the file" in section(document, "provenance")
        assert "These are the 24 most influential curves of 240; 216 are left out." in responses
    elif name == "image":
        assert "an image: height, width, channels; 0 to 255" in run
        assert "It sees images alone" in responses
        assert "float32" not in section(document, "limits")
    elif name == "dict":
        assert "# shoulder" in run
        assert '"it\'s # a mode": np.array(1, dtype=np.int64), # one of 3' in run
        assert "Images are uniformly grey." in responses
    elif name == "recurrent":
        assert "episode_start=episode_start" in run
        assert "'h_out', 'c_out'" in run
        assert "It remembers" in section(document, "limits")
        assert "depend on each other, each the first of an episode." in section(document, "actions")
    else:
        assert "action_masks=action_masks" in run
        assert "It needs a mask in each step." in section(document, "limits")
        assert "depend on each other, all choices allowed." in section(document, "actions")


def test_a_curve_says_what_the_policy_answers(tmp_path: Path) -> None:
    model = make_model(PPO, BOX_OBSERVATION, spaces.Box(-1000.0, 1000.0, (1,)))
    export_policy(model, tmp_path / "policy.onnx")
    labels = [str(each.get("aria-label")) for each in parse(policy_card(tmp_path / "policy.onnx")).iter()]
    said = next(label for label in labels if label.startswith("action as obs[0] goes from \u22122 to 3: "))
    ends = [float(end) for end in re.findall(r"-?[\d.]+(?= at )", said.replace("\u2212", "-").replace(",", ""))]
    observations = np.array([[-2.0, 0.5, 0.5], [3.0, 0.5, 0.5]], np.float32)
    np.testing.assert_allclose(ends, predict_raw(model, observations).reshape(-1), rtol=1e-2)
