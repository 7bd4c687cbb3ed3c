"""Fork a process for a run, monitor it, enforce its limits and report how it ends."""

import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess, current_process
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import psutil

from bench.execution.attempts import log_end
from bench.execution.engines.engine import Event, Finished, Lost, Progress, Refused
from bench.execution.engines.worker import work
from bench.execution.job import Job
from bench.records.errors import says_out_of_memory
from bench.records.record import Record, RunStatus

GRACE_S = 10.0  # to save the state, once asked to stop or out of time
POLL_S = 0.5  # between two polls of a process
_REPORT_WAIT_S = 5.0  # a wait for the machine is reported after so long
_EXIT_S = 2.0  # for the process to exit after its last message
_CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP", "SIGXCPU"})
Ending = tuple[str, RunStatus]  # why a process is killed, and the status of its run's record


class Deadlines:
    """A run's time limit, paused while the run waits for the machine, and the deadline of a run that is to end."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._limit = time.monotonic() + seconds + GRACE_S if seconds else None
        self._deadline: tuple[float, Ending] | None = None  # whatever the limit
        self._waits_since: float | None = None
        self._reported = False

    def end_soon(self, reason: str, status: RunStatus) -> None:
        """Kill the run after `GRACE_S` seconds; only the first call counts."""
        self._deadline = self._deadline or (time.monotonic() + GRACE_S, (reason, status))

    def set_waiting(self, waiting: bool) -> None:
        """Pause or resume the time limit."""
        now = time.monotonic()
        if waiting:
            self._waits_since, self._reported = now, False
        elif self._waits_since is not None:
            if self._limit is not None:
                self._limit += now - self._waits_since
            self._waits_since = None

    def waits_long(self) -> bool:
        """Whether a wait has become long; True once for each wait."""
        if self._waits_since is None or self._reported or time.monotonic() - self._waits_since <= _REPORT_WAIT_S:
            return False
        self._reported = True
        return True

    def kill_reason(self, now: float) -> Ending | None:
        """Why the run must be killed now, or None."""
        if self._limit is not None and self._waits_since is None and now >= self._limit:
            return f"ran past its limit of {self._seconds:g} s and did not answer", "timeout"
        return self._deadline[1] if self._deadline is not None and now >= self._deadline[0] else None


class Worker:
    """A process that executes a job. Call `poll` when one of its `handles` is ready, and regularly: it also enforces the limits."""

    def __init__(self, job: Job, gpu: str | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        _shorten_socket_path()
        context.set_forkserver_preload(["bench.execution.engines.preload"])
        self.job = job
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=work, args=(theirs, job.model_dump_json(), gpu), daemon=True)
        self._log_start = job.log.stat().st_size if job.log.exists() else 0  # of this attempt
        self._kernel_kills = _kernel_kills()
        self._process.start()
        theirs.close()
        self._psutil: psutil.Process | None = None
        with suppress(psutil.Error):
            self._psutil = psutil.Process(self._process.pid)  # not a later process of the same number
        self._deadlines = Deadlines(job.limits.seconds)
        self._killed: Ending | None = None  # why this process killed it
        self._progress = Progress(job, 0, job.spec.train.steps, None)
        self._pipe_closed = False  # at its end
        self._peak: int | None = None
        self._polled = 0.0
        self._end: Finished | Lost | Refused | None = None

    @property
    def handles(self) -> list[Connection | int]:
        """Objects for `multiprocessing.connection.wait`: pipe and sentinel, as a child of the process may keep the pipe open."""
        pipe: list[Connection | int] = [] if self._pipe_closed else [self.pipe]
        return pipe if self._process.exitcode is not None else [*pipe, self._process.sentinel]

    def poll(self) -> list[Event]:
        """The events since the last call; the run's last event is its end."""
        self._enforce_limits()
        dead = self._has_ended()
        if dead:
            _stop_reading(self.pipe)
        events = self._receive()
        if self._end is None and self._deadlines.waits_long():
            events.append(replace(self._progress, waiting=True))
        if self._end is None and dead:
            _kill(self._process)  # whatever it started
            self._end = Lost(self.job, *self._cause_of_death(), self._peak)
            log_end(self.job, self._end.reason)
            events.append(self._end)
        if self._end is not None:
            self._close()
        return events

    def stop(self, reason: str) -> None:
        """Ask the process to save its state and end within `GRACE_S`."""
        with suppress(OSError):
            self.pipe.send(reason)
        self._deadlines.end_soon(reason, "interrupted")

    def kill(self) -> None:
        """Kill the process and all that it started."""
        _kill(self._process)
        self._close()

    def _close(self) -> None:
        self._process.join(_EXIT_S)
        if self._process.exitcode is None:
            _kill(self._process)
            self._process.join(_EXIT_S)
        self.pipe.close()

    def _has_ended(self) -> bool:
        """Whether the process has ended; the exit status 255 may also mean that the fork server died."""
        if self._process.exitcode != 255:
            return self._process.exitcode is not None
        with suppress(psutil.Error):
            process = self._psutil
            return process is None or process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
        return True

    def _receive(self) -> list[Event]:
        events: list[Event] = []
        while self._end is None and not self._pipe_closed:
            try:
                if not self.pipe.poll():
                    break
                event = self._event(self.pipe.recv())
            except (EOFError, OSError):
                self._pipe_closed = True
                self._deadlines.end_soon("closed its connection to the coordinator and did not end", "crashed")
                break
            except Exception as error:  # user code wrote to the pipe
                _kill(self._process)
                event = self._end = Lost(self.job, f"sent a malformed message ({type(error).__name__})", "crashed", self._peak)
            if event is not None:
                events.append(event)
        return events

    def _event(self, message: tuple[Any, ...]) -> Event | None:
        kind, content = message[0], message[1:]
        if kind == "waiting":
            self._deadlines.set_waiting(*content)
            return None
        if kind == "step":
            self._progress = Progress(self.job, *content)
            return self._progress
        if kind == "record":
            self._end = Finished(self.job, Record.model_validate_json(content[0]))
        elif kind == "refused":
            self._end = Refused(self.job, *content)
        else:
            reason, status = content
            self._end = Lost(self.job, reason, status, self._peak)
            log_end(self.job, reason)
        return self._end

    def _enforce_limits(self) -> None:
        """Read the peak memory, which is lost with the process; kill a process that is past its time or its memory."""
        now = time.monotonic()
        if now - self._polled < POLL_S:
            return
        self._polled = now
        memory = _memory(self._process.pid)
        self._peak = memory.get("VmHWM", self._peak)
        most = self.job.limits.memory_bytes
        ending = self._deadlines.kill_reason(now)
        if most is not None and self.job.spec.device != "cpu" and memory.get("VmRSS", 0) > most:
            ending = (f"out of memory: over its limit of {most} bytes", "oom")
        if ending is not None:
            self._killed = self._killed or ending
            _kill(self._process)

    def _cause_of_death(self) -> tuple[str, RunStatus | None]:
        """Why the process ended without a record, and the record's status; None where it was killed from outside."""
        code = self._process.exitcode
        if self._killed is not None and code in (-signal.SIGKILL, 255, None):
            return self._killed
        if code == -signal.SIGKILL and _kernel_kills() > self._kernel_kills:
            return "out of memory: killed by the kernel", "oom"
        reason, crashed = _exit_reason(code)
        if not crashed:
            return reason, None
        error = _logged_error(self.job.log, self._log_start)
        if says_out_of_memory(error):  # an uncaught exception of a library
            return f"out of memory: {reason}{error}", "oom"
        return reason + error, "crashed"


