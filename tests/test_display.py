"""What a caller holds shows itself in one line, and in a notebook as a table, whatever stands in a file."""

from __future__ import annotations

import dataclasses
import html.parser
from pathlib import Path

import msgspec
import pytest

from sb3_clanker import ExportReport, OnnxPolicy, PolicyMetadata, ValidationReport, export_policy
from sb3_clanker.display import Shown
from sb3_clanker.report import StageReport
from tests.worlds import make_model


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_policy(make_model(), tmp_path_factory.mktemp("run") / "policy.onnx")


def _all(report: ExportReport) -> list[Shown]:
    return [report, report.validation, report.metadata, OnnxPolicy(report.path)]


class _Table(html.parser.HTMLParser):
    """Reads a table as a browser does."""

    def __init__(self, shown: Shown) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(shown._repr_html_())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert all(name in ("style", "class") for name, _ in attrs)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data

    @property
    def rows(self) -> list[tuple[str, str]]:
        return list(zip(self.cells[::2], self.cells[1::2], strict=True))


def test_each_shows_itself_in_one_line(report: ExportReport) -> None:
    policy = "PPO (stable_baselines3.common.policies.ActorCriticPolicy)"
    proof, size = str(report.validation.cross_check), f"{report.size:,} bytes"
    assert [repr(thing) for thing in _all(report)] == [
        f"<ExportReport: {report.path}; {size}; {proof}>",
        f"<ValidationReport: passed; {proof}>",
        f"<PolicyMetadata: {policy}; {report.metadata.training.num_timesteps} timesteps; {proof}>",
        f"<OnnxPolicy: {policy}; {report.metadata.training.num_timesteps} timesteps; {proof}>",
    ]


def test_a_notebook_gets_the_facts_as_a_table(report: ExportReport) -> None:
    for thing in _all(report):
        table = _Table(thing)
        assert table.rows == list(thing.facts())
        assert table.tags == {"table", "caption", "tr", "th", "td"}
        assert "color" not in thing._repr_html_()  # those of the notebook, light or dark


def test_a_failed_proof_says_so(report: ExportReport) -> None:
    check = report.validation.cross_check
    assert check is not None
    stage = StageReport(name="runtime", passed=False, seconds=0.5, detail="no <session>")
    assert repr(ValidationReport()) == "<ValidationReport: not finished>"
    assert repr(ValidationReport(stages=[stage])) == "<ValidationReport: FAILED at runtime>"
    assert _Table(ValidationReport(stages=[stage])).rows[-1] == ("runtime", "FAILED, 500.0 ms: no <session>")
    assert str(ValidationReport(stages=[stage])) == "FAILED runtime        500.0 ms  no <session>"
    worse = msgspec.structs.replace(check, n_mismatches=3, n_ties=2)
    assert repr(ValidationReport(cross_check=worse)).endswith(", 3 mismatches, 2 ties>")


@pytest.mark.parametrize(
    "hostile",
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a\nb\x1b[31m\u202e", "&lt;b&gt;", "x" * 10**6],
)
def test_what_a_stranger_wrote_stays_text(hostile: str, report: ExportReport) -> None:
    entries = {hostile: hostile, "policy": "another", "digest": "forged"}
    metadata = msgspec.structs.replace(report.metadata, algorithm=hostile, policy_class=hostile, entries=entries)
    for thing in (metadata, dataclasses.replace(report, metadata=metadata)):
        assert _Table(thing).tags == {"table", "caption", "tr", "th", "td"}
        assert all(cell.isprintable() and len(cell) <= 2100 for cell in _Table(thing).cells)
        assert repr(thing).isprintable()
        assert "another" not in repr(thing)
        assert len(repr(thing)) < 2600
        assert len(thing._repr_html_()) < 20_000


def test_a_thousand_facts_are_no_thousand_rows(report: ExportReport) -> None:
    metadata: PolicyMetadata = msgspec.structs.replace(report.metadata, entries={f"key {n}": "" for n in range(1000)})
    rows = _Table(metadata).rows
    assert rows[-1] == ("...", f"{len(list(metadata.facts())) - 50} more")
    assert len(rows) == 51


def test_a_metadata_stays_plain_data(report: ExportReport, tmp_path: Path) -> None:
    assert not hasattr(report.metadata, "__dict__")
    assert OnnxPolicy(report.path).metadata == report.metadata
