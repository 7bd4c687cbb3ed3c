"""Execute runs on this machine, each in its own process, `slots` at a time."""

import os
import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing.connection import wait
from typing import Any

import torch

from bench.execution.engines.engine import Event, Lost, Progress
from bench.execution.engines.process import POLL_S, Worker
from bench.execution.job import Job
from bench.instruments.environment import environment
from bench.records.errors import UserError

_MOST_FAILED_STARTS = 3  # in a row: the attempts of a run


class Local:
    """The engine `local`: processes forked from one server.

    On a machine with several GPUs each run of one process sees one of them, that with the fewest runs.
    """

    def __init__(self, slots: int) -> None:
        self.slots = self.concurrent_runs = slots
        self._workers: dict[str, Worker] = {}
        self._gpus: dict[str, int] = {}  # by run id
        self._unstarted: list[Event] = []
        self._failed_starts = 0  # in a row

    def environment(self, device: str, threads: int) -> Mapping[str, Any]:
        """This machine's environment."""
        return environment(device, threads)

    def submit(self, job: Job) -> None:
        """Fork a process for the job; UserError where that fails again and again, which is no fault of the run."""
        try:
            gpu = self._free_gpu(job)
            self._workers[job.run_id] = Worker(job, None if gpu is None else _visible(gpu))
            self._failed_starts = 0
            if gpu is not None:
                self._gpus[job.run_id] = gpu
        except (EOFError, OSError) as error:  # the fork server died; the next process gets a new one
            self._failed_starts += 1
            if self._failed_starts == _MOST_FAILED_STARTS:
                raise UserError(f"no process can be started here ({type(error).__name__}: {error})") from error
            self._unstarted.append(Lost(job, f"its process could not be started ({type(error).__name__}: {error})"))

    def _free_gpu(self, job: Job) -> int | None:
        """The GPU for a run, None where there is no choice."""
        count = torch.cuda.device_count() if job.spec.device == "cuda" and job.spec.processes == 1 else 0
        used = Counter(self._gpus[run_id] for run_id in self._workers if run_id in self._gpus)
        return min(range(count), key=lambda gpu: used[gpu]) if count > 1 else None

    def wait(self, seconds: float) -> list[Event]:
        """Poll the processes."""
        unstarted, self._unstarted = self._unstarted, []
        if not self._workers and not unstarted:
            time.sleep(seconds)
        workers = list(self._workers.values())
        wait([handle for worker in workers for handle in worker.handles], timeout=0.0 if unstarted else min(seconds, POLL_S))
        events = [event for worker in workers for event in worker.poll()]
        for event in events:
            if not isinstance(event, Progress):
                del self._workers[event.job.run_id]
                self._gpus.pop(event.job.run_id, None)
        return [*unstarted, *events]

    def stop(self, reason: str) -> None:
        """Ask the processes to save their state and end."""
        for worker in self._workers.values():
            worker.stop(reason)

    def close(self) -> None:
        """Kill the processes."""
        for worker in self._workers.values():
            worker.kill()
        self._workers.clear()


def _visible(gpu: int) -> str:
    """The name of a GPU for CUDA_VISIBLE_DEVICES: of those that this process may see."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return names.split(",")[gpu].strip() if names else str(gpu)
