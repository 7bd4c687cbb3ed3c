"""The engines keep one contract: runs execute apart, nothing that one does harms another, and each ends in exactly one event."""

import multiprocessing.forkserver
import multiprocessing.util
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from cases import exhaustive
from running import PATIENCE_S, cluster

from bench.execution.attempts import read_progress
from bench.execution.engines.engine import Engine, Event, Finished, Lost, Progress, Refused, Stopped
from bench.execution.engines.inline import Inline
from bench.execution.engines.local import Local
from bench.execution.engines.ray import Ray
from bench.execution.job import Job
from bench.instruments.environment import environment
from bench.instruments.machine_lock import MachineLock
from bench.records.record import Record
from bench.records.spec import ComponentConfig, Limits, RunSpec, Settings, TrainConfig
from bench.training.checkpoint import Checkpoint
from bench.training.registry import build_task
from bench.training.run import run
from bench.training.run_identity import identify

Make = Callable[..., Job]
pytestmark = pytest.mark.end_to_end


@pytest.fixture(autouse=True, scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Locks apart from those of other benchmarks on this machine, for as long as the fork server lives."""
    multiprocessing.util.get_temp_dir()  # its socket stays where paths are short
    folder = tmp_path_factory.getbasetemp() / "locks"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"):
            patch.setenv(name, os.environ.get(name, "65536"))
        yield


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


def misfit(label: str, how: str, folder: Path | str = "", wait_s: float = PATIENCE_S, **changes: Any) -> RunSpec:
    settings: Settings = {"width": 4, "how": how, "at": 2, "folder": str(folder), "wait_s": wait_s}
    return spec(label, "user_models:Misfit", settings, **changes)


@pytest.fixture
def job(tmp_path: Path) -> Make:
    """A spec's job, its state below the test's folder."""

    return partial(job_in, tmp_path)


def job_in(folder: Path, spec: RunSpec, **changes: Any) -> Job:
    """A spec's job, its state below a folder."""
    identity = identify(spec, build_task(spec.task, {}), environment("cpu", 1))
    run_id = identity.run_id(spec.key)
    return Job(run_id=run_id, suite="s", spec=spec, identity=identity, folder=folder / "work" / run_id, **changes)


@pytest.fixture(scope="module")
def address(alone: None) -> Iterator[str]:
    """A Ray cluster's: two machines, each with room for a run, and one that only knows of them."""
    with cluster(machines=2) as found:
        yield found.address


@pytest.fixture(params=["inline", "local", *exhaustive("ray")])  # test_ray has a cluster
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Every engine."""
    make: dict[str, Callable[[], Engine]] = {
        "inline": Inline,
        "local": lambda: Local(2),
        "ray": lambda: Ray(request.getfixturevalue("address"), cores=1),
    }
    made = make[request.param]()
    yield made
    made.close()


@pytest.fixture
def local() -> Iterator[Local]:
    """Two processes at a time."""
    made = Local(2)
    yield made
    made.close()


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


def gone(pid: int) -> bool:
    """Whether a process is dead (a zombie is: its parent, the fork server, has yet to look)."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def wait_for(folder: Path, pattern: str, engine: Engine | None = None) -> list[Path]:
    end = time.monotonic() + PATIENCE_S
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < end
        if engine is not None:
            engine.wait(0.02)
        time.sleep(0.02)
    return found


def numbers(record: Record) -> Any:
    """All of a record but its clocks and where it was made."""
    data = record.model_dump(mode="json")
    for point in data["curve"]:
        del point["seconds"]
    clocks = ("_s", "_ms_median", "_ms_p10", "_ms_p90", "tokens_per_s", "host_peak_bytes")
    data["measures"] = {name: one for name, one in data["measures"].items() if not name.endswith(clocks)}
    return {name: data[name] for name in ("run_id", "suite", "spec", "identity", "status", "reason", "curve", "measures", "probes")}


def end_children(folder: Path) -> None:
    """End what a run's model forked: each is there in the folder by its number."""
    for mark in folder.glob("*.child"):
        with suppress(ProcessLookupError):
            os.kill(int(mark.stem), signal.SIGKILL)


def test_a_record_is_that_of_the_same_run_in_this_process(engine: Engine, job: Make) -> None:
    one = spec("l", "deq", {"cell": "mlp", "width": 4, "steps": 5}, role="final")
    end = finish(engine, [job(one)])["l"]
    assert isinstance(end, Finished)
    assert numbers(end.record) == numbers(run(one, suite="s"))
    (attempt,) = end.record.provenance["attempts"]
    assert attempt["from_step"] == 0
    assert "lost_steps" not in attempt


def test_a_run_that_fails_is_a_record_and_the_others_go_on(engine: Engine, job: Make) -> None:
    failing = [misfit("raises", "raise"), misfit("nan", "nan"), misfit("allocates", "allocate"), misfit("strange", "strange")]
    ends = finish(engine, [job(one) for one in [*failing, spec("fine")]])
    found = {label: (end.record.status, end.record.reason) for label, end in ends.items() if isinstance(end, Finished)}
    assert found["fine"] == ("ok", None)
    assert found["raises"] == ("crashed", "RuntimeError: a user's mistake")
    assert found["nan"][0] == "diverged"
    assert found["allocates"][0] == "oom"
    assert "a byte that is no character" in str(found["strange"][1])


def test_a_job_that_cannot_be_is_refused(engine: Engine, job: Make) -> None:
    end = finish(engine, [job(spec("wrong", train={"carry": True}))])["wrong"]
    assert isinstance(end, Refused)
    assert "carry" in end.reason


def test_after_stop_every_job_ends_and_none_has_a_record_that_says_ok(engine: Engine, job: Make) -> None:
    engine.submit(job(spec("l", train={"steps": 5000})))
    engine.stop("stopped by the test")
    end = finish_one(engine)
    assert isinstance(end, Stopped) or (isinstance(end, Finished) and end.record.status == "interrupted")
    assert "stopped by the test" in str(end.reason if isinstance(end, Stopped) else end.record.reason)


def until_it_trains(engine: Engine, seconds: float = PATIENCE_S) -> None:
    """Wait for a run's first step; a run that ends before it fails the test."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        for event in engine.wait(1.0):
            assert isinstance(event, Progress), event
            return
    raise AssertionError("no step")


def finish_one(engine: Engine) -> Event:
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        for event in engine.wait(1.0):
            if not isinstance(event, Progress):
                return event
    raise AssertionError("no end")


class TestLocal:
    def test_a_process_that_dies_says_how_and_whose_doing_it_was(self, local: Local, job: Make) -> None:
        specs = [misfit("killed", "kill"), misfit("exits", "exit"), misfit("segfaults", "segfault"), spec("fine")]
        ends = finish(local, [job(one) for one in specs])
        assert isinstance(ends["fine"], Finished)
        for label, reason, fault in (
            ("killed", "killed by SIGKILL", None),
            ("exits", "status 3", "crashed"),
            ("segfaults", "killed by SIGSEGV (Fatal Python error: Segmentation fault)", "crashed"),
        ):
            end = ends[label]
            assert isinstance(end, Lost), label
            assert reason in end.reason
            assert end.fault == fault

    def test_two_jobs_overlap_in_processes_of_their_own(self, local: Local, tmp_path: Path, job: Make) -> None:
        ends = finish(local, [job(misfit(label, "meet", tmp_path), concurrent_runs=2) for label in "ab"])
        records = [end.record for end in ends.values() if isinstance(end, Finished)]
        assert [(record.status, record.reason) for record in records] == [("ok", None)] * 2
        pids = {int(path.stem) for path in tmp_path.glob("*.here")}
        assert len(pids) == 2
        assert os.getpid() not in pids
        assert all(gone(pid) for pid in pids)
        assert all(record.provenance["runs_side_by_side"] == 2 for record in records)
        assert all(record.value("train_s") is None for record in records)
        assert all("contended" in str(record.measures["train_s"].reason) for record in records)

    def test_closing_ends_the_runs_under_way_and_what_they_started(self, local: Local, tmp_path: Path, job: Make) -> None:
        local.submit(job(misfit("sleeper", "sleep", tmp_path)))
        (mark,) = wait_for(tmp_path, "*.asleep")
        child = psutil.Process(int(mark.stem))
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
        local.close()
        assert gone(child.pid)

    def test_progress_is_told(self, local: Local, job: Make) -> None:
        seen: list[Event] = []
        finish(local, [job(spec("l"))], seen)
        steps = [event for event in seen if isinstance(event, Progress)]
        assert steps
        assert steps[0].total == 3
        assert 1 <= steps[0].done <= 3

    def test_what_a_run_prints_goes_to_its_log(self, local: Local, job: Make, capfd: pytest.CaptureFixture[str]) -> None:
        one = job(misfit("l", "chatter"))
        finish(local, [one])
        assert "said by the run" in one.log.read_text()
        assert "said by the run" not in "".join(capfd.readouterr())

    def test_a_run_past_its_time_is_a_timeout_with_its_state_saved(self, local: Local, tmp_path: Path, job: Make) -> None:
        one = job(spec("long", train={"steps": 1_000_000}), limits=Limits(seconds=1.0))
        end = finish(local, [one])["long"]
        assert isinstance(end, Finished)
        assert (end.record.status, end.record.reason) == ("timeout", "ran past its limit of 1 s")
        assert end.record.value("host_peak_bytes") is not None
        step = end.record.provenance["checkpoint_step"]
        assert step > 0
        saved = Checkpoint(one.checkpoint, one.run_id)
        assert saved.load()
        assert saved.step == step

    def test_a_run_that_does_not_even_hear_its_time_is_killed(
        self, local: Local, job: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bench.execution.engines.process.GRACE_S", 1.0)
        end = finish(local, [job(misfit("deaf", "deaf"), limits=Limits(seconds=1.0))])["deaf"]
        assert isinstance(end, Lost)
        assert end.fault == "timeout"
        assert "limit of 1 s" in end.reason
        assert end.peak_bytes

    def test_a_run_past_its_memory_is_out_of_memory_and_says_what_it_had(self, local: Local, job: Make) -> None:
        one = job(misfit("greedy", "grow", wait_s=600.0), limits=Limits(memory_bytes=400 * 2**20))
        end = finish(local, [one])["greedy"]
        assert isinstance(end, Finished)
        assert end.record.status == "oom"
        assert 200 * 2**20 < (end.record.value("host_peak_bytes") or 0) < 500 * 2**20

    @pytest.mark.parametrize("how", ["thread", "finaliser", "fork"])
    def test_a_record_that_has_arrived_counts_whatever_keeps_its_process(
        self, local: Local, job: Make, tmp_path: Path, how: str
    ) -> None:
        end = finish(local, [job(misfit(how, how, tmp_path, wait_s=2 * PATIENCE_S))])[how]
        end_children(tmp_path)
        assert isinstance(end, Finished)
        assert end.record.status == "ok"

    @pytest.mark.parametrize(
        ("how", "reason", "fault"),
        [
            ("fork_kill", "killed by SIGKILL", None),
            ("c_fork_kill", "killed by SIGKILL", None),
            ("thread_exit", "status 3", "crashed"),
            ("keyboard", "KeyboardInterrupt", "crashed"),
            ("uncaught", "out of memory: killed by SIGABRT (terminate called after", "oom"),
        ],
    )
    def test_a_dead_run_is_an_event_whatever_it_left(
        self, local: Local, job: Make, tmp_path: Path, how: str, reason: str, fault: str | None
    ) -> None:
        end = finish(local, [job(misfit(how, how, tmp_path, wait_s=2 * PATIENCE_S))])[how]
        end_children(tmp_path)
        assert isinstance(end, Lost)
        assert reason in end.reason
        assert end.fault == fault

    def test_a_run_that_closes_its_connection_is_ended(self, local: Local, job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench.execution.engines.process.GRACE_S", 0.5)
        end = finish(local, [job(misfit("l", "close", wait_s=2 * PATIENCE_S))])["l"]
        assert isinstance(end, Lost)
        assert (end.fault, end.reason) == ("crashed", "closed its connection to the coordinator and did not end")

    def test_a_fork_server_that_dies_costs_no_run(self, local: Local, job: Make, tmp_path: Path) -> None:
        """Those under way go on and are recorded; the next gets a new server."""
        local.submit(job(misfit("sleeper", "sleep", tmp_path, wait_s=PATIENCE_S)))
        wait_for(tmp_path, "*.asleep", local)
        os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        local.submit(job(spec("next")))
        ends: dict[str, Event] = {}
        (tmp_path / "go").touch()
        limit = time.monotonic() + PATIENCE_S
        while len(ends) < 2:
            assert time.monotonic() < limit
            ends |= {event.job.spec.label: event for event in local.wait(0.5) if not isinstance(event, Progress)}
        sleeper, following = ends["sleeper"], ends["next"]
        assert isinstance(sleeper, Finished)
        assert sleeper.record.status == "ok"
        assert isinstance(following, Finished)

    @pytest.mark.parametrize("how", ["hoard", "chained"])
    def test_python_out_of_memory_is_out_of_memory(self, local: Local, job: Make, how: str) -> None:
        end = finish(local, [job(misfit("greedy", how), limits=Limits(memory_bytes=400 * 2**20))])["greedy"]
        assert isinstance(end, Finished)
        assert end.record.status == "oom"
        assert end.record.provenance["code"]

    def test_waiting_for_the_machine_is_no_time_of_the_run(self, local: Local, job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench.execution.engines.process._REPORT_WAIT_S", 0.0)
        monkeypatch.setattr("bench.execution.engines.process.GRACE_S", 0.0)
        limit = 10.0  # of which a busy machine may take some for the run itself
        one = job(spec("l"), limits=Limits(seconds=limit))
        events: list[Event] = []
        with MachineLock().exclusive():
            local.submit(one)
            while not any(isinstance(event, Progress) and event.waiting for event in events):
                events += local.wait(0.5)
                assert all(isinstance(event, Progress) for event in events), events  # else it ended, and never waits
            until = time.monotonic() + limit
            while time.monotonic() < until:
                events += local.wait(0.5)
            assert read_progress(one)["waiting"]
            assert all(isinstance(event, Progress) for event in events), events
        end = finish_one(local)
        assert isinstance(end, Finished)
        assert (end.record.status, end.record.reason) == ("ok", None)
        assert sum(isinstance(event, Progress) and event.waiting for event in events) == 1
        assert "another benchmark has the machine" in one.log.read_text()
        assert not read_progress(one)["waiting"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, *exhaustive(signal.SIGINT)], ids=lambda number: number.name)
    def test_a_run_that_is_asked_to_stop_saves_its_state(self, local: Local, job: Make, number: signal.Signals) -> None:
        one = job(spec("long", train={"steps": 1_000_000}))
        local.submit(one)
        until_it_trains(local)
        (worker,) = [child for child in psutil.Process().children(recursive=True) if os.getpgid(child.pid) == child.pid]
        worker.send_signal(number)
        end = finish_one(local)
        assert isinstance(end, Finished)
        assert (end.record.status, end.record.reason) == ("interrupted", f"stopped by {number.name}")
        assert end.record.provenance["checkpoint_step"] > 0

    def test_an_orphan_saves_its_state_and_goes(self, job: Make, tmp_path: Path) -> None:
        """Its coordinator dies: the pipe ends."""
        engine = Local(1)
        one = job(spec("long", train={"steps": 1_000_000}))
        engine.submit(one)
        until_it_trains(engine)
        (worker,) = engine._workers.values()
        pid = worker._process.pid
        assert pid
        worker.pipe.close()
        assert gone(pid)
        saved = Checkpoint(one.checkpoint, one.run_id)
        assert saved.load()
        assert saved.step > 0

    def test_a_run_goes_on_from_the_state_of_one_that_was_stopped(self, local: Local, job: Make) -> None:
        one = job(spec("l", "deq", {"cell": "mlp", "width": 4, "steps": 5}, train={"steps": 400, "evaluate_every": 100}))
        local.submit(one)
        until_it_trains(local)
        local.stop("stopped by the test")
        end = finish_one(local)
        assert isinstance(end, Finished)
        stopped_at = end.record.provenance["checkpoint_step"]
        assert 0 < stopped_at < 400
        again = finish(local, [one])["l"]
        assert isinstance(again, Finished)
        assert numbers(again.record)["curve"] == numbers(run(one.spec, suite="s"))["curve"]
        assert [attempt["from_step"] for attempt in again.record.provenance["attempts"]] == [0, stopped_at]

    def test_threads_are_those_of_the_spec(self, local: Local, job: Make) -> None:
        before = torch.get_num_threads()
        end = finish(local, [job(spec("l", threads=2))])["l"]
        assert isinstance(end, Finished)
        assert end.record.environment["threads"] == 2
        assert torch.get_num_threads() == before
