"""The process of a run: execute its job within limits, resume from its checkpoint, send progress and the record.

`python -m bench.execution.engines.worker JOB.json` executes one job by hand and prints the record; torchrun starts a job's
ranks with it.
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
import torch._dynamo  # the optimiser would import it in each process, for two seconds

from bench.execution.attempts import log_start, open_in_place, write_progress, write_waiting
from bench.execution.engines.torchrun import exit_when_orphaned, run_with_torchrun
from bench.execution.job import Job
from bench.instruments.environment import cpu_name
from bench.records.errors import CodeError, UserError, failure
from bench.records.file_lock import CAN_LOCK, held
from bench.records.record import Record, record_text, write_text
from bench.records.source_code import fix
from bench.training.checkpoint import Checkpoint, Interrupt, Interrupted
from bench.training.context import ProgressCallback, RunControl
from bench.training.distributed import Ranks
from bench.training.memory_limit import limit_memory
from bench.training.run import run

_SEND_S = 0.2  # between messages of progress
_WRITE_S = 2.0  # between writes of progress to the job's folder
_RANK_TIMEOUT = timedelta(days=1)  # ranks may wait for the machine lock; torchrun ends all when one is lost
ClockPaused = Callable[[], AbstractContextManager[object]]


def work(pipe: Connection, job_json: str, gpu: str | None = None) -> None:
    """Execute the job, on the `gpu` alone if one is given, and end the process.

    Sends ("step", done, total, loss), ("waiting", bool), last ("record", json), ("refused", message) or ("lost", reason, status).
    The run saves its state and ends when it receives a reason to stop, or when the pipe ends because the coordinator has died.
    """
    os.environ |= {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}  # before CUDA is initialised
    _exit_after(lambda: _work(pipe, job_json))


def _work(pipe: Connection, job_json: str) -> None:
    job = Job.model_validate_json(job_json)
    os.setsid()  # so that Ctrl-C reaches the coordinator alone
    os.register_at_fork(after_in_child=pipe.close)  # a child of the run would keep it open
    interrupt = Interrupt()
    progress = _throttled(lambda *step: _send(pipe, ("step", *step)), _SEND_S)
    try:
        _stop_on_request(interrupt, pipe)
        _set_limits(job, interrupt)
        _print_to(job.log)
        fix(job.code)
        record = execute_job(job, interrupt, progress, clock_paused=lambda: _clock_paused(pipe), verify=True)
        with interrupt.deferred(raising=False):
            _send(pipe, ("record", record.model_dump_json()))
    except Interrupted as request:  # before the run began, or after it ended
        _send(pipe, ("lost", str(request), request.status))
    except (Exception, KeyboardInterrupt) as error:
        with interrupt.deferred(raising=False):
            if isinstance(error, UserError) and not isinstance(error, CodeError):
                _send(pipe, ("refused", str(error)))
            else:
                traceback.print_exc()
                status, reason = failure(error)
                _send(pipe, ("lost", reason, status))


def _exit_after(work: Callable[[], None]) -> NoReturn:
    """Call `work`, then end the process at once, so that no thread or finaliser of the user keeps it alive."""
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
    """Pause the run's time limit, here and in the coordinator."""
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
    """Report that the run waits for the machine, or for an earlier process of its own, and pause its time limit."""
    print("waiting: another benchmark has the machine, or an earlier attempt has not ended", file=sys.stderr, flush=True)
    write_waiting(job, True)
    try:
        with clock_paused():
            yield
    finally:
        write_waiting(job, False)


def _print_to(log: Path) -> None:
    """Redirect the run's output, and the interpreter's traceback when it crashes, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open_in_place(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable(2)


def execute_job(
    job: Job,
    interrupt: Interrupt,
    progress: ProgressCallback | None = None,
    clock_paused: ClockPaused = nullcontext,
    verify: bool = False,
) -> Record:
    """Execute the job in this process, from its checkpoint on; returns the Record with its attempts.

    `clock_paused` is entered while the run waits for other processes; `verify`: another process computed the job's identity.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    blocked = partial(_blocked, job, clock_paused)
    # A process of an earlier attempt, or its ranks, may still save their state.
    with held(job.active, blocked=blocked) if CAN_LOCK else nullcontext():
        if job.spec.processes > 1 and CAN_LOCK:
            with held(job.ranks, blocked=blocked):
                pass
        checkpoint = Checkpoint(job.checkpoint, job.run_id, job.checkpoint_s)
        checkpoint.load()
        attempts = log_start(job, checkpoint.step, cpu_name())
        if job.spec.processes > 1:
            del checkpoint  # its tensors; the ranks load their own
            record = run_with_torchrun(job, interrupt, progress, clock_paused)
        else:
            report = _written(job, progress)
            record = _run(job, RunControl(progress=report, checkpoint=checkpoint, interrupt=interrupt, blocked=blocked), verify)
        return record.model_copy(update={"provenance": record.provenance | {"attempts": attempts}})


