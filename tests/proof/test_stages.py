"""The proof finds what is wrong. Every check is sabotaged once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch as th
from gymnasium import spaces
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker.errors import ClankerError, ValidationError
from sb3_clanker.export.exporter import Exporter, ProvenPolicy
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.seal import stamp
from sb3_clanker.proof.stages import prove
from sb3_clanker.proof.subject import Subject
from sb3_clanker.report import ValidationReport
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.writers.formats import FORMATS
from tests.worlds import LARGE_ACTION, make_model

OPTIONS = ExportOptions()
ONNX = FORMATS[".onnx"]


def _prove(data: bytes, metadata: PolicyMetadata, subject: Subject, *, in_full: bool = False) -> ValidationReport:
    with subject.now(lambda *_: not in_full) as now:
        return prove(ONNX, ONNX.reopen(data), metadata, now.reference(), now.probes, OPTIONS, in_full=in_full)


class Specimen:
    """A model, its exporter, and its proven file, to be tampered with."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model
        self.vec_normalize = model.get_vec_normalize_env()
        normalization = Normalization(vec_normalize=self.vec_normalize)
        self.subject = Subject(model, normalization, OPTIONS)
        self.proven: ProvenPolicy = Exporter(model, normalization, OPTIONS).export()

    def prove(
        self, tamper: Callable[[onnx.ModelProto], None] = lambda _: None, metadata: PolicyMetadata | None = None
    ) -> Any:
        """Prove the file again, after tampering with its graph or its record."""
        metadata = metadata or self.proven.metadata
        proto = onnx.load_from_string(self.proven.data)
        del proto.metadata_props[:]
        tamper(proto)
        data = stamp(proto.SerializeToString(), metadata)
        return _prove(data, metadata, self.subject)

    def refused(self, stage: str, match: str, tamper: Any = lambda _: None, metadata: Any = None) -> ValidationError:
        """Expect a refusal at a stage, and check that the error carries the report."""
        with pytest.raises(ValidationError, match=match) as caught:
            self.prove(tamper, metadata)
        report = caught.value.report
        assert f"failed its proof at the stage {stage}" in str(caught.value)
        assert isinstance(caught.value, ClankerError)
        assert isinstance(caught.value, ValueError)
        assert [stage.passed for stage in report.stages] == [True] * (len(report.stages) - 1) + [False]
        assert report.stages[-1].name == stage
        assert not report.passed
        return caught.value


@pytest.fixture(scope="module")
def box() -> Specimen:
    model = make_model(PPO, n_envs=3, normalize=True)
    model.learn(64)
    return Specimen(model)


@pytest.fixture(scope="module")
def discrete() -> Specimen:
    model = make_model(DQN, action_space=spaces.Discrete(3))
    model.learn(60)
    return Specimen(model)


def _initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    return found


def _change(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.ModelProto], None]:
    def tamper(proto: onnx.ModelProto) -> None:
        tensor = _initializer(proto, name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))

    return tamper


def test_an_untouched_file_passes_with_figures(box: Specimen) -> None:
    report = box.prove()
    assert report.passed
    assert [stage.name for stage in report.stages] == ["structure", "contract", "runtime", "cross_check"]
    assert report.cross_check.n_mismatches == 0
    assert report.cross_check.n_observations > report.cross_check.n_seen >= 3
    assert 0 <= report.cross_check.max_difference <= 1e-5
    assert "seen in training" in str(report)


