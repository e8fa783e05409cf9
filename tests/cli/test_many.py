"""Several files: a line each, the sum, one exit code; and what goes wrong with one is of that one alone."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import ExportOptions, OnnxPolicy, export_policy, read_metadata
from sb3_clanker.cli.main import main
from sb3_clanker.policy_file.documents import encode
from sb3_clanker.run_folder import search
from tests.checkpoints import flip
from tests.worlds import UNBOUNDED_OBSERVATION, assert_same_actions, make_env, make_model, predict_raw, spread

Capture = pytest.CaptureFixture[str]


class _Exit:
    def __init__(self, code: int) -> None:
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (self.code,)


@dataclass(frozen=True, kw_only=True)
class World:
    """A policy with all its files, and one that clankers does not take; read-only."""

    folder: Path
    policy: Path
    of_no_target: Path
    foreign: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(observation_space=UNBOUNDED_OBSERVATION, normalize=True)
    model.learn(32)
    model.save(folder / "best_model.zip")
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    vec_normalize.save(str(folder / "best_model_vecnormalize.pkl"))
    of_zip = PPO.load(folder / "best_model.zip", device="cpu")
    options = ExportOptions(test_vectors=3)
    statistics = folder / "best_model_vecnormalize.pkl"
    policy = export_policy(of_zip, folder / "best_model.onnx", vec_normalize=statistics, options=options).path
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,))})
    (folder / "other").mkdir()
    of_dict = make_model(observation_space=space, policy="MultiInputPolicy")
    of_dict.save(folder / "other" / "dict.zip")
    of_no_target = export_policy(of_dict, folder / "other" / "dict.onnx").path
    foreign = folder / "other" / "foreign.onnx"
    _write_foreign(foreign)
    return World(folder=folder, policy=policy, of_no_target=of_no_target, foreign=foreign)


def _write_foreign(path: Path) -> None:
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    again = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "foreign", [value], [again])
    save(helper.make_model(graph), path)


def _copy(world: World, folder: Path) -> Path:
    """All files of the policy, in another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in world.folder.glob("best_model*"):
        shutil.copy(path, folder)
    return folder / world.policy.name


def _run(*words: object) -> int:
    return main([str(word) for word in words])


def _lines(text: str) -> list[tuple[str, str, str]]:
    """Verdict, name and text of each line of a table."""
    table = [line.split(maxsplit=2) for line in text.splitlines()[:-1]]
    return [(verdict, name, says) for verdict, name, says in table]


