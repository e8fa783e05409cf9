"""Prove thousands of policies again, on a Ray cluster.

python revalidate.py FOLDER    # one that every machine sees; each policy has its test vectors beside it
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from sb3_clanker import ClankerError, OnnxPolicy
from sb3_clanker.policy_file.vectors import read_vectors
from sb3_clanker.runtime.check_vectors import check_vectors


def revalidate(path: Path) -> str | None:
    """What is wrong with a policy, None where it is undamaged and does what Stable-Baselines3 did."""
    try:
        check_vectors(OnnxPolicy(path), read_vectors(path.with_suffix(".vectors.json")))
    except ClankerError as error:
        return f"{path}: {error}"
    return None


def main(folder: str) -> None:
    """Check every policy below a folder, and name those that fail."""
    paths = sorted(Path(folder).resolve().rglob("*.onnx"))
    task = ray.remote(revalidate)
    problems = [problem for problem in ray.get([task.remote(path) for path in paths]) if problem]
    print(f"{len(paths) - len(problems)} of {len(paths)} policies pass", *problems, sep="\n")
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main(*sys.argv[1:])
