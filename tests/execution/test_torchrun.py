"""One run by two processes: the learning curve of one, to rounding; half of the memory each; what kills it is told apart."""

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
from test_engine import (
    Make,
    alone,
    finish,
    finish_one,
    job,
    job_in,
    local,
    misfit,
    numbers,
    spec,
    until_it_trains,
    wait_for,
)

from bench.execution.attempts import write_waiting
from bench.execution.engines.engine import Finished, Lost, Refused, Stopped
from bench.execution.engines.inline import Inline
from bench.execution.engines.local import Local
from bench.execution.engines.torchrun import _exit_like, _wait, _with_first_cause
from bench.records.file_lock import acquire
from bench.records.record import Record
from bench.records.spec import Limits, Settings
from bench.training.checkpoint import Interrupt
from bench.training.run import run

__all__ = ["alone", "job", "local"]  # fixtures
pytestmark = pytest.mark.end_to_end
DEQ: Settings = {"cell": "mlp", "width": 4, "steps": 5}
LONG = {"steps": 1_000_000}
WHOLE = spec("two", "deq", DEQ, processes=2, role="final", train={"steps": 300, "evaluate_every": 100, "batch": 8})


def record(end: object) -> Record:
    assert isinstance(end, Finished), end
    return end.record


def ranks(folder: Path) -> list[psutil.Process]:
    """The processes that share the run whose state lies in the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "bench.execution.engines.worker" in words and str(folder / "job.json") in words and "torch.distributed.run" not in words:
            found.append(process)
    return found


@pytest.fixture(scope="module")
def whole(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A run by two processes that nothing disturbed."""
    engine = Local(1)
    try:
        return record(finish(engine, [job_in(tmp_path_factory.mktemp("whole"), WHOLE)])["two"])
    finally:
        engine.close()


def test_two_processes_learn_what_one_does_and_save_half_as_much_each(whole: Record) -> None:
    one = run(WHOLE.model_copy(update={"processes": 1}), suite="s")
    assert (whole.status, one.status) == ("ok", "ok")
    for mine, other in zip(whole.curve, one.curve, strict=True):
        assert mine.step == other.step
        assert mine.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert mine.valid == pytest.approx(other.valid, rel=1e-3, abs=1e-3)
    assert whole.value("test_loss") == pytest.approx(one.value("test_loss"), rel=1e-4)
    first, second = whole.probes["ranks"]
    for part in (first, second):
        assert part["saved_bytes"] == pytest.approx((one.value("saved_bytes") or 0) / 2, rel=0.05)
        assert part["train_forward_nfe_mean"] == pytest.approx(one.value("train_forward_nfe_mean"), rel=0.2)
    assert whole.value("saved_bytes") == first["saved_bytes"]


@pytest.mark.parametrize("which", [*exhaustive(0), 1])
def test_a_run_whose_process_is_killed_goes_on_with_the_same_numbers(local: Local, job: Make, whole: Record, which: int) -> None:
    broken = job(WHOLE, checkpoint_s=0.0)
    local.submit(broken)
    wait_for(broken.folder, "checkpoint.pt", local)
    sorted(ranks(broken.folder), key=lambda process: int(process.environ()["RANK"]))[which].kill()
    end = finish_one(local)
    assert isinstance(end, Lost)
    assert end.fault is None, end.reason
    assert "SIGKILL" in end.reason
    assert broken.checkpoint.is_file()
    again = record(finish(local, [broken])["two"])
    assert len(again.provenance["attempts"]) == 2
    assert again.provenance["attempts"][1]["from_step"] > 0
    for mine, other in zip(numbers(again)["curve"], numbers(whole)["curve"], strict=True):
        assert mine == other


def test_stopping_saves_the_state_and_ends_every_process(local: Local, job: Make) -> None:
    one = job(spec("l", processes=2, train=LONG))
    local.submit(one)
    until_it_trains(local)
    there = ranks(one.folder)
    assert len(there) == 2
    local.stop("stopped by the test")
    end = record(finish_one(local))
    assert (end.status, end.reason) == ("interrupted", "stopped by the test")
    assert end.provenance["checkpoint_step"] > 0
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in there)


def test_a_run_past_its_time_is_a_timeout_with_its_state_saved(local: Local, job: Make) -> None:
    """The alarm of its clock, rung by hand."""
    local.submit(job(spec("long", processes=2, train=LONG), limits=Limits(seconds=3600.0)))
    until_it_trains(local)
    (worker,) = local._workers.values()
    assert worker._process.pid is not None
    os.kill(worker._process.pid, signal.SIGALRM)
    end = record(finish_one(local))
    assert (end.status, end.reason) == ("timeout", "ran past its limit of 3600 s")
    assert end.provenance["checkpoint_step"] > 0


