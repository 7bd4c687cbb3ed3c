"""The contract of an engine: jobs go in, events come out; a run that ends, however it ends, is one event."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bench.job import Job
from bench.record import Record, RunStatus

__all__ = ["Died", "Ended", "Engine", "Event", "Refused", "Stepped", "Stopped"]


@dataclass(frozen=True)
class Stepped:
    """A run goes on: `done` of `total` steps; or it waits, for the machine that another benchmark holds."""

    job: Job
    done: int
    total: int
    loss: float | None
    waiting: bool = False


@dataclass(frozen=True)
class Ended:
    """A run has its record."""

    job: Job
    record: Record


@dataclass(frozen=True)
class Stopped:
    """A run was stopped on request before it could say more; its state, if it had any, is saved."""

    job: Job
    why: str


@dataclass(frozen=True)
class Died:
    """A run's process, or its node, is gone. `fault` is what the run did itself (a crash, out of memory, out of time); None where
    somebody else ended it, so that taking it up again can help. `peak_bytes`: the process's resident high-water mark, if seen."""

    job: Job
    why: str
    fault: RunStatus | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Refused:
    """The job cannot be done: the user's error, not the run's."""

    job: Job
    why: str


Event = Stepped | Ended | Stopped | Died | Refused


class Engine(Protocol):
    """Executes jobs side by side. Every submitted job ends in exactly one of Ended, Stopped, Died, Refused."""

    slots: int  # runs side by side
    beside: int  # as many of them as may come to lie on one machine

    def environment(self, device: str, threads: int) -> Mapping[str, Any]:
        """`bench.environment.environment` where the jobs run."""

    def submit(self, job: Job) -> None:
        """Begin a job; the caller keeps the number of unended ones at most `slots`."""

    def wait(self, seconds: float) -> list[Event]:
        """What has happened; waits for something to happen, so long at most."""

    def stop(self, why: str) -> None:
        """Ask every run under way to save its state and end; their events follow."""

    def close(self) -> None:
        """End whatever still runs, at once, and free the engine."""
