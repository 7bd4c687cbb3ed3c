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
from test_engine import Make, alone, finish, finish_one, job, local, misfit, numbers, spec, until_it_trains, wait_for

from bench.attempts import note_waiting
from bench.checkpoint import Interrupt
from bench.engines.engine import Died, Ended, Refused, Stopped
from bench.engines.inline import Inline
from bench.engines.local import Local
from bench.engines.spread import _wait
from bench.lock import acquire
from bench.record import Record
from bench.run import run
from bench.spec import Limits, Settings

__all__ = ["alone", "job", "local"]  # fixtures
pytestmark = pytest.mark.end_to_end
DEQ: Settings = {"cell": "mlp", "width": 4, "steps": 5}
LONG = {"steps": 1_000_000}


def record(end: object) -> Record:
    assert isinstance(end, Ended), end
    return end.record


def ranks(folder: Path) -> list[psutil.Process]:
    """The processes that share the run whose state lies in the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "bench.engines.worker" in words and str(folder / "job.json") in words and "torch.distributed.run" not in words:
            found.append(process)
    return found


def test_two_processes_learn_what_one_does_and_save_half_as_much_each(local: Local, job: Make) -> None:
    two = spec("two", "deq", DEQ, processes=2, role="final", train={"steps": 30, "evaluate_every": 10, "batch": 8})
    end = record(finish(local, [job(two)])["two"])
    one = run(two.model_copy(update={"processes": 1}), suite="s")
    assert (end.status, one.status) == ("ok", "ok")
    for mine, other in zip(end.curve, one.curve, strict=True):
        assert mine.step == other.step
        assert mine.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert mine.valid == pytest.approx(other.valid, rel=1e-3, abs=1e-3)
    assert end.value("test_loss") == pytest.approx(one.value("test_loss"), rel=1e-4)
    first, second = end.probes["ranks"]
    for part in (first, second):
        assert part["saved_bytes"] == pytest.approx((one.value("saved_bytes") or 0) / 2, rel=0.05)
        assert part["train_forward_nfe_mean"] == pytest.approx(one.value("train_forward_nfe_mean"), rel=0.2)
    assert end.value("saved_bytes") == first["saved_bytes"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_run_whose_process_is_killed_goes_on_with_the_same_numbers(local: Local, job: Make, which: int) -> None:
    one = spec("l", "deq", DEQ, processes=2, train={"steps": 300, "evaluate_every": 100})
    whole = record(finish(local, [job(one)])["l"])
    (whole_folder,) = {job(one).folder}
    for path in whole_folder.iterdir():
        path.unlink()
    broken = job(one, checkpoint_s=0.0)
    local.submit(broken)
    wait_for(broken.folder, "checkpoint.pt", local)
    sorted(ranks(broken.folder), key=lambda process: int(process.environ()["RANK"]))[which].kill()
    end = finish_one(local)
    assert isinstance(end, Died)
    assert end.fault is None, end.why
    assert "SIGKILL" in end.why
    assert broken.checkpoint.is_file()
    again = record(finish(local, [broken])["l"])
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
    assert (end.status, end.why) == ("interrupted", "stopped by the test")
    assert end.provenance["checkpoint_step"] > 0
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in there)


def test_a_run_past_its_time_is_a_timeout_with_its_state_saved(local: Local, job: Make) -> None:
    end = record(finish(local, [job(spec("long", processes=2, train=LONG), limits=Limits(seconds=30.0))])["long"])
    assert (end.status, end.why) == ("timeout", "ran past its limit of 30 s")
    assert end.provenance["checkpoint_step"] > 0


def test_a_crash_of_one_process_is_a_crash_of_the_run(local: Local, job: Make) -> None:
    end = finish(local, [job(misfit("l", "segfault", processes=2))])["l"]
    assert isinstance(end, Died)
    assert end.fault == "crashed"
    assert "SIGSEGV" in end.why


def test_one_process_out_of_memory_is_the_run_out_of_memory(local: Local, job: Make) -> None:
    end = record(finish(local, [job(misfit("l", "second", processes=2))])["l"])
    assert end.status == "oom"
    assert "can't allocate" in str(end.why)


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
                note_waiting(one, waiting)
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
    assert isinstance(finish_one(local), Died)
    psutil.wait_procs(there, timeout=10)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in there)
    handle = acquire(one.ranks, shared=False, wait=False)
    assert handle is not None
    os.close(handle)


def test_torchrun_does_a_job_by_hand(job: Make, tmp_path: Path) -> None:
    one = job(spec("l", processes=2))
    file = tmp_path / "job.json"
    file.write_text(one.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "bench.engines.worker"]
    path = os.pathsep.join(sys.path)
    said = subprocess.run(
        [*command, str(file)], capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert said.returncode == 0, said.stderr
    assert Record.model_validate_json(said.stdout).status == "ok"


def test_engine_inline_has_one_process(job: Make) -> None:
    end = finish(Inline(), [job(spec("l", processes=2))])["l"]
    assert isinstance(end, Refused)
    assert "engine inline has one process" in end.why


def test_stopped_before_it_began_it_says_so(local: Local, job: Make) -> None:
    local.submit(job(spec("l", processes=2, train=LONG)))
    local.stop("stopped by the test")
    end = finish_one(local)
    assert isinstance(end, Stopped) or record(end).status == "interrupted"
