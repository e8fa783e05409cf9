"""The examples of sweeps, run as a user runs them, against a real Ray cluster, an S3 server, and Optuna."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sb3_clanker import ClankerError, PolicyMetadata, load_checkpoint, read_metadata
from tests.sweeps.conftest import BUCKET, EXAMPLES, wait_until

pytestmark = pytest.mark.sweeps

TIMESTEPS = 2048


def run(program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / program), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


# Ray Tune ------------------------------------------------------------------------------------------------------------


class Published(NamedTuple):
    """A best policy in the storage."""

    trial: str
    metadata: PolicyMetadata
    data: bytes

    @property
    def score(self) -> float:
        assert self.metadata.training.mean_reward is not None
        return self.metadata.training.mean_reward


class Storage:
    """What Ray stored, with every version of it."""

    def __init__(self, s3: Any, folder: Path) -> None:
        self._s3, self._folder = s3, folder

    def versions(self, name: str, trial: str = "") -> list[dict[str, str]]:
        """All files of a name that trials have ever stored."""
        pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET, Prefix="sweeps/cartpole/train_")
        every = [version for page in pages for version in page.get("Versions", [])]
        return [each for each in every if each["Key"].endswith(f"/{name}") and trial in each["Key"]]

    def read(self, version: dict[str, str]) -> bytes:
        got = self._s3.get_object(Bucket=BUCKET, Key=version["Key"], VersionId=version["VersionId"])
        data: bytes = got["Body"].read()
        return data

    def published(self) -> list[Published]:
        """Every best policy that was ever stored whole, oldest first."""
        parts = defaultdict(list)
        for name in ("best_model.onnx", "best_model.zip", "best_model_vecnormalize.pkl"):
            for version in self.versions(name):
                parts[Path(version["Key"]).parent, name].append(self.read(version))
        found = []
        for folder, name in list(parts):
            every = [parts[folder, each] for each in (name, "best_model.zip", "best_model_vecnormalize.pkl")]
            for files in product(*every) if name == "best_model.onnx" else ():
                if (metadata := self._whole(*files)) is not None:
                    found.append(Published(folder.parent.name, metadata, files[0]))
        return sorted(found, key=lambda each: (each.metadata.provenance.created, each.metadata.training.num_timesteps))

    def _whole(self, policy: bytes, algorithm: bytes, statistics: bytes) -> PolicyMetadata | None:
        """The record of a policy, None where its files are of different instants, or an upload was interrupted."""
        path = self._folder / "best_model.onnx"
        path.write_bytes(policy)
        path.with_suffix(".zip").write_bytes(algorithm)
        path.with_name("best_model_vecnormalize.pkl").write_bytes(statistics)
        with suppress(ClankerError):
            load_checkpoint(path)
            return read_metadata(path)
        return None

    def reports(self) -> dict[str, list[dict[str, Any]]]:
        """What Ray noted of each trial, in order."""
        latest = [each for each in self.versions("result.json") if each["IsLatest"]]
        return {each["Key"].split("/")[2]: list(map(json.loads, self.read(each).splitlines())) for each in latest}


def trainings(cluster: Path) -> dict[str, int]:
    """The processes of the trials that are running, by the folders that Ray runs them in."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            folder = (process / "cwd").readlink()
            if folder.is_relative_to(cluster) and folder.parent.name == "working_dirs":
                found[folder.name] = int(process.name)
    return found