def _logged_error(log: Path, start: int) -> str:
    """The last error line of a log from a byte on, or the first about memory, in brackets; empty without one."""
    prefixes = ("Fatal Python error", "terminate called", "RuntimeError", "MemoryError")
    with suppress(OSError):
        lines = [line.strip() for line in log.read_bytes()[start:].decode(errors="replace").splitlines()]
        errors = [line for line in lines if line.startswith(prefixes)]
        if errors:
            return f" ({next((line for line in errors if says_out_of_memory(line)), errors[-1])[:200]})"
    return ""


def _shorten_socket_path() -> None:
    """Keep the fork server's socket in a folder of /tmp where the temporary folder's own path is too long for it.

    The path of a socket has at most 107 bytes; multiprocessing appends `/pymp-xxxxxxxx/listener-xxxxxxxx`.
    """
    config: dict[str, Any] = current_process()._config  # type: ignore[attr-defined]
    if config.get("tempdir") is None and len(os.fsencode(tempfile.gettempdir())) + 32 > 107:
        config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")
        Finalize(None, shutil.rmtree, args=(config["tempdir"], True), exitpriority=-100)  # as multiprocessing removes its own


def _kill(process: BaseProcess) -> None:
    if process.pid:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # where it did not become the leader of a group


def _stop_reading(pipe: Connection) -> None:
    """End the pipe after what it holds, even while a child of the process has the other end open."""
    with suppress(OSError), socket.socket(fileno=os.dup(pipe.fileno())) as end:
        end.shutdown(socket.SHUT_RD)


def _exit_reason(code: int | None) -> tuple[str, bool]:
    """How a process ended, and whether by its own fault: not if killed, nor with 255, which stands for a dead fork server."""
    if code is None or code >= 0:
        return f"the process ended with status {code} and no record", code not in (None, 255)
    name = str(-code)
    with suppress(ValueError):
        name = signal.Signals(-code).name
    return f"killed by {name}", name in _CRASHES


def _kernel_kills() -> int:
    """Processes that the kernel has killed for lack of memory, on the machine and in this control group."""
    total = 0
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with suppress(OSError, ValueError):
            total += sum(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("oom_kill "))
    return total


def _memory(process: int | None) -> dict[str, int]:
    """VmHWM and VmRSS of a process in bytes; empty where the system has no /proc."""
    found = {}
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("VmHWM", "VmRSS"):
                found[name] = 1024 * int(rest.split()[0])
    return found
