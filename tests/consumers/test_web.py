"""Policies in onnxruntime-web: under Node, and in a browser, in the page of ``examples/web``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from msgspec.structs import replace

from examples import train_cartpole
from sb3_clanker import ExportOptions, OnnxCheckpointCallback, read_metadata
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.record import EvaluationRecord, NormalizationRecord
from sb3_clanker.policy_file.seal import stamp
from tests.consumers.conftest import KINDS
from tests.consumers.tools import require_path, require_tool

HERE = Path(__file__).parent
WEB = HERE.parents[1] / "examples" / "web"
DISCRETE = {"cartpole", "image", "masked"}
"""Kinds whose only outputs are choices: nothing may differ."""


SelfTest = Callable[[Path, Path], subprocess.CompletedProcess[str]]
Look = Callable[..., Any]


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="session")
def node() -> str:
    """Node, asked for before any policy, so that nothing is trained for a test that is skipped."""
    return require_tool("node", "apt-get install nodejs")


@pytest.fixture(scope="session")
def self_test(node: str) -> SelfTest:
    """The self-test of a policy file against a file of test vectors, under Node."""
    require_path(WEB / "node_modules", "npm ci --prefix examples/web")
    return lambda policy, vectors: _run(node, WEB / "selftest_node.mjs", policy, vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_policy_passes_the_self_test_under_node(kind: str, self_test: SelfTest, policies: Path) -> None:
    done = self_test(policies / f"{kind}.onnx", policies / f"{kind}.vectors.json")
    found = re.fullmatch(r"ok: (\d+) cases, largest difference (\S+)\n", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert done.returncode == 0
    assert int(found[1]) == 16
    assert float(found[2]) <= (0.0 if kind in DISCRETE else 1e-5)


def test_tells_what_is_outside_to_the_last_digit(self_test: SelfTest, policies: Path, on_the_bounds: Path) -> None:
    done = self_test(policies / "outside.onnx", on_the_bounds)
    assert (done.returncode, done.stdout.startswith("ok: 4 cases")) == (0, True), done.stdout


def test_what_is_no_number_is_outside(self_test: SelfTest, policies: Path, tmp_path: Path) -> None:
    """JSON has no NaN; what JavaScript makes a number of the text is one. The actions are none either."""
    document = json.loads((policies / "outside.vectors.json").read_text())
    case = document["cases"][0]
    case["inputs"]["arm"][1] = "NaN"
    case["outputs"]["outside"] = [float(index == 1) for index in range(7)]
    case["inputs"]["grid"] = [0.0] * 4
    case["inputs"]["arm"][::2] = [3.0, 3.0]
    document["cases"] = [case]
    document["outputs"] = [output for output in document["outputs"] if output["name"] == "outside"]
    (tmp_path / "nan.json").write_text(json.dumps(document))
    done = self_test(policies / "outside.onnx", tmp_path / "nan.json")
    assert done.stdout == "ok: 1 cases, largest difference 0\n"


@pytest.mark.parametrize("kind", KINDS)
def test_the_self_test_finds_one_changed_value(kind: str, self_test: SelfTest, policies: Path, tmp_path: Path) -> None:
    document = json.loads((policies / f"{kind}.vectors.json").read_bytes())
    name = document["outputs"][-1]["name"]
    document["cases"][7]["outputs"][name][-1] += 1.0
    (tmp_path / "changed.json").write_text(json.dumps(document))
    done = self_test(policies / f"{kind}.onnx", tmp_path / "changed.json")
    assert done.returncode == 1
    assert re.match(rf"failed: in case 7, {name} is \[.*\], expected \[", done.stdout)


def test_the_self_test_refuses_the_vectors_of_another_file(self_test: SelfTest, policies: Path) -> None:
    done = self_test(policies / "box.onnx", policies / "cartpole.vectors.json")
    assert (done.returncode, done.stdout) == (1, "failed: the test vectors were written for another file\n")


def test_the_self_test_refuses_vectors_without_cases(self_test: SelfTest, policies: Path, tmp_path: Path) -> None:
    document = json.loads((policies / "box.vectors.json").read_bytes())
    (tmp_path / "empty.json").write_text(json.dumps({**document, "cases": []}))
    done = self_test(policies / "box.onnx", tmp_path / "empty.json")
    assert (done.returncode, done.stdout) == (1, "failed: there are no cases\n")


def test_the_physics_is_that_of_gymnasium(node: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        env: Any = gym.make("CartPole-v1").unwrapped
        env.reset()
        env.state = rng.uniform(-0.05, 0.05, 4)
        question = {"state": list(env.state), "actions": rng.integers(2, size=60).tolist()}
        done = _run(node, HERE / "cartpole_steps.mjs", json.dumps(question))
        for action, (state, fallen) in zip(question["actions"], json.loads(done.stdout), strict=True):
            _, _, terminated, _, _ = env.step(action)
            np.testing.assert_allclose(state, env.state, rtol=1e-12)
            assert fallen == terminated
            if terminated:
                break
        else:
            pytest.fail("the pole never fell, so its fall was not compared")


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The address of a folder, while a server runs in it as the example's README has it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def look(node: str) -> Look:
    """What the page shows, served from a folder, once there is something that a selector selects."""
    require_path(WEB / "node_modules", "npm ci --prefix examples/web")
    chromium = require_tool("chromium", "apt-get install chromium")

    def looked(root: Path, query: str, selector: str, *pictures: Path) -> Any:
        with _served(root) as address:
            url = f"{address}/examples/web/?{query}"
            done = _run(node, HERE / "web_page.mjs", chromium, url, selector, *pictures)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        assert seen["errors"] == []
        assert seen["origins"] == [address], "the page asks nobody but its own server"
        return seen

    return looked


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder that looks to a browser like the root of the repository, before ``make example``."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "web").symlink_to(WEB)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what ``examples/train_cartpole.py`` trains, which takes a quarter of a minute, and test vectors."""
    folder = tmp_path_factory.mktemp("trained")
    callback = partial(OnnxCheckpointCallback, options=ExportOptions(test_vectors=16))
    threads = th.get_num_threads()
    th.set_num_threads(1)  # in so small a network, more threads only wait for each other
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train_cartpole, "FOLDER", folder)
            patch.setattr(train_cartpole, "OnnxCheckpointCallback", callback)
            train_cartpole.train()
    finally:
        th.set_num_threads(threads)
    return folder


