"""clankers, a robot simulator in Rust: one row of numbers, or an image and joint positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import ObservationSpace
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec
from sb3_clanker.targets.target import Mode, Signature, Target, TargetName, is_static, listed

IMAGE = "image"
"""What it calls the input of its camera."""
_JOINTS = "joint_positions"
_VECTORS = ("obs", "observation")
_ACTIONS = ("action", "actions", "velocity")


class Clankers(Target):
    """The robot simulator, by the code of its ``OnnxPolicy``."""

    name: TargetName = "clankers"
    unit_images = True

    def problems(self, signature: Signature) -> Iterator[str]:
        observed = {spec.name: spec for spec in signature.inputs if spec.role in ("observation", "unused")}
        further = {spec.role for spec in signature.inputs} - {"observation", "unused"}
        if further & {"hidden_state", "cell_state", "episode_start"}:
            yield (
                "the policy is recurrent, and the loader carries no state from step to step: "
                "train one without a recurrent network"
            )
        if "action_masks" in further:
            yield "the policy takes action_masks, and the loader feeds none: train one without masks"
        if observed.keys() & {IMAGE, _JOINTS}:
            yield from _vision_problems(observed)
            yield from _pixel_problems(observed, signature.observation_space)
        else:
            yield from _vector_problems(observed)
        yield from _action_problems(signature.outputs)

    def notes(self, metadata: PolicyMetadata) -> Iterator[str]:
        for spec in metadata.inputs:
            if spec.role == "unused":
                yield f"{spec.name} is {spec.meaning}"
            elif len(spec.shape) == 2:
                yield f"{spec.name} needs {spec.shape[1]} numbers: the loader fills up fewer with zeros, without a word"
            else:
                yield f"{spec.name} gets the camera's bytes divided by 255, from 0 to 1"
            if spec.name == _JOINTS and spec.role != "unused":
                yield (
                    f"{spec.name} gets the first {spec.shape[1]} numbers after the pixels, and the simulator "
                    "interleaves positions and velocities there: train on them in this order"
                )
        if not metadata.action_space.is_continuous:
            yield (
                f"the action is a {metadata.action_space.type} one, in whole numbers; "
                "the loader, which finds no bounds for it, takes them for -1 and 1"
            )

    def mode(self, signature: Signature) -> Mode | None:
        return "vision" if any(spec.name == IMAGE for spec in signature.inputs) else "vector"

    def unused(self, observed: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        """The loader runs no policy on an image alone."""
        if [spec.name for spec in observed] != [IMAGE]:
            return ()
        meaning = "not looked at: the loader runs no policy on an image alone"
        return (TensorSpec(name=_JOINTS, dtype="float32", shape=(BATCH, 1), role="unused", meaning=meaning),)


def _vector_problems(observed: Mapping[str, TensorSpec]) -> Iterator[str]:
    if len(observed) != 1 or not observed.keys() <= set(_VECTORS):
        yield (
            f"the inputs are {listed(observed)}, and the loader feeds obs alone, or image and joint_positions: "
            "flatten the observation with gymnasium's FlattenObservation, or name its keys image and joint_positions"
        )
        return
    (spec,) = observed.values()
    yield from _float32_problems(spec)
    if (spec.layout is None and len(spec.shape) != 2) or not is_static(spec):
        yield (
            f"{spec} is not [batch, width], and the loader feeds one row of numbers: flatten the observation "
            "with gymnasium's FlattenObservation, or observe a Dict of image and joint_positions"
        )


def _vision_problems(observed: Mapping[str, TensorSpec]) -> Iterator[str]:
    if set(observed) != {IMAGE, _JOINTS}:
        yield (
            f"the inputs are {listed(observed)}, and the loader feeds exactly image and joint_positions: "
            "give the observation space these two keys and no others"
        )
    if (image := observed.get(IMAGE)) is not None:
        yield from _float32_problems(image)
        if len(image.shape) != 4 or not is_static(image) or image.layout == "channels_last":
            yield (
                f"{image} is not [batch, channels, height, width]: "
                "use an image of three dimensions, and channels_last=False"
            )
    if (joints := observed.get(_JOINTS)) is not None:
        yield from _float32_problems(joints)
        if len(joints.shape) != 2 or not is_static(joints):
            yield f"{joints} is not [batch, joints]: use a Box of one dimension"


def _pixel_problems(observed: Mapping[str, TensorSpec], space: ObservationSpace) -> Iterator[str]:
    """An image that is none of bytes must have been trained on what the loader feeds."""
    image = observed.get(IMAGE)
    leaf = None if image is None else space.leaves().get(image.key)
    if image is None or image.dtype != "float32" or image.divisor is not None or leaf is None or not leaf.is_continuous:
        return
    low, high = leaf.bounds()
    if (low < 0.0).any() or (high > 1.0).any():
        yield (
            f"{image} was trained on values from {low.min():g} to {high.max():g}, and the loader feeds 0 to 1: "
            "train on bytes (uint8, 0 to 255) that VecNormalize leaves alone (norm_obs_keys), or on floats from 0 to 1"
        )


def _action_problems(outputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    actions = [spec for spec in outputs if spec.name in _ACTIONS]
    if len(actions) != 1:
        yield f"of the outputs {listed(spec.name for spec in outputs)}, not exactly one is the action: export it again"
    for spec in actions:
        if spec.dtype != "float32" or len(spec.shape) < 2 or not is_static(spec):
            yield f"{spec} is not float32 [batch, width]: use an action space of at least one element"


def _float32_problems(spec: TensorSpec) -> Iterator[str]:
    if spec.dtype != "float32":
        yield f"{spec} is not float32: export with ExportOptions(target='clankers')"