def _run(job: Job, control: RunControl, verify: bool) -> Record:
    share, identity = job.concurrent_runs, job.identity
    record = run(job.spec, suite=job.suite, data=job.data, concurrent_runs=share, identity=identity, verify=verify, control=control)
    if record.status == "oom" and job.memory_limit is not None:
        return record.model_copy(update={"reason": f"{record.reason} (its limit: {job.memory_limit / 2**30:.3g} GiB)"})
    return record


def _throttled(callback: ProgressCallback, seconds: float) -> ProgressCallback:
    last = 0.0

    def call(step: int, steps: int, loss: float | None) -> None:
        nonlocal last
        if time.monotonic() - last > seconds:
            last = time.monotonic()
            callback(step, steps, loss)

    return call


def _written(job: Job, progress: ProgressCallback | None) -> ProgressCallback:
    """A callback that writes progress to the job's folder, for `bench status`, and calls `progress`."""
    write = _throttled(partial(write_progress, job), _WRITE_S)

    def report(step: int, steps: int, loss: float | None) -> None:
        if progress is not None:
            progress(step, steps, loss)
        write(step, steps, loss)

    return report


def _set_limits(job: Job, interrupt: Interrupt) -> None:
    """Set the limits of time and memory; make the kernel kill this process, not the coordinator, when memory runs out."""
    seconds = job.limits.seconds
    if seconds is not None:
        signal.signal(signal.SIGALRM, lambda *_: interrupt.ask(f"ran past its limit of {seconds:g} s", "timeout"))
        signal.setitimer(signal.ITIMER_REAL, seconds)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if job.memory_limit is not None:
        limit_memory(job.memory_limit)


def _stop_on_request(interrupt: Interrupt, pipe: Connection) -> None:
    """Interrupt the run at a signal, at a message from the coordinator, and at the end of its pipe."""
    requests: list[str] = []  # from the pipe

    def stop(number: int, frame: FrameType | None) -> None:
        interrupt.ask(requests[0] if requests else f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    main = threading.get_ident()

    def listen() -> None:
        try:
            reason = pipe.recv()
        except (EOFError, OSError):
            reason = "the coordinator has died"
        requests.append(reason)
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()


def _send(pipe: Connection, message: tuple[object, ...]) -> None:
    with suppress(OSError):  # the coordinator has died: `listen` stops the run
        pipe.send(message)


def main() -> None:
    """Execute the job whose JSON file is named on the command line, or this rank's part of it; print the record, or write it."""
    parser = argparse.ArgumentParser(prog="python -m bench.execution.engines.worker", description=main.__doc__)
    parser.add_argument("job", type=Path, help="a job's JSON file")
    parser.add_argument("--record", type=Path, help="write the record to this file instead")
    parser.add_argument("--watch", type=int, metavar="PID", help="end when that process ends")
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
        exit_when_orphaned(arguments.watch)
        job.folder.mkdir(parents=True, exist_ok=True)  # executed by hand, it does not exist yet
        with held(job.ranks, shared=True) if CAN_LOCK else nullcontext():
            record, rank = _run_rank(job, interrupt), int(os.environ["RANK"])
        if rank > 0:  # only the first rank writes the record; another writes how it failed
            if path is None or record.status == "ok":
                return
            path = path.with_suffix(f".{rank}.json")
    if path is None:
        print(record_text(record), end="")
    else:
        write_text(path, record_text(record))


def _run_rank(job: Job, interrupt: Interrupt) -> Record:
    """Execute this rank's part of a job, in a process that torchrun has started."""
    if "RANK" not in os.environ:
        raise SystemExit(
            f"a job of {job.spec.processes} processes: "
            f"torchrun --nproc-per-node={job.spec.processes} -m bench.execution.engines.worker JOB"
        )
    faulthandler.enable(2)
    if job.spec.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Flags and states are CPU tensors, which NCCL cannot send.
    backends = "cpu:gloo,cuda:nccl" if job.spec.device == "cuda" else "gloo"
    torch.distributed.init_process_group(backends, timeout=_RANK_TIMEOUT)
    try:
        ranks = Ranks(job.spec.processes)
        checkpoint = Checkpoint(job.checkpoint, job.run_id, job.checkpoint_s)
        blocked = partial(_blocked, job, nullcontext)  # the monitoring process has the time limit
        control = RunControl(checkpoint=checkpoint, interrupt=interrupt, ranks=ranks, blocked=blocked)
        if ranks.first:
            control = replace(control, progress=_written(job, None))
        return _run(job, control, verify=True)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _exit_after(main)
