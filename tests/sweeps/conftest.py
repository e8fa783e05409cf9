"""A Ray cluster and an S3 server of their own, both on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

_PATIENCE = 120.0
"""Seconds that a program may take to get somewhere."""

BUCKET = "policies"
EXAMPLES = Path(__file__).parents[2] / "examples" / "sweeps"


def wait_until(happened: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    """Wait for something that a running program does."""
    deadline = time.monotonic() + _PATIENCE
    while not happened():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """A client of an S3 server that keeps every version of every file; programs find it in their environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{address}:{port}")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        yield client
        client.close()
    server.stop()


@pytest.fixture(scope="session")
def cluster(s3: Any) -> Iterator[Path]:
    """The folder of a Ray cluster with two processors, which outlives the programs that use it."""
    ray = Path(sys.executable).with_name("ray")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"
    with TemporaryDirectory(prefix="ray") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(EXAMPLES.parents[1]), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        said = Path(folder, "said")
        with said.open("w") as output:
            process = subprocess.Popen(
                [ray, "start", "--head", "--block", "--num-cpus=2", *where, f"--temp-dir={folder}"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        try:
            wait_until(lambda: "will now block" in said.read_text(), process)
            yield Path(folder)
        finally:
            process.terminate()
            process.wait(_PATIENCE)
