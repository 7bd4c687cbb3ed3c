"""The engines: runs are isolated from each other, and each ends in exactly one event."""

import multiprocessing.forkserver
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from cases import exhaustive
from engine_jobs import (
    DEQ,
    ENDLESS,
    MakeJob,
    assert_lost,
    cluster,
    failing,
    finish,
    is_dead,
    kill_children,
    numbers,
    record_of,
    spec,
    wait_for_end,
    wait_for_file,
    wait_for_step,
    wait_until,
)
from running import PATIENCE_S

from bench.execution.attempts import log_start, read_progress, write_progress
from bench.execution.engines.engine import Engine, Event, Finished, Lost, Progress, Refused
from bench.execution.engines.inline import Inline
from bench.execution.engines.local import Local
from bench.execution.engines.ray import Ray
from bench.instruments.machine_lock import MachineLock
from bench.records.errors import UserError
from bench.records.spec import Limits
from bench.training.checkpoint import Checkpoint
from bench.training.run import run


@pytest.fixture(scope="module")
def address(own_locks: None) -> Iterator[str]:
    """The address of a Ray cluster of two machines, each with room for a run."""
    with cluster(machines=2) as found:
        yield found.address


@pytest.fixture(params=["inline", "local", *exhaustive("ray")])
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


@pytest.mark.end_to_end
class TestEveryEngine:
    def test_a_record_has_the_numbers_of_the_same_run_in_this_process(self, engine: Engine, job: MakeJob) -> None:
        one = spec("l", "deq", DEQ, role="final")
        record = record_of(finish(engine, [job(one)])["l"])
        assert numbers(record) == numbers(run(one, suite="s"))
        (attempt,) = record.provenance["attempts"]
        assert attempt["from_step"] == 0
        assert "lost_steps" not in attempt

    def test_a_failed_run_has_a_record_and_the_others_go_on(self, engine: Engine, job: MakeJob) -> None:
        ends = finish(engine, [job(one) for one in (failing("a", "raise"), failing("b", "surrogate"), spec("fine"))])
        found = [(record_of(ends[label]).status, record_of(ends[label]).reason) for label in ("fine", "a", "b")]
        assert found[0] == ("ok", None)
        assert found[1][0] == "crashed"
        assert re.fullmatch(r"RuntimeError: a user's mistake \(user_models\.py:\d+\)", str(found[1][1]))
        assert "a byte that is no character" in str(found[2][1])

    def test_an_impossible_job_is_refused(self, engine: Engine, job: MakeJob) -> None:
        end = finish(engine, [job(spec("wrong", train={"carry": True}))])["wrong"]
        assert isinstance(end, Refused)
        assert "carry" in end.reason

    def test_after_stop_no_run_ends_ok(self, engine: Engine, job: MakeJob) -> None:
        engine.submit(job(spec("l", train={"steps": 5000})))
        engine.stop("stopped by the test")
        end = wait_for_end(engine)
        assert isinstance(end, Lost | Finished)
        found = end.record if isinstance(end, Finished) else end
        assert found.status == "interrupted"
        assert "stopped by the test" in str(found.reason)


