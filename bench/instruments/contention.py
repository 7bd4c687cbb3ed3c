"""Whether other work ran beside a timing: a wall clock that was taken on a busy machine measures the machine, not the code."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

CONTENDED = "contended: other work ran on the machine meanwhile"  # why a timing is null

_TOLERATED = 0.15  # of the cores that the run leaves free, used by others
_WAITED = 0.05  # of the run's time, spent ready to run and not running
_GRAIN_S = 0.03  # the kernel counts processor time in ticks of 10 ms, on each core


class Contention:
    """Passive: reads the kernel's counts of processor time before and after a window, and the process's waits for a processor.

    In a container these may be the whole host's: then a busy neighbour counts, as it should. Processes that work together pass
    `together`, which sums a number of theirs over all of them, and read at the same time; `threads` are those of all.
    """

    def __init__(
        self,
        threads: int,
        *,
        together: Callable[[float], float] = float,
        process: Path = Path("/proc/self"),
        clock: Callable[[], float] = time.perf_counter,
        used: Callable[[], tuple[float, float]] | None = None,
    ) -> None:
        self._threads, self._together, self._process, self._clock = threads, together, process, clock
        self._used = used or _used
        self.start()

    def start(self) -> None:
        """Open a window."""
        self._since, (self._all, self._own), self._waits = self._clock(), self._used(), self._waiting()

    def read(self, alone: bool = False) -> str | None:
        """What the window's timing was contended by; None where the run had what it needs, as far as can be seen. `alone`: those
        who work together with this process do not read, and count as others."""
        together = float if alone else self._together
        seconds = max(1e-9, self._clock() - self._since)
        everything, own = self._used()
        waits = together(max(0.0, self._waiting() - self._waits))  # a thread that has ended takes its count along
        others = max(0.0, (everything - self._all) - together(own - self._own) - _GRAIN_S) / seconds
        cores = psutil.cpu_count() or 1
        if others > _TOLERATED * max(1, cores - self._threads):
            return f"other processes used {others:.2f} of {cores} cores"
        waited = max(0.0, waits - _GRAIN_S) / seconds / self._threads
        if waited > _WAITED:
            return f"the run waited for a processor {100 * waited:.0f} % of the time"
        return None

    def _waiting(self) -> float:
        """Seconds that this process's threads have been ready and not running; 0 where the kernel does not say."""
        total = 0
        try:
            for task in os.scandir(self._process / "task"):
                with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
                    total += int(Path(task.path, "schedstat").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0.0
        return total / 1e9


def _used() -> tuple[float, float]:
    """Processor seconds of everything on the machine, and of this process."""
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return sum(times) - idle, own.user + own.system
