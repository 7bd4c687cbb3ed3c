"""Sharing the machine: training steps run side by side, a timing has it to itself.

A readers-writer lock on two files in the temporary folder, held by flock, so that it covers every process on the machine and frees
itself when its holder dies. Who wants the machine alone passes the turnstile first, so that a stream of steps cannot starve it.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from bench.lock import CAN_LOCK, held


class Machine:
    """`shared()` around training steps, `exclusive()` around a timing; `can_exclude` is false where the system has no flock.

    `alone`: another process of the same run holds the machine for this one, which takes no lock. `waiting` is entered while a lock
    is waited for, such as a clock's phase.
    """

    def __init__(
        self,
        folder: Path | None = None,
        alone: bool = False,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        user = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._turnstile = folder / f"deq-bench-{user}.turnstile"
        self._room = folder / f"deq-bench-{user}.room"
        self.can_exclude = CAN_LOCK and not alone
        self._waiting = waiting

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Run beside others that share; waits while somebody has or wants the machine alone."""
        if not self.can_exclude:
            yield
            return
        with ExitStack() as stack:
            with self._waiting(), held(self._turnstile):
                stack.enter_context(held(self._room, shared=True))
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Run alone: waits until those who share have left, and keeps them out meanwhile."""
        if not self.can_exclude:
            yield
            return
        with ExitStack() as stack:
            with self._waiting():
                stack.enter_context(held(self._turnstile))
                stack.enter_context(held(self._room))
            yield
