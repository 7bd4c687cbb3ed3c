"""What a process does with a job: execute the run in a session of its own, within limits, from and to its checkpoint.

`python -m bench.execution.engines.worker JOB.json` executes one job by hand and prints the record; torchrun starts a job's
processes with it.
"""

import argparse
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
import torch._dynamo  # the optimiser imports it lazily, two seconds a process; the fork server holds it for all

from bench.execution.attempts import log_start, write_progress, write_waiting
from bench.execution.engines.torchrun import exit_with, run_with_torchrun
from bench.execution.job import Job
from bench.instruments.environment import cpu_name
from bench.instruments.memory_limit import limit_memory
from bench.records.errors import CodeError, UserError, failure
from bench.records.file_lock import CAN_LOCK, held
from bench.records.record import Record, record_text, write_text
from bench.records.source_code import fix
from bench.training.checkpoint import Checkpoint, Interrupt, Interrupted
from bench.training.context import ProgressCallback, RunControl
from bench.training.distributed import Ranks
from bench.training.run import run

__all__ = ["execute_job", "work"]
_SEND_S = 0.2  # between messages of progress
_NOTE_S = 2.0  # between notes of progress in the job's folder
_RANK_TIMEOUT = timedelta(days=1)  # of a rank for the others; where one is lost, all end by themselves
ClockPaused = Callable[[], AbstractContextManager[object]]


def work(pipe: Connection, job_json: str) -> None:
    """Execute the job and end the process; sends ("step", done, total, loss) and ("waiting", bool), and last ("record", json),
    ("error", message), ("failed", reason, status) or ("stopped", reason, status).

    ("stop", reason) from the pipe ends the run with its state saved, and so does the end of the pipe: the coordinator is gone.
    """
    _exit_after(lambda: _work(pipe, job_json))


def _work(pipe: Connection, job_json: str) -> None:
    job = Job.model_validate_json(job_json)
    os.setsid()  # a signal to the coordinator's group, Ctrl-C in a terminal, is the coordinator's to forward
    os.register_at_fork(after_in_child=pipe.close)  # else the run's own children would keep it open
    interrupt = Interrupt()
    last = 0.0

    def progress(done: int, total: int, loss: float | None) -> None:
        nonlocal last
        if time.monotonic() - last > _SEND_S:
            last = time.monotonic()
            _send(pipe, ("step", done, total, loss))

    try:
        _stop_on_request(interrupt, pipe)
        _set_limits(job, interrupt)
        _print_to(job.log)
        fix(job.code)
        record = execute_job(job, interrupt, progress, clock_paused=lambda: _clock_paused(pipe), verify=True)
        with interrupt.deferred(raising=False):
            _send(pipe, ("record", record.model_dump_json()))
    except Interrupted as request:  # before the run began, or after it ended
        _send(pipe, ("stopped", str(request), request.status))
    except (Exception, KeyboardInterrupt) as error:
        with interrupt.deferred(raising=False):
            if isinstance(error, UserError) and not isinstance(error, CodeError):
                _send(pipe, ("error", str(error)))
            else:
                traceback.print_exc()
                status, reason = failure(error)
                _send(pipe, ("failed", reason, status))


def _exit_after(work: Callable[[], None]) -> NoReturn:
    """Work, then end the process at once: no thread or finaliser of the user's may keep it alive."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code)


@contextmanager
def _clock_paused(pipe: Connection | None = None) -> Iterator[None]:
    """Inside, the run waits for others, and its time limit is paused: here and in the coordinator."""
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0.0)
    if pipe is not None:
        _send(pipe, ("waiting", True))
    try:
        yield
    finally:
        if pipe is not None:
            _send(pipe, ("waiting", False))
        signal.setitimer(signal.ITIMER_REAL, left)


@contextmanager
def _blocked(job: Job, clock_paused: ClockPaused) -> Iterator[None]:
    """Inside, the run waits for the machine, or for an earlier process of its own that has not ended, and reports it."""
    print("waiting: another benchmark has the machine, or an earlier attempt of this run still ends", file=sys.stderr, flush=True)
    write_waiting(job, True)
    try:
        with clock_paused():
            yield
    finally:
        write_waiting(job, False)


def _print_to(log: Path) -> None:
    """Redirect what the run prints, and the interpreter's last words when it crashes, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    faulthandler.enable(2)


