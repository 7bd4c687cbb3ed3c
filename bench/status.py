"""How far a suite is: done, running, failed, left, stale, and how long the rest may take. Reads the results alone, runs nothing."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from bench.attempts import progress_of
from bench.environment import environment
from bench.identity import changed_modules, first_of
from bench.job import Job
from bench.plan import Plan
from bench.record import Head
from bench.spec import Spec
from bench.store import Store


@dataclass(frozen=True, kw_only=True)
class Running:
    """A run that some process is bringing about now."""

    run_id: str
    step: int | None
    steps: int | None
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """Counts over a suite's wanted runs. `left` are neither recorded nor running, `saved` of them have a checkpoint to go on from,
    `stale` are those of them whose record has other numerics, data, user code or environment. `older` of the recorded runs were
    made by other code of the project, whose modules `modules` names: advice, since their numerics are those of today.
    `seconds` is what is left, None if unknown."""

    wanted: int
    ok: int
    failed: Mapping[str, int]
    running: Sequence[Running]
    left: int
    saved: int
    stale: int
    reasons: Sequence[str]
    older: int
    modules: Sequence[str]
    seconds: float | None

    def lines(self) -> Iterator[str]:
        """In words."""
        failed = sum(self.failed.values())
        yield f"{self.wanted} runs: {self.ok} ok, {failed} failed, {len(self.running)} running, {self.left} left"
        if failed:
            listed = ", ".join(f"{count} {name}" for name, count in sorted(self.failed.items()))
            yield f"failed: {listed} (`run --retry all` makes them anew, or --retry with some of these)"
        if self.saved:
            yield f"{self.saved} of those left have saved their state and go on from there"
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


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What a results folder holds of one suite."""

    suite: str
    recorded: int
    ok: int
    failed: Mapping[str, int]
    running: int
    saved: int


def overview(store: Store) -> list[Overview]:
    """Each suite of the folder."""
    found = []
    for suite in store.suites():
        heads = list(store.heads(suite))
        running = store.leased(suite)
        found.append(
            Overview(
                suite=suite,
                recorded=len(heads),
                ok=sum(head.status == "ok" for head in heads),
                failed=_failed(heads),
                running=len(running),
                saved=len(set(store.unfinished(suite)) - {head.run_id for head in heads} - set(running)),
            )
        )
    return found


def _failed(heads: Iterable[Head]) -> dict[str, int]:
    return dict(sorted(Counter(head.status for head in heads if head.status != "ok").items()))


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status(plan: Plan, *, suite: str, store: Store, slots: int) -> Status:
    """The state of a plan's runs in a results folder, were they to run on this machine, `slots` at a time."""
    trials = plan.trials()
    heads = {head.run_id: head for head in store.heads(suite)}
    by_key: dict[str, list[str]] = {}
    for run_id in heads:
        by_key.setdefault(run_id[:-13], []).append(run_id)

    @cache
    def here(device: str, threads: int) -> dict[str, object]:
        return environment(device, threads)

    def expected(spec: Spec) -> str:
        return plan.identity(spec, here(spec.device, spec.threads)).run_id(spec.key)

    known = {record.spec.key: record for record in store.read_sound(suite, [i for i in map(expected, trials) if i in heads])}
    ready = all(spec.key in known for spec in trials)
    finals = plan.finals(known) if ready else []
    specs = [*trials, *finals]
    unknown = plan.wanted() - len(finals) if not ready else 0  # finals whose rate no trial has chosen yet
    ids = {expected(spec): spec for spec in specs}
    done = [heads[run_id] for run_id in ids if run_id in heads]
    leased = [run_id for run_id in store.leased(suite) if run_id in ids and run_id not in heads]
    missing = [spec for run_id, spec in ids.items() if run_id not in heads]
    stale = [spec for spec in missing if spec.key in by_key]
    reasons = {
        reason
        for spec in stale
        for record in store.read_sound(suite, by_key[spec.key])
        for reason in record.identity.differs(plan.identity(spec, here(spec.device, spec.threads)))
    }
    recorded = store.read_sound(suite, [head.run_id for head in done])
    older = [modules for record in recorded if (modules := changed_modules(record.provenance.get("code", {})))]
    saved = set(store.unfinished(suite)) & set(ids) - set(heads)
    return Status(
        wanted=len(specs) + unknown,
        ok=sum(head.status == "ok" for head in done),
        failed=_failed(done),
        running=[_running(store, suite, run_id) for run_id in leased],
        left=len(missing) + unknown - len(leased),
        saved=len(saved - set(leased)),
        stale=len(stale),
        reasons=sorted(reasons),
        older=len(older),
        modules=sorted({module for modules in older for module in modules}),
        seconds=_left(done, ids, missing, unknown, slots),
    )


def _running(store: Store, suite: str, run_id: str) -> Running:
    found = progress_of(Job.model_construct(folder=store.work(suite, run_id)))
    return Running(run_id=run_id, step=found.get("step"), steps=found.get("steps"), loss=found.get("loss"))


def _left(done: Sequence[Head], ids: Mapping[str, Spec], missing: Sequence[Spec], unknown: int, slots: int) -> float | None:
    """Seconds for what is missing, from what its like has taken: the same row and role, else the same role, else any."""
    if not missing and not unknown:
        return 0.0
    taken: dict[tuple[str, ...], list[float]] = {}
    for head in done:
        for like in _alike(ids[head.run_id]):
            taken.setdefault(like, []).append(head.elapsed_s)
    if not taken:
        return None
    each = [next(statistics.mean(taken[like]) for like in _alike(spec) if like in taken) for spec in missing]
    other = taken.get(("final",)) or taken[()]
    return (sum(each) + unknown * statistics.mean(other)) / slots


def _alike(spec: Spec) -> tuple[tuple[str, ...], ...]:
    return (spec.group, spec.label, spec.role), (spec.role,), ()
