"""Machine-wide reader-writer lock: training steps run side by side, a timing holds the machine alone.

Two files, locked by flock, in a folder that only this user can write: so it covers every process of the user on the machine and
frees itself when its holder dies. Who wants the machine alone passes the turnstile first, so that no stream of steps starves it.
Where nothing can be locked, runs go on, and their timings say that others were not kept out.
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
    """`shared()` around training steps, `exclusive()` around a timing; `can_exclude` is false where nothing can be locked.

    `folder`: for the lock's files, instead of this user's own. `alone`: another process of the same run holds the machine for this
    one, which takes no lock. `waiting` is entered around the taking of a lock, such as a clock's phase; `blocked` only while
    another holds it, by default with a line on stderr.
    """

    def __init__(
        self,
        folder: Path | None = None,
        alone: bool = False,
        waiting: _Context = nullcontext,
        blocked: _Context | None = None,
    ) -> None:
        self._waiting, self._blocked = waiting, blocked or self._say
        self._said = False
        self._folder, reasons = None, []
        for candidate in [] if alone or not CAN_LOCK else [folder] if folder is not None else _folders():
            try:
                self._folder = _usable(candidate, private=folder is None)
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
        """Run beside others that share; waits while somebody has or wants the machine alone."""
        return self._taken(shared=True)

    def exclusive(self) -> AbstractContextManager[None]:
        """Run alone: waits until those who share have left, and keeps them out meanwhile."""
        return self._taken(shared=False)

    @contextmanager
    def _taken(self, shared: bool) -> Iterator[None]:
        with ExitStack() as stack:
            if self._folder is not None:
                with suppress(OSError):  # temporary folders are swept now and then
                    self._folder.mkdir(mode=0o700, exist_ok=True)
                try:
                    with self._waiting(), ExitStack() as turn:
                        (turn if shared else stack).enter_context(held(self._folder / "turnstile", blocked=self._blocked))
                        stack.enter_context(held(self._folder / "room", shared=shared, blocked=self._blocked))
                except OSError as error:  # the files went, or their folder
                    self._folder = None
                    _warn(_reason(error))
            yield

    @contextmanager
    def _say(self) -> Iterator[None]:
        if not self._said:
            self._said = True
            with suppress(OSError, ValueError):
                print(f"waiting for the machine: another benchmark holds it (locks in {self._folder})", file=sys.stderr, flush=True)
        yield


def _folders() -> Iterator[Path]:
    """Where the locks may lie, first come first taken: all processes of a user must agree."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    with suppress(FileNotFoundError):  # no folder for temporary files
        yield Path(tempfile.gettempdir()) / f"deq-bench-{user}"
    with suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deq-bench" / f"locks-{platform.node()}"


def _usable(folder: Path, private: bool) -> Path:
    """The folder, made, this user's own where it is to be private, and on a file system that can lock; OSError where it is not."""
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
    with suppress(OSError, ValueError):
        print(f"timings cannot have the machine to themselves: {reason}", file=sys.stderr, flush=True)
