"""Whether 500 exports leave anything behind: memory, open files, threads (Linux)."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

from benchmarks import models
from benchmarks.harness import Row, report
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.options import ExportOptions
from sb3_clanker.run_folder.publication import Publication
from sb3_clanker.sb3.normalization import resolve_normalization

N_WARM_UP, N_EXPORTS = 50, 500
LARGEST_GROWTH_MIB = 4.0


def _state() -> tuple[float, int, int]:
    """Resident mebibytes, open files, threads of the system."""
    gc.collect()
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return int(status["VmRSS"].split()[0]) / 1024, len(list(Path("/proc/self/fd").iterdir())), int(status["Threads"])


def main() -> None:
    """Measure and report."""
    model = models.sac()
    exporter = Exporter(model, resolve_normalization(model, "auto"), ExportOptions())
    with tempfile.TemporaryDirectory() as folder:

        def checkpoint() -> None:
            proven = exporter.export()
            with Publication(Path(folder), durable=False) as publication:
                publication.stage("policy.onnx", proven.write)
                publication.commit()

        for _ in range(N_WARM_UP):
            checkpoint()
        before = _state()
        for _ in range(N_EXPORTS):
            checkpoint()
        after = _state()
    grown = after[0] - before[0]
    flat = f"at most {LARGEST_GROWTH_MIB:g}"
    report(
        "growth",
        [
            Row(what="resident memory before", value=before[0], unit="MiB"),
            Row(
                what=f"grown in {N_EXPORTS} exports",
                value=grown,
                unit="MiB",
                target=flat,
                met=grown <= LARGEST_GROWTH_MIB,
            ),
            Row(what="more open files", value=after[1] - before[1], unit="", target="0", met=after[1] <= before[1]),
            Row(what="more threads", value=after[2] - before[2], unit="", target="0", met=after[2] <= before[2]),
        ],
    )


if __name__ == "__main__":
    main()
