"""What the callback costs a training: PPO on CartPole with a checkpoint every rollout."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback

from benchmarks.harness import ratio_row, report, time_row
from sb3_clanker import OnnxCheckpointCallback

REPEATS, N_STEPS, N_ROLLOUTS = 5, 2_048, 6


class _Started(BaseCallback):
    """Notes when the first step was taken: what lies before is start-up."""

    def __init__(self) -> None:
        super().__init__()
        self.at: float | None = None

    def _on_step(self) -> bool:
        if self.at is None:
            self.at = time.perf_counter()
        return True


def _train(callback: BaseCallback) -> tuple[float, float]:
    """Seconds before the first step, and from it to the end."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=N_STEPS, device="cpu", seed=0)
    started = _Started()
    start = time.perf_counter()
    model.learn(N_STEPS * N_ROLLOUTS, callback=[callback, started])
    end = time.perf_counter()
    first = end if started.at is None else started.at
    return first - start, end - first


def main() -> None:
    """Measure and report."""
    ours: list[float] = []
    theirs: list[float] = []
    start_up: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for repeat in range(REPEATS + 1):
            _, their_seconds = _train(CheckpointCallback(N_STEPS, str(path / "theirs")))
            before, our_seconds = _train(OnnxCheckpointCallback(path / "ours", save_freq=N_STEPS, save_final=False))
            if repeat:  # the first round warms up
                theirs.append(their_seconds)
                ours.append(our_seconds)
                start_up.append(before)
    report(
        "training",
        [
            time_row("start-up with the callback, trace included", start_up),
            time_row("training with CheckpointCallback", theirs),
            time_row("training with OnnxCheckpointCallback", ours),
            ratio_row("training time, ours / theirs", ours, theirs, at_most=1.03),
        ],
    )


if __name__ == "__main__":
    main()
