"""What a process does with a job: the run in a session of its own, within limits, taking up its checkpoint and leaving one.

`python -m bench.engines.worker JOB.json` does one job by hand and prints the record; torchrun starts a job's processes with it.
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
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import torch._dynamo  # the optimiser imports it lazily, two seconds a process; the fork server holds it for all

from bench.attempts import note_begin, note_progress, note_waiting
from bench.checkpoint import Checkpoint, Interrupt, Interrupted
from bench.engines.spread import end_with, spread
from bench.environment import cpu_name
from bench.errors import CodeError, UserError, failure
from bench.job import Job
from bench.lock import CAN_LOCK, held
from bench.loop import Progress
from bench.ranks import Ranks
from bench.record import Record, record_text, write_text
from bench.run import run
from bench.sources import fix

__all__ = ["do", "work"]
_TOLD_S = 0.2
_NOTED_S = 2.0
Standing = Callable[[], AbstractContextManager[object]]
_PATIENCE = timedelta(days=1)  # of a rank for the others; one that is lost ends all of them by itself


def work(pipe: Connection, job_json: str) -> None:
    """Do the job and end the process; send ("step", done, total, loss) and ("waiting", bool) now and then, last ("record", json),
    ("error", message), ("failed", why, status) or ("stopped", why, status).

    ("stop", why) down the pipe ends the run with its state saved, and so does the pipe's end: nobody is there to want the result.
    """
    _end_after(lambda: _work(pipe, job_json))


def _work(pipe: Connection, job_json: str) -> None:
    job = Job.model_validate_json(job_json)
    os.setsid()  # a signal to the coordinator's group, Ctrl-C in a terminal, is the coordinator's to pass on
    os.register_at_fork(after_in_child=pipe.close)  # else the run's own children would keep it open
    interrupt = Interrupt()
    last = 0.0

    def progress(done: int, total: int, loss: float | None) -> None:
        nonlocal last
        if time.monotonic() - last > _TOLD_S:
            last = time.monotonic()
            _send(pipe, ("step", done, total, loss))

    try:
        _listen_for_signals(interrupt, pipe)
        _limit(job, interrupt)
        _print_to(job.log)
        fix(job.code)
        record = do(job, interrupt, progress, standing=lambda: _standing(pipe), verify=True)
        with interrupt.deferred(raising=False):
            _send(pipe, ("record", record.model_dump_json()))
    except Interrupted as request:  # before the run could begin, or when it had ended
        _send(pipe, ("stopped", str(request), request.status))
    except (Exception, KeyboardInterrupt) as error:
        with interrupt.deferred(raising=False):
            if isinstance(error, UserError) and not isinstance(error, CodeError):
                _send(pipe, ("error", str(error)))
            else:
                traceback.print_exc()
                status, why = failure(error)
                _send(pipe, ("failed", why, status))


def _end_after(work: Callable[[], None]) -> NoReturn:
    """Work, then end the process: what it has sent is all that counts, not a thread that lives on or a slow finaliser."""
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
def _standing(pipe: Connection | None = None) -> Iterator[None]:
    """Inside, the run waits for others, and its clock stands still: here and at the coordinator's."""
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
def _blocked(job: Job, standing: Standing) -> Iterator[None]:
    """Inside, the run waits for the machine, or for another process of its own that has not ended, and says so."""
    print("waiting: another benchmark has the machine, or an earlier attempt of this run still ends", file=sys.stderr, flush=True)
    note_waiting(job, True)
    try:
        with standing():
            yield
    finally:
        note_waiting(job, False)


def _print_to(log: Path) -> None:
    """What the run prints, and what the interpreter says when it dies, goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    faulthandler.enable(2)


def do(
    job: Job,
    interrupt: Interrupt,
    progress: Progress | None = None,
    standing: Standing = nullcontext,
    verify: bool = False,
) -> Record:
    """Do the job in this process, from its checkpoint on; the Record, whatever the run did, with its attempts.

    `standing` is entered while it waits for other processes; `verify`: another process has found the job's identity.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    blocked = partial(_blocked, job, standing)
    with (
        held(job.active, blocked=blocked) if CAN_LOCK else nullcontext()
    ):  # an orphan of a dead coordinator may still save its state
        if job.spec.processes > 1 and CAN_LOCK:
            with held(job.ranks, blocked=blocked):  # so may orphans of a process that watched them
                pass
        checkpoint = Checkpoint(job.checkpoint, job.run_id, job.checkpoint_s)
        checkpoint.load()
        attempts = note_begin(job, checkpoint.step, cpu_name())
        if job.spec.processes > 1:
            del checkpoint  # with what it has loaded: the ranks load their own
            record = spread(job, interrupt, progress, standing)
        else:
            record = _run(job, checkpoint, interrupt, _Telling(job, progress), blocked=blocked, verify=verify)
        return record.model_copy(update={"provenance": record.provenance | {"attempts": attempts}})


