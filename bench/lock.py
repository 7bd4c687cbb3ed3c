"""Locks that free themselves: flock on a file, released by the kernel when the last process that holds it dies, however it dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None


def acquire(path: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """An open file that holds the lock (`os.close` frees it); None where another holds it and `wait` is false.

    Links are not followed. The file may be removed by its holder: whoever waited for it then tries the new one. OSError where the
    file cannot be opened, or (on a file system without flock) locked.
    """
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            if _still_there(path, handle):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _still_there(path: Path, handle: int) -> bool:
    mine = os.fstat(handle)
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (mine.st_ino, mine.st_dev) == (named.st_ino, named.st_dev)


@contextmanager
def held(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Wait for the lock, hold it inside."""
    handle = acquire(path, shared=shared)
    assert handle is not None
    try:
        yield
    finally:
        os.close(handle)


def taken(path: Path) -> bool:
    """Whether some process holds the lock now; false where there is no such file."""
    if not path.is_file():
        return False
    handle = acquire(path, shared=True, wait=False)
    if handle is not None:
        os.close(handle)
    return handle is None
