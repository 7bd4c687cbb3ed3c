"""When a run's process is killed: its time limit, and the deadline of a run that was asked to end."""

import time

from bench.records.record import RunStatus

GRACE_S = 10.0  # to save the state, once asked to stop or out of time
_REPORT_WAIT_S = 5.0  # a wait for the machine is reported after so long
Ending = tuple[str, RunStatus]  # why a process is killed, and the status of its run's record


class Deadlines:
    """A run's time limit, paused while the run waits for the machine, and the deadline of a run that is to end."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._limit = time.monotonic() + seconds + GRACE_S if seconds else None
        self._deadline: tuple[float, Ending] | None = None  # whatever the limit
        self._waits_since: float | None = None
        self._reported = False

    def end_soon(self, reason: str, status: RunStatus) -> None:
        """Kill the run after `GRACE_S` seconds; only the first call counts."""
        self._deadline = self._deadline or (time.monotonic() + GRACE_S, (reason, status))

    def set_waiting(self, waiting: bool) -> None:
        """Pause or resume the time limit."""
        now = time.monotonic()
        if waiting:
            self._waits_since, self._reported = now, False
        elif self._waits_since is not None:
            if self._limit is not None:
                self._limit += now - self._waits_since
            self._waits_since = None

    def waits_long(self) -> bool:
        """Whether a wait has become long; True once for each wait."""
        if self._waits_since is None or self._reported or time.monotonic() - self._waits_since <= _REPORT_WAIT_S:
            return False
        self._reported = True
        return True

    def kill_reason(self, now: float) -> Ending | None:
        """Why the run must be killed now, or None."""
        if self._limit is not None and self._waits_since is None and now >= self._limit:
            return f"ran past its limit of {self._seconds:g} s and did not answer", "timeout"
        return self._deadline[1] if self._deadline is not None and now >= self._deadline[0] else None
