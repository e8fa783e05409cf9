"""What stands on a card: the record, the run, the files beside it, episodes; and how it gets its name on disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from msgspec.structs import replace
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_clanker import (
    MissingDependencyError,
    MissingFileError,
    OnnxPolicy,
    OptionError,
    PublicationError,
    export_policy,
    policy_card,
    read_metadata,
)
from sb3_clanker.card import card as module
from sb3_clanker.card.card import card_path, write_card
from sb3_clanker.policy_file.record import (
    QUANTILES,
    CheckpointRecord,
    EvaluationRecord,
    ObservationRange,
    ObservationRanges,
    PairedFile,
    TrainingRecord,
)
from sb3_clanker.run_folder.identity import pair_with_file, state_of
from sb3_clanker.run_folder.names import CARD
from tests.card.records import EXAMPLE, parse, rewrite, section, text_of
from tests.play.games import Ball
from tests.worlds import make_model


def _evaluated(steps: int, mean: float, role: Any = "last", at: int | None = None, **others: Any) -> TrainingRecord:
    evaluation = EvaluationRecord(
        role=role, num_timesteps=steps if at is None else at, mean_reward=mean, std_reward=2.5, n_episodes=7, **others
    )
    return TrainingRecord(num_timesteps=steps, evaluation=evaluation)


def _ranges(low: float, high: float) -> ObservationRanges:
    levels = tuple(low + level * (high - low) for level in QUANTILES)
    one = ObservationRange(
        key="arm",
        minimum=(low, low),
        maximum=(high, high),
        mean=(0.123456, 0.0),
        deviation=(0.5, 0.5),
        quantiles=(levels, levels),
    )
    return ObservationRanges(n_observations=1234, ranges=(one,))


def _labels(card: str) -> list[str]:
    return [str(each.get("aria-label")) for each in parse(card).iter() if each.get("role") == "img"]


# What it says ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (_evaluated(900, 31.25, "best"), "It is the best of its training so far: 31.25 ± 2.5 over 7 episodes."),
        (
            _evaluated(900, 31.25, deterministic=True),
            "it earned 31.25 ± 2.5 over 7 episodes with deterministic actions.",
        ),
        (_evaluated(900, 31.25, at=400), "The last evaluation before it was written, at 400 timesteps, gave 31.25"),
        (_evaluated(900, 3.0, source="rollout"), "In the training itself it earned 3 ± 2.5 over 7 episodes."),
        (
            TrainingRecord(num_timesteps=900, evaluation=EvaluationRecord(num_timesteps=900, mean_reward=None)),
            "What it earned when it was evaluated was no finite number. return unknown no finite number",
        ),
        (TrainingRecord(num_timesteps=900), "How good it is, nobody has measured."),
    ],
)
def test_it_says_how_good_the_policy_was(training: TrainingRecord, said: str, tmp_path: Path) -> None:
    what = section(parse(policy_card(rewrite(tmp_path / "p.onnx", training=training))), "what")
    assert said in what
    assert "900 timesteps" in what


def test_it_shows_what_training_saw(tmp_path: Path) -> None:
    card = policy_card(rewrite(tmp_path / "p.onnx", observation_ranges=_ranges(-4.0, 12.0)))
    ranges = section(parse(card), "ranges")
    assert re.search(r"arm\[0\] \u22124 .* 12 0\.123 \u00b1 0\.5", ranges)
    assert "What training saw in 1,234 raw observations." in ranges
    strip = "90 % between \u22123.2 and 11.2, half between 0 and 8, median 4"
    assert strip in _labels(card)
    assert any("as arm[0] goes from \u22124 to 12:" in label for label in _labels(card))
    limits = section(parse(card), "limits")
    assert "They do not find a sensor that is swapped, stuck or dead." in limits
    without = section(parse(policy_card(rewrite(tmp_path / "q.onnx", observation_ranges=None))), "limits")
    assert "Nobody kept what training saw" in without


def test_it_promises_no_more_than_is_known(tmp_path: Path) -> None:
    metadata = read_metadata(EXAMPLE)
    known = parse(policy_card(rewrite(tmp_path / "p.onnx", observation_ranges=_ranges(-1.0, 3.0))))
    assert "no clipping, scaling or normalization is left to do." in section(known, "run")
    assert "medians of what training saw, or else examples." in section(known, "run")
    assert "Rows without a mean have the bounds of the observation space." in section(known, "ranges")
    unknown = replace(metadata.normalization, status="unknown", keys=())
    path = rewrite(tmp_path / "q.onnx", normalization=unknown, observation_ranges=None)
    document = parse(policy_card(path))
    assert "Nobody knows whether observations must be normalized before they go in" in section(document, "run")
    assert "or normalization is left to do" not in section(document, "run")
    assert "Numbers in the code are examples." in section(document, "run")
    assert "all others at a typical value" in section(document, "responses")
    assert "at their median." not in section(document, "responses")


def test_it_says_what_the_proof_measured_and_what_is_unknown(tmp_path: Path) -> None:
    metadata = read_metadata(EXAMPLE)
    assert metadata.cross_check is not None
    check = replace(metadata.cross_check, n_observations=1234, n_seen=0, n_ties=3, max_difference=2.5e-7)
    unknown = replace(metadata.normalization, status="unknown", keys=())
    document = parse(policy_card(rewrite(tmp_path / "p.onnx", cross_check=check, normalization=unknown)))
    proof, limits = section(document, "proof"), section(document, "limits")
    assert "1,234, of which training saw 0" in proof
    assert "2.5e\u22127 of half the range of the action" in proof
    assert "near-ties, in which the last digit decides 3" in proof
    assert "It is unknown whether it was trained on normalized observations" in limits
    assert "Its proof saw no observation of the training" in limits
    none = parse(policy_card(rewrite(tmp_path / "q.onnx", cross_check=None)))
    assert "The record holds none." in section(none, "proof")
    assert "It carries no proof" in section(none, "limits")


def test_it_says_which_files_belong_together(tmp_path: Path) -> None:
    (tmp_path / "there.pkl").write_bytes(b"statistics")
    (tmp_path / "p.zip").write_bytes(b"of another instant")
    record = CheckpointRecord(
        algorithm_file=PairedFile(name="p.zip", digest="zip:00"),
        statistics_file=pair_with_file(tmp_path / "there.pkl"),
        replay_buffer=True,
    )
    path = rewrite(tmp_path / "p.onnx", checkpoint=record)
    files = section(parse(policy_card(path)), "files")
    assert "p.zip the algorithm \u2717 there, but of another instant, or damaged zip:00" in files
    assert "there.pkl VecNormalize \u2713 there, of the same instant sha256:" in files
    assert "the replay buffer \u2717 written with it; no digest shows which it is" in files
    assert read_metadata(path).digest in files
    (tmp_path / "there.pkl").unlink()
    assert "there.pkl VecNormalize \u2717 not there sha256:" in section(parse(policy_card(path)), "files")


def test_nothing_on_it_is_by_chance(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "p.onnx", observation_ranges=_ranges(-1.0, 2.0))
    first, second = (_without_latency(policy_card(path)) for _ in range(2))
    assert first == second


def _without_latency(card: str) -> str:
    return re.sub(r"[\d.]+(</span> <span class=\"note\">| )(\u00b5s|ms)", "", card)


# The learning curve ---------------------------------------------------------------------------------------------------


def _log(folder: Path, **arrays: Any) -> None:
    np.savez(folder / "evaluations.npz", **arrays)


def test_the_curve_is_that_of_the_log_with_the_checkpoints_on_it(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "best_model.onnx", training=_evaluated(2000, 20.0, "best"))
    rewrite(tmp_path / "rl_model_1000_steps.onnx", training=_evaluated(1000, 0.0))
    rewrite(tmp_path / "final_model.onnx", training=_evaluated(3000, 15.0))
    rewrite(tmp_path / "other.onnx", algorithm="SAC")
    (tmp_path / "damaged.onnx").write_bytes(b"no policy")
    _log(tmp_path, timesteps=np.array([3000, 1000, 2000]), results=np.array([[14.0, 16.0], [-1.0, 1.0], [20.0, 20.0]]))
    card = policy_card(path)
    label = "Mean return over timesteps: 3 evaluations, from 0 at 1 k to 15 at 3 k timesteps, the highest 20 at 2 k"
    assert _labels(card).count(label) == 2  # for a wide page and for a narrow one
    learning = section(parse(card), "learning")
    assert (
        "of 2 episodes over timesteps of training, from evaluations.npz. The band is one standard deviation."
        in learning
    )
    (wide, _) = (each for each in parse(card).iter() if each.get("aria-label") == label)
    marks = [each.get("class") for each in wide.iter() if str(each.get("class")).startswith("mark")]
    assert sorted(map(str, marks)) == ["mark", "mark", "mark this"]
    assert "best (this policy)" in text_of(wide)
    assert "final" in text_of(wide)


def test_without_a_log_it_is_that_of_the_records(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "best_model.onnx", training=_evaluated(2000, 20.0, "best"))
    rewrite(tmp_path / "rl_model_1000_steps.onnx", training=_evaluated(1000, 5.0))
    assert "2 evaluations, from 5 at 1 k to 20 at 2 k timesteps" in "".join(_labels(policy_card(path)))
    assert "the records of the policy files" in section(parse(policy_card(path)), "learning")
    (tmp_path / "rl_model_1000_steps.onnx").unlink()
    rewrite(path, training=_evaluated(900, 3.0, source="rollout"))
    assert "policy files: of episodes of the training itself." in section(parse(policy_card(path)), "learning")
    rewrite(path, training=TrainingRecord(num_timesteps=3))
    assert "Neither a log of its evaluations lies beside it" in section(parse(policy_card(path)), "learning")


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"timesteps": np.arange(3), "results": np.zeros((2, 2))},
        {"timesteps": np.array([{}], dtype=object), "results": np.zeros((1, 1))},
        {"timesteps": np.arange(2), "results": np.full((2, 2), np.nan)},
        {"timesteps": np.arange(2), "results": np.zeros((2, 0))},
        {"timesteps": np.array(["a"]), "results": np.zeros((1, 1))},
    ],
)
def test_a_log_that_is_none_is_left_out(arrays: dict[str, Any], tmp_path: Path) -> None:
    _log(tmp_path, **arrays)
    path = rewrite(tmp_path / "p.onnx", training=TrainingRecord(num_timesteps=3))
    assert "Neither a log of its evaluations" in policy_card(path)


def test_the_log_of_another_training_is_left_out(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "p.onnx", training=_evaluated(900, 31.25, at=400))
    _log(tmp_path, timesteps=np.array([200, 400]), results=np.array([[1.0], [2.0]]))
    assert "from the records of the policy files" in section(parse(policy_card(path)), "learning")
    _log(tmp_path, timesteps=np.array([200, 400]), results=np.array([[1.0, 1.0], [30.25, 32.25]]))
    assert "from evaluations.npz" in section(parse(policy_card(path)), "learning")


def test_the_log_may_lie_elsewhere(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "p.onnx", training=TrainingRecord(num_timesteps=3))
    (tmp_path / "logs").mkdir()
    _log(tmp_path / "logs", timesteps=np.arange(1, 4), results=np.arange(3.0)[:, None])
    assert "from evaluations.npz" in policy_card(path, run_folder=str(tmp_path / "logs"))
    assert "from evaluations.npz" not in policy_card(path)


# Episodes -------------------------------------------------------------------------------------------------------------


def test_episodes_are_played_and_replayed(tmp_path: Path) -> None:
    model = make_model(PPO, env=make_vec_env("CartPole-v1"))
    path = tmp_path / "p.onnx"
    export_policy(model, path)
    card = policy_card(path, episodes=2, env="CartPole-v1")
    document = parse(card)
    (image,) = document.iter("img")
    source = str(image.get("src"))
    assert source.startswith("data:image/gif;base64,R0lGOD")
    assert str(image.get("alt")).startswith("The first episode that was played for this card (seed 0, return ")
    assert "actions of the 2 episodes that were played for this card" in section(document, "actions")
    env = make_vec_env("CartPole-v1", seed=0)
    returns: Any = evaluate_policy(OnnxPolicy(path), env, 1, return_episode_rewards=True)[0]
    assert f"(seed 0, return {returns[0]:g})" in card


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_returns_that_are_no_numbers_are_told(reward: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_policy(make_model(PPO, Ball.observation_space, Ball.action_space), tmp_path / "p.onnx")
    monkeypatch.setattr(Ball, "reward", lambda *_: reward)
    what = section(parse(policy_card(tmp_path / "p.onnx", episodes=1, env=TimeLimit(Ball(), 3))), "what")
    assert "In 1 episode, played for this card, it earned no finite number." in what
    assert "return unknown no finite number, 1 played" in what


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"episodes": -1}, "episodes=-1"),
        ({"episodes": True}, "episodes=True"),
        ({"episodes": 1001}, "episodes=1001"),
        ({"env": "CartPole-v1"}, "episodes=0"),
        ({"video": True}, "episodes=0"),
    ],
)
def test_what_cannot_be_played_is_refused(arguments: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionError, match=option):
        policy_card(EXAMPLE, **arguments)


# On disk --------------------------------------------------------------------------------------------------------------


def test_a_card_says_which_file_it_is_of(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "p.onnx")
    write_card(card_path(path), policy_card(path))
    assert card_path(path).name == "p.card.html"
    assert state_of(card_path(path), CARD, read_metadata(path)) == "matched"
    export_policy(make_model(action_space=spaces.Discrete(2)), tmp_path / "q.onnx")
    shutil.copy(card_path(path), tmp_path / "q.card.html")
    assert state_of(tmp_path / "q.card.html", CARD, read_metadata(tmp_path / "q.onnx")) == "other"
    (tmp_path / "q.card.html").write_bytes(b"\xff" * 2000)
    assert state_of(tmp_path / "q.card.html", CARD, read_metadata(tmp_path / "q.onnx")) == "other"


def test_what_is_no_policy_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nothing\.onnx: there is no such policy file"):
        policy_card(tmp_path / "nothing.onnx")
    with pytest.raises(PublicationError, match="cannot be written"):
        write_card(tmp_path / "no folder" / "p.card.html", "page")
    assert list(tmp_path.iterdir()) == []


def test_without_jinja2_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("sb3_clanker.card.p", "sb3_clanker.card.svg"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "markupsafe", None)
    with pytest.raises(MissingDependencyError, match=r"A policy card needs the package markupsafe.*pip install jinja2"):
        module.policy_card(EXAMPLE)


def test_it_needs_no_torch_and_no_environment() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'gymnasium', 'stable_baselines3', 'onnx', 'PIL'): sys.modules[name] = None\n"
        "import sb3_clanker\n"
        "assert not any(name.startswith(('jinja2', 'markupsafe')) for name in sys.modules)\n"
        f"assert '</html>' in sb3_clanker.policy_card({str(EXAMPLE)!r})\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_it_warns_of_nothing_and_draws_nothing_at_random(tmp_path: Path) -> None:
    state: Any = np.random.get_state()  # noqa: NPY002 - that of everybody
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy_card(rewrite(tmp_path / "p.onnx", observation_ranges=_ranges(-1.0, 1.0)))
    after: Any = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(after[1], state[1])