def _run(job: Job, checkpoint: Checkpoint, interrupt: Interrupt, progress: Progress, **more: Any) -> Record:
    return run(
        job.spec,
        suite=job.suite,
        data=job.data,
        beside=job.beside,
        progress=progress,
        identity=job.identity,
        checkpoint=checkpoint,
        interrupt=interrupt,
        **more,
    )


class _Telling:
    """Passes progress on, and leaves it in a file for `status`."""

    def __init__(self, job: Job | None, further: Progress | None) -> None:
        self._job, self._further, self._last = job, further, 0.0

    def __call__(self, done: int, total: int, loss: float | None) -> None:
        if self._further is not None:
            self._further(done, total, loss)
        if self._job is not None and time.monotonic() - self._last > _NOTED_S:
            self._last = time.monotonic()
            note_progress(self._job, done, total, loss)


def _limit(job: Job, interrupt: Interrupt) -> None:
    """Set the clock and the bound on memory; let the kernel choose this process, not the coordinator, when memory runs out."""
    seconds = job.limits.seconds
    if seconds is not None:

        def late(number: int, frame: FrameType | None) -> None:
            interrupt.ask(f"ran past its limit of {seconds:g} s", "timeout")

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if job.limits.memory_bytes is not None and job.spec.device == "cpu":
        _bound_memory(job.limits.memory_bytes)


def _bound_memory(size: int) -> None:
    """Allow so many bytes more than the process has: an allocation beyond fails, and the run ends as out of memory, not killed."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        lines = Path("/proc/self/status").read_text().splitlines()
        have = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:"))
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        bound = have + size if hard == resource.RLIM_INFINITY else min(have + size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))


def _listen_for_signals(interrupt: Interrupt, pipe: Connection) -> None:
    why: dict[str, str] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        interrupt.ask(why.get("why") or f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    main = threading.main_thread().ident
    assert main is not None

    def listen() -> None:
        try:
            _, why["why"] = pipe.recv()
        except (EOFError, OSError):
            why["why"] = "the coordinator is gone"
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()


def _send(pipe: Connection, message: tuple[object, ...]) -> None:
    with suppress(OSError):  # the coordinator is gone: `listen` sees to it
        pipe.send(message)


def main() -> None:
    """Do the job whose JSON file is named on the command line, or this rank's part of it; print the record, or write it."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines.worker", description=main.__doc__)
    parser.add_argument("job", type=Path, help="a job's JSON file")
    parser.add_argument("--record", type=Path, help="write the record to this file instead")
    parser.add_argument("--watch", type=int, metavar="PID", help="end when that process does")
    arguments = parser.parse_args()
    job = Job.model_validate_json(arguments.job.read_text())
    interrupt = Interrupt()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: interrupt.ask(f"stopped by {signal.Signals(number).name}"))
    _limit(job, interrupt)
    fix(job.code)
    if job.spec.processes == 1:
        record = do(job, interrupt, standing=_standing, verify=True)
    else:
        end_with(arguments.watch)
        job.folder.mkdir(parents=True, exist_ok=True)  # by hand, nobody has made it
        with held(job.ranks, shared=True) if CAN_LOCK else nullcontext():
            record, rank = _part(job, interrupt), int(os.environ["RANK"])
        if rank > 0:  # the first speaks for all, but where another one failed
            if arguments.record is not None and record.status != "ok":
                write_text(arguments.record.with_suffix(f".{rank}.json"), record_text(record))
            return
    if arguments.record is None:
        print(record_text(record), end="")
    else:
        write_text(arguments.record, record_text(record))


def _part(job: Job, interrupt: Interrupt) -> Record:
    """This rank's part of a job, in a process that torchrun has started."""
    if "RANK" not in os.environ:
        raise SystemExit(
            f"a job of {job.spec.processes} processes: torchrun --nproc-per-node={job.spec.processes} -m bench.engines.worker JOB"
        )
    faulthandler.enable(2)
    if job.spec.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Flags and states travel as CPU tensors, which NCCL does not take.
    backends = "cpu:gloo,cuda:nccl" if job.spec.device == "cuda" else "gloo"
    torch.distributed.init_process_group(backends, timeout=_PATIENCE)
    try:
        ranks = Ranks(job.spec.processes)
        checkpoint = Checkpoint(job.checkpoint, job.run_id, job.checkpoint_s)
        blocked = partial(_blocked, job, nullcontext)  # the process that watches the ranks keeps the clock
        told = _Telling(job if ranks.first else None, None)
        return _run(job, checkpoint, interrupt, told, ranks=ranks, blocked=blocked, verify=True)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _end_after(main)
