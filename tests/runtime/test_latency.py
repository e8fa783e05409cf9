"""A promise of latency is measured when it is asked for, kept in the metadata, or refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import ClankerError, ExportOptions, export_policy, read_metadata
from sb3_clanker.errors import LatencyError
from tests.worlds import make_model


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_figures_are_in_the_metadata(recurrent: bool, tmp_path: Path) -> None:
    model: BaseAlgorithm = make_model(RecurrentPPO, policy="MlpLstmPolicy") if recurrent else make_model()
    path = export_policy(model, tmp_path / "policy", options=ExportOptions(max_latency_ms=10_000)).path
    latency = read_metadata(path).latency
    assert latency is not None
    assert 0 < latency.p50_ms <= latency.p99_ms <= latency.limit_ms == 10_000
    assert latency.processor


def test_nothing_is_measured_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert export_policy(make_model(), tmp_path / "policy").metadata.latency is None


def test_a_file_that_breaks_the_promise_is_refused_and_not_written(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match=r"A prediction takes .* ms \(median\).* max_latency_ms is 1e-06") as caught:
        export_policy(make_model(), tmp_path / "policy", options=ExportOptions(max_latency_ms=1e-6))
    assert isinstance(caught.value, ClankerError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.latency.p99_ms > 1e-6
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_the_error_crosses_from_one_process_to_another(tmp_path: Path) -> None:
    with pytest.raises(LatencyError) as caught:
        export_policy(make_model(), tmp_path / "policy", options=ExportOptions(max_latency_ms=1e-6))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.latency == caught.value.latency
