"""Run a ``.tflite`` of ``convert.py`` with the small interpreter: numpy and ai-edge-litert, and no torch.

    python run_tflite.py final_model.int8.tflite cartpole

plays episodes on the seeds 0, 1, 2, ... and prints their returns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from games import GAMES, play


class TFLitePolicy:
    """A policy in a ``.tflite``, of float32 or int8, for one raw observation at a time."""

    def __init__(self, path: Path) -> None:
        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        (self._input,), (self._output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()

    def __call__(self, observation: Any) -> Any:
        """The action for an observation, flat, float32."""
        values = np.asarray(observation)[None]
        if values.shape != tuple(self._input["shape"]):
            values = np.moveaxis(values, 1, -1)  # channels last
        self._interpreter.set_tensor(self._input["index"], _quantized(values, self._input))
        self._interpreter.invoke()
        return _dequantized(self._interpreter.get_tensor(self._output["index"]), self._output)[0]


def _quantized(values: Any, details: Any) -> Any:
    scale, zero_point = details["quantization"]
    dtype = details["dtype"]
    if not scale:
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantized(values: Any, details: Any) -> Any:
    scale, zero_point = details["quantization"]
    return ((values.astype(np.float32) - zero_point) * scale if scale else values).astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("policy", type=Path)
    parser.add_argument("game", choices=GAMES)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--observations", type=Path, help="also print the actions for these")
    arguments = parser.parse_args()
    policy, env = TFLitePolicy(arguments.policy), GAMES[arguments.game]()
    is_discrete = hasattr(env.action_space, "n")
    returns = play(lambda seen: int(np.rint(policy(seen)[0])) if is_discrete else policy(seen), env, arguments.episodes)
    seen = [] if arguments.observations is None else np.load(arguments.observations)
    print(json.dumps({"returns": returns, "actions": [policy(observation).tolist() for observation in seen]}))
