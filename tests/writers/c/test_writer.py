"""A header in C from an export: written and proven with the ``.onnx``, or refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from sb3_clanker import ExportOptions, OnnxCheckpointCallback, OnnxPolicy, export_policy, read_metadata
from sb3_clanker.errors import FormatError, OptionError, ValidationError
from sb3_clanker.export.exporter import Exporter, ProvenPolicy
from sb3_clanker.formats.c import open_policy, policy_digest, read_record
from sb3_clanker.run_folder.names import C_HEADER, FileKind
from sb3_clanker.sb3.normalization import resolve_normalization
from sb3_clanker.writers.c import code
from sb3_clanker.writers.c.writer import CWriter
from sb3_clanker.writers.further import Original
from tests.worlds import BOX_OBSERVATION, draw, make_model, predict_raw
from tests.writers.c.graphs import graph

OPTIONS = ExportOptions(formats=("c",), test_vectors=4, n_samples=16)


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model(normalize=True)


@pytest.fixture(scope="module")
def exported(model: Any) -> tuple[Exporter, ProvenPolicy, Original]:
    """An exporter that has exported once; what that gave, and what the header was written of."""
    originals: list[Original] = []
    exporter = Exporter(model, resolve_normalization(model, "auto"), OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        write = CWriter.write

        def seen(writer: CWriter, original: Original) -> dict[FileKind, bytes]:
            originals.append(original)
            return write(writer, original)

        patch.setattr(CWriter, "write", seen)
        return exporter, exporter.export(name="best_model"), originals[0]


def test_is_proven_with_the_onnx(model: Any, exported: tuple[Exporter, ProvenPolicy, Original]) -> None:
    _, proven, _ = exported
    assert [stage.name for stage in proven.validation.stages][-1] == "c"
    measured = proven.validation.formats["c"]
    assert measured.cross_check.max_difference < 1e-5
    assert measured.n_vectors == 4
    header = proven.further[C_HEADER]
    assert measured.size == len(header)
    assert read_record(header) == proven.metadata
    assert "static inline void best_model_step(" in header.decode()
    policy = OnnxPolicy.from_runner(open_policy(header), read_record(header))
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 50)
    expected = predict_raw(model, observations, model.get_vec_normalize_env())
    np.testing.assert_allclose(policy.predict(observations)[0], expected, atol=1e-5)


def test_the_same_policy_gives_the_same_text(exported: tuple[Exporter, ProvenPolicy, Original]) -> None:
    _, proven, original = exported
    assert CWriter().write(original)[C_HEADER] == proven.further[C_HEADER]
    assert str(Path.home()) not in proven.further[C_HEADER].decode()


def test_each_checkpoint_has_its_own(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, save_freq=16, keep_last=2, options=OPTIONS, on_error="raise")
    make_model().learn(48, callback=callback)
    headers = sorted(path.stem for path in tmp_path.glob("*.h"))
    assert headers == sorted(path.stem for path in tmp_path.glob("*.onnx"))
    assert len(headers) == 3
    for path in tmp_path.glob("*.h"):
        assert policy_digest(path) == read_metadata(path.with_suffix(".onnx")).digest
        assert f"static inline void {path.stem}_step(" in path.read_text()


def test_a_header_that_does_something_else_is_refused(
    exported: tuple[Exporter, ProvenPolicy, Original], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = code.literal

    def wrong(value: Any, dtype: np.dtype[Any]) -> str:
        return right(value * 1.01 if dtype.kind == "f" else value, dtype)

    monkeypatch.setattr(code, "literal", wrong)
    with pytest.raises(ValidationError, match="at the stage c: the file and Stable-Baselines3 disagree") as caught:
        exported[0].export()
    assert [stage.name for stage in caught.value.report.stages if not stage.passed] == ["c"]


def test_a_large_network_is_refused_unless_it_is_asked_for(exported: tuple[Exporter, ProvenPolicy, Original]) -> None:
    few = replace(exported[2], options=ExportOptions(c_max_bytes=1000))
    with pytest.raises(FormatError, match=r"it has 1,5\d\d bytes of weights, and c_max_bytes is 1,000") as caught:
        CWriter().write(few)
    assert caught.value.format == "c"


def test_operators_without_a_form_in_c_are_named(exported: tuple[Exporter, ProvenPolicy, Original]) -> None:
    node = helper.make_node("CumSum", ["obs", "axis"], ["action"])
    data = graph([node], {"obs": ("batch", 3)}, {"action": ("batch", 3)}, {"axis": np.array(1)})
    with pytest.raises(FormatError, match=r"cannot be written as c: it has operators that have no form .*: CumSum\."):
        CWriter().write(replace(exported[2], data=data))


def test_without_a_compiler_it_is_written_only_where_that_is_asked_for(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(FormatError, match=r"there is no C compiler to prove it by\. Install one"):
        export_policy(model, tmp_path / "policy", options=OPTIONS)
    assert not list(tmp_path.iterdir())
    unproven = ExportOptions(formats=("c",), n_samples=16, c_unproven=True)
    with caplog.at_level(logging.WARNING, "sb3_clanker"):
        report = export_policy(model, tmp_path / "policy", options=unproven)
    assert "The files of the format c are not proven: there is no C compiler." in caplog.text
    assert "c" not in report.validation.formats
    assert "NOT PROVEN where it was made: there is no C compiler." in (tmp_path / "policy.h").read_text()


def test_a_compiler_that_is_gone_in_the_middle_of_an_export_leaves_nothing_unproven(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CWriter, "refuse", lambda *_: monkeypatch.setenv("CC", "no-such-compiler"))
    with pytest.raises(ValidationError, match=r"at the stage c: There is no C compiler to run a header with"):
        export_policy(model, tmp_path / "policy", options=OPTIONS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("c_max_bytes", 0, "a positive integer"), ("c_max_bytes", True, "a positive"), ("c_unproven", 1, "True or False")],
)
def test_options(option: str, value: object, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        ExportOptions(**{option: value})  # type: ignore[arg-type]
