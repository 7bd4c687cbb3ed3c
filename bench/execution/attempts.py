"""Append-only log of a run's starts and failures, and a note of its progress, in the run's folder."""

import datetime
import json
import os
from contextlib import suppress
from typing import Any

from bench.execution.job import Job


def attempts_of(job: Job) -> list[dict[str, Any]]:
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


def note_begin(job: Job, step: int, cpu: str | None) -> list[dict[str, Any]]:
    """Log that the run starts at a step, and how many steps of the attempt before were lost; all attempts so far."""
    before = attempts_of(job)
    line: dict[str, Any] = {"started": _now(), "from_step": step, "cpu": cpu}
    if before:
        line["lost_steps"] = max(0, int(progress_of(job).get("step") or 0) - step)
    _append(job, line)
    return [*before, line]


def note_end(job: Job, reason: str) -> None:
    """Log how an attempt ended whose process could not write it."""
    _append(job, {"ended": _now(), "reason": reason})


def progress_of(job: Job) -> dict[str, Any]:
    """The last noted progress: step, steps, loss, waiting; empty where there is none, or it is malformed."""
    with suppress(OSError, ValueError):
        found = json.loads(job.progress.read_text())
        if isinstance(found, dict) and all(type(found.get(name)) is int for name in ("step", "steps")):
            return found
    return {}


def note_progress(job: Job, step: int, steps: int, loss: float | None, waiting: bool = False) -> None:
    """Note the run's progress, and whether it waits for the machine."""
    with suppress(OSError):
        handle = os.open(job.progress, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o644)
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps({"step": step, "steps": steps, "loss": loss, "waiting": waiting}))


def note_waiting(job: Job, waiting: bool) -> None:
    """Note that the run waits for the machine, or no longer; its progress stays as noted."""
    found = progress_of(job)
    if bool(found.get("waiting")) != waiting:
        note_progress(job, found.get("step", 0), found.get("steps", job.spec.train.steps), found.get("loss"), waiting)


def _append(job: Job, line: dict[str, Any]) -> None:
    with suppress(OSError):
        handle = os.open(job.attempts, os.O_CREAT | os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o644)
        with os.fdopen(handle, "a") as file:
            file.write(json.dumps(line) + "\n")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
