"""The plugin of godot_rl_agents, in Godot: a row of numbers for each key of the observation, choices as scores.

What it feeds and reads, by its code:

- It feeds batches of one, all float32: each key of the dictionary that ``get_obs()`` returns is an input of that name,
  ``[1, n]``, from a flat array of numbers; and ``state_ins``, ``[1]``, which is 1 at every step. An input that the
  graph does not have is an error, as is one of another width. Before April 2025 it fed the key ``obs`` alone.
  https://github.com/edbeeching/godot_rl_agents_plugin/pull/52
- A camera gives a string of hex digits, which Python decodes in training, and which is no array of numbers.
  https://github.com/edbeeching/godot_rl_agents_plugin/blob/30e4413df890399e33bca3ae68252464715f39ad/addons/godot_rl_agents/sensors/sensors_3d/RGBCameraSensor3D.gd
- It asks for ``output``, whose second dimension must have a size, and ``state_outs``, which it never looks at. Other
  outputs and the metadata do not matter.
  https://github.com/edbeeching/godot_rl_agents_plugin/blob/6245daa6c111556594975e3eb65c46b784964c96/addons/godot_rl_agents/onnx/wrapper/ONNX_wrapper.gd
- ``output`` is cut up in the order of ``get_action_space()``. Continuous actions are clamped to -1 and 1. A discrete
  one of n choices is n numbers, of which it takes the index of the first largest. It begins with the index 0 and the
  number 0, so of logits that are all negative it takes the first, whatever they are. So the file gives 1 for the choice
  and 0 for the others. Nothing is drawn at random.
  https://github.com/edbeeching/godot_rl_agents_plugin/blob/00b298ff2513aee1cce5358fa52c40d761096748/addons/godot_rl_agents/sync.gd
- Its environment for Stable-Baselines3 has continuous actions from -1 to 1. Of a continuous and a discrete one together
  it makes a Box, with one number for the latter, where the plugin reads n.
  https://github.com/edbeeching/godot_rl_agents/blob/0638d03fa2587fd7633b02963d22dd9dfdab4440/godot_rl/core/utils.py
- Its project brings onnxruntime 1.15, which takes opsets up to 19.
  https://github.com/edbeeching/godot_rl_agents_plugin/blob/5b09dc906eae1e037c4f8b0b09a1ffe11340802f/Godot%20RL%20Agents.csproj
"""

from __future__ import annotations

from collections.abc import Iterator

from sb3_clanker.policy_file.dialects import GODOT
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import LeafSpace
from sb3_clanker.policy_file.tensors import TensorSpec
from sb3_clanker.targets.target import Signature, Target, TargetName, is_static, listed

_NEWEST_OPSET = 19
_OBSERVATION = "obs"


class Godot(Target):
    """The plugin, by the code of its ``ONNXInference`` and ``sync.gd``."""

    name: TargetName = "godot"
    dialect = GODOT

    def problems(self, signature: Signature) -> Iterator[str]:
        roles = {spec.role for spec in signature.inputs}
        if roles & {"hidden_state", "cell_state", "episode_start"}:
            yield (
                "the policy is recurrent, and the plugin carries no state from step to step: it feeds the number 1 as "
                "state_ins at each, and never looks at state_outs; train one without a recurrent network"
            )
        if "action_masks" in roles:
            yield "the policy takes action_masks, and the plugin feeds none: train one without masks"
        for spec in signature.inputs:
            if spec.role == "observation":
                yield from _observation_problems(spec)
        yield from _action_problems(signature.action_space)
        expected = (GODOT.action, *(GODOT.echo or ())[1:])
        if not set(expected) <= {spec.name for spec in signature.outputs}:
            yield (
                f"the outputs are {listed(spec.name for spec in signature.outputs)}, and the plugin reads "
                f"{' and '.join(expected)}: export with ExportOptions(target='godot')"
            )

    def notes(self, metadata: PolicyMetadata) -> Iterator[str]:
        observed = {spec.name: spec.shape[1] for spec in metadata.inputs if spec.role == "observation"}
        rows = listed(f"{name} ({width} numbers)" for name, width in observed.items())
        yield f"get_obs() must return flat arrays, row by row, and no other keys: {rows}"
        if set(observed) != {_OBSERVATION}:
            yield "a plugin from before April 2025 feeds the key obs alone"
        space = metadata.action_space
        if space.is_continuous:
            yield (
                f"get_action_space() must have continuous actions alone, {space.n_elements} numbers together, in the "
                "order of the training: beside a discrete one, the plugin reads other numbers than were trained"
            )
        else:
            sizes = listed(map(str, space.choices))
            yield f"get_action_space() must have discrete actions of the sizes {sizes}, in the order of the training"
        if metadata.opset_version > _NEWEST_OPSET:
            yield f"the plugin's own project brings onnxruntime 1.15, which takes opsets up to {_NEWEST_OPSET}"


def _observation_problems(spec: TensorSpec) -> Iterator[str]:
    if spec.layout is not None:
        yield (
            f"{spec!s} is an image, and the plugin feeds rows of numbers: its camera gives a string of hex "
            "digits, which only Python decodes; train on what other sensors give"
        )
    elif spec.dtype != "float32" or len(spec.shape) != 2 or not is_static(spec):
        yield f"{spec!s} is not float32 [batch, n]: export with ExportOptions(target='godot')"
    if spec.key is not None and spec.name != spec.key:
        yield (
            f"the observation key {spec.key!r} would be the input {spec.name}, and the plugin feeds {spec.key!r}: give "
            "it another name, of letters, digits and underscores, that no other input, output or weight has"
        )


def _action_problems(space: LeafSpace) -> Iterator[str]:
    if space.is_continuous:
        low, high = space.bounds()
        if (low < -1.0).any() or (high > 1.0).any():
            yield (
                f"actions reach from {low.min():g} to {high.max():g}, and the plugin clamps them to -1 and 1: train on "
                "actions from -1 to 1, and scale them in set_action()"
            )
