"""Execute the runs of a suite that have no record yet, trials first, and write each record as soon as it exists.

Several coordinators may share a results folder: the one that holds a run's lease executes it, the others wait for its record. A run
that fails by itself gets a record of the failure. A run that is killed from outside is resumed from its checkpoint.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from bench.execution.attempts import checkpointed_step, record_of_lost_run
from bench.execution.engines.engine import Engine, Event, Finished, Lost, Progress, Refused
from bench.execution.job import Job
from bench.execution.plan import Plan
from bench.instruments.environment import usable_cores
from bench.records.errors import UserError
from bench.records.identity import Identity, project_digest
from bench.records.record import Record, RunStatus, order
from bench.records.source_code import users
from bench.records.spec import Limits, RunSpec
from bench.records.store import Lease, Store

_WAIT_S = 0.5
_POLL_LEASES_S = 1.0  # between attempts to get a lease that another coordinator holds


class SuiteStopped(Exception):
    """The suite was stopped on request.

    `saved`: how many running runs saved their state; `lost`: those that did not, each with the step from which it will resume.
    """

    def __init__(self, reason: str, saved: int, lost: Sequence[str]) -> None:
        super().__init__(reason)
        self.saved, self.lost = saved, tuple(lost)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Settings of a suite's execution; none decides a number."""

    limits: Limits = field(default_factory=Limits)
    checkpoint_s: float = 30.0
    attempts: int = 3  # kills of a run without progress before it counts as crashed
    retry: frozenset[RunStatus | Literal["untimed"]] = frozenset()  # run again what ended so
    keep_stale: bool = False  # count records of other code, data or environment as done


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """Counts of a stage's runs (trials or finals) when it opens; `reasons`: why records are stale."""

    wanted: int
    missing: int
    stale: int
    reasons: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions that a coordinator calls; `held_elsewhere` gets how many runs other coordinators hold."""

    stage: Callable[[str, StageSummary], None] = lambda *_: None
    started: Callable[[Job], None] = lambda *_: None
    progress: Callable[[Progress], None] = lambda *_: None
    resumed: Callable[[Job, str], None] = lambda *_: None
    recorded: Callable[[Record, int, int], None] = lambda *_: None
    stopping: Callable[[str], None] = lambda *_: None
    held_elsewhere: Callable[[int], None] = lambda *_: None


def default_slots(specs: Sequence[RunSpec], jobs: int | None) -> int:
    """How many runs execute at a time: `jobs` if given, one on a GPU, else as many as the machine has cores for."""
    if jobs is not None:
        return jobs
    if any(spec.device != "cpu" for spec in specs):
        return 1
    return max(1, (usable_cores() or 1) // max(spec.threads * spec.processes for spec in specs)) if specs else 1


class Coordinator:
    """Execute a plan's missing runs with an engine and write their records to a store."""

    def __init__(
        self,
        plan: Plan,
        *,
        suite: str,
        store: Store,
        engine: Engine,
        data: Mapping[str, Path] | None = None,
        options: RunOptions | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.plan, self.suite, self.store, self.engine = plan, suite, store, engine
        self.options, self.callbacks = options or RunOptions(), callbacks or Callbacks()
        self.records: dict[str, Record] = {}  # by the spec's key
        self.stop_reason: str | None = None  # the reason why the suite is to stop
        self.environment = cache(engine.environment)
        self._data = {name: path.resolve() for name, path in (data or {}).items()}

    def request_stop(self, reason: str) -> None:
        """Ask for a stop: running runs save their state and `run` raises SuiteStopped. May be called from a signal handler."""
        self.stop_reason = reason

    def run(self) -> list[Record]:
        """Execute all missing runs and return the records of the final runs; closes the engine."""
        try:
            self.store.check(self.suite)
            trials = self.plan.trials()
            self._run_stage("trials", trials)
            while len(more := self.plan.trials(self.records)) > len(trials):
                trials = more
                self._run_stage("trials", trials)
            finals = self.plan.finals(self.records)
            self._run_stage("finals", finals)
        finally:
            self.engine.close()
            self.store.tidy(self.suite)
        return [self.records[spec.key] for spec in finals]

    def identity(self, spec: RunSpec) -> Identity:
        """The spec's Identity on the engine's machines."""
        return self.plan.identity(spec, self.environment(spec.device, spec.threads))

    def _run_stage(self, name: str, specs: Sequence[RunSpec]) -> None:
        missing, stale = [], 0
        reasons: set[str] = set()
        ids_by_key = self.store.by_key(self.suite)
        for spec in (one for one in specs if one.key not in self.records):  # what --retry repeats is repeated once
            identity = self.identity(spec)
            run_id, found = identity.run_id(spec.key), ids_by_key.get(spec.key, [])
            others = self.store.read_valid(self.suite, [one for one in found if one != run_id])
            if run_id in found and self.load(spec, run_id):
                self._make_newest(spec, others)
                continue
            if others and self.options.keep_stale:
                self.records[spec.key] = max(others, key=order)
                continue
            stale += bool(others)
            reasons.update(reason for record in others for reason in record.identity.differs(identity))
            missing.append((spec, identity))
        summary = StageSummary(wanted=len(specs), missing=len(missing), stale=stale, reasons=sorted(reasons))
        self.callbacks.stage(name, summary)
        _Stage(self, missing).run()

    def _make_newest(self, spec: RunSpec, others: Sequence[Record]) -> None:
        """Let tables show the record that this code and data made, after others of the RunSpec: an edit may have been undone."""
        record = self.records[spec.key]
        if any(order(one) > order(record) for one in others):
            self.store.write(record)

    def load(self, spec: RunSpec, run_id: str) -> bool:
        """Load a stored record; False where a run of its status is to be run again."""
        record = self.store.read(self.suite, run_id)
        if record.status in self.options.retry or (record.untimed and "untimed" in self.options.retry):
            return False
        self.records[spec.key] = record
        return True

    def job(self, spec: RunSpec, identity: Identity, concurrent_runs: int) -> Job:
        """The job that executes a spec."""
        run_id = identity.run_id(spec.key)
        own, default = spec.limits or Limits(), self.options.limits
        return Job(
            run_id=run_id,
            suite=self.suite,
            spec=spec,
            identity=identity,
            code=users(identity.code),
            project=project_digest(),
            folder=self.store.work(self.suite, run_id).resolve(),
            data=self._data,
            concurrent_runs=concurrent_runs,
            limits=Limits(seconds=own.seconds or default.seconds, memory_bytes=own.memory_bytes or default.memory_bytes),
            checkpoint_s=self.options.checkpoint_s,
        )


class _Stage:
    """Execute the missing runs of one stage, each under a lease, until all are recorded."""

    def __init__(self, coordinator: Coordinator, missing: Sequence[tuple[RunSpec, Identity]]) -> None:
        self._coordinator, self._callbacks = coordinator, coordinator.callbacks
        self._engine, self._store, self._suite = coordinator.engine, coordinator.store, coordinator.suite
        self._waiting, self._missing = deque(missing), len(missing)
        self._held_elsewhere: list[tuple[RunSpec, Identity]] = []  # another coordinator holds their leases
        self._leases: dict[str, Lease] = {}  # by run id
        self._failures: dict[str, tuple[int, int]] = {}  # by run id: consecutive kills, at which step
        self._polled = 0.0
        self._recorded = 0
        self._stopping = False
        self._unfinished = 0  # runs that were stopped
        self._saved, self._lost = 0, list[str]()  # of these: how many saved their state, and which did not

    def run(self) -> None:
        """Execute all runs; SuiteStopped once the coordinator is asked to stop and the running ones have ended."""
        try:
            while self._waiting or self._leases or self._held_elsewhere or self._unfinished:
                if self._coordinator.stop_reason is not None and not self._stopping:
                    self._stopping = True
                    self._engine.stop(self._coordinator.stop_reason)  # before any output: the terminal may be closed
                    self._callbacks.stopping(self._coordinator.stop_reason)
                while not self._stopping and self._waiting and len(self._leases) < self._engine.slots:
                    self._start(*self._waiting.popleft())
                if self._stopping and not self._leases:
                    raise SuiteStopped(str(self._coordinator.stop_reason), self._saved, self._lost)
                for event in self._engine.wait(_WAIT_S):
                    self._handle(event)
                if not self._stopping and self._held_elsewhere and time.monotonic() - self._polled >= _POLL_LEASES_S:
                    self._polled = time.monotonic()
                    self._waiting.extendleft(reversed(self._held_elsewhere))
                    self._held_elsewhere = []
        except BaseException:
            self._engine.close()  # before the leases are released
            raise
        finally:
            for lease in self._leases.values():
                lease.close()

    def _start(self, spec: RunSpec, identity: Identity) -> None:
        run_id = identity.run_id(spec.key)
        lease = self._store.lease(self._suite, run_id)
        if lease is None:
            self._held_elsewhere.append((spec, identity))
            self._callbacks.held_elsewhere(len(self._held_elsewhere))
            return
        self._leases[run_id] = lease
        if self._store.exists(self._suite, run_id) and self._coordinator.load(spec, run_id):  # recorded by another meanwhile
            self._finish(self._coordinator.records[spec.key])
            return
        job = self._coordinator.job(spec, identity, min(self._engine.concurrent_runs, self._missing))
        self._engine.submit(job)
        self._callbacks.started(job)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._callbacks.progress(event)
        elif isinstance(event, Finished):
            if event.record.status == "interrupted" and self._is_stopping():  # not over: the next call resumes it
                self._release(event.job, saved="not written" not in str(event.record.provenance.get("checkpoint")))
            else:
                self._record(event.record)
        elif isinstance(event, Refused):
            raise UserError(event.reason)
        elif self._stopping:
            self._release(event.job, saved=False)
        elif event.status is not None or not self._resume(event):
            self._record_lost(event)

    def _is_stopping(self) -> bool:
        """Whether the suite is asked to stop; waits a moment, as a signal to all processes may reach a run first."""
        if not self._stopping:
            time.sleep(_WAIT_S)
        return self._coordinator.stop_reason is not None

    def _resume(self, event: Lost) -> bool:
        """Submit a killed run again; False where it was killed too often without getting further."""
        run_id, step = event.job.run_id, checkpointed_step(event.job)
        times, before = self._failures.get(run_id, (0, -1))
        times = times + 1 if step <= before else 1
        self._failures[run_id] = (times, max(step, before))
        if times >= self._coordinator.options.attempts:
            return False
        self._callbacks.resumed(event.job, event.reason)
        self._engine.submit(event.job)
        return True

    def _record_lost(self, event: Lost) -> None:
        spec, coordinator = event.job.spec, self._coordinator
        environment = coordinator.environment(spec.device, spec.threads)
        self._record(record_of_lost_run(event, coordinator.plan.task(spec.task), environment))

    def _record(self, record: Record) -> None:
        self._store.write(record)
        record = self._store.read(record.suite, record.run_id)  # with its place in the order
        self._coordinator.records[record.spec.key] = record
        if record.status == "ok":
            self._store.forget(record.suite, record.run_id)
        self._finish(record)

    def _finish(self, record: Record) -> None:
        self._leases.pop(record.run_id).close()
        self._recorded += 1
        self._callbacks.recorded(record, self._recorded, self._missing)

    def _release(self, job: Job, saved: bool) -> None:
        """Leave a stopped run to the next call."""
        self._unfinished += 1
        if saved:
            self._saved += 1
        elif job.progress.is_file():  # else it had not begun
            step = checkpointed_step(job)
            self._lost.append(f"{job.spec.group} · {job.spec.label}: " + (f"from step {step}" if step else "from the start"))
        self._leases.pop(job.run_id).close()
