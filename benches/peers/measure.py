"""What every peer measures alike: repeated runs, and a process's peak memory."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The first run allocates or compiles, the second may record a CUDA graph, the third is the first like all others.
WARM_UP_RUNS = 3
LEAST_RUNS = 5


def repeat(
    run: Callable[[], Any], seconds: float, synchronize: Callable[[], None] = lambda: None
) -> tuple[list[float], Any]:
    """Each run's seconds, after a warm-up, until `seconds` have passed; and what the last run returned."""
    for _ in range(WARM_UP_RUNS):
        result = run()
    synchronize()
    timings: list[float] = []
    end = time.perf_counter() + seconds
    while len(timings) < LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        result = run()
        synchronize()
        timings.append(time.perf_counter() - start)
    return timings, result


def peak_host_bytes() -> int:
    """The most memory that this process has held at once."""
    # Linux's ru_maxrss begins at the peak of the program that started this one; VmHWM is this program's alone.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # Not on Windows.

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
