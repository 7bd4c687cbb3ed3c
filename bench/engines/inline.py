"""Runs in this process, one after another: for a debugger, and for knowing what the coordinator itself costs."""

import time
from collections.abc import Mapping
from typing import Any

from bench.checkpoint import Interrupt
from bench.engines.engine import Died, Ended, Event, Refused, Stopped
from bench.engines.worker import do
from bench.environment import environment
from bench.errors import CodeError, UserError, failure
from bench.job import Job


class Inline:
    """No isolation and no limits: what a run does to the process, it does to all. `busy_s` is what the runs themselves took."""

    slots = beside = 1

    def __init__(self) -> None:
        self._job: Job | None = None
        self._stopped: str | None = None
        self.busy_s = 0.0

    def environment(self, device: str, threads: int) -> Mapping[str, Any]:
        """This process's."""
        return environment(device, threads)

    def submit(self, job: Job) -> None:
        """Keep the job for `wait`."""
        self._job = job

    def wait(self, seconds: float) -> list[Event]:
        """Do the job."""
        if self._job is None:
            time.sleep(seconds)
            return []
        job, self._job = self._job, None
        if self._stopped is not None:
            return [Stopped(job, self._stopped)]
        if job.spec.processes > 1:
            return [Refused(job, f"engine inline has one process, {job.spec.label!r} asks for {job.spec.processes}")]
        begun = time.perf_counter()
        try:
            return [Ended(job, do(job, Interrupt()))]
        except (Exception, SystemExit) as error:
            if isinstance(error, UserError) and not isinstance(error, CodeError):
                return [Refused(job, str(error))]
            status, why = failure(error)
            return [Died(job, why, status)]
        finally:
            self.busy_s += time.perf_counter() - begun

    def stop(self, why: str) -> None:
        """Begin nothing more: a run under way ends before anybody can ask."""
        self._stopped = why

    def close(self) -> None:
        """Nothing is left to end."""
        self._job = None
