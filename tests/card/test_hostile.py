"""A stranger's record gives a plain, bounded page: nothing in it runs, nothing is asked for, nothing overflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from msgspec.structs import replace

from sb3_clanker import ExportOptions, PolicyMetadata, export_policy, policy_card, read_metadata
from sb3_clanker.card import page
from sb3_clanker.policy_file.record import (
    QUANTILES,
    EnvironmentRecord,
    EvaluationRecord,
    FrameStackRecord,
    ObservationRange,
    ObservationRanges,
    TrainingRecord,
)
from sb3_clanker.report import CrossCheckRecord, LatencyRecord
from tests.card.records import EXAMPLE, parse, rewrite, text_of
from tests.worlds import make_model

MARKUP = "</title></text></svg><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>{{ 7*7 }}\"'`"
STEERING = "\x00\x1b[31m\u202eevil\u2028\r\n\ud800"
NASTY = MARKUP + STEERING + 4000 * "W"
LARGEST = 300_000
HUGE = 1.7e308
LARGEST_FLOAT = float(np.finfo(np.float32).max)


def hostile() -> PolicyMetadata:
    """A record that is nasty wherever a record may be."""
    metadata = read_metadata(EXAMPLE)
    wide = {"minimum": -LARGEST_FLOAT, "maximum": LARGEST_FLOAT, "mean": LARGEST_FLOAT, "deviation": LARGEST_FLOAT}
    arm = ObservationRange(
        key="arm",
        quantiles=2 * (tuple(np.linspace(-LARGEST_FLOAT, LARGEST_FLOAT, len(QUANTILES)).tolist()),),
        **{name: 2 * (value,) for name, value in wide.items()},
    )
    return replace(
        metadata,
        algorithm=NASTY,
        policy_class=NASTY,
        inputs=tuple(_labelled(spec) for spec in metadata.inputs),
        outputs=tuple(_labelled(spec) for spec in metadata.outputs),
        frame_stacks=200 * (FrameStackRecord(key="arm", n_stack=-(10**18), axis=-1, padding=HUGE, padding_error=HUGE),),
        environment=500 * (NASTY,),
        environment_spec=EnvironmentRecord(id=NASTY, kwargs={NASTY: NASTY}, omitted=300 * (NASTY,)),
        control_period=5e-324,
        observation_ranges=ObservationRanges(n_observations=2**53, ranges=(arm,)),
        training=TrainingRecord(
            num_timesteps=10**400,
            evaluation=EvaluationRecord(
                num_timesteps=-(10**400), mean_reward=HUGE, std_reward=HUGE, n_episodes=10**400, deterministic=False
            ),
        ),
        provenance=replace(metadata.provenance, created=NASTY, versions={f"{i}{NASTY}": NASTY for i in range(300)}),
        cross_check=CrossCheckRecord(
            n_observations=-1,
            n_seen=10**400,
            max_difference=HUGE,
            max_score_difference=HUGE,
            n_mismatches=3,
            n_ties=10**400,
            n_nonfinite=1,
            atol=0.0,
            rtol=HUGE,
        ),
        latency=LatencyRecord(p50_ms=HUGE, p99_ms=-HUGE, limit_ms=5e-324, processor=NASTY),
        entries={f"{i}{MARKUP[:40]}": MARKUP for i in range(300)},
    )


def _labelled(spec: Any) -> Any:
    names = spec.names and tuple(NASTY for _ in spec.names)
    return replace(spec, names=names, units=spec.units and tuple(NASTY for _ in spec.units), meaning=NASTY)


def _check(card: str) -> None:
    assert len(card.encode()) < LARGEST
    document = parse(card)
    for element in document.iter():
        tag = str(element.tag).rpartition("}")[2]
        assert tag not in ("script", "img", "video", "iframe", "object", "embed", "link", "base", "form", "a", "image")
        for name, value in element.items():
            assert not str(name).startswith("on")
            assert not (name in ("src", "href", "srcset", "style") and value)
    text = text_of(document)
    assert "\x00" not in card
    assert not any(char in text for char in "\x1b\u202e\u2028\r\ud800")
    assert "49" not in card[: card.index("<style>")]  # no template in a template


def test_a_nasty_record_gives_a_plain_page(tmp_path: Path) -> None:
    card = policy_card(rewrite(tmp_path / "policy.onnx", metadata=hostile()))
    _check(card)
    assert "&lt;script&gt;" in card


@pytest.mark.parametrize("numbers", [LARGEST_FLOAT, 0.0, -LARGEST_FLOAT, 5e-324, 1e30])
def test_ranges_of_any_numbers_are_drawn(numbers: float, tmp_path: Path) -> None:
    one = (numbers, numbers)
    ranges = ObservationRange(
        key="arm",
        minimum=one,
        maximum=one,
        mean=one,
        deviation=(0.0, 0.0),
        quantiles=2 * (len(QUANTILES) * (numbers,),),
    )
    record = ObservationRanges(n_observations=1, ranges=(ranges,))
    _check(policy_card(rewrite(tmp_path / "policy.onnx", observation_ranges=record)))


def test_the_name_of_the_file_is_no_markup_and_no_code(tmp_path: Path) -> None:
    name = "'); import os; x=('<script>alert(1)<b>.onnx"
    card = policy_card(rewrite(tmp_path / name))
    _check(card)
    (first, *_) = (text_of(each) for each in parse(card).iter("pre"))
    assert f"policy = OnnxPolicy({name!r})" in first.splitlines()


def test_many_components_and_actions_have_a_card(tmp_path: Path) -> None:
    observations, actions = spaces.Box(-1, 1, (300,)), spaces.Box(-1, 1, (40,))
    model = make_model(observation_space=observations, action_space=actions, policy_kwargs={"net_arch": []})
    export_policy(model, tmp_path / "wide.onnx", options=ExportOptions(n_samples=1))
    metadata = read_metadata(tmp_path / "wide.onnx")
    labels = tuple(f"{i}{NASTY}" for i in range(300))
    inputs = tuple(replace(spec, names=labels, units=labels) for spec in metadata.inputs)
    outputs = tuple(replace(spec, names=labels[:40], units=labels[:40]) for spec in metadata.outputs)
    card = policy_card(rewrite(tmp_path / "nasty.onnx", tmp_path / "wide.onnx", inputs=inputs, outputs=outputs))
    _check(card)
    assert "most influential curves of" in card
    assert "The first 64 of 300 components." in card


def test_observations_that_are_too_large_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "LARGEST", 1)
    card = policy_card(rewrite(tmp_path / "policy.onnx"))
    _check(card)
    assert "Its observations are too large for a card." in card
    assert "one prediction, median" not in card
