"""The cards of a training: after the files, for next to nothing, and never at the cost of anything else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

from sb3_clanker import OnnxCheckpointCallback, read_metadata
from sb3_clanker.card import training
from sb3_clanker.card.training import Cards
from sb3_clanker.run_folder.identity import state_of
from sb3_clanker.run_folder.names import CARD
from tests.card.records import rewrite
from tests.checkpoints import contents, names
from tests.integration.trainings import make_eval_env
from tests.worlds import make_model


def _train(folder: Path, **kwargs: Any) -> Any:
    model = make_model(normalize=True)
    callback = OnnxCheckpointCallback(
        folder, eval_env=make_eval_env(), eval_freq=16, n_eval_episodes=1, log_path=folder / "logs", **kwargs
    )
    model.learn(32, callback=callback)
    return model, callback


def _cards(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.endswith(".card.html")]


def test_the_best_and_the_final_have_cards_and_training_is_the_same(tmp_path: Path) -> None:
    model, callback = _train(tmp_path, card=True, save_freq=16)
    written = contents(tmp_path)
    assert _cards(tmp_path) == ["best_model.card.html", "final_model.card.html"]
    for stem in ("best_model", "final_model"):
        metadata = read_metadata(tmp_path / f"{stem}.onnx")
        assert state_of(tmp_path / f"{stem}.card.html", CARD, metadata) == "matched"
    assert b"from evaluations.npz" in written["final_model.card.html"]
    cloudpickle.loads(cloudpickle.dumps(callback))

    other, _ = _train(tmp_path, save_freq=16)  # a new training: cards of the one before are moved with their files
    assert _cards(tmp_path) == []
    assert contents(tmp_path / "previous_1") == written
    for name, weight in model.policy.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), other.policy.state_dict()[name].numpy())


def test_one_that_fails_is_logged_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(training, "policy_card", fail)
    with caplog.at_level(logging.ERROR, "sb3_clanker"):
        _, callback = _train(tmp_path, card=True, on_error="raise")
    assert "final_model.onnx was not written. RuntimeError: no ink" in caplog.text
    assert callback.failures == []
    assert _cards(tmp_path) == []
    assert {"best_model.onnx", "final_model.onnx"} <= set(names(tmp_path))


def test_one_that_is_interrupted_leaves_nothing_else_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "policy_card", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path, card=True, verbose=1)
    assert "Policies written: " in capsys.readouterr().out
    assert "final_model.onnx" in names(tmp_path)


class _Clock:
    """Time that passes when it is told to, and while a card is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.made = 0.0, list[str]()
        monkeypatch.setattr("sb3_clanker.card.training.time.monotonic", lambda: self.now)

        def make(path: Path, **_: object) -> str:
            self.now += seconds
            self.made.append(path.name)
            return "card"

        monkeypatch.setattr(training, "policy_card", make)


def test_cards_take_a_hundredth_of_the_time_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch, seconds=2.0)
    path = rewrite(tmp_path / "best_model.onnx")
    cards = Cards(wanted=True)
    cards.add(path)
    assert clock.made == []
    clock.now = 100.0
    cards.add(path)
    assert clock.made == ["best_model.onnx"]
    clock.now = 399.0  # 2 seconds are spent, and as many would be
    cards.add(path)
    assert len(clock.made) == 1
    clock.now = 401.0
    cards.add(path)
    assert len(clock.made) == 2
    cards.add(path)
    cards.write()
    cards.write()
    assert len(clock.made) == 3


def test_no_card_lies_beside_a_policy_that_it_is_not_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch, seconds=2.0)
    path = rewrite(tmp_path / "best_model.onnx")
    (tmp_path / "best_model.card.html").write_text("of another")
    cards = Cards(wanted=True)
    cards.add(path)
    assert names(tmp_path) == ["best_model.onnx"]
    path.unlink()
    cards.write()
    assert clock.made == []