def _document(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


# validate -----------------------------------------------------------------------------------------------------------


def test_one_damaged_file_among_many_is_named(world: World, tmp_path: Path, capsys: Capture) -> None:
    runs = [_copy(world, tmp_path / "runs" / f"{number:02}") for number in range(24)]
    shutil.copy(world.foreign, tmp_path / "runs")
    flip(runs[17])
    assert _run("validate", tmp_path / "runs", world.of_no_target, "--jobs", 2) == 1
    captured = capsys.readouterr()
    lines = _lines(captured.out)
    assert [(verdict, name) for verdict, name, _ in lines] == [
        *(("FAILED" if path == runs[17] else "ok", str(path)) for path in runs),
        ("ok", str(world.of_no_target)),
    ]
    assert lines[0][2] == "PPO, 32 timesteps; 2 files beside it"
    assert lines[17][2].startswith("the file was changed or damaged after it was proven.")
    assert captured.out.splitlines()[-1] == "24 passed, 1 failed, 1 skipped: of somebody else"
    assert captured.err == f"sb3-clanker: 1 of 25 failed: {runs[17]}.\n"


def test_files_that_are_of_another_instant_are_found(world: World, tmp_path: Path, capsys: Capture) -> None:
    good, bad = _copy(world, tmp_path / "a"), _copy(world, tmp_path / "b")
    make_model().save(bad.with_suffix(".zip"))
    assert _run("validate", tmp_path) == 1
    lines = _lines(capsys.readouterr().out)
    assert [line[:2] for line in lines] == [("ok", str(good)), ("FAILED", str(bad))]
    assert lines[1][2].startswith("best_model.zip beside it: of another instant of training, or damaged")


def test_vectors_are_those_beside_each_file(world: World, tmp_path: Path, capsys: Capture) -> None:
    good, bad, without = (_copy(world, tmp_path / name) for name in "abc")
    without.with_suffix(".vectors.json").unlink()
    bad.with_suffix(".vectors.json").write_text("{}")
    assert _run("validate", tmp_path, "--vectors", "--jobs", 2, "--json") == 1
    document = _document(capsys)
    assert [(file["path"], file["passed"]) for file in document["files"]] == [
        *((str(good), True), (str(bad), False), (str(without), False))
    ]
    assert document["files"][0]["figures"]["vectors"]["n_cases"] == 3
    assert document["files"][0]["figures"]["vectors"]["max_difference"] < 1e-5
    assert [file["error"] and file["error"]["type"] for file in document["files"]] == [
        *(None, "VectorsError", "MissingFileError")
    ]
    assert _run("validate", good, "--vectors") == 0
    assert "it agrees with 3 test vectors" in capsys.readouterr().out


def test_each_file_is_proven_against_its_own_zip(world: World, tmp_path: Path, capsys: Capture) -> None:
    good, without = _copy(world, tmp_path / "a"), _copy(world, tmp_path / "b")
    without.with_suffix(".zip").unlink()
    other = _copy(world, tmp_path / "c")  # of a model with other weights, and so they are beside it in no record
    changed = PPO.load(other.with_suffix(".zip"), device="cpu")
    spread(changed, seed=1)
    with pytest.warns(UserWarning, match="It is unknown whether"):
        export_policy(changed, other)
    assert _run("validate", tmp_path, "--model") == 1
    captured = capsys.readouterr()
    (verdict_a, _, says_a), (verdict_b, _, says_b), (verdict_c, _, says_c) = _lines(captured.out)
    assert (verdict_a, verdict_b, verdict_c) == ("ok", "FAILED", "FAILED")
    assert says_a.endswith("equals best_model.zip")
    assert "there is no such .zip" in says_b
    assert "failed its proof at the stage cross_check" in says_c
    assert _run("validate", good, "--model") == 0
    assert capsys.readouterr().out.endswith(f"it equals {good.with_suffix('.zip')}\n")


# inspect ------------------------------------------------------------------------------------------------------------


def test_inspect_has_a_line_or_the_record_of_each(world: World, capsys: Capture) -> None:
    assert _run("inspect", world.folder) == 0
    captured = capsys.readouterr()
    assert _lines(captured.out) == [
        ("ok", str(world.policy), "PPO, 32 timesteps"),
        ("ok", str(world.of_no_target), "PPO, 0 timesteps"),
    ]
    assert captured.err == ""
    assert _run("inspect", world.folder, "--json") == 0
    document = _document(capsys)
    assert document["passed"]
    assert document["skipped"] == [str(world.foreign)]
    for file, path in zip(document["files"], (world.policy, world.of_no_target), strict=True):
        assert file["path"] == str(path)
        assert file["figures"] == json.loads(encode(read_metadata(path)))


def test_inspect_says_which_a_target_does_not_take(world: World, capsys: Capture) -> None:
    assert _run("inspect", world.folder, "--target", "clankers") == 1
    captured = capsys.readouterr()
    taken, refused = _lines(captured.out)
    assert (taken[0], refused[0]) == ("ok", "FAILED")
    assert taken[2].startswith("clankers takes it, in vector mode; note: ")
    assert refused[2].startswith("clankers does not take this policy: ")
    assert captured.err == f"sb3-clanker: 1 of 2 failed: {world.of_no_target}.\n"


# export -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as CheckpointCallback leaves it, one as RL Zoo does, and what else may lie there."""
    folder = tmp_path_factory.mktemp("logs")
    model = make_model(observation_space=UNBOUNDED_OBSERVATION, normalize=True)
    zoo = folder / "ppo" / "Walker-v1_1"
    model.learn(64, callback=CheckpointCallback(32, str(folder / "run"), save_vecnormalize=True))
    zoo.mkdir(parents=True)
    model.save(zoo / "Walker-v1.zip")
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    (zoo / "Walker-v1").mkdir()
    vec_normalize.save(str(zoo / "Walker-v1" / "vecnormalize.pkl"))
    with zipfile.ZipFile(zoo / "videos.zip", "w") as archive:
        archive.writestr("video.mp4", "")
    return folder


def _assert_equals(path: Path, zip_path: Path, statistics: Path) -> None:
    model = PPO.load(zip_path, device="cpu")
    vec_normalize = VecNormalize.load(str(statistics), make_env(model.observation_space, model.action_space))
    policy = OnnxPolicy(path)
    assert_same_actions(
        lambda observation: policy.predict(observation)[0],
        lambda observation: predict_raw(model, observation, vec_normalize),
        model.observation_space,
        model.action_space,
    )


def test_every_zip_of_a_folder_is_exported_with_its_own_statistics_once(
    trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    logs = tmp_path / "logs"
    shutil.copytree(trained, logs)
    zoo = logs / "ppo" / "Walker-v1_1"
    own = {
        zoo / "Walker-v1.zip": zoo / "Walker-v1" / "vecnormalize.pkl",
        logs / "run" / "rl_model_32_steps.zip": logs / "run" / "rl_model_vecnormalize_32_steps.pkl",
        logs / "run" / "rl_model_64_steps.zip": logs / "run" / "rl_model_vecnormalize_64_steps.pkl",
    }
    assert _run("export", logs) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert [(verdict, name) for verdict, name, _ in _lines(captured.out)] == [("ok", str(path)) for path in own]
    assert captured.out.endswith("3 passed, 0 failed, 1 skipped: of somebody else\n")
    for zip_path, statistics in own.items():
        path = zip_path.with_suffix(".onnx")
        _assert_equals(path, zip_path, statistics)
        assert f"VecNormalize statistics: {statistics}, by its name" in captured.out
        assert read_metadata(path).normalization.status == "folded"
    policies = [path.with_suffix(".onnx") for path in own]
    before = [path.read_bytes() for path in policies]

    # Once more: what is there stays; what is of an earlier .zip is written anew; what nobody knows is in the way.
    for old, new in zip(list(own.items())[1], list(own.items())[2], strict=True):
        shutil.copy(old, new)
    shutil.copy(policies[0], logs / "run" / "unknown.onnx")
    shutil.copy(zoo / "Walker-v1.zip", logs / "run" / "unknown.zip")
    (logs / "run" / "damaged.zip").write_bytes(b"PK")
    assert _run("export", logs, "--json") == 1
    document = _document(capsys)
    files = {Path(file["path"]).stem: file for file in document["files"]}
    assert [path.read_bytes() for path in policies[:2]] == before[:2]
    assert not files["Walker-v1"]["figures"]["written"]
    assert files["rl_model_64_steps"]["figures"]["written"]
    _assert_equals(policies[2], *list(own.items())[2])
    assert {name: file["error"]["type"] for name, file in files.items() if not file["passed"]} == {
        "damaged": "AlgorithmFileError",
        "unknown": "FileInTheWayError",
    }
    assert "does not say that it is of unknown.zip" in files["unknown"]["error"]["text"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--opset", 17], "with opset 18"),
        (["--vecnormalize", "none"], "and its normalization is folded"),
    ],
    ids=str,
)
def test_a_file_that_lacks_what_is_asked_of_it_is_in_the_way(
    words: list[object], reason: str, world: World, tmp_path: Path, capsys: Capture
) -> None:
    path = _copy(world, tmp_path)
    before = path.read_bytes()
    assert _run("export", tmp_path, *words) == 1
    assert f"{path}: this file is there already, {reason}. Move it away" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_a_file_that_the_target_does_not_take_is_in_the_way(world: World, capsys: Capture) -> None:
    assert _run("export", world.of_no_target.parent) == 0
    assert capsys.readouterr().out.startswith("ok ")
    assert _run("export", world.of_no_target.parent, "--target", "clankers") == 1
    assert "this file is there already, and clankers does not take it." in capsys.readouterr().out


def test_what_lies_there_can_be_overwritten_and_code_in_a_file_ends_its_own_line_alone(
    world: World, tmp_path: Path, capsys: Capture
) -> None:
    path = _copy(world, tmp_path)
    path.with_suffix(".vectors.json").unlink()
    assert _run("export", tmp_path, "--test-vectors", 2) == 1
    assert "this file is there already, without test vectors." in capsys.readouterr().out
    shutil.copy(world.foreign, path)
    assert _run("export", tmp_path) == 1
    assert "this file is there already, and is no undamaged policy of this package." in capsys.readouterr().out
    assert path.read_bytes() == world.foreign.read_bytes()
    for name, content in {"a": b"\x80\x04cbuiltins\nexit\n)R.", "b": pickle.dumps(_Exit(9))}.items():
        _copy(world, tmp_path / name).unlink()
        (tmp_path / name / "best_model_vecnormalize.pkl").write_bytes(content)
    assert _run("export", tmp_path, "--test-vectors", 2, "--force", "--json") == 1
    good, ended, died = _document(capsys)["files"]
    assert good["figures"]["output"] == str(path)
    _assert_equals(path, path.with_suffix(".zip"), tmp_path / "best_model_vecnormalize.pkl")
    assert [file["error"]["type"] for file in (ended, died)] == ["SystemExit", "WorkerError"]
    assert "the process that worked on it died (exit code 9)" in died["error"]["text"]


def test_a_zip_can_be_named_without_model(world: World, tmp_path: Path, capsys: Capture) -> None:
    path = _copy(world, tmp_path)
    path.unlink()
    assert _run("export", path.with_suffix(".zip")) == 0
    assert capsys.readouterr().out.endswith(f"wrote {path} ({path.stat().st_size:,} bytes)\n")
    assert _run("validate", path) == 0


@pytest.mark.parametrize("paired", [True, False])
def test_a_normalized_policy_gives_way_to_no_raw_one(paired: bool, tmp_path: Path, capsys: Capture) -> None:
    path, zip_path = tmp_path / "model.onnx", tmp_path / "model.zip"
    model = make_model(observation_space=UNBOUNDED_OBSERVATION, normalize=True)
    if paired:
        model.save(zip_path)
    export_policy(model, path)
    model.learn(32)
    model.save(zip_path)  # a later one; nobody saved its statistics
    before = path.read_bytes()
    for words in ([zip_path], [tmp_path, "--force"]):
        assert _run("export", *words) == 1
        assert "an earlier model.zip was trained with VecNormalize" in "".join(capsys.readouterr())
    assert path.read_bytes() == before
    assert _run("export", zip_path, "--vecnormalize", "none") == 0
    assert read_metadata(path).normalization.status == "none"


def test_a_dot_in_a_name_is_no_suffix(world: World, tmp_path: Path, capsys: Capture) -> None:
    model = PPO.load(world.policy.with_suffix(".zip"), device="cpu")
    paths = [tmp_path / "lr_0.1", tmp_path / "lr_0.2"]
    for path in paths:
        model.save(path)
        assert path.is_file(), "Stable-Baselines3 takes .1 for a suffix, and adds none"
    statistics = tmp_path / "lr_0.1_vecnormalize.pkl"
    shutil.copy(world.folder / "best_model_vecnormalize.pkl", statistics)
    shutil.copy(statistics, tmp_path / "lr_0_vecnormalize.pkl")  # of another model
    assert _run("export", *paths) == 0
    assert f"VecNormalize statistics: {statistics}, by its name" in capsys.readouterr().out
    policies = [tmp_path / "lr_0.1.onnx", tmp_path / "lr_0.2.onnx"]
    assert [read_metadata(path).normalization.status for path in policies] == ["folded", "unknown"]
    assert not (tmp_path / "lr_0.onnx").exists()
    _assert_equals(policies[0], paths[0], statistics)
    assert _run("validate", *policies, "--model") == 0


# What is printed, and where -----------------------------------------------------------------------------------------


def test_names_are_one_line_each_and_steer_no_terminal(world: World, tmp_path: Path, capsys: Capture) -> None:
    shutil.copy(world.policy, tmp_path / "a\n\x1b[31mred.onnx")
    shutil.copy(world.policy, tmp_path / os.fsdecode(b"\xff.onnx"))
    assert _run("validate", tmp_path, tmp_path / "missing\r.onnx") == 1
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 4
    assert captured.err.count("\n") == 1
    assert "a\\n\\x1b[31mred.onnx" in captured.out
    assert "\\udcff.onnx" in captured.out
    assert "missing\\r.onnx" in captured.err
    assert not {"\x1b", "\r"} & set(captured.out + captured.err)


def test_files_may_vanish(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def find_then_delete(*arguments: Any) -> Any:
        found = find(*arguments)
        path.unlink()
        return found

    find, path = search.find_files, tmp_path / "a.onnx"
    shutil.copy(world.policy, path)
    monkeypatch.setattr("sb3_clanker.cli.many.find_files", find_then_delete)
    assert _run("validate", tmp_path, world.policy) == 1
    assert [line[0] for line in _lines(capsys.readouterr().out)] == ["FAILED", "ok"]


def test_somebody_elses_file_fails_where_it_is_named(world: World, tmp_path: Path, capsys: Capture) -> None:
    assert _run("validate", world.foreign, world.policy) == 1
    assert _lines(capsys.readouterr().out)[0][2].startswith("there is no record 'sb3_clanker' in it")
    shutil.copy(world.foreign, tmp_path)
    assert _run("inspect", tmp_path) == 1, "there was nothing to inspect"
    captured = capsys.readouterr()
    assert captured.out == "0 passed, 0 failed, 1 skipped: of somebody else\n"
    assert "there is no such folder with .onnx files of its own." in captured.err
    (tmp_path / "empty").mkdir()
    assert _run("inspect", tmp_path / "empty") == 1
    assert "there is no such folder with .onnx files. Check the path." in capsys.readouterr().out


def test_what_a_trace_of_ours_is_in_is_damaged_and_not_somebody_elses(world: World, tmp_path: Path) -> None:
    for number, key in enumerate((b"sb3_clanker", b"sb3_clanker_seal", b"clanker_policy_version")):
        data = world.policy.read_bytes().replace(key, b"x" * len(key))
        (tmp_path / f"{number}.onnx").write_bytes(data)
        assert _run("validate", tmp_path) == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["validate", "a.onnx", "b.onnx", "--model", "a.zip"], "--model stands alone"),
        (["validate", ".", "--vectors", "a.vectors.json"], "--vectors stands alone"),
        (["validate", ".", "--model", "--vecnormalize", "a.pkl"], "--vecnormalize is auto or none"),
        (["validate", ".", "--jobs", "0"], "argument --jobs: invalid number value: '0'"),
        (["validate", ".", "--timeout", "soon"], "argument --timeout: invalid number value: 'soon'"),
        (["export", "a.zip", "--model", "b.zip"], "name the .zip: one with --model"),
        (["export", "a.zip", "b.zip", "--output", "a.onnx"], "there is no --output"),
        (["export", ".", "--vecnormalize", "a.pkl"], "--vecnormalize is auto or none"),
    ],
    ids=str,
)
def test_what_is_for_one_file_is_wrong_usage_for_several(words: list[str], problem: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"usage: sb3-clanker {words[0]}")
    assert problem in captured.err


