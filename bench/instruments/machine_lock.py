"""Machine-wide reader-writer lock: training steps share it, timings hold it exclusively.

Two files, locked by flock, in a folder that only this user can write: the lock covers all processes of the user on the machine and
frees itself when its holder dies. `exclusive` holds the file "turnstile" while it waits, so that shared holders cannot starve it.
Where no file can be locked, runs continue and their timings state that others were not kept out.
"""

import os
import platform
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from bench.records.file_lock import CAN_LOCK, acquire, held, release

_Context = Callable[[], AbstractContextManager[object]]


class MachineLock:
    """`shared()` around training steps, `exclusive()` around a timing; `can_exclude` is false where no file can be locked.

    `folder`: for the lock's files, instead of this user's own. `external`: another process of the run holds the lock, and this one
    takes none. `waiting` is entered while a lock is taken, such as a clock's phase; `blocked` only while another process holds it,
    by default with a message on stderr.
    """

    def __init__(
        self, folder: Path | None = None, external: bool = False, waiting: _Context = nullcontext, blocked: _Context | None = None
    ) -> None:
        self._waiting, self._blocked = waiting, blocked or self._print_blocked
        self._printed = False
        self._folder, reasons = None, []
        for candidate in [] if external or not CAN_LOCK else [folder] if folder is not None else _folders():
            try:
                self._folder = _prepare(candidate, private=folder is None)
                break
            except OSError as error:
                reasons.append(_reason(error))
        if self._folder is None and reasons:
            _warn("; ".join(reasons))

    @property
    def can_exclude(self) -> bool:
        """Whether `exclusive` keeps others out."""
        return self._folder is not None

    def shared(self) -> AbstractContextManager[None]:
        """Hold the lock with other shared holders; waits while a process holds it exclusively or waits to."""
        return self._hold(shared=True)

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the lock alone; waits until all shared holders have left."""
        return self._hold(shared=False)

    @contextmanager
    def _hold(self, shared: bool) -> Iterator[None]:
        with ExitStack() as stack:
            if self._folder is not None:
                with suppress(OSError):  # temporary folders are cleaned now and then
                    self._folder.mkdir(mode=0o700, exist_ok=True)
                try:
                    with self._waiting(), ExitStack() as turn:
                        (turn if shared else stack).enter_context(held(self._folder / "turnstile", blocked=self._blocked))
                        stack.enter_context(held(self._folder / "room", shared=shared, blocked=self._blocked))
                except OSError as error:  # the files or their folder can no longer be opened
                    self._folder = None
                    _warn(_reason(error))
            yield

    @contextmanager
    def _print_blocked(self) -> Iterator[None]:
        if not self._printed:
            self._printed = True
            _print(f"waiting for the machine: another benchmark holds it (locks in {self._folder})")
        yield


def _folders() -> Iterator[Path]:
    """Candidates for the lock's folder; the first usable one is taken, so that all processes of a user agree."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    with suppress(FileNotFoundError):  # no folder for temporary files
        yield Path(tempfile.gettempdir()) / f"deq-bench-{user}"
    with suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deq-bench" / f"locks-{platform.node()}"


def _prepare(folder: Path, private: bool) -> Path:
    """Create the folder and check that it can lock and, where `private`, that it is this user's own; else OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if private and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
        raise OSError(None, "is not a folder of this user's own", str(folder))
    if private and stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)
    for name in ("turnstile", "room"):
        handle = acquire(folder / name, shared=True, wait=False)
        if handle is not None:
            release(handle)
    return folder


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}"


def _warn(reason: str) -> None:
    _print(f"timings cannot have the machine to themselves: {reason}")


def _print(line: str) -> None:
    with suppress(OSError, ValueError):  # stderr is closed
        print(line, file=sys.stderr, flush=True)