def execute_job(
    job: Job,
    interrupt: Interrupt,
    progress: ProgressCallback | None = None,
    clock_paused: ClockPaused = nullcontext,
    verify: bool = False,
) -> Record:
    """Execute the job in this process, from its checkpoint on; the Record, whatever the run did, with its attempts.

    `clock_paused` is entered while it waits for other processes; `verify`: another process computed the job's identity.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    blocked = partial(_blocked, job, clock_paused)
    # The process of an earlier attempt may still save its state, and so may torchrun's.
    with held(job.active, blocked=blocked) if CAN_LOCK else nullcontext():
        if job.spec.processes > 1 and CAN_LOCK:
            with held(job.ranks, blocked=blocked):
                pass
        checkpoint = Checkpoint(job.checkpoint, job.run_id, job.checkpoint_s)
        checkpoint.load()
        attempts = log_start(job, checkpoint.step, cpu_name())
        if job.spec.processes > 1:
            del checkpoint  # and what it has loaded: the ranks load their own
            record = run_with_torchrun(job, interrupt, progress, clock_paused)
        else:
            noted = _noted(job, progress)
            control = RunControl(progress=noted, checkpoint=checkpoint, interrupt=interrupt, blocked=blocked)
            record = _run(job, control, verify)
        return record.model_copy(update={"provenance": record.provenance | {"attempts": attempts}})


def _run(job: Job, control: RunControl, verify: bool) -> Record:
    return run(
        job.spec,
        suite=job.suite,
        data=job.data,
        concurrent_runs=job.concurrent_runs,
        identity=job.identity,
        verify=verify,
        control=control,
    )


def _noted(job: Job, progress: ProgressCallback | None) -> ProgressCallback:
    """A callback that writes progress to the job's folder, for `status`, and passes it on."""
    last = 0.0

    def note(done: int, total: int, loss: float | None) -> None:
        nonlocal last
        if progress is not None:
            progress(done, total, loss)
        if time.monotonic() - last > _NOTE_S:
            last = time.monotonic()
            write_progress(job, done, total, loss)

    return note


def _set_limits(job: Job, interrupt: Interrupt) -> None:
    """Set the time limit and the memory limit; let the kernel kill this process, not the coordinator, when memory runs out."""
    seconds = job.limits.seconds
    if seconds is not None:
        signal.signal(signal.SIGALRM, lambda *_: interrupt.ask(f"ran past its limit of {seconds:g} s", "timeout"))
        signal.setitimer(signal.ITIMER_REAL, seconds)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if job.limits.memory_bytes is not None and job.spec.device == "cpu":
        limit_memory(job.limits.memory_bytes)


def _stop_on_request(interrupt: Interrupt, pipe: Connection) -> None:
    """Interrupt the run at a signal, at a message from the coordinator, and at the end of its pipe."""
    requests: list[str] = []  # from the pipe

    def stop(number: int, frame: FrameType | None) -> None:
        interrupt.ask(requests[0] if requests else f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    main = threading.main_thread().ident
    assert main is not None

    def listen() -> None:
        try:
            _, reason = pipe.recv()
        except (EOFError, OSError):
            reason = "the coordinator is gone"
        requests.append(reason)
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()


def _send(pipe: Connection, message: tuple[object, ...]) -> None:
    with suppress(OSError):  # the coordinator is gone: `listen` handles it
        pipe.send(message)


def main() -> None:
    """Execute the job whose JSON file is named on the command line, or this rank's part of it; print the record, or write it."""
    parser = argparse.ArgumentParser(prog="python -m bench.execution.engines.worker", description=main.__doc__)
    parser.add_argument("job", type=Path, help="a job's JSON file")
    parser.add_argument("--record", type=Path, help="write the record to this file instead")
    parser.add_argument("--watch", type=int, metavar="PID", help="end when that process does")
    arguments = parser.parse_args()
    job = Job.model_validate_json(arguments.job.read_text())
    interrupt = Interrupt()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: interrupt.ask(f"stopped by {signal.Signals(number).name}"))
    _set_limits(job, interrupt)
    fix(job.code)
    path: Path | None = arguments.record
    if job.spec.processes == 1:
        record = execute_job(job, interrupt, clock_paused=_clock_paused, verify=True)
    else:
        exit_with(arguments.watch)
        job.folder.mkdir(parents=True, exist_ok=True)  # by hand, nobody has made it
        with held(job.ranks, shared=True) if CAN_LOCK else nullcontext():
            record, rank = _run_rank(job, interrupt), int(os.environ["RANK"])
        if rank > 0:  # the first writes the record; another only how it failed
            if path is None or record.status == "ok":
                return
            path = path.with_suffix(f".{rank}.json")
    if path is None:
        print(record_text(record), end="")
    else:
        write_text(path, record_text(record))


def _run_rank(job: Job, interrupt: Interrupt) -> Record:
    """This rank's part of a job, in a process that torchrun has started."""
    if "RANK" not in os.environ:
        raise SystemExit(
            f"a job of {job.spec.processes} processes: "
            f"torchrun --nproc-per-node={job.spec.processes} -m bench.execution.engines.worker JOB"
        )
    faulthandler.enable(2)
    if job.spec.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Flags and states are sent as CPU tensors, which NCCL does not take.
    backends = "cpu:gloo,cuda:nccl" if job.spec.device == "cuda" else "gloo"
    torch.distributed.init_process_group(backends, timeout=_RANK_TIMEOUT)
    try:
        ranks = Ranks(job.spec.processes)
        checkpoint = Checkpoint(job.checkpoint, job.run_id, job.checkpoint_s)
        blocked = partial(_blocked, job, nullcontext)  # the process that monitors the ranks keeps the time
        control = RunControl(checkpoint=checkpoint, interrupt=interrupt, ranks=ranks, blocked=blocked)
        if ranks.first:
            control = replace(control, progress=_noted(job, None))
        return _run(job, control, verify=True)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _exit_after(main)
