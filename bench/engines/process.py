"""One run's process, forked from a server that has torch imported and has computed nothing, watched until it ends."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from bench.attempts import note_end
from bench.engines.engine import Died, Ended, Event, Refused, Stepped, Stopped
from bench.engines.worker import work
from bench.job import Job
from bench.record import Record, RunStatus

GRACE_S = 10.0  # for saving the state, once asked to stop or out of time
_LOOK_S = 0.5
_CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP", "SIGXCPU"})


class Worker:
    """A process at work on a job. `listen` after `pipe` is ready, and now and then: it also holds the run to its limits."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["bench.engines.worker", *_users(job)])
        self.job = job
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=work, args=(theirs, job.model_dump_json()), daemon=True)
        self._kills = _kernel_kills()
        self._process.start()
        theirs.close()
        self._deadline = time.monotonic() + job.limits.seconds + GRACE_S if job.limits.seconds else None
        self._overdue: str | None = None
        self._peak: int | None = None
        self._looked = 0.0
        self._over: Ended | Stopped | Died | Refused | None = None

    def listen(self) -> list[Event]:
        """What the process has said or become; its last event is its end."""
        events: list[Event] = []
        self._look()
        try:
            while self._over is None and self.pipe.poll():
                events.append(self._understood(self.pipe.recv()))
        except (EOFError, OSError):
            events.append(self._dead())
        if self._over is not None:
            self._process.join()
            self.pipe.close()
        return events

    def stop(self, why: str) -> None:
        """Ask it to save its state and end; it has `GRACE_S` for that."""
        with suppress(OSError):
            self.pipe.send(("stop", why))
        self._bound(GRACE_S, why)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        self._kill()
        self._process.join()
        self.pipe.close()

    def _kill(self) -> None:
        if self._process.pid:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # where it had not come to be the leader of a group

    def _bound(self, seconds: float, why: str) -> None:
        until = time.monotonic() + seconds
        self._deadline = until if self._deadline is None else min(self._deadline, until)
        self._overdue = why

    def _understood(self, message: tuple[str, ...]) -> Event:
        kind, *content = message
        if kind == "step":
            return Stepped(self.job, *content)  # type: ignore[arg-type]
        if kind == "record":
            self._over = Ended(self.job, Record.model_validate_json(content[0]))
        elif kind == "stopped":
            why, status = content
            self._over = Died(self.job, why, "timeout", self._peak) if status == "timeout" else Stopped(self.job, why)
        else:
            self._over = Refused(self.job, content[0])
        return self._over

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
            self._overdue = self._overdue or f"out of memory: over its limit of {most} bytes"
            self._deadline = now
        if self._deadline is not None and now >= self._deadline:
            self._overdue = self._overdue or f"ran past its limit of {self.job.limits.seconds:g} s and did not answer"
            self._kill()

    def _dead(self) -> Died | Stopped:
        self._process.join(GRACE_S)
        code = self._process.exitcode
        name = f"status {code}"
        fault: RunStatus = "crashed"
        if code is not None and code < 0:
            name = str(-code)
            with suppress(ValueError):
                name = signal.Signals(-code).name
        why = f"killed by {name}" if code is not None and code < 0 else f"the process ended with {name} and no record"
        if self._overdue is not None and code == -signal.SIGKILL:
            stopped = "limit" not in self._overdue
            fault = "oom" if "memory" in self._overdue else "timeout"
            self._over = Stopped(self.job, self._overdue) if stopped else Died(self.job, self._overdue, fault, self._peak)
        elif code == -signal.SIGKILL and _kernel_kills() > self._kills:
            self._over = Died(self.job, "out of memory: killed by the kernel", "oom", self._peak)
        elif code is None or code == 255 or (code < 0 and name not in _CRASHES):
            self._over = Died(self.job, why, None, self._peak)  # by somebody else; 255: the fork server died and cannot tell
        else:
            self._over = Died(self.job, why + _last_words(self.job.log), fault, self._peak)
        note_end(self.job, self._over.why)
        return self._over


def listen_to(workers: Iterable[Worker], seconds: float) -> list[Event]:
    """What any of the processes has said or become within so many seconds at most."""
    by_pipe: dict[Connection, Worker] = {worker.pipe: worker for worker in workers}
    wait(list(by_pipe), timeout=min(seconds, _LOOK_S))
    return [event for worker in by_pipe.values() for event in worker.listen()]


def _users(job: Job) -> list[str]:
    """The user's own modules, so that the server imports them once and an edit during a long matrix changes nothing."""
    names = {module.partition(":")[0] for module in job.identity.code}
    return sorted(name for name in names if name.split(".")[0] not in ("bench", "baselines", "deq") and name in sys.modules)


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


def _last_words(log: Path) -> str:
    """The last line of what the run printed that says what failed."""
    with suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        said = [
            line for line in lines if line.startswith(("Fatal Python error", "terminate called", "RuntimeError", "MemoryError"))
        ]
        if said:
            return f" ({said[-1][:200]})"
    return ""
