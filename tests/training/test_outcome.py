"""What a run says of its exports: to who watches it, to Stable-Baselines3's logger, and to callbacks."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger, configure
from stable_baselines3.common.vec_env import VecEnv

from sb3_clanker import ExportOptions, ExportReport, OnnxCheckpointCallback
from sb3_clanker.export.publish import publish
from sb3_clanker.training.outcome import say_written, sum_up
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model

Capture = pytest.CaptureFixture[str]


def _eval_env() -> VecEnv:
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    env.seed(3)
    return env


def _learn(folder: Path, verbose: int = 1, **options: Any) -> OnnxCheckpointCallback:
    callback = OnnxCheckpointCallback(folder, save_freq=20, verbose=verbose, **options)
    make_model().learn(32, callback=callback)
    return callback


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return _learn(tmp_path_factory.mktemp("run"), verbose=0).reports[-1]


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """A root logger as where nothing is configured; that of a test has handlers of pytest."""
    logger, own = logging.getLogger("sb3_clanker"), logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logger, "parent", own)
    logger.setLevel(logging.NOTSET)  # which forgets what levels were found before
    yield own
    monkeypatch.undo()
    logger.setLevel(logging.NOTSET)


# To who watches it ---------------------------------------------------------------------------------------------------


def test_each_file_is_shown_as_it_appears_and_all_are_summed_up(
    root: logging.Logger, tmp_path: Path, capsys: Capture
) -> None:
    callback = _learn(tmp_path, eval_env=_eval_env(), eval_freq=10, n_eval_episodes=1, warn=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if str(tmp_path) in line or "failed" in line]
    proof = r"proven on \d+ observations, largest difference [\d.e-]+"
    score = r"mean reward -?\d+\.\d\d"
    path = re.escape(str(tmp_path))
    best = [line for line in lines if "best_model.onnx: new best" in line]
    assert best
    pattern = rf"Wrote {path}/best_model\.onnx: new best, {score} at \d+ timesteps, [\d,]+ bytes; {proof}; "
    assert re.fullmatch(pattern + r"beside it best_model\.zip", best[0])
    others = [line for line in lines if line.startswith("Wrote") and line not in best]
    for line, kind in zip(others, ["checkpoint at 20", "end of training at 32"], strict=True):
        assert re.fullmatch(
            rf"Wrote {path}/\w+\.onnx: {kind} timesteps, [\d,]+ bytes; {proof}; beside it .+\.zip", line
        )
    assert lines[-2] == f"Policies written: {len(callback.reports)}, failed: 0."
    assert callback.evaluation is not None
    assert re.fullmatch(
        rf"{path}: best is best_model\.onnx, of \d+ timesteps, mean reward {callback.best_mean_reward:.2f}\. "
        rf'To run it: sb3_clanker\.OnnxPolicy\("{path}/best_model\.onnx"\)\.predict\(observation\)',
        lines[-1],
    )


def test_without_evaluations_the_newest_is_named(root: logging.Logger, tmp_path: Path, capsys: Capture) -> None:
    _learn(tmp_path)
    *wrote, counted, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in wrote] == [
        f"Wrote {tmp_path / name}" for name in ("rl_model_20_steps.onnx", "final_model.onnx")
    ]
    assert counted == "Policies written: 2, failed: 0."
    assert last.startswith(f"{tmp_path}: newest is final_model.onnx, of 32 timesteps. To run it")


def test_it_is_silent_unless_asked(root: logging.Logger, tmp_path: Path, capsys: Capture) -> None:
    root.addHandler(logging.StreamHandler())
    root.setLevel(logging.INFO)
    _learn(tmp_path, verbose=0)
    assert capsys.readouterr() == ("", "")


def _basic(root: logging.Logger, stream: io.StringIO) -> None:
    root.addHandler(logging.StreamHandler(stream))
    root.setLevel(logging.INFO)


def _own(root: logging.Logger, stream: io.StringIO) -> None:
    logger = logging.getLogger("sb3_clanker")
    logger.addHandler(logging.StreamHandler(stream))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


def _warnings_only(root: logging.Logger, stream: io.StringIO) -> None:
    root.addHandler(logging.StreamHandler(stream))
    root.setLevel(logging.WARNING)


def _handler_of_warnings(root: logging.Logger, stream: io.StringIO) -> None:
    _basic(root, stream)
    root.handlers[0].setLevel(logging.WARNING)


def _null(root: logging.Logger, stream: io.StringIO) -> None:
    root.addHandler(logging.NullHandler())
    root.setLevel(logging.INFO)


@pytest.mark.parametrize(
    ("configure_logging", "shows"),
    [(_basic, True), (_own, True), (_warnings_only, False), (_handler_of_warnings, False), (_null, False)],
)
def test_it_is_shown_once_whatever_is_configured(
    configure_logging: Callable[[logging.Logger, io.StringIO], None],
    shows: bool,
    root: logging.Logger,
    report: ExportReport,
    capsys: Capture,
) -> None:
    logger, stream = logging.getLogger("sb3_clanker"), io.StringIO()
    configure_logging(root, stream)
    try:
        say_written(report)
        sum_up([report], [], verbose=1)
    finally:
        logger.handlers[:], logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
    logged, printed = stream.getvalue(), capsys.readouterr().out
    assert (logged != "", printed != "") == (shows, not shows)
    assert [line.partition(" ")[0] for line in (logged or printed).splitlines()] == [
        "Wrote",
        "Policies",
        f"{report.path.parent}:",
    ]


def test_failures_are_counted(
    root: logging.Logger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    def fail_once(*args: Any, **options: Any) -> ExportReport:
        monkeypatch.setattr("sb3_clanker.training.writing.publish", publish)
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr("sb3_clanker.training.writing.publish", fail_once)
    _learn(tmp_path)
    out, err = capsys.readouterr()
    assert "\nPolicies written: 1, failed: 1.\n" in out
    assert "1 of 2 exports failed; the last was rl_model_20_steps.onnx at 20 timesteps: the disk is gone" in err


class _Broken(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


class _Ascii(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", write_through=True)


@pytest.mark.parametrize("stream", ["none", "closed", "broken", "a handler"])
def test_where_nothing_can_be_shown_training_goes_on(
    stream: str, root: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = OnnxCheckpointCallback(tmp_path, verbose=1)
    model = make_model()
    model.set_logger(Logger(None, []))
    callback.init_callback(model)  # torch cannot trace where standard output is closed

    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("no log today")

    closed = io.StringIO()
    closed.close()
    if stream == "a handler":
        root.addHandler(Failing())
        root.setLevel(logging.INFO)
    else:
        monkeypatch.setattr(sys, "stdout", {"none": None, "closed": closed, "broken": _Broken()}[stream])
    callback.on_training_start({}, {})
    callback.on_training_end()
    assert (len(callback.reports), callback.failures) == (1, [])


def test_a_name_that_standard_output_cannot_write_is_shown_all_the_same(
    root: logging.Logger, report: ExportReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = _Ascii()
    monkeypatch.setattr(sys, "stdout", stream)
    say_written(dataclasses.replace(report, path=Path("größe/final_model.onnx")))
    assert isinstance(stream.buffer, io.BytesIO)
    assert stream.buffer.getvalue().startswith(b"Wrote gr\\xf6\\xdfe/final_model.onnx: end of training at 32 timesteps")


# To Stable-Baselines3's logger ---------------------------------------------------------------------------------------


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize("log_interval", [1, None])
def test_the_logger_gets_every_figure_and_the_final_one(
    algorithm: type[PPO | SAC], log_interval: int | None, tmp_path: Path
) -> None:
    model = make_model(algorithm)
    model.set_logger(configure(str(tmp_path / "log"), ["csv", "json"]))
    callback = OnnxCheckpointCallback(
        tmp_path / "run",
        eval_env=_eval_env(),
        eval_freq=10,
        n_eval_episodes=1,
        options=ExportOptions(max_latency_ms=1e4),
    )
    model.learn(30, callback=callback, log_interval=log_interval)  # type: ignore[arg-type]
    model.logger.close()
    report = callback.reports[-1]
    check, latency = report.validation.cross_check, report.metadata.latency
    assert check is not None
    assert latency is not None
    expected = {
        "exports": len(callback.reports),
        "failures": 0,
        "size": report.size,
        "export_time": sum(report.seconds.values()),
        "observations": check.n_observations,
        "ties": check.n_ties,
        "max_difference": check.max_difference,
        "latency_p50_ms": latency.p50_ms,
        "latency_p99_ms": latency.p99_ms,
        "best_mean_reward": callback.best_mean_reward,
        "last_timesteps": model.num_timesteps,
    }
    written = json.loads((tmp_path / "log" / "progress.json").read_text().splitlines()[-1])
    assert set(written) == {f"onnx/{name}" for name in expected} | {"time/total_timesteps"}
    assert {key: written[f"onnx/{key}"] for key in expected} == pytest.approx(expected)
    assert written["time/total_timesteps"] == model.num_timesteps
    rows = _rows(tmp_path / "log" / "progress.csv")
    assert [row["onnx/last_timesteps"] for row in rows].count(str(model.num_timesteps)) == 1


def test_what_others_have_recorded_is_neither_written_nor_forgotten(tmp_path: Path) -> None:
    logs = {}
    for name in ("alone", "ours"):
        model = make_model()
        model.set_logger(configure(str(tmp_path / name), ["csv"]))
        callback = OnnxCheckpointCallback(tmp_path / "run", save_freq=20) if name == "ours" else None
        model.learn(32, callback=callback)
        assert model.logger.name_to_value["train/n_updates"] > 0
        model.logger.record_mean("mine/value", 1.0)
        model.learn(32, callback=callback, reset_num_timesteps=False)
        model.logger.record_mean("mine/value", 3.0)
        logs[name] = {key for key in model.logger.name_to_value if not key.startswith("onnx/")}
        rows = _rows(tmp_path / name / "progress.csv")
        finals = [row for row in rows if row.get("onnx/exports") and not row["rollout/ep_rew_mean"]]
        assert len(finals) == (2 if name == "ours" else 0)
        assert len(rows) - len(finals) == 4
        assert all(value == "" for row in finals for key, value in row.items() if key[:5] not in ("onnx/", "time/"))
        assert model.logger.name_to_value["mine/value"] == 3.0
        model.logger.close()
    assert logs["alone"] == logs["ours"]


def test_a_logger_that_fails_does_not_end_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(KVWriter):
        def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
            if any(key.startswith("onnx/") for key in key_values):
                raise OSError("no space left on device")

    model = make_model()
    model.set_logger(Logger(None, [Full()]))
    model.learn(32, callback=OnnxCheckpointCallback(tmp_path))
    assert "could not write the figures of the exports: no space left on device" in caplog.text
    assert model.logger.name_to_value["train/n_updates"] > 0


# To callbacks --------------------------------------------------------------------------------------------------------


class _Child(BaseCallback):
    """Reads the report of the best as the documentation says."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, int]] = []

    def _on_step(self) -> bool:
        ours = self.parent.parent  # type: ignore[union-attr]
        assert isinstance(ours, OnnxCheckpointCallback)
        report = ours.reports[-1]
        self.seen.append((report.path.stem, report.metadata.training.num_timesteps, self.num_timesteps))
        return True


