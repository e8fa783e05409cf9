"""How long one prediction takes, where the caller asked for a promise."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np

from sb3_clanker.errors import LatencyError
from sb3_clanker.report import LatencyRecord
from sb3_clanker.runtime.encoding import Observation
from sb3_clanker.runtime.policy import OnnxPolicy

_N_WARM_UP, _N_CALLS = 50, 500


def measure_latency(policy: OnnxPolicy, observation: Observation, limit_ms: float) -> LatencyRecord:
    """Measure ``policy.predict`` on a single observation.

    :param limit_ms: milliseconds that 99 of 100 calls must keep
    :raises LatencyError: they do not
    """
    for _ in range(_N_WARM_UP):
        policy.predict(observation)
    nanoseconds = np.empty(_N_CALLS)
    for index in range(_N_CALLS):
        start = time.perf_counter_ns()
        policy.predict(observation)
        nanoseconds[index] = time.perf_counter_ns() - start
    p50, p99 = (float(value) for value in np.percentile(nanoseconds / 1e6, [50, 99]))
    record = LatencyRecord(p50_ms=p50, p99_ms=p99, limit_ms=limit_ms, processor=_processor())
    if p99 > limit_ms:
        raise LatencyError(record)
    return record


def _processor() -> str:
    """The processor's name, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
