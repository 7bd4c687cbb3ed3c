"""The checkpoint file of a run, and requests to stop the run.

A checkpoint holds tensors and plain values, is replaced atomically, and is loaded without executing any of its content. Its first
line is the SHA-256 of the rest, which detects damage.
"""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.records.errors import UserError, out_of_memory
from bench.records.record import write_bytes

FORMAT = 3
_HEADER = b"bench checkpoint, SHA-256 "


class _Unfit(ValueError):
    """The file is not a checkpoint of this run; the message is the reason."""


class Interrupted(BaseException):
    """The run was asked to stop or reached its time limit; `status` is the record's."""

    def __init__(self, reason: str, status: str = "interrupted") -> None:
        super().__init__(reason)
        self.status = status


class Interrupt:
    """A request to stop the run, made by a signal handler: raised at once or, inside `deferred`, kept in `asked`."""

    def __init__(self) -> None:
        self.asked: Interrupted | None = None  # the pending request
        self._deferring = 0

    def ask(self, reason: str, status: str = "interrupted") -> None:
        """Stop the run; may be called from a signal handler. Only the first request counts."""
        if self.asked is not None:
            return
        self.asked = Interrupted(reason, status)
        if not self._deferring:
            raise self.asked

    @contextmanager
    def deferred(self, raising: bool = True) -> Iterator[None]:
        """Keep requests in `asked` inside; at the end of the outermost one a pending request is raised, if `raising`."""
        self._deferring += 1
        try:
            yield
        finally:
            self._deferring -= 1
        if raising and not self._deferring and self.asked is not None:
            raise self.asked


class Checkpoint:
    """A run's checkpoint file, saved every `every_s` seconds and when the run is stopped; without a `path`, nothing is saved."""

    def __init__(
        self, path: Path | None = None, run_id: str = "", every_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._run_id, self._every_s, self._clock = path, run_id, every_s, clock
        self._last = clock()
        self._loaded: dict[str, Any] | None = None
        self.step = 0  # of the file on disk
        self.problem: str | None = None  # why it was not written, or was discarded

    @property
    def kept(self) -> bool:
        """Whether there is a file to save to."""
        return self._path is not None

    def due(self) -> bool:
        """Whether it is time to save."""
        return self._path is not None and self._clock() - self._last >= self._every_s

    def save(self, state: dict[str, Any], step: int) -> None:
        """Replace the file with a state (tensors, numbers, text, lists and dictionaries) after `step` steps.

        Where it cannot be written, the old file stays and the run continues.
        """
        if self._path is None:
            return
        file = io.BytesIO()
        torch.save({"format": FORMAT, "run_id": self._run_id, "step": step, "state": state}, file)
        self._last = self._clock()
        try:
            write_bytes(self._path, b"".join((_digest_line(file.getbuffer()), file.getbuffer())))
        except UserError as error:
            self.problem = f"not written at step {step}: {error}"
        else:
            self.step = step

    def load(self) -> dict[str, Any] | None:
        """The saved state; None where there is none, or the file is damaged, another run's, or holds more than data.

        Raises OSError where it cannot be read now, such as from a shared file system that does not answer: it is not lost.
        """
        if self._loaded is not None:
            return self._loaded
        if self._path is None or self._path.is_symlink() or not self._path.is_file():
            return None
        try:
            self.step, self._loaded = self._read(self._path)
            return self._loaded
        except Exception as error:  # a damaged file can raise anything: the run starts over
            if out_of_memory(error) is not None or isinstance(error, OSError):  # the machine is at fault, not the file
                raise
            self.discard(f"unreadable ({error if isinstance(error, _Unfit) else type(error).__name__})")
            return None

    def _read(self, path: Path) -> tuple[int, dict[str, Any]]:
        """The step and the state in the file."""
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            line, content = file.readline(len(_HEADER) + 65), file.read()
        if line != _digest_line(content):
            raise _Unfit("its digest does not fit: the file was changed, or cut, after it was written")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if (found["format"], found["run_id"]) != (FORMAT, self._run_id):
            raise _Unfit("another run's")
        step, state = found["step"], dict(found["state"])
        if type(step) is not int or step < 0 or state.get("done", step) != step:
            raise _Unfit(f"no such step: {step!r}")
        return step, state

    def discard(self, reason: str) -> None:
        """Remove the file; the record states that the run started over, and why."""
        self.problem, self.step = f"{reason}: the run started over", 0
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _digest_line(content: bytes | memoryview) -> bytes:
    return _HEADER + hashlib.sha256(content).hexdigest().encode() + b"\n"
