"""What can never be saved shows before the first step; what can be saved is, whatever else fails."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_clanker import OnnxCheckpointCallback
from sb3_clanker.errors import ClankerError, UnsavableTrainingError
from sb3_clanker.sb3.saving import rehearse
from tests.checkpoints import NoExporter, names
from tests.worlds import make_model


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_clanker.training.callback.Exporter", NoExporter)


def _spoil(model: BaseAlgorithm, part: str) -> None:
    """Keep something that cannot be pickled."""
    spoiled: Any = {
        "The algorithm": model,
        "VecNormalize": model.get_vec_normalize_env(),
        "The replay buffer": getattr(model, "replay_buffer", None),
    }
    spoiled[part].hidden = threading.Lock()


@pytest.mark.parametrize("part", ["The algorithm", "VecNormalize", "The replay buffer"])
def test_what_can_never_be_saved_raises_before_the_first_step(part: str, tmp_path: Path) -> None:
    model = make_model(SAC, normalize=True)
    _spoil(model, part)
    with pytest.raises(UnsavableTrainingError, match=rf"{part} cannot be saved: TypeError: cannot pickle") as caught:
        model.learn(40, callback=OnnxCheckpointCallback(tmp_path, save_freq=10, save_replay_buffer=True))
    assert isinstance(caught.value, ClankerError)
    assert isinstance(caught.value, TypeError)
    assert caught.value.what == part
    assert model.num_timesteps == 0
    assert list(tmp_path.iterdir()) == []


class _Spoil(BaseCallback):
    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def _on_step(self) -> bool:
        if self.n_calls == 5:
            _spoil(self.model, self._part)
        return True


@pytest.mark.parametrize(
    ("part", "suffixes"),
    [("VecNormalize", ["_10_steps.zip"]), ("The replay buffer", ["_10_steps.zip", "_vecnormalize_10_steps.pkl"])],
)
def test_what_can_be_saved_is_saved_whatever_else_cannot(part: str, suffixes: list[str], tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, save_freq=10, save_replay_buffer=True, save_final=False)
    make_model(SAC, normalize=True).learn(16, callback=[_Spoil(part), callback])
    assert names(tmp_path) == [f"rl_model{suffix}" for suffix in suffixes]
    assert SAC.load(tmp_path / "rl_model_10_steps.zip", device="cpu").num_timesteps == 10
    (failure,) = callback.failures
    assert "cannot pickle" in str(failure.error)


def test_the_arrays_of_a_replay_buffer_are_not_written_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, unlink = [], Path.unlink

    def measured(path: Path, missing_ok: bool = False) -> None:
        sizes.append(path.stat().st_size)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", measured)
    rehearse(tmp_path, make_model(SAC, buffer_size=1_000_000), None, with_replay_buffer=True)
    assert len(sizes) == 2
    assert 0 < sizes[1] < 10_000
    assert list(tmp_path.iterdir()) == []