@pytest.mark.exhaustive
def test_a_crash_of_one_process_is_a_crash_of_the_run(local: Local, job: Make) -> None:
    end = finish(local, [job(misfit("l", "segfault", processes=2))])["l"]
    assert isinstance(end, Lost)
    assert end.fault == "crashed"
    assert "SIGSEGV" in end.reason


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_the_watching_process_ends_as_a_rank_did(number: int) -> None:
    child = os.fork()
    if child == 0:
        _exit_like(-number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
    with pytest.raises(SystemExit, match="3"):
        _exit_like(3)


@pytest.mark.exhaustive
def test_one_process_out_of_memory_is_the_run_out_of_memory(local: Local, job: Make) -> None:
    end = record(finish(local, [job(misfit("l", "second", processes=2))])["l"])
    assert end.status == "oom"
    assert "can't allocate" in str(end.reason)


def test_what_another_rank_ran_into_is_what_the_run_did(job: Make) -> None:
    one = job(spec("l", processes=2))
    one.folder.mkdir(parents=True)
    made = run(spec("l"), suite="s")
    broken = made.model_copy(update={"status": "crashed", "reason": "connection reset"})
    assert _with_first_cause(one, broken) == broken
    (one.folder / "record.1.json").write_text(made.model_copy(update={"status": "oom", "reason": "full"}).model_dump_json())
    found = _with_first_cause(one, broken)
    assert (found.status, found.reason) == ("oom", "full")


@pytest.mark.exhaustive
def test_a_thread_that_one_process_leaves_alive_keeps_nobody(local: Local, job: Make) -> None:
    end = record(finish(local, [job(misfit("l", "thread", processes=2, wait_s=600.0))])["l"])
    assert end.status == "ok"


def test_the_clock_stands_still_while_the_first_process_waits_for_the_machine(job: Make) -> None:
    one, entered = job(spec("l", processes=2)), []
    one.folder.mkdir(parents=True)
    script = iter([True, True, False, True])

    class Ranks:
        def poll(self) -> int | None:
            waiting = next(script, None)
            if waiting is not None:
                write_waiting(one, waiting)
            return 0 if waiting is None else None

    @contextmanager
    def standing() -> Iterator[None]:
        entered.append(True)
        yield
        entered.append(False)

    assert _wait(Ranks(), one, Interrupt(), None, standing) is None  # type: ignore[arg-type]
    assert entered == [True, False] * 2


def test_nobody_is_left_when_the_watching_process_is_killed(local: Local, job: Make) -> None:
    one = job(spec("l", processes=2, train=LONG))
    local.submit(one)
    until_it_trains(local)
    there = ranks(one.folder)
    (worker,) = local._workers.values()
    assert worker._process.pid is not None
    assert acquire(one.ranks, shared=False, wait=False) is None  # whoever takes the run up waits until they have ended
    os.kill(worker._process.pid, signal.SIGKILL)
    assert isinstance(finish_one(local), Lost)
    psutil.wait_procs(there, timeout=60)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in there)
    handle = acquire(one.ranks, shared=False, wait=False)
    assert handle is not None
    os.close(handle)


def test_torchrun_does_a_job_by_hand_whose_processes_leave_a_thread_alive(job: Make, tmp_path: Path) -> None:
    one = job(misfit("l", "thread", processes=2, wait_s=600.0))
    file = tmp_path / "job.json"
    file.write_text(one.model_dump_json())
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "bench.execution.engines.worker",
    ]
    path = os.pathsep.join(sys.path)
    said = subprocess.run(
        [*command, str(file)], capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert said.returncode == 0, said.stderr
    assert Record.model_validate_json(said.stdout).status == "ok"


def test_engine_inline_has_one_process(job: Make) -> None:
    end = finish(Inline(), [job(spec("l", processes=2))])["l"]
    assert isinstance(end, Refused)
    assert "engine inline has one process" in end.reason


def test_stopped_before_it_began_it_says_so(local: Local, job: Make) -> None:
    local.submit(job(spec("l", processes=2, train=LONG)))
    local.stop("stopped by the test")
    end = finish_one(local)
    assert isinstance(end, Stopped) or record(end).status == "interrupted"
