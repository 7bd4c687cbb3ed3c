"""What a run left whose process died: its last checkpoint's curve, its attempts, the memory it was last seen with, as a Record."""

import datetime
import math
from collections.abc import Mapping
from typing import Any

from bench.attempts import attempts_of
from bench.checkpoint import Checkpoint
from bench.engines.engine import Died, Stopped
from bench.identity import project_code
from bench.job import Job
from bench.record import Measure, Point, Record, RunStatus, measured
from bench.tasks.task import Task


def reached(job: Job) -> int:
    """The step that the run's checkpoint holds; 0 without one."""
    checkpoint = Checkpoint(job.checkpoint, job.run_id)
    checkpoint.load()
    return checkpoint.step


def record_of(event: Died | Stopped, status: RunStatus, task: Task, environment: Mapping[str, Any]) -> Record:
    """The Record of a run that could not write its own."""
    job = event.job
    checkpoint = Checkpoint(job.checkpoint, job.run_id)
    curve: list[Point] = []
    measures: dict[str, Measure] = {}
    try:
        state = checkpoint.load() or {"curve": [], "clocks": {}}
        curve = [Point.model_validate(point) for point in state["curve"]]
        elapsed = sum(float(seconds) for seconds in state["clocks"].values())
        if not 0 <= elapsed < math.inf:
            raise ValueError("no time")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):  # not what a run of ours saves
        curve, elapsed = [], 0.0
    peak = event.peak_bytes if isinstance(event, Died) else None
    measures["process_peak_bytes"] = measured(
        peak, "B", "VmHWM as last seen from outside", "process, all of it", None if peak else "the process was not seen alive"
    )
    return Record(
        run_id=job.run_id,
        suite=job.suite,
        spec=job.spec,
        identity=job.identity,
        status=status,
        why=event.why,
        elapsed_s=elapsed,
        headline=task.headline,
        metrics=dict(task.metrics),
        curve=curve,
        measures=measures,
        provenance={
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "runs_side_by_side": job.beside,
            "checkpoint": checkpoint.said,
            "checkpoint_step": checkpoint.step,
            "attempts": attempts_of(job),
            "code": dict(project_code()),
        },
        environment=dict(environment),
    )
