"""From a checkpoint to TFLite: float32, and full int8 that is calibrated on what training saw.

    python convert.py runs/tflite/pendulum/final_model.zip [--edge-tpu]

writes ``final_model.float32.tflite`` and ``final_model.int8.tflite`` beside it, where ``observations.npy`` lies. This
needs torch and litert-torch, in an environment of its own; what it writes needs neither. The batch is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import torch as th
from ai_edge_quantizer import quantizer, recipe
from ai_edge_quantizer.calibrator import Calibrator
from ai_edge_quantizer.recipe_manager import RecipeManager
from ai_edge_quantizer.utils.qsv_utils import min_max_update
from torch import nn

from sb3_clanker import load_checkpoint, policy_module

SIGNATURE, INPUT = "serving_default", "args_0"
"""What litert-torch calls the graph, and its first input."""


class FloatImages(nn.Module):
    """A policy whose images go in as floats from 0 to 255, channels last.

    An Edge TPU maps neither the cast of bytes nor a transposition of four dimensions, and nothing that comes after.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: th.Tensor) -> tuple[th.Tensor, ...]:
        actions: tuple[th.Tensor, ...] = self.module(image.permute(0, 3, 1, 2))
        return actions


def convert(checkpoint: Path, *, edge_tpu: bool = False) -> tuple[Path, Path]:
    """Write a checkpoint as TFLite.

    :param checkpoint: the ``.zip``; its policy has one observation, and neither masks nor a state
    :param edge_tpu: whether images go in as :class:`FloatImages` has them
    :return: the float32 file and the int8 one
    """
    model, vec_normalize = load_checkpoint(checkpoint)
    module: Any = policy_module(model, vec_normalize=vec_normalize)
    (example,) = module.example_inputs(batch=1)
    seen = np.load(checkpoint.parent / "observations.npy")[::2]  # the others are left to compare with
    if edge_tpu and example.ndim == 4:
        module, example = FloatImages(module), example.float().permute(0, 2, 3, 1)
        seen = np.moveaxis(seen, 1, -1)
    kind = ".edge" if edge_tpu else ""
    in_floats, in_ints = (checkpoint.with_suffix(f"{kind}.{dtype}.tflite") for dtype in ("float32", "int8"))
    litert_torch.convert(module, (example,)).export(str(in_floats))
    in_ints.write_bytes(quantize(in_floats, seen.astype(example.numpy().dtype)))
    return in_floats, in_ints


def quantize(in_floats: Path, observations: np.ndarray[Any, Any]) -> bytes:
    """Full int8: weights, activations, inputs and outputs.

    The ranges decide everything. They are those of observations that training saw, from the smallest value to the
    largest; the default, moving averages of the smallest and the largest, cuts off what is rare.
    """
    static = recipe.static_wi8_ai8()
    manager = RecipeManager()
    manager.load_quantization_recipe(static)
    calibrator = Calibrator(str(in_floats), qsv_update_func=min_max_update)
    calibrator.calibrate({SIGNATURE: [{INPUT: observation[None]} for observation in observations]}, manager)
    quantized = quantizer.Quantizer(str(in_floats), static).quantize(
        calibrator.get_model_qsvs(), enable_progress_report=False
    )
    return bytes(quantized.quantized_model)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--edge-tpu", action="store_true")
    arguments = parser.parse_args()
    print(*convert(arguments.checkpoint, edge_tpu=arguments.edge_tpu), sep="\n")
