"""Train, convert, play, audit: the table of the README. Run by ``make test-tflite``; it takes some minutes.

Each training, and each run of a ``.tflite``, is a process of its own: one knows nothing of TFLite, the other has no
torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from audit import audit
from convert import convert
from games import GAMES, play
from gymnasium import spaces

from sb3_clanker import load_checkpoint

FOLDER = Path("runs/tflite")
EPISODES = 20
EXACT, LOST = 1e-5, 0.1
"""How far actions of float32 may be off, in half-ranges; and what part of the return int8 may lose."""
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None  # an import of it fails
program, *sys.argv = sys.argv[1:]
sys.path.insert(0, program.rpartition("/")[0])
sys.argv.insert(0, program)
runpy.run_path(program, run_name="__main__")
"""


def main() -> None:
    """Print the table; fail where float32 differs, or int8 loses too much."""
    failures, rows = (
        [],
        ["| game | file | actions | mean return | of Stable-Baselines3 | Edge TPU |", "| --- " * 6 + "|"],
    )
    for game in GAMES:
        for path, actions, mean, expected, failed in compare(game):
            rows.append(f"| {game} | {path.name} | {actions} | {mean:.2f} | {expected:.2f} | {audit(path)} |")
            failures += [str(path)] if failed else []
    print(*rows, sep="\n")
    if failures:
        sys.exit(f"These lost too much: {', '.join(failures)}")


def compare(game: str) -> Iterator[tuple[Path, str, float, float, bool]]:
    """Of each file: its actions, its mean return, that of Stable-Baselines3, and whether it is too far off."""
    folder, env = FOLDER / game, GAMES[game]()
    _run("train.py", game, str(folder))
    checkpoint, unseen = folder / "final_model.zip", folder / "unseen.npy"
    np.save(unseen, np.load(folder / "observations.npy")[1::2][:500])
    predict = _Reference(checkpoint)
    expected_return = float(np.mean(play(predict, env, EPISODES)))
    expected = np.array([np.ravel(predict(observation)) for observation in np.load(unseen)], np.float64)
    is_image = len(env.observation_space.shape or ()) == 3
    for path in [file for edge_tpu in (False, True)[: 1 + is_image] for file in convert(checkpoint, edge_tpu=edge_tpu)]:
        arguments = [str(path), game, "--episodes", str(EPISODES), "--observations", str(unseen)]
        got = json.loads(_run("run_tflite.py", *arguments, prelude=["-c", WITHOUT_TORCH]))
        actions, mean = np.array(got["actions"], np.float64), float(np.mean(got["returns"]))
        if isinstance(env.action_space, spaces.Box):
            apart = np.abs(actions - expected) / ((env.action_space.high - env.action_space.low) / 2)
            summary = f"{apart.mean():.1e} apart, {apart.max():.1e} at most"
        else:
            apart = np.rint(actions) != expected
            summary = f"{1 - apart.mean():.1%} the same"
        is_int8 = path.name.endswith(".int8.tflite")
        lost = expected_return - mean > LOST * abs(expected_return)
        yield path, summary, mean, expected_return, bool(lost if is_int8 else apart.max() > EXACT)


class _Reference:
    """Stable-Baselines3's own ``predict``, on raw observations."""

    def __init__(self, checkpoint: Path) -> None:
        self._model, self._vec_normalize = load_checkpoint(checkpoint)

    def __call__(self, observation: Any) -> Any:
        if self._vec_normalize is not None:
            observation = self._vec_normalize.normalize_obs(observation)
        return self._model.predict(observation, deterministic=True)[0]


def _run(program: str, *arguments: str, prelude: list[str] | None = None) -> str:
    """What a program beside this one prints, in a process of its own."""
    command = [sys.executable, *(prelude or []), str(Path(__file__).with_name(program)), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


if __name__ == "__main__":
    main()