@pytest.mark.parametrize("is_list", [False, True])
def test_children_find_the_report_of_the_best(is_list: bool, tmp_path: Path) -> None:
    best, after = _Child(), _Child()
    wrap: Callable[[BaseCallback], BaseCallback] = (lambda child: CallbackList([child])) if is_list else (lambda c: c)
    callback = OnnxCheckpointCallback(
        tmp_path,
        eval_env=_eval_env(),
        eval_freq=10,
        n_eval_episodes=1,
        callback_on_new_best=wrap(best),
        callback_after_eval=wrap(after),
    )
    make_model().learn(40, callback=[callback])
    assert best.seen
    assert best.seen == [("best_model", steps, steps) for _, steps, _ in best.seen]
    assert [now for *_, now in after.seen] == [10, 20, 30, 40]
    assert after.seen[0] == best.seen[0]


def test_a_child_of_an_evaluation_that_is_followed_comes_before_the_files(tmp_path: Path) -> None:
    ours = OnnxCheckpointCallback()
    n_reports: list[int] = []

    class Counts(BaseCallback):
        def _on_step(self) -> bool:
            n_reports.append(len(ours.reports))
            return True

    evaluation = EvalCallback(
        _eval_env(), callback_on_new_best=Counts(), eval_freq=10, best_model_save_path=str(tmp_path), warn=False
    )
    make_model().learn(20, callback=[ours, evaluation])
    assert n_reports == list(range(len(ours.reports) - 1))  # the last is the final


@pytest.mark.parametrize("follows", [False, True])
def test_beside_ours_a_child_of_another_evaluation_has_it_by_reference(follows: bool, tmp_path: Path) -> None:
    ours = OnnxCheckpointCallback(None if follows else tmp_path)
    n_seen: list[tuple[int, float]] = []

    class Reads(BaseCallback):
        def _on_step(self) -> bool:
            assert isinstance(self.parent, EvalCallback)
            score = ours.reports[-1].metadata.training.mean_reward
            n_seen.append((ours.reports[-1].metadata.training.num_timesteps, score or 0.0))
            assert n_seen[-1] == (self.num_timesteps, self.parent.best_mean_reward)
            return True

    evaluation = EvalCallback(
        _eval_env(),
        callback_on_new_best=CallbackList([ours, Reads()]),
        eval_freq=10,
        n_eval_episodes=1,
        best_model_save_path=str(tmp_path),
        warn=False,
    )
    make_model().learn(32, callback=evaluation)
    assert n_seen
    assert ours.failures == []
