"""Sharing the machine: training steps run side by side, a timing has it to itself.

A readers-writer lock on two files in the temporary folder, held by flock, so that it covers every process on the machine and frees
itself when its holder dies. Who wants the machine alone passes the turnstile first, so that a stream of steps cannot starve it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


class Machine:
    """`shared()` around training steps, `exclusive()` around a timing; `exclusive` is false where the system has no flock."""

    def __init__(self, folder: Path | None = None) -> None:
        user = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._turnstile = folder / f"deq-bench-{user}.turnstile"
        self._room = folder / f"deq-bench-{user}.room"
        self.can_exclude = fcntl is not None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Run beside others that share; waits while somebody has or wants the machine alone."""
        if not self.can_exclude:
            yield
            return
        with ExitStack() as stack:
            with self._held(self._turnstile, fcntl.LOCK_EX):
                stack.enter_context(self._held(self._room, fcntl.LOCK_SH))
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Run alone: waits until those who share have left, and keeps them out meanwhile."""
        if not self.can_exclude:
            yield
            return
        with self._held(self._turnstile, fcntl.LOCK_EX), self._held(self._room, fcntl.LOCK_EX):
            yield

    @staticmethod
    @contextmanager
    def _held(path: Path, how: int) -> Iterator[None]:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)  # frees the lock
