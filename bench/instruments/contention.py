"""Detect other work on the machine during a timing: a wall clock on a busy machine does not measure the code."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

CONTENDED = "contended: other work ran on the machine meanwhile"  # the reason of a null timing

_TOLERATED_SHARE = 0.15  # of the cores that the run leaves free, used by others
_TOLERATED_WAIT = 0.05  # of the run's time, spent ready to run and not running
_RESOLUTION_S = 0.03  # the kernel counts processor time in ticks of 10 ms, on each core


class Contention:
    """Compare the kernel's counts of processor time, and of waits for a processor, before and after a window.

    In a container the counts may be the whole host's, where a busy neighbour matters too. The processes of one run pass
    `sum_ranks`, which sums a number over them, and read at the same time; `threads` counts all of theirs.
    """

    def __init__(
        self,
        threads: int,
        *,
        sum_ranks: Callable[[float], float] = float,
        process: Path = Path("/proc/self"),
        clock: Callable[[], float] = time.perf_counter,
        used: Callable[[], tuple[float, float]] | None = None,
    ) -> None:
        self._threads, self._sum_ranks, self._process, self._clock = threads, sum_ranks, process, clock
        self._used = used or _used
        self.start()

    def start(self) -> None:
        """Open a window."""
        self._since, (self._all, self._own), self._waits = self._clock(), self._used(), self._waiting()

    def read(self, local: bool = False) -> str | None:
        """Why a timing of the window is unreliable, or None; `local`: the other processes of the run do not read and count as
        other work."""
        total = float if local else self._sum_ranks
        seconds = max(1e-9, self._clock() - self._since)
        everything, own = self._used()
        waits = total(max(0.0, self._waiting() - self._waits))  # the count of a thread that has ended is lost
        others = max(0.0, (everything - self._all) - total(own - self._own) - _RESOLUTION_S) / seconds
        cores = psutil.cpu_count() or 1
        if others > _TOLERATED_SHARE * max(1, cores - self._threads):
            return f"other processes used {others:.2f} of {cores} cores"
        waited = max(0.0, waits - _RESOLUTION_S) / seconds / self._threads
        if waited > _TOLERATED_WAIT:
            return f"the run waited for a processor {100 * waited:.0f} % of the time"
        return None

    def _waiting(self) -> float:
        """Seconds that this process's threads were ready and not running; 0 where the kernel does not count them."""
        total = 0
        try:
            for task in os.scandir(self._process / "task"):
                with suppress(FileNotFoundError, ProcessLookupError):  # the thread ended meanwhile
                    total += int(Path(task.path, "schedstat").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0.0
        return total / 1e9


def _used() -> tuple[float, float]:
    """Processor seconds of the whole machine, and of this process."""
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
    return sum(times) - idle, own.user + own.system
