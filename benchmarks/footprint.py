"""What a consumer pays at its start: a policy imported and loaded, beside Stable-Baselines3 and its .zip (Linux)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import models
from benchmarks.harness import Row, ratio_row, report, time_row
from sb3_clanker import export_policy

REPEATS = 5
_MEMORY = "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
_OURS = "import sys; from sb3_clanker import OnnxPolicy; OnnxPolicy(sys.argv[1]); " + _MEMORY
_THEIRS = "import sys; from stable_baselines3 import PPO; PPO.load(sys.argv[1], device='cpu'); " + _MEMORY


def _run(code: str, path: Path) -> tuple[float, float]:
    """Seconds and mebibytes of a fresh process."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return seconds, float(done.stdout) / 1024


def main() -> None:
    """Measure and report."""
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = models.ppo_mlp()
        zip_path = Path(folder) / "policy.zip"
        model.save(zip_path)
        onnx_path = export_policy(model, Path(folder) / "policy.onnx").path
        for repeat in range(REPEATS + 1):
            pair = _run(_THEIRS, zip_path), _run(_OURS, onnx_path)
            if repeat:  # the first round fills the file system's cache
                theirs.append(pair[0])
                ours.append(pair[1])
    (our_seconds, our_memory), (their_seconds, their_memory) = (
        list(zip(*rows, strict=True)) for rows in (ours, theirs)
    )
    report(
        "footprint",
        [
            time_row("import and load, OnnxPolicy", our_seconds),
            time_row("import and load, Stable-Baselines3", their_seconds),
            ratio_row("time, theirs / ours", their_seconds, our_seconds, at_least=5),
            Row(what="memory, OnnxPolicy", value=our_memory[0], unit="MiB"),
            Row(what="memory, Stable-Baselines3", value=their_memory[0], unit="MiB"),
            ratio_row("memory, ours / theirs", our_memory, their_memory, at_most=1 / 3),
        ],
    )


if __name__ == "__main__":
    main()
