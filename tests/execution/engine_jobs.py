"""Specs and jobs for engines, functions that wait for their events, and a Ray cluster."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import PATIENCE_S

from bench.execution.engines.engine import Engine, Event, Finished, Lost, Progress
from bench.execution.job import Job
from bench.instruments.environment import environment
from bench.records.record import Record
from bench.records.spec import ComponentConfig, RunSpec, Settings, TrainConfig
from bench.training.registry import build_task
from bench.training.run_identity import compute_identity

MakeJob = Callable[..., Job]
DEQ: Settings = {"cell": "mlp", "width": 4, "steps": 5}
ENDLESS = {"steps": 1_000_000}


def spec(label: str, name: str = "gru", settings: Settings | None = None, **changes: Any) -> RunSpec:
    return RunSpec(
        group="g",
        label=label,
        model=ComponentConfig(name=name, settings=settings or {"width": 4}),
        task=ComponentConfig(name="user_models:Echo"),
        train=TrainConfig(**({"steps": 3, "batch": 4, "learning_rate": 0.01, "evaluation_batch": 8} | changes.pop("train", {}))),
        seed=0,
        **({"role": "trial"} | changes),
    )


def failing(label: str, how: str, folder: Path | str = "", wait_s: float = PATIENCE_S, **changes: Any) -> RunSpec:
    """A spec whose model fails at its second step."""
    settings: Settings = {"width": 4, "how": how, "at": 2, "folder": str(folder), "wait_s": wait_s}
    return spec(label, "user_models:FailingModel", settings, **changes)


def job_in(folder: Path, spec: RunSpec, **changes: Any) -> Job:
    """A spec's job; its state is below the folder."""
    identity = compute_identity(spec, build_task(spec.task, {}), environment("cpu", 1))
    run_id = identity.run_id(spec.key)
    return Job(run_id=run_id, suite="s", spec=spec, identity=identity, folder=folder / "work" / run_id, **changes)


def finish(engine: Engine, jobs: list[Job], seen: list[Event] | None = None) -> dict[str, Event]:
    """Run the jobs, as many at a time as there are slots; the last event of each, by label."""
    waiting, running, ends = list(jobs), 0, {}
    limit = time.monotonic() + PATIENCE_S
    while waiting or running:
        assert time.monotonic() < limit
        while waiting and running < engine.slots:
            engine.submit(waiting.pop(0))
            running += 1
        for event in engine.wait(1.0):
            if seen is not None:
                seen.append(event)
            if not isinstance(event, Progress):
                running -= 1
                assert event.job.spec.label not in ends, "a job ended twice"
                ends[event.job.spec.label] = event
    return ends


def next_event(engine: Engine, progress: bool) -> Event:
    """The next Progress, or the next end of a run."""
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        for event in engine.wait(1.0):
            if progress or not isinstance(event, Progress):
                return event
    raise AssertionError("no event")


def wait_for_end(engine: Engine) -> Event:
    return next_event(engine, progress=False)


def wait_for_step(engine: Engine) -> None:
    """Wait for a run's first step; a run that ends before it fails the test."""
    event = next_event(engine, progress=True)
    assert isinstance(event, Progress), event


def wait_until(condition: Callable[[], Any], engine: Engine | None = None) -> Any:
    """Wait until the condition is true, polling the engine; returns its value."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end
        if engine is not None:
            engine.wait(0.02)
        time.sleep(0.02)
    return found


def wait_for_file(folder: Path, pattern: str, engine: Engine | None = None) -> Path:
    found: list[Path] = wait_until(lambda: list(folder.glob(pattern)), engine)
    return found[0]


def is_dead(pid: int) -> bool:
    """Whether a process has ended; its parent, the fork server, may not have waited for it yet."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def kill_children(folder: Path) -> None:
    """Kill what a FailingModel has forked."""
    for mark in folder.glob("*.child"):
        with suppress(ProcessLookupError):
            os.kill(int(mark.stem), signal.SIGKILL)


def record_of(end: Event) -> Record:
    assert isinstance(end, Finished), end
    return end.record


def assert_lost(end: Event, reason: str, status: str | None) -> Lost:
    assert isinstance(end, Lost), end
    assert reason in end.reason
    assert end.status == status
    return end


def numbers(record: Record) -> Any:
    """The parts of a record that a second run reproduces."""
    data = record.model_dump(mode="json")
    for point in data["curve"]:
        del point["seconds"]
    clocks = ("_s", "_ms_median", "_ms_p10", "_ms_p90", "tokens_per_s", "host_peak_bytes")
    data["measures"] = {name: one for name, one in data["measures"].items() if not name.endswith(clocks)}
    return {name: data[name] for name in ("run_id", "suite", "spec", "identity", "status", "reason", "curve", "measures", "probes")}


@contextmanager
def cluster(machines: int) -> Iterator[Any]:
    """A Ray cluster on the loopback interface: a head without room, and machines with a core each. Skipped without Ray."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", "/tmp")  # its sockets need short paths
        patch.setenv("RAY_worker_niceness", "0")  # by default 15, which starves it on a busy machine
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 2**27, "include_dashboard": False}
        health = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}  # to notice a lost machine soon
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": health, **small})
        try:
            for _ in range(machines):
                made.add_node(num_cpus=1, object_store_memory=2**27)
            yield made
        finally:
            made.shutdown()
