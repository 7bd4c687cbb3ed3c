"""One run by several processes, which torchrun starts: this process watches them, passes requests on, and ends as they end."""

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

import psutil

from bench.attempts import note_waiting, progress_of
from bench.checkpoint import Interrupt, Interrupted
from bench.job import Job
from bench.loop import Progress
from bench.record import Record, write_text
from bench.spec import Limits

_LOOK_S = 0.1
_GONE_S = 0.5
_GRACE_S = 8  # to save the state in, once asked to stop or left alone
_EXIT = re.compile(r"Root Cause.*?exitcode\s*:\s*(-?\d+)", re.S)


def spread(
    job: Job,
    interrupt: Interrupt,
    progress: Progress | None,
    standing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Record:
    """Do the job with as many processes as its Spec says, on this machine; the Record that the first of them wrote.

    `standing` is entered while the first of them waits for the machine.
    Where one dies and takes the run with it, this process ends in the same way: by the same signal, or with the same status.
    """
    processes = job.spec.processes
    record = job.folder / "record.json"
    for left in (record, *(job.folder / f"record.{rank}.json" for rank in range(1, processes))):
        left.unlink(missing_ok=True)
    memory = job.limits.memory_bytes
    # This process keeps the clock, so that all ranks hear of it at once.
    part = job.model_copy(update={"limits": Limits(memory_bytes=None if memory is None else max(1, memory // processes))})
    with interrupt.deferred():  # pydantic turns an exception that a signal raises in its serialisers into one of its own
        written = part.model_dump_json(indent=1)
    write_text(job.folder / "job.json", written)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        *_grace(),
    ]
    command += ["-m", "bench.engines.worker", str(job.folder / "job.json"), "--record", str(record), "--watch", str(os.getpid())]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)])
    said = job.folder / "torchrun.log"
    said.unlink(missing_ok=True)  # a link that somebody put there is not followed
    with said.open("xb") as log:
        ranks = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": path})
    note_waiting(job, False)  # what an attempt noted that died is not of this one
    request = _wait(ranks, job, interrupt, progress, standing)
    output = said.read_text(errors="replace")
    print(output, end="", file=sys.stderr)
    if record.is_file() and (ranks.returncode == 0 or request is not None):  # else one of them died: the others' word is no result
        found = Record.model_validate_json(record.read_bytes())
        if request is not None and found.status in ("interrupted", "crashed"):  # as ranks are that others leave alone
            return found.model_copy(update={"status": request.status, "why": str(request)})
        return found if found.status != "crashed" else _of_another(job, found)
    if request is not None:
        raise request
    cause = _EXIT.search(output)
    _end_like(ranks.returncode if cause is None else int(cause[1]))
    raise AssertionError


@cache
def _grace() -> list[str]:
    """How long torchrun waits for ranks that it has asked to end, where it can be told (torch 2.13; before it waits for 30 s)."""
    from torch.distributed.run import get_args_parser

    option = "--shutdown-timeout"
    return [f"{option}={_GRACE_S}"] if option in get_args_parser().format_help() else []


def _of_another(job: Job, found: Record) -> Record:
    """The first rank's record with what another one ran into, which for the first is but a connection that broke."""
    for rank in range(1, job.spec.processes):
        with suppress(OSError, ValueError):
            other = Record.model_validate_json((job.folder / f"record.{rank}.json").read_bytes())
            if other.status != "crashed":
                return found.model_copy(update={"status": other.status, "why": other.why})
    return found


def _wait(
    ranks: "subprocess.Popen[bytes]",
    job: Job,
    interrupt: Interrupt,
    progress: Progress | None,
    standing: Callable[[], AbstractContextManager[object]],
) -> Interrupted | None:
    """Until the ranks have ended; the request that ended them, if any did."""
    request: Interrupted | None = None
    waiting = False
    try:
        with interrupt.deferred(), ExitStack() as waits:
            while ranks.poll() is None:
                if request is None and interrupt.asked is not None:
                    request = interrupt.asked
                    ranks.send_signal(signal.SIGTERM)  # torchrun passes it on, and waits for them
                time.sleep(_LOOK_S)
                reached = progress_of(job)
                if waiting != bool(reached.get("waiting", waiting)):
                    waiting = not waiting
                    waits.enter_context(standing()) if waiting else waits.close()
                if progress is not None and "step" in reached:
                    progress(reached["step"], reached["steps"], reached["loss"])
    except Interrupted as asked:  # heard when they had ended, or already known
        request = request or asked
    return request


def _end_like(code: int) -> None:
    """End this process by the signal, or with the status, that a rank ended with."""
    sys.stderr.flush()
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    raise SystemExit(code or 1)


def end_with(watched: int | None) -> None:
    """End this rank when torchrun, or the process that watches the run, is gone: no signal to that one's group reaches it.

    A rank that lives a moment longer does no harm: whatever it still saves is what the next attempt would save there.
    """
    parent = os.getppid()
    watcher = psutil.Process(parent if watched is None else watched)  # knows its process from a later one of the same number

    def watch() -> None:
        while os.getppid() == parent and watcher.is_running() and watcher.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_GONE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
