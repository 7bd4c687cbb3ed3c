"""A run of two processes: the learning curve of one process, half of the memory each, and what happens when a rank dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from cases import exhaustive
from engine_jobs import (
    DEQ,
    ENDLESS,
    MakeJob,
    assert_lost,
    failing,
    finish,
    is_dead,
    record_of,
    spec,
    wait_for_end,
    wait_for_step,
    wait_until,
)

from bench.execution.attempts import write_waiting
from bench.execution.engines.engine import Lost, Refused
from bench.execution.engines.inline import Inline
from bench.execution.engines.local import Local
from bench.execution.engines.torchrun import _exit_like, _wait, _with_first_cause, exit_when_orphaned
from bench.records.file_lock import acquire, release
from bench.records.record import Record
from bench.records.spec import Limits
from bench.training.checkpoint import Interrupt
from bench.training.run import run

pytestmark = pytest.mark.end_to_end


def ranks(folder: Path) -> list[psutil.Process]:
    """The processes of the run whose state is in the folder, in the order of their ranks."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "bench.execution.engines.worker" in words and str(folder / "job.json") in words and "torch.distributed.run" not in words:
            found.append(process)
    return sorted(found, key=lambda process: int(process.environ()["RANK"]))


def pid_of_run(local: Local) -> int:
    """The process that monitors the ranks."""
    (worker,) = local._workers.values()
    assert worker._process.pid is not None
    return worker._process.pid


def assert_equal_but_for_half_the_memory(two: Record, one: Record) -> None:
    """Two processes learn what one does, and each saves half as much for backward."""
    assert (two.status, one.status) == ("ok", "ok")
    for mine, other in zip(two.curve, one.curve, strict=True):
        assert mine.step == other.step
        assert mine.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert mine.valid == pytest.approx(other.valid, rel=1e-3, abs=1e-3)
    assert two.value("test_loss") == pytest.approx(one.value("test_loss"), rel=1e-4)
    for part in two.probes["ranks"]:
        assert part["saved_bytes"] == pytest.approx((one.value("saved_bytes") or 0) / 2, rel=0.05)
    assert two.value("saved_bytes") == two.probes["ranks"][0]["saved_bytes"]


