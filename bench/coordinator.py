"""Running a suite: only what has no record yet, trials before finals, every record written the moment it is there.

Several coordinators may share a results folder: each run is brought about by the one that holds its lease, the others wait for its
record. Whatever a run does is a record; whatever is done to it (killed from outside, its node lost) is made good by taking it up
again where its checkpoint is.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.engines.engine import Died, Ended, Engine, Event, Refused, Stepped, Stopped
from bench.environment import usable_cores
from bench.errors import UserError
from bench.identity import Identity, project_digest
from bench.job import Job
from bench.plan import Plan
from bench.record import Record, RunStatus, order
from bench.remains import reached, record_of
from bench.sources import users
from bench.spec import Limits, Spec
from bench.store import Lease, Store

_WAIT_S = 0.5
_OTHERS_S = 1.0  # between looks at what other coordinators do


class Halted(Exception):
    """The suite was stopped on request. `saved` runs under way have saved their state; `lost`: those that could not, and how far
    back the same command takes each up, in words."""

    def __init__(self, why: str, saved: int, lost: Sequence[str]) -> None:
        super().__init__(why)
        self.saved, self.lost = saved, tuple(lost)


@dataclass(frozen=True, kw_only=True)
class Orders:
    """How a suite is run: what does not decide its numbers."""

    limits: Limits = field(default_factory=Limits)
    checkpoint_s: float = 30.0
    attempts: int = 3  # times that a run may be ended from outside without having got further
    retry: frozenset[RunStatus] = frozenset()  # records of these statuses are made anew
    keep_stale: bool = False  # records made by other code, data or environment count as done


@dataclass
class Watch:
    """Who is told what happens: a stage opens (its records by kind), a run begins, goes on, is taken up again, is recorded, all
    are asked to stop."""

    stage: Callable[[str, "Stage"], None] = lambda *_: None
    begun: Callable[[Job], None] = lambda *_: None
    stepped: Callable[[Stepped], None] = lambda *_: None
    again: Callable[[Job, str], None] = lambda *_: None
    recorded: Callable[[Record, int, int], None] = lambda *_: None
    halting: Callable[[str], None] = lambda *_: None
    elsewhere: Callable[[int], None] = lambda *_: None


@dataclass(frozen=True)
class Stage:
    """What a stage (trials, finals) finds when it opens: how many runs are wanted, recorded, stale (and why), to do."""

    wanted: int
    recorded: int
    stale: int
    reasons: tuple[str, ...]
    missing: int


def slots(specs: Sequence[Spec], jobs: int | None) -> int:
    """How many runs go side by side: as asked, else one for each of the machine's cores that a run's threads fill; one on a GPU."""
    if jobs is not None:
        return jobs
    if any(spec.device != "cpu" for spec in specs):
        return 1
    return max(1, (usable_cores() or 1) // max(spec.threads * spec.processes for spec in specs)) if specs else 1


class Coordinator:
    """Brings a plan's runs into being with an engine and a store."""

    def __init__(
        self,
        plan: Plan,
        *,
        suite: str,
        store: Store,
        engine: Engine,
        data: Mapping[str, Path] | None = None,
        orders: Orders | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.plan, self.suite, self.store, self.engine = plan, suite, store, engine
        self._data = {name: path.resolve() for name, path in (data or {}).items()}
        self._orders, self._watch = orders or Orders(), watch or Watch()
        self._known: dict[str, Record] = {}  # by key
        self._environments: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._halt: str | None = None

    def halt(self, why: str) -> None:
        """Let what runs save its state and end, and `run` raise Halted; may be called from a signal handler."""
        self._halt = why

    @property
    def halted(self) -> str | None:
        """Why it is to stop; None while it is not."""
        return self._halt

    def run(self) -> list[Record]:
        """Bring every run of the plan into being and return the records of its final runs; the engine is closed after."""
        specs: list[Spec] = []
        try:
            self.store.check(self.suite)
            for name in ("trials", "finals"):
                specs = self.plan.trials() if name == "trials" else self.plan.finals(self._known)
                self._stage(name, specs)
        finally:
            self.engine.close()
            self.store.tidy(self.suite)
        return [self._known[spec.key] for spec in specs]

    def identity(self, spec: Spec) -> Identity:
        """What the spec's numbers would come from, on the engine's machines."""
        place = (spec.device, spec.threads)
        if place not in self._environments:
            self._environments[place] = self.engine.environment(*place)
        return self.plan.identity(spec, self._environments[place])

    def _stage(self, name: str, specs: Sequence[Spec]) -> None:
        missing, stale = [], 0
        reasons: set[str] = set()
        by_key = self.store.by_key(self.suite)
        for spec in specs:
            identity = self.identity(spec)
            have = by_key.get(spec.key, [])
            if self._take(spec, identity.run_id(spec.key), have):
                continue
            others = self.store.read_sound(self.suite, [one for one in have if one != identity.run_id(spec.key)])
            if others and self._orders.keep_stale:
                self._known[spec.key] = max(others, key=order)
                continue
            stale += bool(others)
            reasons.update(reason for record in others for reason in record.identity.differs(identity))
            missing.append((spec, identity))
        recorded = len(specs) - len(missing)
        self._watch.stage(name, Stage(len(specs), recorded, stale, tuple(sorted(reasons)), len(missing)))
        _Stage(self, missing).run()

    def _take(self, spec: Spec, run_id: str, have: Sequence[str]) -> bool:
        """Whether the run is recorded, and not to be made anew."""
        if run_id not in have:
            return False
        record = self.store.read(self.suite, run_id)
        if record.status in self._orders.retry:
            return False
        self._known[spec.key] = record
        return True

    def job(self, spec: Spec, identity: Identity, beside: int) -> Job:
        """The job that brings a spec about."""
        run_id = identity.run_id(spec.key)
        own, given = spec.limits or Limits(), self._orders.limits
        return Job(
            run_id=run_id,
            suite=self.suite,
            spec=spec,
            identity=identity,
            code=users(identity.code),
            project=project_digest(),
            folder=self.store.work(self.suite, run_id).resolve(),
            data=self._data,
            beside=beside,
            limits=Limits(seconds=own.seconds or given.seconds, memory_bytes=own.memory_bytes or given.memory_bytes),
            checkpoint_s=self._orders.checkpoint_s,
        )

    def remains(self, event: Died | Stopped, status: RunStatus) -> Record:
        """The Record of a run that could not write its own."""
        spec = event.job.spec
        return record_of(event, status, self.plan.task(spec.task), self._environments[spec.device, spec.threads])


class _Stage:
    """The missing runs of a stage on their way to records."""

    def __init__(self, coordinator: Coordinator, missing: Sequence[tuple[Spec, Identity]]) -> None:
        self._all, self._missing = coordinator, len(missing)
        self._waiting = deque(missing)
        self._elsewhere: list[tuple[Spec, Identity]] = []  # whose lease another coordinator holds
        self._leases: dict[str, Lease] = {}
        self._failures: dict[str, tuple[int, int]] = {}  # how often in a row, at which step
        self._looked = 0.0
        self._done = 0
        self._left = False  # a run was stopped on the way
        self._saved, self._lost = 0, list[str]()  # what became of the state of such runs

    def run(self) -> None:
        engine, halted = self._all.engine, False
        try:
            while self._waiting or self._leases or self._elsewhere or self._left:
                if self._all.halted is not None and not halted:
                    halted = True
                    engine.stop(self._all.halted)  # first: nobody may be left to read what is printed
                    self._all._watch.halting(self._all.halted)
                while not halted and self._waiting and len(self._leases) < engine.slots:
                    self._begin(*self._waiting.popleft())
                if halted and not self._leases:
                    raise Halted(str(self._all.halted), self._saved, self._lost)
                for event in engine.wait(_WAIT_S):
                    self._handle(event, halted)
                if not halted:
                    self._look_elsewhere()
        except BaseException:
            engine.close()  # before the leases go
            raise
        finally:
            for lease in self._leases.values():
                lease.close()

    def _begin(self, spec: Spec, identity: Identity) -> None:
        store, suite, run_id = self._all.store, self._all.suite, identity.run_id(spec.key)
        lease = store.lease(suite, run_id)
        if lease is None:
            self._elsewhere.append((spec, identity))
            self._all._watch.elsewhere(len(self._elsewhere))
            return
        self._leases[run_id] = lease
        if store.exists(suite, run_id) and self._all._take(spec, run_id, [run_id]):  # made by another since we looked
            self._settle(self._all._known[spec.key])
            return
        job = self._all.job(spec, identity, min(self._all.engine.beside, self._missing))
        self._all.engine.submit(job)
        self._all._watch.begun(job)

    def _handle(self, event: Event, halted: bool) -> None:
        watch = self._all._watch
        if isinstance(event, Stepped):
            watch.stepped(event)
        elif isinstance(event, Ended):
            self._ended(event, halted)
        elif isinstance(event, Refused):
            raise UserError(event.why)
        elif halted:
            self._release(event.job, saved=False)
        elif isinstance(event, Died) and (event.fault is not None or not self._again(event)):
            self._record(self._all.remains(event, event.fault or "crashed"))
        elif isinstance(event, Stopped):
            self._record(self._all.remains(event, "interrupted"))

    def _ended(self, event: Ended, halted: bool) -> None:
        """Record it; but a run that was interrupted because all is being stopped is not over, its state waits for the next time."""
        if event.record.status == "interrupted" and (halted or self._halting()):
            self._release(event.job, saved="not written" not in str(event.record.provenance.get("checkpoint")))
        else:
            self._record(event.record)

    def _halting(self) -> bool:
        """Whether we are told to stop, too: a signal to all processes of a machine may reach a run first."""
        time.sleep(_WAIT_S)
        return self._all.halted is not None

    def _again(self, event: Died) -> bool:
        """Take up a run that somebody else ended, unless it has been ended so too often without getting further."""
        run_id, step = event.job.run_id, reached(event.job)
        times, before = self._failures.get(run_id, (0, -1))
        times = times + 1 if step <= before else 1
        self._failures[run_id] = (times, max(step, before))
        if times >= self._all._orders.attempts:
            return False
        self._all._watch.again(event.job, event.why)
        self._all.engine.submit(event.job)
        return True

    def _record(self, record: Record) -> None:
        store = self._all.store
        store.write(record)
        record = store.read(record.suite, record.run_id)  # with its place in the order
        self._all._known[record.spec.key] = record
        if record.status == "ok":
            store.forget(record.suite, record.run_id)
        self._settle(record)

    def _settle(self, record: Record) -> None:
        self._leases.pop(record.run_id).close()
        self._done += 1
        self._all._watch.recorded(record, self._done, self._missing)

    def _release(self, job: Job, saved: bool) -> None:
        """Leave a run that was stopped to the next time."""
        self._left = True
        if saved:
            self._saved += 1
        elif job.progress.is_file():  # else it had not begun
            step = reached(job)
            self._lost.append(f"{job.spec.group} · {job.spec.label}: " + (f"from step {step}" if step else "from the start"))
        self._leases.pop(job.run_id).close()

    def _look_elsewhere(self) -> None:
        """Take over what another coordinator has recorded, or has left."""
        if not self._elsewhere or time.monotonic() - self._looked < _OTHERS_S:
            return
        self._looked = time.monotonic()
        there, self._elsewhere = self._elsewhere, []
        self._waiting.extendleft(reversed(there))
