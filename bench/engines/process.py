"""One run's process, forked from a server that has torch imported and has computed nothing, watched until it ends."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from bench.attempts import note_end
from bench.engines.engine import Died, Ended, Event, Refused, Stepped, Stopped
from bench.engines.worker import work
from bench.errors import says_out_of_memory
from bench.job import Job
from bench.record import Record, RunStatus

GRACE_S = 10.0  # for saving the state, once asked to stop or out of time
_END_S = 2.0  # for the process to be gone, once it has said its last
_PATIENCE_S = 5.0  # of a wait for the machine, before it is worth a line
_LOOK_S = 0.5
_CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP", "SIGXCPU"})


class Worker:
    """A process at work on a job. `listen` when `signs` show something, and now and then: it also holds the run to its limits."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["bench.engines.preload"])
        self.job = job
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=work, args=(theirs, job.model_dump_json()), daemon=True)
        self._kills = _kernel_kills()
        self._process.start()
        theirs.close()
        self._seen: psutil.Process | None = None
        with suppress(psutil.Error):
            self._seen = psutil.Process(self._process.pid)  # knows it from a later one of the same number
        self._limit = time.monotonic() + job.limits.seconds + GRACE_S if job.limits.seconds else None
        self._bound: tuple[float, str, RunStatus | None] | None = None  # by when it is to be over whatever its limit, and why
        self._killed: tuple[str, RunStatus | None] | None = None  # by us: why, and how the run is to be recorded
        self._printed = _size(job.log)  # by earlier attempts
        self._waits_since: float | None = None
        self._said_waiting = False
        self._last = Stepped(job, 0, job.spec.train.steps, None)
        self._deaf = False  # its end of the pipe is closed
        self._peak: int | None = None
        self._looked = 0.0
        self._over: Ended | Stopped | Died | Refused | None = None

    @property
    def signs(self) -> list[Connection | int]:
        """What becomes ready when the process says something or ends: a child of its own may keep the pipe open after it."""
        pipe: list[Connection | int] = [] if self._deaf else [self.pipe]
        return pipe if self._process.exitcode is not None else [*pipe, self._process.sentinel]

    def listen(self) -> list[Event]:
        """What the process has said or become; its last event is its end."""
        events: list[Event] = []
        self._look()
        dead = self._gone()
        if dead:
            self._stop_reading()
        while self._over is None and not self._deaf:
            try:
                if not self.pipe.poll():
                    break
                said = self._understood(self.pipe.recv())
            except (EOFError, OSError):
                self._deaf = True
                self._hurry("closed its connection to the coordinator and did not end", "crashed")
            except Exception as error:  # not what a run of ours sends
                self._kill()
                said = self._over = Died(self.job, f"sent what is no message ({type(error).__name__})", "crashed", self._peak)
            if not self._deaf and said is not None:
                events.append(said)
        waits = self._waits_since
        if self._over is None and waits is not None and not self._said_waiting and time.monotonic() - waits > _PATIENCE_S:
            self._said_waiting = True
            events.append(replace(self._last, waiting=True))
        if self._over is None and dead:
            events.append(self._dead())
        if self._over is not None:
            self._close()
        return events

    def stop(self, why: str) -> None:
        """Ask it to save its state and end; it has `GRACE_S` for that."""
        with suppress(OSError):
            self.pipe.send(("stop", why))
        self._hurry(why, None)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        self._kill()
        self._close()

    def _close(self) -> None:
        """See the process out: it has nothing more to do, and may not keep anybody."""
        self._process.join(_END_S)
        if self._process.exitcode is None:
            self._kill()
            self._process.join(_END_S)
        self.pipe.close()

    def _kill(self) -> None:
        if self._process.pid:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # where it had not come to be the leader of a group

    def _gone(self) -> bool:
        """Whether the process has ended. Its exit status is the fork server's to tell, and 255 where that has died before it."""
        if self._process.exitcode != 255:
            return self._process.exitcode is not None
        with suppress(psutil.Error):
            return self._seen is None or self._seen.status() == psutil.STATUS_ZOMBIE or not self._seen.is_running()
        return True

    def _stop_reading(self) -> None:
        """Let the pipe end after what it holds, whoever has its other end open."""
        with suppress(OSError), socket.socket(fileno=os.dup(self.pipe.fileno())) as end:
            end.shutdown(socket.SHUT_RD)

    def _hurry(self, why: str, status: RunStatus | None) -> None:
        if self._bound is None:
            self._bound = (time.monotonic() + GRACE_S, why, status)

    def _end(self, why: str, status: RunStatus | None) -> None:
        self._killed = self._killed or (why, status)
        self._kill()

    def _understood(self, message: tuple[Any, ...]) -> Event | None:
        kind, *content = message
        if kind == "waiting":
            self._wait(*content)
            return None
        if kind == "step":
            self._last = Stepped(self.job, *content)
            return self._last
        if kind == "record":
            self._over = Ended(self.job, Record.model_validate_json(content[0]))
        elif kind == "failed":
            why, status = content
            note_end(self.job, why)
            self._over = Died(self.job, why, status, self._peak)
        elif kind == "stopped":
            why, status = content
            self._over = Died(self.job, why, "timeout", self._peak) if status == "timeout" else Stopped(self.job, why)
        else:
            self._over = Refused(self.job, content[0])
        return self._over

    def _wait(self, waiting: bool) -> None:
        """Let the limit stand still while the run waits for others."""
        now = time.monotonic()
        if waiting:
            self._waits_since, self._said_waiting = now, False
        elif self._waits_since is not None:
            if self._limit is not None:
                self._limit += now - self._waits_since
            self._waits_since = None

    def _look(self) -> None:
        """Note the high-water mark, which dies with the process; end a process that is past its time or its memory."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        marks = _status(self._process.pid)
        self._peak = marks.get("VmHWM", self._peak)
        most = self.job.limits.memory_bytes
        if most is not None and self.job.spec.device != "cpu" and marks.get("VmRSS", 0) > most:
            self._end(f"out of memory: over its limit of {most} bytes", "oom")
        elif self._limit is not None and self._waits_since is None and now >= self._limit:
            self._end(f"ran past its limit of {self.job.limits.seconds:g} s and did not answer", "timeout")
        elif self._bound is not None and now >= self._bound[0]:
            self._end(*self._bound[1:])

    def _dead(self) -> Died | Stopped:
        self._kill()  # whatever it started
        code = self._process.exitcode
        name = f"status {code}"
        if code is not None and code < 0:
            name = str(-code)
            with suppress(ValueError):
                name = signal.Signals(-code).name
        why = f"killed by {name}" if code is not None and code < 0 else f"the process ended with {name} and no record"
        words = _last_words(self.job.log, self._printed)
        if self._killed is not None and code in (-signal.SIGKILL, 255, None):
            said, status = self._killed
            self._over = Stopped(self.job, said) if status is None else Died(self.job, said, status, self._peak)
        elif code == -signal.SIGKILL and _kernel_kills() > self._kills:
            self._over = Died(self.job, "out of memory: killed by the kernel", "oom", self._peak)
        elif code is None or code == 255 or (code < 0 and name not in _CRASHES):
            self._over = Died(self.job, why, None, self._peak)  # by somebody else; 255: the fork server died and cannot tell
        elif says_out_of_memory(words):  # what a library threw, and nobody caught
            self._over = Died(self.job, f"out of memory: {why}{words}", "oom", self._peak)
        else:
            self._over = Died(self.job, why + words, "crashed", self._peak)
        note_end(self.job, self._over.why)
        return self._over


def listen_to(workers: Iterable[Worker], seconds: float) -> list[Event]:
    """What any of the processes has said or become within so many seconds at most."""
    workers = list(workers)
    wait([sign for worker in workers for sign in worker.signs], timeout=min(seconds, _LOOK_S))
    return [event for worker in workers for event in worker.listen()]


def _kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory, on the machine or in this control group."""
    total = 0
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with suppress(OSError, ValueError):
            total += sum(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("oom_kill "))
    return total


def _status(process: int | None) -> dict[str, int]:
    """VmHWM and VmRSS of a process, in bytes; empty where the system does not say."""
    found = {}
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("VmHWM", "VmRSS"):
                found[name] = 1024 * int(rest.split()[0])
    return found


def _size(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size
    return 0


def _last_words(log: Path, start: int) -> str:
    """The line of what the run printed, from a byte of its log on, that says what failed: the last but for one of memory."""
    signs = ("Fatal Python error", "terminate called", "RuntimeError", "MemoryError")
    with suppress(OSError):
        lines = [line.strip() for line in log.read_bytes()[start:].decode(errors="replace").splitlines()]
        said = [line for line in lines if line.startswith(signs)]
        if said:
            return f" ({next((line for line in said if says_out_of_memory(line)), said[-1])[:200]})"
    return ""