@pytest.mark.exhaustive
def test_two_processes_of_a_deq_take_as_many_solver_steps_as_one(local: Local, job: MakeJob) -> None:
    two = spec("l", "deq", DEQ, processes=2, role="final", train={"steps": 20, "evaluate_every": 10, "batch": 8})
    record = record_of(finish(local, [job(two)])["l"])
    one = run(two.model_copy(update={"processes": 1}), suite="s")
    assert_equal_but_for_half_the_memory(record, one)
    for part in record.probes["ranks"]:
        assert part["train_forward_nfe_mean"] == pytest.approx(one.value("train_forward_nfe_mean"), rel=0.2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_resumes_after_the_death_of_a_rank_and_learns_what_one_process_does(
    local: Local, job: MakeJob, tmp_path: Path, rank: int
) -> None:
    train = {"steps": 6, "evaluate_every": 2, "batch": 8}
    one = job(failing("l", "sleep", tmp_path, processes=2, role="final", train=train), checkpoint_s=0.0)
    local.submit(one)
    wait_until(lambda: len(list(tmp_path.glob("*.asleep"))) == 2, local)
    ranks(one.folder)[rank].kill()
    (tmp_path / "go").touch()
    assert_lost(wait_for_end(local), "SIGKILL", None)
    record = record_of(finish(local, [one])["l"])
    assert [attempt["from_step"] for attempt in record.provenance["attempts"]] == [0, 1]
    assert_equal_but_for_half_the_memory(record, run(one.spec.model_copy(update={"processes": 1}), suite="s"))


def test_a_rank_ends_with_the_process_that_monitors_the_run(tmp_path: Path) -> None:
    """A monitoring process and its rank, which holds the lock that the next attempt waits for."""
    read, write = os.pipe()
    monitor = os.fork()
    if monitor == 0:
        if os.fork() == 0:
            acquire(tmp_path / "ranks", shared=True)
            exit_when_orphaned(None)
            os.write(write, str(os.getpid()).encode())
        signal.pause()
    rank = psutil.Process(int(os.read(read, 20)))
    assert acquire(tmp_path / "ranks", wait=False) is None
    os.kill(monitor, signal.SIGKILL)
    os.waitpid(monitor, 0)
    wait_until(lambda: is_dead(rank.pid))
    handle = acquire(tmp_path / "ranks", wait=False)
    assert handle is not None
    release(handle)


@pytest.mark.exhaustive
def test_no_rank_survives_the_monitoring_process(local: Local, job: MakeJob) -> None:
    one = job(spec("l", processes=2, train=ENDLESS))
    local.submit(one)
    wait_for_step(local)
    there = ranks(one.folder)
    assert len(there) == 2
    assert acquire(one.ranks, shared=False, wait=False) is None  # the next attempt waits until the ranks have ended
    os.kill(pid_of_run(local), signal.SIGKILL)
    assert_lost(wait_for_end(local), "SIGKILL", None)
    psutil.wait_procs(there, timeout=60)
    assert all(is_dead(process.pid) for process in there)
    handle = acquire(one.ranks, shared=False, wait=False)
    assert handle is not None
    release(handle)


@pytest.mark.parametrize(
    ("status", "reason"), [("interrupted", "stopped by the test"), *exhaustive(("timeout", "ran past its limit of 3600 s"))]
)
def test_a_request_saves_the_state_and_ends_every_rank(local: Local, job: MakeJob, status: str, reason: str) -> None:
    one = job(spec("l", processes=2, train=ENDLESS), limits=Limits(seconds=3600.0))
    local.submit(one)
    wait_for_step(local)
    there = ranks(one.folder)
    if status == "timeout":
        os.kill(pid_of_run(local), signal.SIGALRM)
    else:
        local.stop(reason)
    record = record_of(wait_for_end(local))
    assert (record.status, record.reason) == (status, reason)
    assert record.provenance["checkpoint_step"] > 0
    assert all(is_dead(process.pid) for process in there)


@pytest.mark.exhaustive
def test_a_crash_of_one_rank_is_a_crash_of_the_run(local: Local, job: MakeJob) -> None:
    assert_lost(finish(local, [job(failing("l", "segfault", processes=2))])["l"], "SIGSEGV", "crashed")


@pytest.mark.exhaustive
def test_one_rank_out_of_memory_is_the_run_out_of_memory(local: Local, job: MakeJob) -> None:
    record = record_of(finish(local, [job(failing("l", "allocate_in_rank_1", processes=2))])["l"])
    assert record.status == "oom"
    assert "can't allocate" in str(record.reason)


@pytest.mark.exhaustive
def test_a_run_ends_although_a_rank_leaves_a_thread_alive(local: Local, job: MakeJob) -> None:
    assert record_of(finish(local, [job(failing("l", "thread", processes=2, wait_s=600.0))])["l"]).status == "ok"


@pytest.mark.exhaustive
def test_a_run_that_is_stopped_before_it_begins_ends(local: Local, job: MakeJob) -> None:
    local.submit(job(spec("l", processes=2, train=ENDLESS)))
    local.stop("stopped by the test")
    end = wait_for_end(local)
    assert (end if isinstance(end, Lost) else record_of(end)).status == "interrupted"


@pytest.mark.exhaustive
def test_torchrun_executes_a_job_by_hand(job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(job(failing("l", "thread", processes=2, wait_s=600.0)).model_dump_json())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "bench.execution.engines.worker", str(tmp_path / "job.json")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert Record.model_validate_json(done.stdout).status == "ok"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_the_monitoring_process_exits_like_a_rank(number: int) -> None:
    child = os.fork()
    if child == 0:
        _exit_like(-number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
    with pytest.raises(SystemExit, match="3"):
        _exit_like(3)


def test_a_crash_has_the_status_of_the_rank_that_failed_first(job: MakeJob) -> None:
    one = job(spec("l", processes=2))
    one.folder.mkdir(parents=True)
    made = run(spec("l"), suite="s")
    broken = made.model_copy(update={"status": "crashed", "reason": "connection reset"})
    assert _with_first_cause(one, broken) == broken
    (one.folder / "record.1.json").write_text(made.model_copy(update={"status": "oom", "reason": "full"}).model_dump_json())
    found = _with_first_cause(one, broken)
    assert (found.status, found.reason) == ("oom", "full")


def test_the_clock_is_paused_while_the_first_rank_waits_for_the_machine(job: MakeJob) -> None:
    one, entered = job(spec("l", processes=2)), []
    one.folder.mkdir(parents=True)
    script = iter([True, True, False, True])

    class Torchrun:
        def poll(self) -> int | None:
            waiting = next(script, None)
            if waiting is not None:
                write_waiting(one, waiting)
            return 0 if waiting is None else None

    @contextmanager
    def paused() -> Iterator[None]:
        entered.append(True)
        yield
        entered.append(False)

    assert _wait(Torchrun(), one, Interrupt(), None, paused) is None  # type: ignore[arg-type]
    assert entered == [True, False] * 2


def test_engine_inline_refuses_several_processes(job: MakeJob) -> None:
    end = finish(Inline(), [job(spec("l", processes=2))])["l"]
    assert isinstance(end, Refused)
    assert "engine inline has one process" in end.reason
