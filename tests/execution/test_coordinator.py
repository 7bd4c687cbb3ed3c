"""The coordinator executes each run once, reports stale records, and never damages a written record."""

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from running import PATIENCE_S, run_suite
from scripted import Counting, Scripted, spec

import bench.training.run_identity
from bench.analysis.aggregate import newest
from bench.execution.coordinator import Callbacks, Coordinator, RunOptions, StageSummary, SuiteStopped
from bench.execution.engines.engine import Event, Finished
from bench.execution.engines.inline import Inline
from bench.execution.plan import Plan
from bench.execution.status import status
from bench.execution.suite_loading import load_suite
from bench.records.errors import UserError
from bench.records.identity import Identity
from bench.records.record import Record, measured
from bench.records.spec import ComponentConfig, Limits, RunSpec, Settings
from bench.records.store import Store
from bench.training.run import run

ROOT = Path(__file__).resolve().parents[2]
ECHO = ComponentConfig(name="user_models:Echo")


class TestEachRunOnce:
    def test_a_second_call_runs_nothing_and_returns_the_same_records(self, tmp_path: Path) -> None:
        plan, first, second = Plan([spec(0), spec(1)]), Counting(), Counting()
        records = run_suite(plan, tmp_path, engine=first)
        assert (len(first.jobs), len(second.jobs)) == (2, 0)
        assert run_suite(plan, tmp_path, engine=second) == records
        assert second.jobs == []
        assert not (tmp_path / "work").exists()

    def test_two_coordinators_share_the_runs(self, tmp_path: Path) -> None:
        specs = [spec(seed) for seed in range(12)]
        engines, found = [Counting(), Counting()], [[], []]  # type: ignore[var-annotated]

        def one(number: int) -> None:
            found[number] = run_suite(Plan(specs), tmp_path, engine=engines[number])

        threads = [threading.Thread(target=one, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=PATIENCE_S)
        made = [job.run_id for engine in engines for job in engine.jobs]
        assert len(made) == len(set(made)) == 12
        assert found[0] == found[1]
        assert len(found[0]) == 12

    def test_a_run_held_by_another_coordinator_is_executed_once_its_lease_is_free(self, tmp_path: Path) -> None:
        plan, store, engine = Plan([spec(0), spec(1)]), Store(tmp_path), Counting()
        coordinator = Coordinator(plan, suite="s", store=store, engine=engine)
        held = coordinator.identity(spec(0)).run_id(spec(0).key)
        lease = store.lease("s", held)
        assert lease is not None
        counts, reported = list[int](), threading.Event()

        def elsewhere(runs: int) -> None:
            counts.append(runs)
            if engine.jobs:
                reported.set()

        thread = threading.Thread(
            target=lambda: run_suite(plan, tmp_path, engine=engine, callbacks=Callbacks(held_elsewhere=elsewhere)), daemon=True
        )
        thread.start()
        assert reported.wait(PATIENCE_S)
        assert [job.spec.seed for job in engine.jobs] == [1]
        assert thread.is_alive()
        assert set(counts) == {1}
        lease.close()
        thread.join(timeout=PATIENCE_S)
        assert [job.spec.seed for job in engine.jobs] == [1, 0]


def changed(monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    """Change the code, the data or the environment that the plan identifies runs by."""
    real = bench.training.run_identity.compute_identity

    def compute_identity(spec: RunSpec, task: Any, environment: Any) -> Identity:
        found = real(spec, task, environment)
        return found.model_copy(update={name: getattr(found, name) | new for name, new in parts.items()})

    monkeypatch.setattr("bench.execution.plan.compute_identity", compute_identity)


def test_a_trial_that_fails_again_is_retried_once_however_the_sweep_grows(tmp_path: Path) -> None:
    class Growing(Plan):
        """The first trial asks for a second, that for a third."""

        def trials(self, records: Mapping[str, Record] | None = None) -> list[RunSpec]:
            return [spec(seed) for seed in range(min(3, 1 + len(records or {})))]

    plan = Growing([spec(9)])
    run_suite(plan, tmp_path, engine=Scripted(*["oom"] * 4))
    again = Scripted(*["oom"] * 9)
    run_suite(plan, tmp_path, engine=again, retry=frozenset({"oom"}))
    assert [job.spec.seed for job in again.jobs] == [0, 1, 2, 9]


def test_limits_of_a_suite_come_before_those_of_the_call(tmp_path: Path) -> None:
    engine = Counting()
    one = spec().model_copy(update={"limits": Limits(seconds=5.0)})
    run_suite(Plan([one]), tmp_path, engine=engine, limits=Limits(seconds=9.0, memory_bytes=7 * 2**30))
    (job,) = engine.jobs
    assert job.limits == Limits(seconds=5.0, memory_bytes=7 * 2**30)


def test_no_more_runs_share_the_machine_than_are_missing(tmp_path: Path) -> None:
    for seeds, shared in ((1, 1), (4, 2)):  # 1 and 3 of them are missing
        engine = Counting()
        engine.concurrent_runs = 2
        run_suite(Plan([spec(seed) for seed in range(seeds)]), tmp_path, engine=engine)
        assert {job.concurrent_runs for job in engine.jobs} == {shared}


def test_the_time_left_is_shared_by_the_slots(tmp_path: Path) -> None:
    run_suite(Plan([spec(0)]), tmp_path, engine=Counting())
    plan, store = Plan([spec(seed) for seed in range(4)]), Store(tmp_path)
    (record,) = store.read_all("s")
    left = [status(plan, suite="s", store=store, slots=slots).seconds for slots in (1, 2)]
    assert left == pytest.approx([3 * record.elapsed_s, 1.5 * record.elapsed_s])


class TestStale:
    def test_records_of_other_code_are_reported_as_stale_and_run_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (old,) = run_suite(Plan([spec()]), tmp_path, engine=Inline())
        changed(monkeypatch, code={"deq.solve": "new"})
        stages: list[StageSummary] = []
        callbacks = Callbacks(stage=lambda _, stage: stages.append(stage))
        (new,) = run_suite(Plan([spec()]), tmp_path, engine=Inline(), callbacks=callbacks)
        assert (stages[1].stale, stages[1].missing, stages[1].reasons) == (1, 1, ["code of deq.solve"])
        assert new.run_id != old.run_id
        assert new.spec.key == old.spec.key
        assert Store(tmp_path).ids("s") == sorted([old.run_id, new.run_id])
        assert Store(tmp_path).read("s", old.run_id) == old

    def test_an_edit_that_is_undone_gives_the_tables_the_first_records_again(self, tmp_path: Path) -> None:
        """The newest record of a RunSpec is in the tables: it must be that of the code that is here."""
        (first,) = run_suite(Plan([spec()]), tmp_path, engine=Counting())
        with pytest.MonkeyPatch.context() as patch:
            changed(patch, code={"deq.solve": "new"})
            (second,) = run_suite(Plan([spec()]), tmp_path, engine=Counting())
            assert newest(Store(tmp_path).read_all("s"))[0].run_id == second.run_id
        engine = Counting()
        for _ in range(2):  # the second call writes nothing
            (found,) = run_suite(Plan([spec()]), tmp_path, engine=engine)
            (shown,) = newest(Store(tmp_path).read_all("s"))
            assert found.run_id == shown.run_id == first.run_id
            content = Store(tmp_path).path("s", first.run_id).read_bytes()
        assert engine.jobs == []
        assert Store(tmp_path).path("s", first.run_id).read_bytes() == content

    @pytest.mark.parametrize(("reason", "again"), [("contended: other work ran on the machine meanwhile", 1), ("no clock", 0)])
    def test_untimed_runs_are_repeated_on_request(self, tmp_path: Path, reason: str, again: int) -> None:
        (record,) = run_suite(Plan([spec()]), tmp_path, engine=Counting())
        step = measured(None, "ms", "median step", "training", reason)
        Store(tmp_path).write(record.model_copy(update={"measures": record.measures | {"step_ms_median": step}}))
        for retry, runs in ((frozenset(), 0), (frozenset({"untimed"}), again)):
            engine = Counting()
            run_suite(Plan([spec()]), tmp_path, engine=engine, retry=retry)
            assert len(engine.jobs) == runs

    def test_keep_stale_counts_them_as_done(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        records = run_suite(Plan([spec()]), tmp_path, engine=Inline())
        changed(monkeypatch, environment={"torch": "9.9"})
        engine = Counting()
        assert run_suite(Plan([spec()]), tmp_path, engine=engine, keep_stale=True) == records
        assert engine.jobs == []

    def test_of_stale_records_the_newest_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = []
        for version in ("9.8", "9.9"):
            changed(monkeypatch, environment={"torch": version})
            made += run_suite(Plan([spec()]), tmp_path, engine=Inline())
        changed(monkeypatch, environment={"torch": "10"})
        for newest_id in (made[1].run_id, made[0].run_id):
            (kept,) = run_suite(Plan([spec()]), tmp_path, engine=Inline(), keep_stale=True)
            assert kept.run_id == newest_id
            Store(tmp_path).write(made[0])  # now the newest

    def test_other_data_of_the_same_name_make_another_run(self, tmp_path: Path) -> None:
        settings: Settings = {"data": "a", "length": 4}
        text = spec().model_copy(update={"task": ComponentConfig(name="text", settings=settings)})
        for word, number in (("abcdefgh", 1), ("hgfedcba", 2), ("abcdefgh", 2)):
            (tmp_path / "a.txt").write_text(word * 200)
            data = {"a": tmp_path / "a.txt"}
            run_suite(Plan([text], data=data), tmp_path / "results", engine=Inline(), data=data)
            assert len(Store(tmp_path / "results").ids("s")) == number


class TestRetry:
    def test_a_failed_run_is_executed_again_only_with_retry(self, tmp_path: Path) -> None:
        plan = Plan([spec(0, "bad", "user_models:FailingModel", how="raise", at=2), spec(0, "good")])
        first = run_suite(plan, tmp_path, engine=Inline())
        assert [record.status for record in first] == ["crashed", "ok"]
        engine = Counting()
        run_suite(plan, tmp_path, engine=engine)
        run_suite(plan, tmp_path, engine=engine, retry=frozenset({"timeout"}))
        assert engine.jobs == []
        again = run_suite(plan, tmp_path, engine=engine, retry=frozenset({"crashed"}))
        assert [job.spec.label for job in engine.jobs] == ["bad"]
        assert [len(record.provenance["attempts"]) for record in again] == [2, 1]


class TestLostRuns:
    def test_a_killed_run_is_resumed(self, tmp_path: Path) -> None:
        engine, reasons = Scripted("killed", "killed", "ok"), list[str]()
        callbacks = Callbacks(resumed=lambda job, reason: reasons.append(reason))
        (record,) = run_suite(Plan([spec()]), tmp_path, engine=engine, callbacks=callbacks)
        assert record.status == "ok"
        assert reasons == ["killed by SIGKILL"] * 2

    def test_a_run_killed_too_often_at_the_same_step_is_crashed(self, tmp_path: Path) -> None:
        engine = Scripted(*["killed"] * 9)
        (record,) = run_suite(Plan([spec()]), tmp_path, engine=engine, attempts=3)
        assert (record.status, record.reason) == ("crashed", "killed by SIGKILL")
        assert len(engine.jobs) == 3

    def test_a_run_that_gets_further_may_be_killed_more_often(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = iter(range(1, 9))
        monkeypatch.setattr("bench.execution.coordinator.checkpointed_step", lambda _: next(steps))
        engine = Scripted(*["killed"] * 6, "ok")
        (record,) = run_suite(Plan([spec()]), tmp_path, engine=engine, attempts=3)
        assert record.status == "ok"
        assert len(engine.jobs) == 7

    @pytest.mark.parametrize("line", ["crashed", "oom", "stopped"])
    def test_a_run_that_fails_by_itself_is_recorded_at_once(self, tmp_path: Path, line: str) -> None:
        engine = Scripted(line)
        record, other = run_suite(Plan([spec(0), spec(1)]), tmp_path, engine=engine)
        assert record.status == ("interrupted" if line == "stopped" else line)
        assert record.run_id == record.identity.run_id(record.spec.key)
        assert record.metrics
        assert record.environment["torch"]
        assert record.value("process_peak_bytes") == (None if line == "stopped" else 123)
        assert other.status == "ok"

    def test_halt_keeps_the_records_and_frees_the_leases(self, tmp_path: Path) -> None:
        store, engine = Store(tmp_path), Counting()
        coordinator: Coordinator
        callbacks = Callbacks(recorded=lambda *_: coordinator.request_stop("stopped by the test"))
        coordinator = Coordinator(
            Plan([spec(seed) for seed in range(5)]), suite="s", store=store, engine=engine, callbacks=callbacks
        )
        with pytest.raises(SuiteStopped, match="stopped by the test"):
            coordinator.run()
        assert len(store.ids("s")) == 1
        assert store.leased("s") == []


def test_a_refused_run_is_a_user_error_and_frees_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan([spec()])

    def refuse(*_: Any, **__: Any) -> Record:
        raise UserError("cannot be")

    monkeypatch.setattr("bench.execution.engines.worker.run", refuse)
    with pytest.raises(UserError, match="cannot be"):
        run_suite(plan, tmp_path, engine=Inline())
    assert Store(tmp_path).leased("s") == []
    assert Store(tmp_path).ids("s") == []


def test_the_stored_record_is_the_engines(tmp_path: Path) -> None:
    seen: list[Record] = []

    class Listening(Inline):
        def wait(self, seconds: float) -> list[Event]:
            events = super().wait(seconds)
            seen.extend(event.record for event in events if isinstance(event, Finished))
            return events

    records = run_suite(Plan([spec()]), tmp_path, engine=Listening())
    order = records[0].provenance["order"]  # which the store adds
    assert records == [one.model_copy(update={"provenance": one.provenance | {"order": order}}) for one in seen]
    assert records[0].curve[-1].train_loss == run(spec(), suite="s").curve[-1].train_loss


def test_the_default_options_are_those_of_the_readme() -> None:
    assert (RunOptions().attempts, RunOptions().checkpoint_s) == (3, 30.0)


@pytest.mark.end_to_end
@pytest.mark.exhaustive
def test_the_lease_of_a_killed_coordinator_is_free(tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "execution")]!r}
from pathlib import Path
from bench.execution.engines.inline import Inline
from bench.execution.plan import Plan
from bench.execution.suite_loading import load_suite
from running import run_suite
from scripted import spec

class Fatal(Inline):
    def submit(self, job):
        os.kill(os.getpid(), 9)

run_suite(Plan([spec()]), Path({str(tmp_path)!r}), engine=Fatal())
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert list((tmp_path / "work" / "s").glob("*.lease"))
    (record,) = run_suite(Plan([spec()]), tmp_path, engine=Inline())
    assert record.status == "ok"
    assert not (tmp_path / "work").exists()


class Replaying(Inline):
    """Engine that returns one run's record for every job at once."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def wait(self, seconds: float) -> list[Event]:
        job, self._job = self._job, None
        assert job is not None
        begun = time.perf_counter()
        update = {"run_id": job.run_id, "suite": job.suite, "spec": job.spec, "identity": job.identity}
        record = self.record.model_copy(update=update)
        self.busy_s += time.perf_counter() - begun
        return [Finished(job, record)]


@pytest.mark.alone
@pytest.mark.end_to_end
@pytest.mark.exhaustive
def test_the_coordinator_takes_two_percent_of_the_time_of_the_smallest_suite(tmp_path: Path) -> None:
    _, entries = load_suite("tiny", {})
    plan = Plan(entries, only="copy*", seeds=[0])
    inline = Inline()
    records = run_suite(plan, tmp_path / "tiny", suite="tiny", engine=inline)
    each = inline.busy_s / (len(records) + len(plan.trials()))
    engine, number = Replaying(records[0]), 1000
    begun = time.perf_counter()
    assert len(run_suite(Plan([spec(seed) for seed in range(number)]), tmp_path / "many", engine=engine)) == number
    own = (time.perf_counter() - begun - engine.busy_s) / number
    assert own < 0.02 * each, (own, each)
