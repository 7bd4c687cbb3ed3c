"""Shared by tests that make records and run suites."""

from pathlib import Path
from typing import Any

from bench.execution.coordinator import Callbacks, Coordinator, RunOptions
from bench.execution.engines.local import Local
from bench.execution.plan import Plan
from bench.records.identity import Identity
from bench.records.record import Record
from bench.records.store import Store

IDENTITY = Identity(data="0" * 64, numerics={"DEQ": 1}, code={}, environment={"torch": "2.13.0"})
PATIENCE_S = 300.0  # timeout of a wait that takes seconds on an idle machine


def run_suite(plan: Plan, results: Path, *, suite: str = "s", jobs: int = 2, engine: Any = None, **more: Any) -> list[Record]:
    """Run a plan on this machine and return its final records; `more`: callbacks, data and RunOptions."""
    callbacks, data = more.pop("callbacks", Callbacks()), more.pop("data", {})
    store, options = Store(results), RunOptions(**more)
    engine = engine or Local(jobs)
    return Coordinator(plan, suite=suite, store=store, engine=engine, data=data, options=options, callbacks=callbacks).run()