@pytest.mark.end_to_end
class TestLocal:
    @pytest.mark.parametrize(
        ("how", "reason", "fault"),
        [
            ("kill", "killed by SIGKILL", None),
            ("exit", "status 3", "crashed"),
            ("segfault", "killed by SIGSEGV (Fatal Python error: Segmentation fault)", "crashed"),
            ("terminate", "out of memory: killed by SIGABRT (terminate called after", "oom"),
            ("fork_kill", "killed by SIGKILL", None),
            *exhaustive(
                ("c_fork_kill", "killed by SIGKILL", None),
                ("thread_exit", "status 3", "crashed"),
                ("keyboard", "KeyboardInterrupt", "crashed"),
            ),
        ],
    )
    def test_a_dead_process_is_lost_for_the_right_reason(
        self, local: Local, job: MakeJob, tmp_path: Path, how: str, reason: str, fault: str | None
    ) -> None:
        end = finish(local, [job(failing(how, how, tmp_path, wait_s=2 * PATIENCE_S))])[how]
        kill_children(tmp_path)
        assert_lost(end, reason, fault)

    def test_two_jobs_run_concurrently_in_processes_of_their_own(self, local: Local, tmp_path: Path, job: MakeJob) -> None:
        ends = finish(local, [job(failing(label, "meet", tmp_path), concurrent_runs=2) for label in "ab"])
        pids = {int(path.stem) for path in tmp_path.glob("*.here")}
        assert len(pids - {os.getpid()}) == 2
        wait_until(lambda: all(is_dead(pid) for pid in pids))
        for record in map(record_of, ends.values()):
            assert (record.status, record.reason) == ("ok", None)
            assert record.provenance["runs_side_by_side"] == 2
            assert record.value("train_s") is None
            assert "contended" in str(record.measures["train_s"].reason)

    def test_close_kills_the_runs_and_their_children(self, local: Local, tmp_path: Path, job: MakeJob) -> None:
        local.submit(job(failing("sleeper", "sleep", tmp_path)))
        pid = int(wait_for_file(tmp_path, "*.asleep").stem)
        assert os.getpgid(pid) == pid != os.getpgid(0)
        local.close()
        wait_until(lambda: is_dead(pid))

    def test_a_run_has_its_threads_its_log_and_progress(
        self, local: Local, job: MakeJob, capfd: pytest.CaptureFixture[str]
    ) -> None:
        seen: list[Event] = []
        before, one = torch.get_num_threads(), job(failing("l", "print", threads=2))
        record = record_of(finish(local, [one], seen)["l"])
        first = next(event for event in seen if isinstance(event, Progress))
        assert first.total == 3
        assert 1 <= first.done <= 3
        assert "printed by the run" in one.log.read_text()
        assert "printed by the run" not in "".join(capfd.readouterr())
        assert record.environment["threads"] == 2
        assert torch.get_num_threads() == before

    @pytest.mark.parametrize("how", ["thread", *exhaustive("finaliser", "fork")])
    def test_a_run_with_a_record_ends_whatever_keeps_its_process_alive(
        self, local: Local, job: MakeJob, tmp_path: Path, how: str
    ) -> None:
        end = finish(local, [job(failing(how, how, tmp_path, wait_s=2 * PATIENCE_S))])[how]
        kill_children(tmp_path)
        assert record_of(end).status == "ok"

    def test_a_run_that_closes_its_connection_is_killed(self, local: Local, job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench.execution.engines.process.GRACE_S", 0.5)
        end = finish(local, [job(failing("l", "close", wait_s=2 * PATIENCE_S))])["l"]
        assert_lost(end, "closed its connection to the coordinator and did not end", "crashed")

    def test_runs_survive_the_death_of_the_fork_server(self, local: Local, job: MakeJob, tmp_path: Path) -> None:
        local.submit(job(failing("sleeper", "sleep", tmp_path)))
        wait_for_file(tmp_path, "*.asleep", local)
        os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        local.submit(job(spec("next")))
        (tmp_path / "go").touch()
        ends: dict[str, Event] = {}
        while len(ends) < 2:
            event = wait_for_end(local)
            ends[event.job.spec.label] = event
        assert record_of(ends["sleeper"]).status == "ok"
        assert record_of(ends["next"]).status == "ok"

    def test_no_run_is_to_blame_where_no_process_can_be_started(self, job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
        """Such as in a folder that was removed: the suite ends, and no record says that its runs crashed."""
        engine = Local(1)

        def fails(*arguments: object) -> None:
            raise FileNotFoundError("no folder")

        with monkeypatch.context() as patch:
            patch.setattr("bench.execution.engines.local.Worker", fails)
            for _ in range(2):
                engine.submit(job(spec("l")))
                assert_lost(wait_for_end(engine), "its process could not be started", None)
            with pytest.raises(UserError, match=r"no process can be started here .*no folder"):
                engine.submit(job(spec("l")))

    def test_a_wait_for_the_machine_is_reported_once(self, local: Local, job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench.execution.engines.process._REPORT_WAIT_S", 0.0)
        one, events = job(spec("l")), list[Event]()

        def reported() -> bool:
            events.extend(local.wait(0.1))
            return any(isinstance(event, Progress) and event.waiting for event in events)

        with MachineLock().exclusive():
            local.submit(one)
            wait_until(reported)
            assert read_progress(one)["waiting"]
        assert record_of(wait_for_end(local)).status == "ok"
        assert sum(isinstance(event, Progress) and event.waiting for event in events) == 1
        assert "another benchmark has the machine" in one.log.read_text()
        assert not read_progress(one)["waiting"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, *exhaustive(signal.SIGINT)], ids=lambda number: number.name)
    def test_a_signal_to_a_run_saves_its_state(self, local: Local, job: MakeJob, number: signal.Signals) -> None:
        local.submit(job(spec("long", train=ENDLESS)))
        wait_for_step(local)
        (worker,) = [child for child in psutil.Process().children(recursive=True) if os.getpgid(child.pid) == child.pid]
        worker.send_signal(number)
        record = record_of(wait_for_end(local))
        assert (record.status, record.reason) == ("interrupted", f"stopped by {number.name}")
        assert record.provenance["checkpoint_step"] > 0

    def test_a_run_whose_coordinator_dies_saves_its_state(self, job: MakeJob) -> None:
        engine, one = Local(1), job(spec("long", train=ENDLESS))
        engine.submit(one)
        wait_for_step(engine)
        (worker,) = engine._workers.values()
        pid = worker._process.pid
        assert pid
        worker.pipe.close()
        wait_until(lambda: is_dead(pid))
        saved = Checkpoint(one.checkpoint, one.run_id)
        assert saved.load()
        assert saved.step > 0

    def test_a_stopped_run_resumes_with_the_same_numbers(self, local: Local, job: MakeJob, tmp_path: Path) -> None:
        one = job(failing("l", "sleep", tmp_path, train={"steps": 6, "evaluate_every": 2}))
        local.submit(one)
        wait_for_file(tmp_path, "*.asleep", local)
        local.stop("stopped by the test")
        (tmp_path / "go").touch()
        stopped_at = record_of(wait_for_end(local)).provenance["checkpoint_step"]
        assert 0 < stopped_at < 6
        record = record_of(finish(local, [one])["l"])
        assert numbers(record)["curve"] == numbers(run(one.spec, suite="s"))["curve"]
        assert [attempt["from_step"] for attempt in record.provenance["attempts"]] == [0, stopped_at]


@pytest.mark.end_to_end
class TestLimits:
    def test_a_run_past_its_time_limit_is_a_timeout_with_a_checkpoint(self, local: Local, job: MakeJob) -> None:
        one = job(spec("long", train=ENDLESS), limits=Limits(seconds=1.0))
        record = record_of(finish(local, [one])["long"])
        assert (record.status, record.reason) == ("timeout", "ran past its limit of 1 s")
        assert record.value("host_peak_bytes") is not None
        saved = Checkpoint(one.checkpoint, one.run_id)
        assert saved.load()
        assert saved.step == record.provenance["checkpoint_step"] > 0

    def test_a_run_that_blocks_its_signals_is_killed_at_its_time_limit(
        self, local: Local, job: MakeJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bench.execution.engines.process.GRACE_S", 0.5)
        end = finish(local, [job(failing("l", "block_signals"), limits=Limits(seconds=1.0))])["l"]
        assert assert_lost(end, "limit of 1 s", "timeout").peak_bytes

    @pytest.mark.parametrize("how", ["fill_torch_memory", *exhaustive("fill_python_memory", "chained")])
    def test_a_run_past_its_memory_limit_is_out_of_memory(self, local: Local, job: MakeJob, how: str) -> None:
        record = record_of(finish(local, [job(failing("l", how), limits=Limits(memory_bytes=400 * 2**20))])["l"])
        assert record.status == "oom"
        assert str(record.reason).endswith("(its limit: 0.391 GiB)")
        assert record.provenance["code"]
        if how == "fill_torch_memory":
            assert 200 * 2**20 < (record.value("host_peak_bytes") or 0) < 500 * 2**20


def test_a_start_logs_the_steps_that_the_last_attempt_lost(job: MakeJob) -> None:
    one = job(spec("l"))
    one.folder.mkdir(parents=True, exist_ok=True)
    log_start(one, 0, None)
    write_progress(one, 7, 9, 1.0)
    attempts = log_start(one, 4, None)
    assert [attempt.get("lost_steps") for attempt in attempts] == [None, 3]
