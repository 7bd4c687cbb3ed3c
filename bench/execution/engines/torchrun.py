"""Execute one run in several processes, started by torchrun and monitored by this process."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

import psutil

from bench.execution.attempts import read_progress, write_waiting
from bench.execution.job import Job
from bench.records.record import Record, write_text
from bench.records.spec import Limits
from bench.training.checkpoint import Interrupt, Interrupted
from bench.training.context import ProgressCallback

_POLL_S = 0.1
_PARENT_POLL_S = 0.5
_GRACE_S = 8  # for torchrun's processes to save the state, once asked to stop
_EXIT = re.compile(r"Root Cause.*?exitcode\s*:\s*(-?\d+)", re.S)


def run_with_torchrun(
    job: Job,
    interrupt: Interrupt,
    progress: ProgressCallback | None,
    clock_paused: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Record:
    """Execute the job in the processes that its RunSpec asks for; returns the Record of the first rank.

    `clock_paused` is entered while the first rank waits for the machine. Where a rank dies, this process ends by the same signal
    or with the same status.
    """
    record, log = job.folder / "record.json", job.folder / "torchrun.log"
    for old in (record, log, *_records_of_others(job)):
        old.unlink(missing_ok=True)  # or a link in its place
    with interrupt.deferred():  # pydantic turns an exception that a signal raises in its serialisers into one of its own
        text = _job_of_ranks(job).model_dump_json(indent=1)
    write_text(job.folder / "job.json", text)
    path = os.pathsep.join([str(Path(__file__).resolve().parents[3]), *filter(None, sys.path)])
    with log.open("xb") as file:
        torchrun = subprocess.Popen(_command(job, record), stdout=file, stderr=file, env=os.environ | {"PYTHONPATH": path})
    write_waiting(job, False)  # clear the note of an attempt that died
    request = _wait(torchrun, job, interrupt, progress, clock_paused)
    output = log.read_text(errors="replace")
    print(output, end="", file=sys.stderr)
    if record.is_file() and (torchrun.returncode == 0 or request is not None):  # else a rank died
        found = Record.model_validate_json(record.read_bytes())
        if request is not None and found.status in ("interrupted", "crashed"):  # a rank may crash because another has stopped
            return found.model_copy(update={"status": request.status, "reason": str(request)})
        return found if found.status != "crashed" else _with_first_cause(job, found)
    if request is not None:
        raise request
    cause = _EXIT.search(output)
    _exit_like(torchrun.returncode if cause is None else int(cause[1]))


def _records_of_others(job: Job) -> list[Path]:
    return [job.folder / f"record.{rank}.json" for rank in range(1, job.spec.processes)]


def _job_of_ranks(job: Job) -> Job:
    """The job with a rank's share of the memory, and no time limit: this process enforces it for all ranks."""
    memory = job.limits.memory_bytes
    return job.model_copy(update={"limits": Limits(memory_bytes=None if memory is None else max(1, memory // job.spec.processes))})


def _command(job: Job, record: Path) -> list[str]:
    processes = f"--nproc-per-node={job.spec.processes}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", processes, *_shutdown_timeout()]
    worker = ["-m", "bench.execution.engines.worker", str(job.folder / "job.json")]
    return [*torchrun, *worker, "--record", str(record), "--watch", str(os.getpid())]


@cache
def _shutdown_timeout() -> list[str]:
    """The option for how long torchrun waits for ranks to stop; before torch 2.13 there is none and it waits 30 s."""
    from torch.distributed.run import get_args_parser

    option = "--shutdown-timeout"
    return [f"{option}={_GRACE_S}"] if option in get_args_parser().format_help() else []


def _with_first_cause(job: Job, found: Record) -> Record:
    """The record of a crash with the status of another rank that caused it, such as out of memory."""
    for path in _records_of_others(job):
        with suppress(OSError, ValueError):
            other = Record.model_validate_json(path.read_bytes())
            if other.status != "crashed":
                return found.model_copy(update={"status": other.status, "reason": other.reason})
    return found


def _wait(
    torchrun: "subprocess.Popen[bytes]",
    job: Job,
    interrupt: Interrupt,
    progress: ProgressCallback | None,
    clock_paused: Callable[[], AbstractContextManager[object]],
) -> Interrupted | None:
    """Wait until the ranks have ended; returns the request that ended them, if any."""
    request: Interrupted | None = None
    waiting = False
    try:
        with interrupt.deferred(), ExitStack() as waits:
            while torchrun.poll() is None:
                if request is None and interrupt.asked is not None:
                    request = interrupt.asked
                    torchrun.send_signal(signal.SIGTERM)  # torchrun forwards it to the ranks and waits for them
                time.sleep(_POLL_S)
                reached = read_progress(job)
                if waiting != bool(reached.get("waiting", waiting)):
                    waiting = not waiting
                    waits.enter_context(clock_paused()) if waiting else waits.close()
                if progress is not None and "step" in reached:
                    progress(reached["step"], reached["steps"], reached["loss"])
    except Interrupted as asked:  # a request after the ranks have ended, or a second one
        request = request or asked
    return request


def _exit_like(code: int) -> NoReturn:
    """End this process by the signal or with the status of a rank."""
    sys.stderr.flush()
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    raise SystemExit(code or 1)


def exit_when_orphaned(monitor: int | None) -> None:
    """End this rank when torchrun, or the process that monitors the run, has ended: their signals do not reach a rank.

    What the rank still saves before it notices is what the next attempt would save there.
    """
    parent = os.getppid()
    process = psutil.Process(parent if monitor is None else monitor)  # not a later process of the same number

    def poll() -> None:
        while os.getppid() == parent and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=poll, daemon=True).start()