def test_the_page_balances_the_pole(look: Look, site: Path, trained: Path, tmp_path: Path) -> None:
    (site / "runs").mkdir()
    (site / "runs" / "cartpole").symlink_to(trained)
    seen = look(site, "speed=20", "#episodes:has-text('Episodes')", tmp_path)
    text = seen["text"]

    found = re.fullmatch(r"Episodes: (\d+) complete, 0 fallen", text["episodes"])
    assert found is not None, text["episodes"]
    assert int(found[1]) >= 1
    assert "16 of 16 test vectors right: largest difference 0" in text["selftest"]
    assert "Stable-Baselines3's own predict: largest difference 0" in text["proven"]
    assert re.search(r"Algorithm\s+PPO\s+Mean reward\s+500\.0\s+Trained for\s+[\d,]+ timesteps", text["facts"])
    assert "ONNX Runtime Web 1.30.0, WebAssembly" in text["runtime"]

    before, after = seen["nudged"]
    assert after - before == pytest.approx(0.5, abs=0.002)

    pictures = [tmp_path / f"web-{colours}.png" for colours in ("light", "dark")]
    assert all(picture.stat().st_size > 20_000 for picture in pictures)
    if folder := os.environ.get("ARTIFACTS"):  # for people to look at
        for picture in pictures:
            shutil.copy(picture, folder)


def test_the_page_shows_a_wrong_answer(look: Look, site: Path, policies: Path) -> None:
    runs = site / "runs" / "cartpole"
    runs.mkdir(parents=True)
    document = json.loads((policies / "cartpole.vectors.json").read_bytes())
    answer = document["cases"][3]["outputs"]["action"]
    answer[0] = 1.0 - answer[0]
    (runs / "best_model.vectors.json").write_text(json.dumps(document))
    shutil.copy(policies / "cartpole.onnx", runs / "best_model.onnx")
    text = look(site, "", "#selftest.bad")["text"]
    assert re.search(
        r"In this browser, just now: wrong\s+in case 3, action is \[\d\], expected \[\d\]", text["selftest"]
    )


def test_the_page_tells_what_to_run_where_there_is_no_policy(look: Look, site: Path) -> None:
    text = look(site, "", "#message:has-text('There is no policy yet')")["text"]
    assert "/runs/cartpole/best_model.onnx" in text["message"]
    assert "make example" in text["message"]


def test_the_page_tests_a_policy_that_steers_something_else(look: Look, site: Path, policies: Path) -> None:
    (site / "policies").symlink_to(policies)
    text = look(site, "model=/policies/recurrent.onnx", "#message:has-text('not made for the cart')")["text"]
    assert "16 of 16 test vectors right" in text["selftest"]
    assert "RecurrentPPO" in text["facts"]


def test_the_page_tells_what_is_outside_to_the_last_digit(
    look: Look, site: Path, policies: Path, on_the_bounds: Path
) -> None:
    (site / "policies").symlink_to(policies)
    query = f"model=/policies/outside.onnx&vectors=/policies/{on_the_bounds.name}"
    text = look(site, query, "#message:has-text('not made for the cart')")["text"]
    assert "4 of 4 test vectors right" in text["selftest"]


def test_the_page_says_no_more_than_the_record(look: Look, site: Path, policies: Path) -> None:
    """An evaluation of an earlier step is not this policy's, and what nobody knows to be normalized is not."""
    data = (policies / "cartpole.onnx").read_bytes()
    metadata = read_metadata(policies / "cartpole.onnx")
    evaluation = EvaluationRecord(num_timesteps=1, mean_reward=12.5)
    metadata = replace(
        metadata,
        training=replace(metadata.training, evaluation=evaluation),
        normalization=NormalizationRecord(status="unknown"),
    )
    (site / "policy.onnx").write_bytes(stamp(b"".join(split_container(data)[0]), metadata))
    shutil.copy(policies / "cartpole.vectors.json", site / "policy.vectors.json")
    facts = look(site, "model=/policy.onnx", "#selftest:has-text('test vectors right')")["text"]["facts"]
    assert re.search(r"Last mean reward before\s+12\.5", facts)
    assert re.search(r"Normalization\s+unknown", facts)
