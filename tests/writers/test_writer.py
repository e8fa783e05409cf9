"""A format is one module: another one is registered here, and exported, proven and refused by the same code."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker.actor.actor import Actor
from sb3_clanker.errors import ValidationError
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.seal import Hashing, seal
from sb3_clanker.policy_file.tensors import BATCH
from sb3_clanker.proof.stages import open_policy
from sb3_clanker.runtime.session import Runner
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.writers.formats import FORMATS
from sb3_clanker.writers.writer import Filled, RefusedError, Stretches, Writer
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, draw, make_model, predict_raw, spread

OBSERVATIONS = draw(BOX_OBSERVATION, np.random.default_rng(0), 20)


class _Options(ExportOptions):
    suffix = ".pt2"


class _Program:
    """A template: what ``torch.export`` gives, into which weights are copied."""

    def __init__(self, actor: Actor) -> None:
        batch = th.export.Dim("batch", min=1)
        shapes = tuple({spec.shape.index(BATCH): batch} for spec in actor.inputs)
        examples = actor.eval().example_inputs()
        self._program = th.export.export(actor, examples, dynamic_shapes={"inputs": shapes}, strict=False)

    def fits(self, tensors: Mapping[str, th.Tensor]) -> bool:
        return all(tensors[name].shape == tensor.shape for name, tensor in self._program.state_dict.items())

    def fill(self, tensors: Mapping[str, th.Tensor], entries: Mapping[str, str]) -> Filled:
        with th.no_grad():
            for name, tensor in self._program.state_dict.items():
                tensor.copy_(tensors[name])
        buffer = io.BytesIO()
        th.export.save(self._program, buffer, extra_files=dict(entries))
        return Filled(data=buffer.getvalue(), published=(buffer.getvalue(),))


class _Session:
    """Runs a program as a session of onnxruntime runs a graph."""

    def __init__(self, data: bytes, metadata: PolicyMetadata) -> None:
        self._module, self._metadata = th.export.load(io.BytesIO(data)).module(), metadata

    def run(self, names: list[str], inputs: dict[str, Any], /) -> list[Any]:
        tensors = [th.from_numpy(np.array(inputs[spec.name])) for spec in self._metadata.inputs]
        outputs = dict(zip([spec.name for spec in self._metadata.outputs], self._module(*tensors), strict=True))
        return [outputs[name].detach().numpy() for name in names]


class _Pt2Writer(Writer):
    """``torch.export``."""

    runtime = "torch"
    stages = ("entries",)

    def __init__(self) -> None:
        self.n_traces = 0

    def trace(self, actor: Actor, _: ExportOptions) -> _Program:
        self.n_traces += 1
        return _Program(actor)

    def check(self, data: bytes, metadata: PolicyMetadata, *, in_full: bool) -> Iterator[str]:
        entries = {"recurrent": ""}
        th.export.load(io.BytesIO(data), extra_files=entries)
        if entries["recurrent"] != "false":
            raise RefusedError(f"recurrent is {entries['recurrent']!r}")
        yield "all there"

    def open(self, data: bytes, metadata: PolicyMetadata, *, trusted: bool) -> Runner:
        return _Session(data, metadata)

    def stamp(self, filled: Filled, metadata: PolicyMetadata, hashing: Hashing) -> tuple[Stretches, PolicyMetadata]:
        tail, metadata = seal(metadata, hashing)
        return (*filled.published, tail), metadata


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> _Pt2Writer:
    """A format that the package has not, registered."""
    writer = _Pt2Writer()
    monkeypatch.setitem(FORMATS, ".pt2", writer)
    return writer


def _make(algorithm: type[BaseAlgorithm]) -> BaseAlgorithm:
    return make_model(algorithm, action_space=spaces.Discrete(3) if algorithm is DQN else BOX_ACTION)


def _exporter(model: BaseAlgorithm) -> Exporter:
    return Exporter(model, Normalization(vec_normalize=None), _Options(n_samples=16))


@pytest.mark.parametrize("algorithm", [DQN, TD3])
def test_another_format_is_exported_and_proven_by_the_same_code(
    algorithm: type[BaseAlgorithm], writer: _Pt2Writer
) -> None:
    model = _make(algorithm)
    exporter = _exporter(model)
    for seed in range(2):
        spread(model, seed=seed)
        proven = exporter.export()
        assert [stage.name for stage in proven.validation.stages] == ["entries", "runtime", "cross_check"]
        assert proven.validation.passed
        assert "loaded by torch" in str(proven.validation)
        policy = open_policy(writer, proven.parts[0], proven.metadata)  # type: ignore[arg-type]
        np.testing.assert_allclose(policy.predict(OBSERVATIONS)[0], predict_raw(model, OBSERVATIONS), atol=1e-5)
    assert writer.n_traces == 1


@pytest.mark.parametrize("algorithm", [DQN, TD3])
def test_wrong_weights_are_refused_in_another_format_too(
    algorithm: type[BaseAlgorithm], writer: _Pt2Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = _Program.fill
    monkeypatch.setattr(
        _Program,
        "fill",
        lambda program, tensors, entries: fill(
            program, {name: tensor * 1.05 for name, tensor in tensors.items()}, entries
        ),
    )
    with pytest.raises(ValidationError, match="stage cross_check: the file and Stable-Baselines3 disagree"):
        _exporter(_make(algorithm)).export()
    assert writer.n_traces == 1


def test_a_stage_of_another_format_refuses(writer: _Pt2Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_clanker.export.exporter.contract_entries", lambda _: {"recurrent": "true"})
    with pytest.raises(ValidationError, match="stage entries: recurrent is 'true'"):
        _exporter(_make(DQN)).export()
    assert writer.n_traces == 1


def test_a_format_without_stages_of_its_own_needs_no_check(writer: _Pt2Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Pt2Writer, "stages", ())
    monkeypatch.setattr(_Pt2Writer, "check", Writer.check)
    report = _exporter(_make(DQN)).export().validation
    assert [stage.name for stage in report.stages] == ["runtime", "cross_check"]
    assert report.passed
    assert writer.reopen(b"data").published == (b"data",)