@pytest.fixture(scope="module")
def storage(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(s3, tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def sweep(cluster: Path, storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A sweep that a trial and then its driver were killed in: its folder, what it printed, the trial."""
    folder = tmp_path_factory.mktemp("sweep")
    command = [sys.executable, str(EXAMPLES / "ray_tune.py"), f"s3://{BUCKET}/sweeps", f"--timesteps={TIMESTEPS}"]

    def stored(trial: str) -> int:
        return len(storage.versions("best_model.onnx", trial))

    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        try:
            wait_until(lambda: any(stored(trial) > 1 for trial in trainings(cluster)), driver)  # one is whole then
            running = trainings(cluster)
            victim = max(running, key=stored)
            process = running[victim]
            os.kill(process, signal.SIGKILL)
            before = stored(victim)
            wait_until(lambda: trainings(cluster).get(victim, process) != process, driver)
            wait_until(lambda: stored(victim) > before, driver)
            assert driver.poll() is None
        finally:
            driver.kill()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, victim


def test_the_best_of_all_that_was_ever_stored_is_fetched_and_run(
    sweep: tuple[Path, str, str], storage: Storage
) -> None:
    folder, output, _ = sweep
    fetched = folder / "best" / "best_model.onnx"
    metadata = read_metadata(fetched)
    published = storage.published()
    assert metadata.training.mean_reward == max(each.score for each in published)
    assert fetched.read_bytes() in [each.data for each in published]
    assert f"best_model.onnx: {metadata.digest}, evaluated in training: " in output
    assert load_checkpoint(fetched).vec_normalize is not None
    returned = re.search(r"return on raw observations ([\d.]+) ", output)
    assert returned is not None
    assert float(returned[1]) > 50  # what is not normalized falls over at once


def test_no_trial_begins_anew_or_falls_back(sweep: tuple[Path, str, str], storage: Storage) -> None:
    _, _, victim = sweep
    trials = defaultdict(list)
    for each in storage.published():
        trials[each.trial].append((each.score, each.metadata.training.num_timesteps))
    assert len(trials) == 4
    assert len(trials[victim]) >= 2
    for bests in trials.values():
        assert bests == sorted(bests), "a later best is a worse or an earlier one"


def test_trials_end_and_report_the_best_so_far(sweep: tuple[Path, str, str], storage: Storage) -> None:
    reports = storage.reports()
    assert len(reports) == 4
    for trial, noted in reports.items():
        assert noted[-1]["timesteps"] > TIMESTEPS - 256
        best = max((each for each in storage.published() if each.trial == trial), key=lambda each: each.score)
        assert (noted[-1]["best_mean_reward"], noted[-1]["digest"]) == (best.score, best.metadata.digest)


def test_another_policy_than_was_reported_is_refused(sweep: tuple[Path, str, str], storage: Storage, s3: Any) -> None:
    """Each trial's: two of them may be equally good."""
    folder, _, _ = sweep
    policies = {version["Key"]: storage.read(version) for version in storage.versions("best_model.onnx")}
    for key, policy in policies.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=next(other for other in policies.values() if other != policy))
    done = run("ray_tune.py", f"s3://{BUCKET}/sweeps", cwd=folder)
    assert done.returncode == 1
    assert re.search(r"best_model\.onnx is (sha256:\w+), and (?!\1)sha256:\w+ was reported\.", done.stderr)


def test_policies_are_proven_again_on_the_cluster(
    sweep: tuple[Path, str, str], storage: Storage, tmp_path: Path
) -> None:
    for name in ("best_model.onnx", "best_model.vectors.json"):
        for version in storage.versions(name):
            path = tmp_path / version["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if version["IsLatest"]:
                path.write_bytes(storage.read(version))
    paths = sorted(tmp_path.rglob("*.onnx"))
    damaged = bytearray(paths[0].read_bytes())
    damaged[len(damaged) // 3] ^= 1
    paths[0].write_bytes(damaged)
    done = run("revalidate.py", tmp_path, cwd=tmp_path)
    problems = done.stdout.splitlines()[1:]
    assert done.returncode == 1
    assert str(paths[0]) in done.stdout
    assert done.stdout.startswith(f"{len(paths) - len(problems)} of {len(paths)} policies pass\n")


# Optuna --------------------------------------------------------------------------------------------------------------


def test_the_best_artifact_of_a_study_is_fetched_and_run(tmp_path: Path) -> None:
    done = run("optuna_study.py", tmp_path, "--trials=4", "--timesteps=512", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    published = [read_metadata(path) for path in (tmp_path / "runs").glob("CartPole-v1_*/best_model.onnx")]
    fetched = read_metadata(tmp_path / "best_model.onnx")
    assert len(published) == 4
    assert fetched in published
    assert fetched.training.mean_reward == max(each.training.mean_reward or 0 for each in published)
    assert f"best_model.onnx: {fetched.digest}, evaluated in training: " in done.stdout
