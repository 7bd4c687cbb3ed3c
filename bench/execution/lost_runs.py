"""Build a Record for a run whose process died: from its last checkpoint, its log of attempts and its last known memory."""

import datetime
import math
from collections.abc import Mapping
from typing import Any

from bench.execution.attempts import read_attempts
from bench.execution.engines.engine import Lost, Stopped
from bench.execution.job import Job
from bench.records.identity import project_code
from bench.records.record import CurvePoint, Record, RunStatus, measured
from bench.tasks.task import Task
from bench.training.checkpoint import Checkpoint


def checkpointed_step(job: Job) -> int:
    """The step in the run's checkpoint; 0 without one."""
    checkpoint = Checkpoint(job.checkpoint, job.run_id)
    checkpoint.load()
    return checkpoint.step


def record_of_lost_run(event: Lost | Stopped, status: RunStatus, task: Task, environment: Mapping[str, Any]) -> Record:
    """Build the Record of a run that could not write its own."""
    job = event.job
    checkpoint = Checkpoint(job.checkpoint, job.run_id)
    curve, elapsed = _curve_and_seconds(checkpoint.load())
    peak = event.peak_bytes if isinstance(event, Lost) else None
    missing = None if peak else "the process was not seen alive"
    return Record(
        run_id=job.run_id,
        suite=job.suite,
        spec=job.spec,
        identity=job.identity,
        status=status,
        reason=event.reason,
        elapsed_s=elapsed,
        headline=task.headline,
        metrics=dict(task.metrics),
        curve=curve,
        measures={"process_peak_bytes": measured(peak, "B", "VmHWM as last seen from outside", "process, all of it", missing)},
        provenance={
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
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
