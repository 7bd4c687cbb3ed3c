"""Runs on this machine, a process each, `slots` at a time; timings take the machine to themselves whatever that is."""

import time
from collections.abc import Mapping
from typing import Any

from bench.engines.engine import Event, Stepped
from bench.engines.process import Worker, listen_to
from bench.environment import environment
from bench.job import Job


class Local:
    """Processes forked from one server."""

    def __init__(self, slots: int) -> None:
        self.slots = self.beside = slots
        self._workers: dict[str, Worker] = {}

    def environment(self, device: str, threads: int) -> Mapping[str, Any]:
        """This machine's."""
        return environment(device, threads)

    def submit(self, job: Job) -> None:
        """Fork a process for the job."""
        self._workers[job.run_id] = Worker(job)

    def wait(self, seconds: float) -> list[Event]:
        """What the processes have said or become."""
        if not self._workers:
            time.sleep(seconds)
        events = listen_to(self._workers.values(), seconds)
        for event in events:
            if not isinstance(event, Stepped):
                del self._workers[event.job.run_id]
        return events

    def stop(self, why: str) -> None:
        """Ask the processes to save their state and end."""
        for worker in self._workers.values():
            worker.stop(why)

    def close(self) -> None:
        """Kill what still runs."""
        for worker in self._workers.values():
            worker.kill()
        self._workers.clear()
