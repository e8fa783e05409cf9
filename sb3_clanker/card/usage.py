"""The code that runs this very policy: its inputs, its state, its masks, its units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sb3_clanker.card.components import ActionPart, Component, action_parts
from sb3_clanker.card.wording import short
from sb3_clanker.policy_file.dialects import dialect_of
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.spaces import LeafSpace
from sb3_clanker.policy_file.tensors import BATCH, TensorSpec

_MOST_NUMBERS = 12
_MOST_INPUTS = 16
_LONGEST_NAME = 120
_LONGEST_CODE = 6000


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A program.

    :ivar title: with what it runs the policy
    :ivar code: the program, in Python
    """

    title: str
    code: str


def usages(file_name: str, metadata: PolicyMetadata, components: Sequence[Component]) -> list[Usage]:
    """The programs that run a policy; none where they would be too long to be read.

    :param file_name: name of its file
    :param components: what is known of its observations
    """
    names = [file_name, *(text for spec in metadata.inputs for text in (spec.name, spec.key or ""))]
    if len(metadata.inputs) > _MOST_INPUTS or any(len(name) > _LONGEST_NAME for name in names):
        return []
    found = [
        Usage(title="With OnnxPolicy, without torch", code="\n".join(_with_policy(file_name, metadata, components))),
        Usage(title="With onnxruntime alone", code="\n".join(_with_onnxruntime(file_name, metadata, components))),
    ]
    return [usage for usage in found if len(usage.code) <= _LONGEST_CODE]


def of_usage(metadata: PolicyMetadata, components: Sequence[Component]) -> Iterator[str]:
    """What must be known of the programs, in sentences."""
    if metadata.normalization.status == "unknown":
        yield "The action comes out final: no clipping or scaling is left to do."
        yield "Nobody knows whether observations must be normalized before they go in; the file does not do it."
    else:
        yield "Raw observation in, final action out: no clipping, scaling or normalization is left to do."
    if any(spec.divisor is not None for spec in metadata.inputs):
        yield "With onnxruntime alone, the bytes of an image are divided first."
    shown = [_own(components, key) for key in metadata.observation_space.leaves()]
    are_medians = [
        0 < len(own) <= _MOST_NUMBERS and all(component.seen is not None for component in own) for own in shown
    ]
    if all(are_medians):
        yield "Numbers in the code are medians of what training saw."
    elif any(are_medians):
        yield "Numbers in the code are medians of what training saw, or else examples."
    else:
        yield "Numbers in the code are examples."


def _with_policy(file_name: str, metadata: PolicyMetadata, components: Sequence[Component]) -> Iterator[str]:
    yield "import numpy as np"
    yield "from sb3_clanker import OnnxPolicy"
    yield ""
    yield f"policy = OnnxPolicy({file_name!r})"
    yield from _how_often(metadata)
    yield from _stacking(metadata)
    spaces = metadata.observation_space.leaves()
    if None in spaces:
        yield from _assigned("observation = ", "", _literal(spaces[None], _own(components, None)))
    else:
        yield "observation = {"
        for key, space in spaces.items():
            yield from _assigned(f"    {key!r}: ", ",", _literal(space, _own(components, key)))
        yield "}"
    arguments = ["observation"]
    if masks := _of_role(metadata, "action_masks"):
        n_choices = int(masks.shape[1])
        yield f"action_masks = np.ones({n_choices}, dtype=bool)  # True: allowed now"
        arguments.append("action_masks=action_masks")
    if metadata.recurrent:
        yield "state, episode_start = None, np.array([True])"
        yield "for step in range(3):  # your control loop"
        yield "    action, state = policy.predict(observation, state=state, episode_start=episode_start)"
        yield "    episode_start = np.array([False])  # True again where an episode begins"
    else:
        yield f"action, _ = policy.predict({', '.join(arguments)})"
    yield from _of_action(metadata)


def _with_onnxruntime(file_name: str, metadata: PolicyMetadata, components: Sequence[Component]) -> Iterator[str]:
    yield "import numpy as np"
    yield "import onnxruntime"
    yield ""
    yield "providers = ['CPUExecutionProvider']"
    yield f"session = onnxruntime.InferenceSession({file_name!r}, providers=providers)"
    yield from _how_often(metadata)
    yield from _stacking(metadata)
    yield "inputs = {"
    for spec in metadata.inputs:
        yield from _assigned(f"    {spec.name!r}: ", ",", _input(spec, components))
    yield "}"
    output = metadata.outputs[0].name
    if metadata.recurrent:
        yield "for step in range(3):  # your control loop"
        yield f"    output, h, c = session.run([{output!r}, 'h_out', 'c_out'], inputs)"
        yield "    inputs |= {'h_in': h, 'c_in': c, 'episode_start': np.zeros(1, np.float32)}"
    else:
        yield f"output = session.run([{output!r}], inputs)[0]"
    yield from _decoded(metadata)
    yield from _of_action(metadata)


