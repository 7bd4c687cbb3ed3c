"""What a run's folder says before it has a record: a log of its starts and failures, its progress, its checkpoint."""

import datetime
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from bench.execution.engines.engine import Lost
from bench.execution.job import Job
from bench.records.identity import project_code
from bench.records.record import CurvePoint, Record, measured
from bench.tasks.task import Task
from bench.training.checkpoint import Checkpoint


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


def checkpointed_step(job: Job) -> int:
    """The step in the run's checkpoint; 0 without one."""
    checkpoint = Checkpoint(job.checkpoint, job.run_id)
    _saved(checkpoint)
    return checkpoint.step


def _saved(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The saved state; None also where it cannot be read now, which the run itself reports."""
    try:
        return checkpoint.load()
    except OSError:
        return None


def record_of_lost_run(event: Lost, task: Task, environment: Mapping[str, Any]) -> Record:
    """Build the Record of a run that could not write its own: from its checkpoint, its attempts and its last known memory."""
    job = event.job
    checkpoint = Checkpoint(job.checkpoint, job.run_id)
    curve, elapsed = _curve_and_seconds(_saved(checkpoint))
    peak, missing = event.peak_bytes, None if event.peak_bytes else "the process was not seen alive"
    return Record(
        run_id=job.run_id,
        suite=job.suite,
        spec=job.spec,
        identity=job.identity,
        status=event.status or "crashed",
        reason=event.reason,
        elapsed_s=elapsed,
        headline=task.headline,
        metrics=dict(task.metrics),
        curve=curve,
        measures={"process_peak_bytes": measured(peak, "B", "VmHWM as last seen from outside", "process, all of it", missing)},
        provenance={
            "finished": _now(),
            "runs_side_by_side": job.concurrent_runs,
            "checkpoint": checkpoint.problem,
            "checkpoint_step": checkpoint.step,
            "attempts": read_attempts(job),
            "code": dict(project_code()),
        },
        environment=dict(environment),
    )


def _curve_and_seconds(state: Mapping[str, Any] | None) -> tuple[list[CurvePoint], float]:
    try:
        assert state is not None
        curve = [CurvePoint.model_validate(point) for point in state["curve"]]
        elapsed = sum(float(seconds) for seconds in state["clocks"].values())
        assert 0 <= elapsed < math.inf
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, OverflowError):  # none, or malformed
        return [], 0.0
    return curve, elapsed
