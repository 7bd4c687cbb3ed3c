"""Execute runs in this process, one after another, for debugging and to measure the coordinator's own cost."""

import time
from collections.abc import Mapping
from typing import Any

from bench.execution.engines.engine import Event, Finished, Lost, Refused
from bench.execution.engines.worker import execute_job
from bench.execution.job import Job
from bench.instruments.environment import environment
from bench.records.errors import CodeError, UserError, failure
from bench.training.checkpoint import Interrupt


class Inline:
    """The engine `inline`: no isolation, no limits. `busy_s`: seconds spent in the runs themselves."""

    slots = concurrent_runs = 1

    def __init__(self) -> None:
        self._job: Job | None = None
        self._stopped: str | None = None
        self.busy_s = 0.0

    def environment(self, device: str, threads: int) -> Mapping[str, Any]:
        """This process's environment."""
        return environment(device, threads)

    def submit(self, job: Job) -> None:
        """Keep the job for `wait`."""
        self._job = job

    def wait(self, seconds: float) -> list[Event]:
        """Execute the job."""
        if self._job is None:
            time.sleep(seconds)
            return []
        job, self._job = self._job, None
        if self._stopped is not None:
            return [Lost(job, self._stopped, "interrupted")]
        if job.spec.processes > 1:
            return [Refused(job, f"engine inline has one process, {job.spec.label!r} asks for {job.spec.processes}")]
        begun = time.perf_counter()
        try:
            return [Finished(job, execute_job(job, Interrupt()))]
        except (Exception, SystemExit) as error:
            if isinstance(error, UserError) and not isinstance(error, CodeError):
                return [Refused(job, str(error))]
            status, reason = failure(error)
            return [Lost(job, reason, status)]
        finally:
            self.busy_s += time.perf_counter() - begun

    def stop(self, reason: str) -> None:
        """Start no more jobs."""
        self._stopped = reason

    def close(self) -> None:
        """Drop the job."""
        self._job = None
