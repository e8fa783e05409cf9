"""How long one prediction takes, where the caller asked for a promise."""

from __future__ import annotations

import math
import platform
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    milliseconds = time_predictions(policy, observation, _N_CALLS)
    p50, p99 = (float(value) for value in np.percentile(milliseconds, [50, 99]))
    record = LatencyRecord(p50_ms=p50, p99_ms=p99, limit_ms=limit_ms, processor=processor())
    if p99 > limit_ms:
        raise LatencyError(record)
    return record


def time_predictions(
    policy: OnnxPolicy, observation: Observation, n_calls: int, seconds: float = math.inf
) -> NDArray[np.float64]:
    """Milliseconds that ``policy.predict`` takes on a single observation, of each of some calls.

    :param n_calls: how many, after some that are not counted
    :param seconds: how long all of them may take; then they are fewer, one at least
    """
    end = time.perf_counter() + seconds
    nanoseconds: list[int] = []
    for _ in range(_N_WARM_UP + n_calls):
        start = time.perf_counter_ns()
        policy.predict(observation)
        nanoseconds.append(time.perf_counter_ns() - start)
        if time.perf_counter() > end:
            break
    return np.array(nanoseconds[_N_WARM_UP:] or nanoseconds[-1:]) / 1e6


def processor() -> str:
    """The processor's name, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
