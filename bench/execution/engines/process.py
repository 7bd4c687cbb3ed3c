"""Fork a process for a run, monitor it, enforce its limits and report how it ends."""

import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, current_process
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import psutil

from bench.execution.attempts import log_end
from bench.execution.engines.engine import Event, Finished, Lost, Progress, Refused, Stopped
from bench.execution.engines.worker import work
from bench.execution.job import Job
from bench.records.errors import says_out_of_memory
from bench.records.record import Record, RunStatus

GRACE_S = 10.0  # to save the state, once asked to stop or out of time
_EXIT_S = 2.0  # for the process to exit after its last message
_REPORT_WAIT_S = 5.0  # a wait for the machine is reported after so long
_POLL_S = 0.5
_CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP", "SIGXCPU"})


@dataclass(frozen=True)
class _KillReason:
    """Why this module kills a process; `status` is the record's, None where the run was only asked to stop."""

    reason: str
    status: RunStatus | None


class Worker:
    """A process that executes a job. Call `poll` when one of its `handles` is ready, and regularly: it also enforces the limits."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("forkserver")
        _shorten_socket_path()
        context.set_forkserver_preload(["bench.execution.engines.preload"])
        self.job = job
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=work, args=(theirs, job.model_dump_json()), daemon=True)
        self._log = _LogTail(job.log)
        self._kernel_kills = _kernel_kills()
        self._process.start()
        theirs.close()
        self._psutil: psutil.Process | None = None
        with suppress(psutil.Error):
            self._psutil = psutil.Process(self._process.pid)  # not a later process of the same number
        self._deadlines = _Deadlines(job.limits.seconds)
        self._killed: _KillReason | None = None  # by this process
        self._progress = Progress(job, 0, job.spec.train.steps, None)
        self._pipe_closed = False  # at its end
        self._peak: int | None = None
        self._polled = 0.0
        self._end: Finished | Stopped | Lost | Refused | None = None

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
            self._end = self._death()
            log_end(self.job, self._end.reason)
            events.append(self._end)
        if self._end is not None:
            self._close()
        return events

    def stop(self, reason: str) -> None:
        """Ask the process to save its state and end within `GRACE_S`."""
        with suppress(OSError):
            self.pipe.send(("stop", reason))
        self._deadlines.end_soon(_KillReason(reason, None))

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
                self._deadlines.end_soon(_KillReason("closed its connection to the coordinator and did not end", "crashed"))
                break
            except Exception as error:  # user code wrote to the pipe
                _kill(self._process)
                event = self._end = self._lost(f"sent a malformed message ({type(error).__name__})", "crashed")
            if event is not None:
                events.append(event)
        return events

    def _event(self, message: tuple[Any, ...]) -> Event | None:
        kind, *content = message
        if kind == "waiting":
            self._deadlines.set_waiting(*content)
            return None
        if kind == "step":
            self._progress = Progress(self.job, *content)
            return self._progress
        if kind == "record":
            self._end = Finished(self.job, Record.model_validate_json(content[0]))
        elif kind == "failed":
            reason, status = content
            log_end(self.job, reason)
            self._end = self._lost(reason, status)
        elif kind == "stopped":
            reason, status = content
            self._end = self._lost(reason, "timeout") if status == "timeout" else Stopped(self.job, reason)
        else:
            self._end = Refused(self.job, content[0])
        return self._end

    def _enforce_limits(self) -> None:
        """Read the peak memory, which is lost with the process; kill a process that is past its time or its memory."""
        now = time.monotonic()
        if now - self._polled < _POLL_S:
            return
        self._polled = now
        memory = _memory(self._process.pid)
        self._peak = memory.get("VmHWM", self._peak)
        most = self.job.limits.memory_bytes
        ending = self._deadlines.kill_reason(now)
        if most is not None and self.job.spec.device != "cpu" and memory.get("VmRSS", 0) > most:
            ending = _KillReason(f"out of memory: over its limit of {most} bytes", "oom")
        if ending is not None:
            self._killed = self._killed or ending
            _kill(self._process)

    def _lost(self, reason: str, fault: RunStatus | None) -> Lost:
        return Lost(self.job, reason, fault, self._peak)

    def _death(self) -> Lost | Stopped:
        """The event of a process that ended without a record: killed here, by the kernel, by another, or by its own fault."""
        code = self._process.exitcode
        if self._killed is not None and code in (-signal.SIGKILL, 255, None):
            reason, status = self._killed.reason, self._killed.status
            return Stopped(self.job, reason) if status is None else self._lost(reason, status)
        if code == -signal.SIGKILL and _kernel_kills() > self._kernel_kills:
            return self._lost("out of memory: killed by the kernel", "oom")
        reason, crashed = _exit_reason(code)
        if not crashed:
            return self._lost(reason, None)
        error = self._log.error()
        if says_out_of_memory(error):  # an uncaught exception of a library
            return self._lost(f"out of memory: {reason}{error}", "oom")
        return self._lost(reason + error, "crashed")


class _Deadlines:
    """A run's time limit, paused while the run waits for the machine, and the deadline of a run that is to end."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._limit = time.monotonic() + seconds + GRACE_S if seconds else None
        self._deadline: tuple[float, _KillReason] | None = None  # whatever the limit
        self._waits_since: float | None = None
        self._reported = False

    def end_soon(self, ending: _KillReason) -> None:
        """Kill the run after `GRACE_S` seconds; only the first call counts."""
        self._deadline = self._deadline or (time.monotonic() + GRACE_S, ending)

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

    def kill_reason(self, now: float) -> _KillReason | None:
        """Why the run must be killed now, or None."""
        if self._limit is not None and self._waits_since is None and now >= self._limit:
            return _KillReason(f"ran past its limit of {self._seconds:g} s and did not answer", "timeout")
        if self._deadline is not None and now >= self._deadline[0]:
            return self._deadline[1]
        return None


class _LogTail:
    """The part of a log file that this attempt writes."""

    def __init__(self, path: Path) -> None:
        self._path, self._start = path, 0
        with suppress(OSError):
            self._start = path.stat().st_size

    def error(self) -> str:
        """The last error line, or the first about memory, in brackets; empty without one."""
        prefixes = ("Fatal Python error", "terminate called", "RuntimeError", "MemoryError")
        with suppress(OSError):
            lines = [line.strip() for line in self._path.read_bytes()[self._start :].decode(errors="replace").splitlines()]
            errors = [line for line in lines if line.startswith(prefixes)]
            if errors:
                return f" ({next((line for line in errors if says_out_of_memory(line)), errors[-1])[:200]})"
        return ""


def poll_all(workers: Iterable[Worker], seconds: float) -> list[Event]:
    """The events of all processes; waits at most so many seconds for one."""
    workers = list(workers)
    wait([handle for worker in workers for handle in worker.handles], timeout=min(seconds, _POLL_S))
    return [event for worker in workers for event in worker.poll()]


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
