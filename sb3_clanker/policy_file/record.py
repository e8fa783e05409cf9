"""What a file says of itself: one JSON document under the key ``sb3_clanker``.

To change the record: add, rename or drop fields, raise ``SCHEMA_VERSION`` by one, and say in
:data:`sb3_clanker.policy_file.reading.UPGRADES` what becomes of a record of the version before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import msgspec

from sb3_clanker.display import Shown, printable
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace
from sb3_clanker.policy_file.tensors import Sampling, TensorSpec
from sb3_clanker.public import public
from sb3_clanker.report import CrossCheckRecord, LatencyRecord

SCHEMA_VERSION = 3

Scalar: TypeAlias = str | float | int | bool | None
KeywordArgument: TypeAlias = Scalar | tuple[Scalar, ...] | dict[str, Scalar]


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


class EnvironmentRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The training environment, as gymnasium knows it.

    :ivar id: the id that it is made by, such as ``CartPole-v1``
    :ivar kwargs: the keyword arguments that it was made with
    :ivar omitted: names of those that are left out: no JSON, nested, too long, secret, or with a path of the machine in
        it
    """

    id: str
    kwargs: dict[str, KeywordArgument]
    omitted: tuple[str, ...] = ()

    def __str__(self) -> str:
        return printable(f"{self.id}({', '.join(f'{name}={value!r}' for name, value in self.kwargs.items())})")


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Episodes that show how good the policy was, at this step or at an earlier one.

    :ivar role: ``best``: they made the policy in this file the best so far; ``last``: they were the last ones before it
        was written, of the policy of that step
    :ivar source: ``evaluation``: episodes of an ``EvalCallback``; ``rollout``: the last ones of the training itself, in
        which the policy acted at random, and learned meanwhile
    :ivar num_timesteps: environment steps taken when they ended
    :ivar mean_reward: mean of their rewards, None where it is no finite number
    :ivar std_reward: standard deviation of their rewards, None where it is not known
    :ivar n_episodes: how many they were, None where it is not known
    :ivar deterministic: whether actions were deterministic, None where it is not known
    """

    role: Literal["best", "last"] = "last"
    source: Literal["evaluation", "rollout"] = "evaluation"
    num_timesteps: int
    mean_reward: float | None
    std_reward: float | None = None
    n_episodes: int | None = None
    deterministic: bool | None = None

    def __str__(self) -> str:
        mean, std = self.mean_reward, self.std_reward
        facts = [
            "no mean reward" if mean is None else f"mean reward {mean:.2f}",
            *([] if std is None else [f"standard deviation {std:.2f}"]),
            *([] if self.n_episodes is None else [f"{self.n_episodes} episodes"]),
            *([] if self.deterministic is None else ["deterministic" if self.deterministic else "stochastic"]),
        ]
        return f"{self.source} at {self.num_timesteps:,} timesteps: {', '.join(facts)}"


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far training was.

    :ivar num_timesteps: environment steps taken
    :ivar evaluation: what made this policy the best, or else the last evaluation before; None without any
    """

    num_timesteps: int
    evaluation: EvaluationRecord | None = None

    @property
    def mean_reward(self) -> float | None:
        """Mean episode reward that made this policy the best so far, None where it is none of the best."""
        return self.evaluation.mean_reward if self.evaluation and self.evaluation.role == "best" else None


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


QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The levels of the quantiles in a record."""
_SHOWN = 8
"""Components whose range is shown in one line."""


class ObservationRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What training saw of one vector of observations, raw; one number for each component, in row-major order.

    :ivar key: the key of a Dict space, None for any other
    :ivar minimum: the smallest
    :ivar maximum: the largest
    :ivar mean: the mean
    :ivar deviation: the standard deviation, of all observations (``ddof=0``)
    :ivar quantiles: for each component those at the levels 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, of a sample
    """

    key: str | None
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    quantiles: tuple[tuple[float, ...], ...]

    def in_short(self, names: Sequence[str] | None) -> str:
        """From where to where its first components go.

        :param names: of its components, None where nobody gave them
        """
        ends = zip(self.minimum[:_SHOWN], self.maximum, strict=False)
        texts = [f"{low:.3g} to {high:.3g}" for low, high in ends]
        if names is not None:
            texts = [f"{name} {text}" for name, text in zip(names, texts, strict=False)]
        more = [f"and {n} more"] if (n := len(self.minimum) - _SHOWN) > 0 else []
        return ("" if self.key is None else f"{self.key}: ") + ", ".join([*texts, *more])


class ObservationRanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What training saw of the observations that are vectors.

    :ivar n_observations: how many observations they are of
    :ivar margin: of the output ``outside``: by what part of its range a component may leave it; None without the output
    :ivar ranges: one for each vector of the observation
    """

    n_observations: int
    margin: float | None = None
    ranges: tuple[ObservationRange, ...]


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
    :ivar environment_spec: that environment, as gymnasium knows it; None where it is not made by ``gymnasium.make``, or
        in another process
    :ivar control_period: seconds from one action to the next, None where the caller gave none
    :ivar observation_ranges: what training saw of observations, None where nobody kept it
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
    environment_spec: EnvironmentRecord | None = None
    control_period: float | None = None
    observation_ranges: ObservationRanges | None = None
    training: TrainingRecord
    provenance: Provenance
    checkpoint: CheckpointRecord | None = None
    cross_check: CrossCheckRecord | None = None
    latency: LatencyRecord | None = None
    digest: str = ""
    entries: dict[str, str] = {}

    def facts(self) -> Iterator[tuple[str, str]]:
        evaluation, environment = self.training.evaluation, self.environment_spec
        yield "policy", f"{self.algorithm} ({self.policy_class})"
        yield "trained", f"{self.training.num_timesteps:,} timesteps"
        if evaluation is not None:
            yield "best by" if evaluation.role == "best" else "last found", str(evaluation)
        if self.cross_check is not None:
            yield "proven", str(self.cross_check)
        yield "observation space", str(self.observation_space)
        if (ranges := self.observation_ranges) is not None:
            names = {spec.key: spec.names for spec in self.inputs if spec.role == "observation"}
            yield "observed", f"{ranges.n_observations:,} observations"
            yield from (("range", each.in_short(names.get(each.key))) for each in ranges.ranges)
        yield "action space", str(self.action_space)
        yield from (("input", f"{spec}: {spec.meaning}") for spec in self.inputs)
        yield from (("output", f"{spec}: {spec.meaning}") for spec in self.outputs)
        if environment is not None:
            yield "environment", str(environment)
        yield "normalization", self.normalization.status
        yield "opset", f"{self.opset_version} (IR version {self.ir_version})"
        yield "created", self.provenance.created
        if self.checkpoint is not None:
            yield from (("belongs to", file.name) for file in self.checkpoint.files)
        yield from self.entries.items()