# As a process -------------------------------------------------------------------------------------------------------

_CLI = (sys.executable, "-m", "sb3_clanker")


def _modules_that_fail(folder: Path, *names: str) -> dict[str, str]:
    """An environment, also of processes that a process starts, in which nobody can import these."""
    for name in names:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is blocked', name='{name}')")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


def _on_a_terminal(words: list[object], env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the program with standard error on a pseudo-terminal: exit code, standard output, what the terminal got."""
    controller, terminal = os.openpty()
    process = subprocess.Popen([*_CLI, *map(str, words)], stdout=subprocess.PIPE, stderr=terminal, text=True, env=env)
    os.close(terminal)
    assert process.stdout is not None
    shown, streams = b"", {controller, process.stdout.fileno()}
    out = b""
    while streams:
        for stream in select.select(streams, [], [])[0]:
            try:
                data = os.read(stream, 1 << 16)
            except OSError:  # Linux: nobody has the terminal open any more
                data = b""
            if not data:
                streams.discard(stream)
            elif stream == controller:
                shown += data
            else:
                out += data
    os.close(controller)
    process.stdout.close()
    return process.wait(), out.decode(), shown.decode()


def test_progress_is_shown_on_a_terminal_and_nowhere_else(world: World, tmp_path: Path) -> None:
    for number in range(30):
        shutil.copy(world.policy, tmp_path / f"{number}.onnx")
    words: list[object] = ["validate", tmp_path, "--jobs", 2]
    code, out, shown = _on_a_terminal(words)
    assert (code, out.count("\n")) == (0, 31)
    assert re.search(r"\b0/30 \[", shown), shown
    done = subprocess.run([*_CLI, *map(str, words)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, "")
    (tmp_path / "blocked").mkdir()
    assert _on_a_terminal(words, _modules_that_fail(tmp_path / "blocked", "tqdm")) == (0, out, "")


def test_what_needs_no_torch_needs_none_in_its_processes_either(world: World, tmp_path: Path) -> None:
    env = _modules_that_fail(tmp_path, "torch", "stable_baselines3", "onnx", "onnxscript", "gymnasium", "tqdm")
    path = _copy(world, tmp_path / "policies")
    for words in (["validate", "--vectors"], ["inspect", "--target", "clankers"]):
        done = subprocess.run(
            [*_CLI, words[0], path.parent, *words[1:], "--jobs", "2"],
            capture_output=True,
            text=True,
            check=False,
            env=env,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("1 passed, 0 failed\n")


class _Says:
    """What a pickle of a stranger does when it is loaded: it opens a pipe, and never ends."""

    def __init__(self, pipe: Path) -> None:
        self.pipe = pipe

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"import threading; pipe = open({str(self.pipe)!r}, 'w'); threading.Event().wait()",)


def test_an_interrupt_ends_all_of_it(world: World, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    runs = tmp_path / "runs"
    path = _copy(world, runs)
    path.unlink()
    (runs / "best_model_vecnormalize.pkl").write_bytes(pickle.dumps(_Says(pipe)))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in the background ignores it
    process = subprocess.Popen(
        [*_CLI, "export", str(runs)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    with pipe.open() as opened:  # there it is, in the middle of it
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
        assert opened.read() == "", "and now nobody holds the pipe any more"
    assert (process.returncode, out, err) == (1, "", "sb3-clanker: interrupted\n")
    assert sorted(file.name for file in runs.iterdir()) == [
        *("best_model.vectors.json", "best_model.zip", "best_model_vecnormalize.pkl")
    ]


@pytest.mark.slow
def test_a_thousand_policies(world: World, tmp_path: Path) -> None:
    for number in range(1000):
        shutil.copy(world.policy, tmp_path / f"{number:03}.onnx")
    flip(tmp_path / "617.onnx")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, out, shown = _on_a_terminal(["validate", tmp_path, "--jobs", 2])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 1
    assert re.findall(r"^FAILED +(\S+)", out, re.MULTILINE) == [str(tmp_path / "617.onnx")]
    assert out.endswith("999 passed, 1 failed\n")
    assert re.search(r"[1-9]\d+/1000 \[", shown), "progress"
    assert f"1 of 1,000 failed: {tmp_path / '617.onnx'}." in shown
    # Time of the processor, which does not depend on what else this machine does.
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds / 1000 <= 0.010
