"""The interface of an engine: it takes jobs and returns events."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bench.execution.job import Job
from bench.records.record import Record, RunStatus


@dataclass(frozen=True)
class Progress:
    """A run has done `done` of `total` steps; with `waiting`, it waits for the machine lock."""

    job: Job
    done: int
    total: int
    loss: float | None
    waiting: bool = False


@dataclass(frozen=True)
class Finished:
    """A run has its record."""

    job: Job
    record: Record


@dataclass(frozen=True)
class Lost:
    """A run ended without a record: its process, or its node, is gone.

    `status`: the record's (a crash, out of memory or time, or interrupted on request); None where it was killed from outside and
    can resume. `peak_bytes`: the process's peak resident memory, if known.
    """

    job: Job
    reason: str
    status: RunStatus | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Refused:
    """The job cannot be executed, which is a user error."""

    job: Job
    reason: str


Event = Progress | Finished | Lost | Refused


class Engine(Protocol):
    """Executes jobs concurrently. Every submitted job ends in exactly one of Finished, Lost, Refused."""

    slots: int  # runs at a time
    concurrent_runs: int  # of these, at most so many on one machine

    def environment(self, device: str, threads: int) -> Mapping[str, Any]:
        """`bench.instruments.environment.environment` where the jobs run."""

    def submit(self, job: Job) -> None:
        """Start a job; the caller submits at most `slots` at a time."""

    def wait(self, seconds: float) -> list[Event]:
        """The events since the last call; waits at most so many seconds for one."""

    def stop(self, reason: str) -> None:
        """Ask every run to save its state and end; their events follow."""

    def close(self) -> None:
        """Kill what still runs, and release the engine's resources."""