def _input(spec: TensorSpec, components: Sequence[Component]) -> Iterator[str]:
    """The value of an input of the graph, as lines."""
    shape = tuple(1 if dim == BATCH else int(dim) for dim in spec.shape)
    zeros = f"np.zeros({shape}, np.{_dtype(spec.dtype)})"
    if spec.role == "observation":
        own = _own(components, spec.key)
        if spec.layout is not None:
            order = "channels, height, width" if spec.layout == "channels_first" else "height, width, channels"
            values = "0 to 255" if spec.divisor is None and spec.dtype == "uint8" else "as floats"
            if spec.divisor is not None:
                values = f"each byte divided by {spec.divisor:g}"
            yield f"{zeros}  # an image: {order}; {values}"
        elif 0 < len(own) <= _MOST_NUMBERS and len(own) == math.prod(shape):
            numbers = ", ".join(_number(component) for component in own)
            suffix = "" if len(shape) == 2 else f".reshape({shape})"
            yield f"np.array([[{numbers}]], np.{_dtype(spec.dtype)}){suffix}  # raw, batch first"
        else:
            yield f"{zeros}  # raw, batch first"
    elif spec.role == "action_masks":
        yield f"np.ones({shape}, bool)  # True: allowed now"
    elif spec.role == "episode_start":
        yield "np.ones(1, np.float32)  # 1 where an episode begins, else 0"
    elif spec.role in ("hidden_state", "cell_state"):
        yield f"{zeros}  # then what came out of the step before"
    else:
        yield f"{zeros}  # not looked at"


def _literal(space: LeafSpace, own: Sequence[Component]) -> Iterator[str]:
    """An observation, as lines: one for each number where they are few."""
    dtype = f"np.{_dtype(space.dtype)}"
    if not own:
        is_image = len(space.shape) == 3
        yield f"np.zeros({space.shape}, dtype={dtype})" + ("  # an image, raw" if is_image else "  # raw")
    elif not space.shape:
        yield f"np.array({_number(own[0])}, dtype={dtype})  # one of {space.choices[0] if space.choices else '?'}"
    elif len(own) == space.n_elements <= _MOST_NUMBERS:
        yield "np.array(["
        for component in own:
            yield f"    {_number(component)},  # {component.label}"
        reshaped = "" if len(space.shape) == 1 else f".reshape({space.shape})"
        yield f"], dtype={dtype}){reshaped}"
    else:
        yield f"np.zeros({space.shape}, dtype={dtype})  # raw, in the order of the environment"


def _assigned(before: str, after: str, lines: Iterator[str]) -> Iterator[str]:
    """A value on its lines, the first behind a name; what follows it comes before a comment."""
    indent = " " * (len(before) - len(before.lstrip()))
    texts = list(lines)
    for number, text in enumerate(texts):
        if number == len(texts) - 1:
            value, mark, comment = text.partition("  # ")
            text = f"{value}{after}{mark}{comment}"
        yield f"{before if number == 0 else indent}{text}"


def _how_often(metadata: PolicyMetadata) -> Iterator[str]:
    if metadata.control_period is not None:
        seconds = metadata.control_period
        yield f"# one action every {seconds:g} seconds ({1 / seconds:.3g} a second), as in training"


def _stacking(metadata: PolicyMetadata) -> Iterator[str]:
    for stack in metadata.frame_stacks[:_MOST_INPUTS]:
        of = "the observation" if stack.key is None else short(repr(stack.key))
        padding = f"{stack.padding:g}" if isinstance(stack.padding, float) else "the padding in the record"
        yield f"# {of} is the last {stack.n_stack} frames along axis {stack.axis}, the newest last;"
        yield f"# before the first of an episode stands {padding}"


def _decoded(metadata: PolicyMetadata) -> Iterator[str]:
    """What makes the action of the output."""
    space = metadata.action_space
    if dialect_of(metadata.outputs).one_hot and space.choices:
        if len(space.choices) == 1:
            yield "action = int(output[0].argmax())"
        else:
            ends = [sum(space.choices[: i + 1]) for i in range(len(space.choices) - 1)]
            yield f"action = np.array([one.argmax() for one in np.split(output[0], {ends})])"
    elif space.is_continuous:
        yield "action = output[0]" if len(space.shape) == 1 else f"action = output[0].reshape({space.shape})"
    else:
        yield "action = int(output[0, 0])" if not space.shape else "action = output[0].astype(int)"


def _of_action(metadata: PolicyMetadata) -> Iterator[str]:
    """What the action is, as comments."""
    parts = action_parts(metadata, _MOST_NUMBERS)
    if len(parts) == 1 and parts[0].choices and not metadata.action_space.shape:
        (part,) = parts
        more = "" if part.high < _MOST_NUMBERS else ", ..."
        yield "# action: " + ", ".join(_choice(i, name) for i, name in enumerate(part.choices)) + more
        return
    for index, part in enumerate(parts):
        named = "action" if len(parts) == 1 else f"action[{index}]"
        yield f"# {_described(part)}" if part.name.startswith("action") else f"# {named}: {_described(part)}"
    if metadata.action_space.n_elements > len(parts):
        yield f"# ... {metadata.action_space.n_elements} in all"


def _described(part: ActionPart) -> str:
    if part.choices:
        return f"{part.name}, one of 0 to {part.high:g}"
    return f"{part.label}, from {part.low:g} to {part.high:g}"


def _choice(index: int, name: str) -> str:
    return name if name == str(index) else f"{index} {name}"


def _own(components: Sequence[Component], key: str | None) -> list[Component]:
    return [component for component in components if component.key == key]


def _of_role(metadata: PolicyMetadata, role: str) -> TensorSpec | None:
    return next((spec for spec in metadata.inputs if spec.role == role), None)


def _number(component: Component) -> str:
    if component.is_whole:
        return str(int(component.typical))
    return repr(float(f"{component.typical:.3g}"))


def _dtype(name: str) -> str:
    return {"bool": "bool_"}.get(name, name)
