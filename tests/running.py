"""Shared by tests that make records and run suites."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.execution.coordinator import Callbacks, Coordinator, RunOptions
from bench.execution.engines.local import Local
from bench.execution.plan import Plan
from bench.records.identity import Identity
from bench.records.metric import Metric
from bench.records.record import Record, measured, write_record
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.records.store import Store

IDENTITY = Identity(data="0" * 64, numerics={"DEQ": 1}, code={}, environment={"torch": "2.13.0"})
PATIENCE_S = 300.0  # timeout of a wait that takes seconds on an idle machine


def run_suite(plan: Plan, results: Path, *, suite: str = "s", jobs: int = 2, engine: Any = None, **more: Any) -> list[Record]:
    """Run a plan on this machine and return its final records; `more`: callbacks, data and RunOptions."""
    callbacks, data = more.pop("callbacks", Callbacks()), more.pop("data", {})
    store, options = Store(results), RunOptions(**more)
    engine = engine or Local(jobs)
    return Coordinator(plan, suite=suite, store=store, engine=engine, data=data, options=options, callbacks=callbacks).run()


@contextmanager
def own_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Keep lock files in the tests' folder and fix malloc's thresholds, for the fork server's children too."""
    folder = tmp_path_factory.getbasetemp() / "locks"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"):
            patch.setenv(name, os.environ.get(name, "65536"))
        yield patch


def record_of(spec: RunSpec, **fields: Any) -> Record:
    """The Record of a run that ended ok, in suite `s`, unless `fields` say otherwise."""
    return Record(
        **{"run_id": IDENTITY.run_id(spec.key), "suite": "s", "status": "ok", "spec": spec, "identity": IDENTITY} | fields
    )


def save(results: Path, records: Iterable[Record]) -> Path:
    """Write the records to a results folder; returns it."""
    for one in records:
        write_record(results / "runs" / one.suite / f"{one.run_id}.json", one)
    return results


def finished_record(suite: str, group: str, label: str, seed: int, **measures: float) -> Record:
    """A final record that ended ok, with these measures; those that start with `test_` are metrics."""
    model, task = ComponentConfig(name="deq", settings={"width": 4}), ComponentConfig(name="copy", settings={"T": 30})
    train = TrainConfig(steps=1, batch=1, learning_rate=1e-3)
    spec = RunSpec(group=group, label=label, model=model, task=task, train=train, seed=seed)
    metrics = [name.removeprefix("test_") for name in measures if name.startswith("test_")]
    return record_of(
        spec,
        suite=suite,
        metrics={name: Metric(unit="nats", better="lower") for name in metrics},
        measures={name: measured(value, "1", "m", "s") for name, value in measures.items()},
    )
