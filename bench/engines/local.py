"""Runs on this machine, a process each, `slots` at a time; timings take the machine to themselves whatever that is."""

import time
from collections.abc import Mapping
from typing import Any

from bench.engines.engine import Died, Event, Stepped
from bench.engines.process import Worker, listen_to
from bench.environment import environment
from bench.job import Job


class Local:
    """Processes forked from one server."""

    def __init__(self, slots: int) -> None:
        self.slots = self.beside = slots
        self._workers: dict[str, Worker] = {}
        self._unborn: list[Event] = []

    def environment(self, device: str, threads: int) -> Mapping[str, Any]:
        """This machine's."""
        return environment(device, threads)

    def submit(self, job: Job) -> None:
        """Fork a process for the job."""
        try:
            self._workers[job.run_id] = Worker(job)
        except (EOFError, OSError) as error:  # the fork server died; the next process gets a new one
            self._unborn.append(Died(job, f"its process could not be started ({type(error).__name__}: {error})"))

    def wait(self, seconds: float) -> list[Event]:
        """What the processes have said or become."""
        unborn, self._unborn = self._unborn, []
        if not self._workers and not unborn:
            time.sleep(seconds)
        events = listen_to(self._workers.values(), 0.0 if unborn else seconds)
        for event in events:
            if not isinstance(event, Stepped):
                del self._workers[event.job.run_id]
        return [*unborn, *events]

    def stop(self, why: str) -> None:
        """Ask the processes to save their state and end."""
        for worker in self._workers.values():
            worker.stop(why)

    def close(self) -> None:
        """Kill what still runs."""
        for worker in self._workers.values():
            worker.kill()
        self._workers.clear()
