"""What a file says of itself: one JSON document under the key ``sb3_clanker``.

To change the record: add, rename or drop fields, raise ``SCHEMA_VERSION`` by one, and say in
:data:`sb3_clanker.policy_file.reading.UPGRADES` what becomes of a record of the version before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from sb3_clanker.display import Shown
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace
from sb3_clanker.policy_file.tensors import Sampling, TensorSpec
from sb3_clanker.public import public
from sb3_clanker.report import CrossCheckRecord, LatencyRecord

SCHEMA_VERSION = 1


class NormalizationRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """VecNormalize, as it stands in the graph.

    :ivar status: ``folded``: the graph normalizes, feed raw observations; ``none``: the policy was trained on raw
        observations; ``unknown``: nothing told, and the graph does not normalize
    :ivar keys: the keys of a Dict space that are normalized, empty for any other space
    :ivar clip_obs: largest absolute value after normalization
    :ivar epsilon: added to the variance
    """

    status: Literal["folded", "none", "unknown"]
    keys: tuple[str, ...] = ()
    clip_obs: float | None = None
    epsilon: float | None = None


class FrameStackRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frames that an observation consists of; a consumer stacks them itself, the newest last.

    :ivar key: the key of a Dict space, None for any other
    :ivar n_stack: how many frames
    :ivar axis: along which axis of one observation, counted from the last
    :ivar padding: what stands in place of frames before the first of an episode: one raw value for all elements of a
        frame, or one for each in row-major order
    :ivar padding_error: how far the padding, normalized in float32, is from the exact zero of the training
    """

    key: str | None
    n_stack: int
    axis: int
    padding: float | tuple[float, ...]
    padding_error: float


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far training was.

    :ivar num_timesteps: environment steps taken
    :ivar mean_reward: mean episode reward of the evaluation that led to this file, None without one
    """

    num_timesteps: int
    mean_reward: float | None


class PairedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that was written beside this one, from the same instant.

    :ivar name: its name, without a folder
    :ivar digest: ``zip:`` and the SHA-256 of its directory for a ``.zip``, else ``sha256:`` and that of its bytes
    """

    name: str
    digest: str


class CheckpointRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The checkpoint that the file is part of: the other files of the same instant.

    :ivar algorithm_file: the ``.zip`` of Stable-Baselines3
    :ivar statistics_file: the VecNormalize statistics
    :ivar replay_buffer: whether the replay buffer was written too
    :ivar together: whether all of them were written together, by :class:`OnnxCheckpointCallback`
    :ivar followed: whether it was another callback, which that one followed, that wrote the ``.zip``
    """

    algorithm_file: PairedFile | None = None
    statistics_file: PairedFile | None = None
    replay_buffer: bool = False
    together: bool = False
    followed: bool = False

    @property
    def files(self) -> tuple[PairedFile, ...]:
        """The files that have a digest."""
        return tuple(file for file in (self.algorithm_file, self.statistics_file) if file)


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the file comes from.

    :ivar created: UTC time in ISO 8601
    :ivar versions: versions of Python and of the packages that took part
    """

    created: str
    versions: dict[str, str]


@public
class PolicyMetadata(Shown, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a file says of itself.

    :ivar schema_version: version of this record
    :ivar algorithm: class name of the algorithm, such as ``PPO``
    :ivar policy_class: full name of the policy's class
    :ivar observation_space: space of one raw observation
    :ivar action_space: space of one action
    :ivar inputs: inputs of the graph, in order
    :ivar outputs: outputs of the graph, in order
    :ivar predict_dtype: numpy's name of the element type in which ``predict`` returns actions
    :ivar recurrent: whether the policy carries a state from step to step
    :ivar sampling: how an action is drawn from the distribution that the file tells, None where it tells none
    :ivar opset_version: ONNX opset of the graph
    :ivar ir_version: ONNX IR version of the file
    :ivar normalization: VecNormalize, as it stands in the graph
    :ivar frame_stacks: frames that observations consist of, empty where they are not stacked by VecFrameStack
    :ivar environment: class names of the training environment and its wrappers, outermost first
    :ivar control_period: seconds from one action to the next, None where the caller gave none
    :ivar training: how far training was
    :ivar provenance: where the file comes from
    :ivar checkpoint: the checkpoint that the file is part of, None where it was exported alone
    :ivar cross_check: what the proof measured
    :ivar latency: how long a prediction takes, None where no promise was asked for
    :ivar digest: ``sha256:`` and the digest of graph and weights: of all bytes of the file before its metadata entries
    :ivar entries: the caller's own flat keys (beside the record, not in it)
    """

    _in_short = ("policy", "trained", "proven")

    schema_version: int = SCHEMA_VERSION
    algorithm: str
    policy_class: str
    observation_space: ObservationSpace
    action_space: LeafSpace
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    predict_dtype: str
    recurrent: bool
    sampling: Sampling | None = None
    opset_version: int
    ir_version: int
    normalization: NormalizationRecord
    frame_stacks: tuple[FrameStackRecord, ...] = ()
    environment: tuple[str, ...] = ()
    control_period: float | None = None
    training: TrainingRecord
    provenance: Provenance
    checkpoint: CheckpointRecord | None = None
    cross_check: CrossCheckRecord | None = None
    latency: LatencyRecord | None = None
    digest: str = ""
    entries: dict[str, str] = {}

    def facts(self) -> Iterator[tuple[str, str]]:
        reward = "" if self.training.mean_reward is None else f", mean reward {self.training.mean_reward:.2f}"
        yield "policy", f"{self.algorithm} ({self.policy_class})"
        yield "trained", f"{self.training.num_timesteps:,} timesteps{reward}"
        if self.cross_check is not None:
            yield "proven", str(self.cross_check)
        yield "observation space", str(self.observation_space)
        yield "action space", str(self.action_space)
        yield from (("input", f"{spec}: {spec.meaning}") for spec in self.inputs)
        yield from (("output", f"{spec}: {spec.meaning}") for spec in self.outputs)
        yield "normalization", self.normalization.status
        yield "opset", f"{self.opset_version} (IR version {self.ir_version})"
        yield "created", self.provenance.created
        if self.checkpoint is not None:
            yield from (("belongs to", file.name) for file in self.checkpoint.files)
        yield from self.entries.items()
