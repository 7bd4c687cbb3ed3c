"""Count the runs of a suite that are done, running, failed, left and stale, and estimate the time left."""

import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench.execution.attempts import read_progress
from bench.execution.job import Job
from bench.execution.plan import Plan
from bench.instruments.environment import environment
from bench.records.identity import Identity, changed_modules, first_of
from bench.records.record import Head, Record
from bench.records.spec import RunSpec
from bench.records.store import Store


@dataclass(frozen=True, kw_only=True)
class RunningRun:
    """A run that some process executes now; `step`, `steps` and `loss` are None until it reports progress."""

    run_id: str
    step: int | None
    steps: int | None
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class SuiteStatus:
    """Counts of a suite's wanted runs.

    `left`: neither recorded nor running; of these `saved` have a checkpoint and `stale` have a record of other numerics, data,
    user code or environment. `older`: recorded runs, still valid, that another version of the project's `modules` made.
    `seconds`: the estimated time left, None if unknown.
    """

    wanted: int
    ok: int
    failed: Mapping[str, int]
    running: Sequence[RunningRun]
    left: int
    saved: int
    stale: int
    reasons: Sequence[str]
    older: int
    modules: Sequence[str]
    seconds: float | None

    def lines(self) -> Iterator[str]:
        """The report in lines of text."""
        failed = sum(self.failed.values())
        yield f"{self.wanted} runs: {self.ok} ok, {failed} failed, {len(self.running)} running, {self.left} left"
        if failed:
            listed = ", ".join(f"{count} {name}" for name, count in sorted(self.failed.items()))
            yield f"failed: {listed} (run them again: `run --retry all`, or --retry with some of these statuses)"
        if self.saved:
            yield f"{self.saved} of those left resume from a checkpoint"
        if self.stale:
            yield f"{self.stale} of those left have a stale record: {'; '.join(self.reasons[:4])}"
        if self.older:
            yield f"{self.older} were made by older code ({len(self.modules)} modules changed: {first_of(self.modules)})"
        for run in self.running:
            loss = f", loss {run.loss:.4g}" if run.loss is not None else ""
            yield f"  {run.run_id}" + (f": step {run.step} of {run.steps}{loss}" if run.step is not None else "")
        if self.left or self.running:
            yield "time left: " + (
                "unknown, nothing is recorded yet" if self.seconds is None else f"about {duration(self.seconds)}"
            )


def overview(store: Store) -> list[dict[str, Any]]:
    """Counts of what a results folder holds of each suite; `saved`: runs with a checkpoint only."""
    found = []
    for suite in store.suites():
        heads, running = list(store.heads(suite)), store.leased(suite)
        counts = {
            "recorded": len(heads),
            "ok": sum(head.status == "ok" for head in heads),
            "failed": _count_failed(heads),
            "running": len(running),
            "saved": len(set(store.unfinished(suite)) - {head.run_id for head in heads} - set(running)),
        }
        found.append({"suite": suite, **counts})
    return found


def _count_failed(heads: Iterable[Head]) -> dict[str, int]:
    return dict(sorted(Counter(head.status for head in heads if head.status != "ok").items()))


def duration(seconds: float) -> str:
    """Seconds in a readable unit: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status(plan: Plan, *, suite: str, store: Store, slots: int, published: Store | None = None) -> SuiteStatus:
    """Count a plan's runs by their state, and estimate the time left on this machine with `slots` runs at a time.

    Where none of them is recorded, the times are those of the `published` runs.
    """
    here = cache(environment)

    def identity(spec: RunSpec) -> Identity:
        return plan.identity(spec, here(spec.device, spec.threads))

    heads = {head.run_id: head for head in store.heads(suite)}
    records: dict[str, Record] = {}
    trials: dict[str, RunSpec] = {}
    while len(wanted := plan.trials(records)) > len(trials):
        trials = {identity(spec).run_id(spec.key): spec for spec in wanted}
        records = {record.spec.key: record for record in store.read_valid(suite, [run_id for run_id in trials if run_id in heads])}
    finals, untuned = plan.finals(records), plan.untuned(records)
    specs = trials | {identity(spec).run_id(spec.key): spec for spec in finals}
    done = [heads[run_id] for run_id in specs if run_id in heads]
    missing = {run_id: spec for run_id, spec in specs.items() if run_id not in heads}
    running = [run_id for run_id in store.leased(suite) if run_id in missing]
    old = {spec.key: [run_id for run_id in heads if run_id[:-13] == spec.key] for spec in missing.values()}
    stale = [spec for spec in missing.values() if old[spec.key]]
    reasons = {
        reason
        for spec in stale
        for record in store.read_valid(suite, old[spec.key])
        for reason in record.identity.differs(identity(spec))
    }
    recorded = store.read_valid(suite, [head.run_id for head in done])
    times = [(specs[head.run_id], head.elapsed_s) for head in done]
    if not times and published is not None and suite in published.suites():
        times = [(record.spec, record.elapsed_s) for record in published.stream(suite)]
    older = [modules for record in recorded if (modules := changed_modules(record.provenance.get("code", {})))]
    return SuiteStatus(
        wanted=len(specs) + len(untuned),
        ok=sum(head.status == "ok" for head in done),
        failed=_count_failed(done),
        running=[_running(store, suite, run_id) for run_id in running],
        left=len(missing) + len(untuned) - len(running),
        saved=len(set(store.unfinished(suite)) & set(missing) - set(running)),
        stale=len(stale),
        reasons=sorted(reasons),
        older=len(older),
        modules=sorted({module for modules in older for module in modules}),
        seconds=_seconds_left(times, [*missing.values(), *untuned], slots),
    )


def _running(store: Store, suite: str, run_id: str) -> RunningRun:
    found = read_progress(Job.model_construct(folder=store.work(suite, run_id)))
    return RunningRun(run_id=run_id, **{name: found.get(name) for name in ("step", "steps", "loss")})


def _seconds_left(done: Iterable[tuple[RunSpec, float]], missing: Collection[RunSpec], slots: int) -> float | None:
    """Estimate by the mean time a step of similar runs: of the same row and role, else of the row, of the role, of any."""
    if not missing:
        return 0.0
    taken: dict[tuple[str, ...], list[float]] = {}
    for spec, seconds in done:
        for kind in _kinds(spec):
            taken.setdefault(kind, []).append(seconds / spec.train.steps)
    if not taken:
        return None
    each = (spec.train.steps * next(statistics.mean(taken[kind]) for kind in _kinds(spec) if kind in taken) for spec in missing)
    return sum(each) / slots


def _kinds(spec: RunSpec) -> tuple[tuple[str, ...], ...]:
    return (spec.group, spec.label, spec.role), (spec.group, spec.label), (spec.role,), ()
