"""A plugin of pytest that is copied next to the benchmarks: pytest-benchmark gets processor time, its JSON the wall time too.

It may import nothing of this project: both revisions' processes load head's copy.
"""

import statistics
import time
from typing import Any

_walls: list[float] = []  # wall clock at each reading: start and end of every round, the measured rounds last


def clock() -> float:
    """Seconds of processor time, for `--benchmark-timer`; notes the wall clock."""
    _walls.append(time.perf_counter())
    return time.process_time()


def pytest_runtest_setup() -> None:
    """Forget the readings of the test before."""
    _walls.clear()


def pytest_runtest_teardown(item: Any) -> None:
    """Give the benchmark the median wall time of a call in its measured rounds."""
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if benchmark is None or benchmark.stats is None:
        return
    walls = _walls[-2 * benchmark.stats.stats.rounds :]
    seconds = [end - begin for begin, end in zip(walls[::2], walls[1::2], strict=True)]
    benchmark.extra_info["wall_s"] = statistics.median(seconds) / benchmark.stats.iterations