def test_one_weight_changed_by_one_percent_is_refused(box: Specimen) -> None:
    def nudge(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[0, 0] *= 1.01
        return values

    error = box.refused("cross_check", "disagree: .* mismatches", _change("policy.action_net.weight", nudge))
    assert error.report.cross_check is not None
    assert error.report.cross_check.n_mismatches > 0
    assert error.report.cross_check.max_difference > 1e-5
    assert "in place of" in str(error)


@pytest.mark.parametrize("factor", [1.01, 1.001])
def test_scores_that_change_no_choice_are_refused(discrete: Specimen, factor: float) -> None:
    """Weights and biases of the last layer by one factor: the largest score stays the largest."""

    def tamper(proto: onnx.ModelProto) -> None:
        for name in ("weight", "bias"):
            _change(f"policy.q_net.q_net.4.{name}", lambda values: values * np.float32(factor))(proto)

    error = discrete.refused("cross_check", "disagree: .* in the scores", tamper)
    assert error.report.cross_check is not None
    assert error.report.cross_check.max_difference == 0.0
    assert (error.report.cross_check.max_score_difference or 0.0) > 1e-4


def test_a_clipped_action_does_not_hide_what_is_wrong() -> None:
    model = make_model(PPO, action_space=spaces.Box(-1e-6, 1e-6, (2,)))
    Specimen(model).refused("cross_check", "disagree", _change("policy.action_net.bias", lambda values: values * 1.5))


def test_a_policy_without_scores_claims_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_clanker.writers.scores._LAST_LAYERS", ())
    report = Specimen(make_model(PPO, action_space=spaces.Discrete(3))).prove()
    assert report.cross_check.max_score_difference is None
    assert "scores" not in str(report)


def test_missing_clipping_is_refused(box: Specimen) -> None:
    far = lambda values: values * 1e6  # noqa: E731
    box.refused(
        "cross_check",
        "disagree",
        lambda proto: [_change(name, far)(proto) for name in ("action_low", "action_high")],
    )


def test_statistics_of_another_instant_are_refused(box: Specimen) -> None:
    box.refused("cross_check", "disagree", _change("observation.0.normalize.mean_high", lambda values: values + 0.01))
    box.refused("cross_check", "disagree", _change("observation.0.normalize.deviation", lambda values: values * 1.01))


def test_a_missing_normalization_is_refused(box: Specimen) -> None:
    assert isinstance(box.vec_normalize, VecNormalize)
    raw = Subject(box.model, Normalization(vec_normalize=None), OPTIONS)
    with pytest.raises(ValidationError, match="stage cross_check"):
        _prove(box.proven.data, box.proven.metadata, raw, in_full=True)


def test_swapped_actions_are_refused(discrete: Specimen) -> None:
    swap = lambda values: values[::-1].copy()  # noqa: E731
    name = next(tensor.name for tensor in onnx.load_from_string(discrete.proven.data).graph.initializer)
    last = [
        tensor.name
        for tensor in onnx.load_from_string(discrete.proven.data).graph.initializer
        if tensor.name.endswith(".weight")
    ][-1]
    assert name != last
    discrete.refused("cross_check", "disagree", _change(last, swap))


def test_near_ties_of_scores_raise_no_alarm_and_are_counted() -> None:
    model = make_model(PPO, action_space=spaces.Discrete(2))
    with th.no_grad():  # both actions have the very same score
        parameters = dict(model.policy.named_parameters())
        parameters["action_net.weight"][1] = parameters["action_net.weight"][0]
        parameters["action_net.bias"][1] = parameters["action_net.bias"][0]
    specimen = Specimen(model)
    report = specimen.prove(_change("policy.action_net.bias", lambda bias: bias + np.array([0, 1e-6], np.float32)))
    assert report.cross_check.n_ties > 0
    assert report.cross_check.n_mismatches == 0


def test_a_reference_that_is_never_finite_is_refused(box: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_a_number(observation: Any, **_: Any) -> Any:
        return np.full((len(observation), 2) if observation.ndim > 1 else 2, np.nan, dtype=np.float32), None

    monkeypatch.setattr("sb3_clanker.proof.subject.check_own_predict", lambda _: None)  # it refuses such a replacement
    monkeypatch.setattr(box.model, "predict", not_a_number)
    box.refused("cross_check", "itself gives no finite action")


def test_observations_without_a_finite_reference_are_counted_not_compared(
    box: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = box.model.predict

    def partly(observation: Any, **kwargs: Any) -> Any:
        action, state = predict(observation, **kwargs)
        if action.ndim > 1 and len(action) > 1:
            action = action.copy()
            action[5] = np.nan
        return action, state

    monkeypatch.setattr("sb3_clanker.proof.subject.check_own_predict", lambda _: None)  # it refuses such a replacement
    monkeypatch.setattr(box.model, "predict", partly)
    assert box.prove().cross_check.n_nonfinite == 1


def test_another_dtype_of_actions_is_refused(discrete: Specimen) -> None:
    wrong = replace(discrete.proven.metadata, predict_dtype="int32")
    discrete.refused("cross_check", "predict returns int32 .* and Stable-Baselines3 int64", metadata=wrong)


def test_bytes_that_are_no_model_are_refused(box: Specimen) -> None:
    with pytest.raises(ValidationError, match="stage structure"):
        _prove(b"\xff\xff", box.proven.metadata, box.subject, in_full=True)


def test_a_graph_that_the_checker_refuses_is_refused(box: Specimen) -> None:
    def tamper(proto: onnx.ModelProto) -> None:
        proto.graph.node[0].input[0] = "nowhere"

    box.refused("structure", "nowhere", tamper)


def test_a_graph_that_the_runtime_refuses_is_refused(box: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    def tamper(proto: onnx.ModelProto) -> None:
        proto.graph.node[0].op_type = "Unheard"

    monkeypatch.setattr("onnx.checker.check_model", lambda *_, **__: None)
    box.refused("runtime", "onnxruntime cannot load it", tamper)


@pytest.mark.parametrize(
    ("tamper", "match"),
    [
        (lambda proto: setattr(proto.graph.output[0], "name", "actions"), "outputs are"),
        (lambda proto: setattr(proto.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE), "inputs are"),
        (lambda proto: setattr(proto.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1), "inputs are"),
        (lambda proto: setattr(proto, "ir_version", 10), "IR version is 10, expected 8"),
        (lambda proto: setattr(proto.opset_import[0], "version", 17), "operator sets are"),
        (lambda proto: proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3)), "operator sets are"),
        (lambda proto: setattr(proto.graph.node[0], "doc_string", "File /home/me"), "notes of the exporter"),
        (
            lambda proto: proto.graph.node[0].metadata_props.append(
                onnx.StringStringEntryProto(key="trace", value="x")
            ),
            "notes of the exporter",
        ),
        (
            lambda proto: proto.graph.value_info.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])),
            "it holds value_info",
        ),
        (lambda proto: _make_external(proto.graph.initializer[0]), "lies in another file"),
    ],
)
def test_every_promise_of_the_contract_is_checked(
    box: Specimen, tamper: Any, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx.checker.check_model", lambda *_, **__: None)
    box.refused("contract", match, tamper)


def _make_external(tensor: onnx.TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="../weights.bin"))


def test_the_flat_keys_are_checked(box: Specimen) -> None:
    proto = onnx.load_from_string(box.proven.data)
    for entry in proto.metadata_props:
        if entry.key == "action_transform":
            entry.value = "tanh"
    with pytest.raises(ValidationError, match="metadata key 'action_transform' is 'tanh', expected 'none'"):
        _prove(proto.SerializeToString(), box.proven.metadata, box.subject, in_full=True)


def test_a_policy_that_uses_little_of_its_range_is_compared_in_what_it_uses() -> None:
    specimen = Specimen(make_model(PPO, action_space=LARGE_ACTION))
    specimen.refused("cross_check", "disagree", _change("policy.action_net.weight", lambda values: values * 1.001))


def test_large_actions_are_compared_in_units_of_half_their_range() -> None:
    specimen = Specimen(make_model(SAC, action_space=LARGE_ACTION))
    report = specimen.prove()
    assert report.cross_check.max_difference < 1e-5  # a thousandth of what the plain difference is
    specimen.refused("cross_check", "disagree", _change("action_range", lambda values: values * np.float32(1.001)))
