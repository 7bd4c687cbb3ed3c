"""Run a suite from Python, as `python -m bench run` does from the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from bench.execution.coordinator import Coordinator, RunOptions, default_slots
from bench.execution.engines.engine import Engine
from bench.execution.engines.local import Local
from bench.execution.plan import Plan
from bench.execution.suite_loading import Entry, load_suite
from bench.records.record import Record
from bench.records.store import Store


def run(
    suite: str | Path | Sequence[Entry],
    results: str | Path = "results",
    *,
    only: str | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    data: Mapping[str, Path] | None = None,
    engine: Engine | None = None,
    options: RunOptions | None = None,
) -> list[Record]:
    """Execute the runs that a suite lacks in a results folder; return the records of its final runs.

    `suite` is a name, a Python file with SPECS, or the SPECS themselves, whose records go to `runs/own`. `only` is a glob over
    label, group or group/label; `data` maps names of corpora to paths. Runs execute in processes of their own (`engine`), so a
    script calls this under `if __name__ == "__main__":`.
    """
    name, entries = load_suite(str(suite), data or {}) if isinstance(suite, str | Path) else ("own", suite)
    plan = Plan(entries, data=data, only=only, device=device)
    engine = engine or Local(default_slots(plan.specs(), None))
    return Coordinator(plan, suite=name, store=Store(Path(results)), engine=engine, data=data, options=options).run()
