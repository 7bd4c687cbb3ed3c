"""Append-only log of a run's starts and failures, and a file with its progress, both in the run's folder."""

import datetime
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from bench.execution.job import Job


def read_attempts(job: Job) -> list[dict[str, Any]]:
    """All attempts so far, each start merged with its end; damaged lines are left out."""
    attempts: list[dict[str, Any]] = []
    with suppress(OSError):
        for line in job.attempts.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and "started" in found:
                    attempts.append(found)
                elif isinstance(found, dict) and attempts:
                    attempts[-1] |= found
    return attempts


def log_start(job: Job, step: int, cpu: str | None) -> list[dict[str, Any]]:
    """Log that the run starts at a step, and how many steps of the last attempt were lost; return all attempts so far."""
    attempts = read_attempts(job)
    line: dict[str, Any] = {"started": _now(), "from_step": step, "cpu": cpu}
    if attempts:
        line["lost_steps"] = max(0, int(read_progress(job).get("step") or 0) - step)
    _append(job, line)
    return [*attempts, line]


def log_end(job: Job, reason: str) -> None:
    """Log how an attempt ended whose process could not log it."""
    _append(job, {"ended": _now(), "reason": reason})


def read_progress(job: Job) -> dict[str, Any]:
    """The last written step, steps, loss and waiting; empty where there is none, or it is malformed."""
    with suppress(OSError, ValueError):
        found = json.loads(job.progress.read_text())
        if isinstance(found, dict) and all(type(found.get(name)) is int for name in ("step", "steps")):
            return found
    return {}


def write_progress(job: Job, step: int, steps: int, loss: float | None, waiting: bool = False) -> None:
    """Write the run's progress, and whether it waits for the machine."""
    with suppress(OSError), open_in_place(job.progress, "w") as file:
        file.write(json.dumps({"step": step, "steps": steps, "loss": loss, "waiting": waiting}))


def write_waiting(job: Job, waiting: bool) -> None:
    """Write whether the run waits for the machine; the rest of its progress stays."""
    found = read_progress(job)
    if bool(found.get("waiting")) != waiting:
        write_progress(job, found.get("step", 0), found.get("steps", job.spec.train.steps), found.get("loss"), waiting)


def open_in_place(path: Path, mode: str) -> IO[str]:
    """Open a text file, but no link that somebody put in its place."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o644))


def _append(job: Job, line: dict[str, Any]) -> None:
    with suppress(OSError), open_in_place(job.attempts, "a") as file:
        file.write(json.dumps(line) + "\n")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
