"""Every benchmark, each in a process of its own: ``python -m benchmarks``."""

import subprocess
import sys

for name in ("checkpoint", "formats", "inference", "training", "footprint", "growth"):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
