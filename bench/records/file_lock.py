"""Locks that free themselves: flock on a file, released by the kernel when its holder dies, however it dies.

A forked child shares its parent's open files, and so would keep a lock whose holder is dead: it closes them as its first act.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
_open: dict[int, tuple[int, int]] = {}  # by handle: device and inode, since somebody may close it without a word


def acquire(path: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """An open file that holds the lock (`release` frees it); None where another holds it and `wait` is false.

    Links are not followed. The file may be removed by its holder: whoever waited for it then tries the new one. OSError, with the
    path, where the file cannot be opened, or (on a file system without flock) locked.
    """
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o600)
        mine = os.fstat(handle)
        _open[handle] = (mine.st_dev, mine.st_ino)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            if _still_there(path, handle):
                return handle
        except BlockingIOError:
            release(handle)
            return None
        except OSError as error:
            release(handle)
            raise OSError(error.errno, f"cannot be locked ({error.strerror})", str(path)) from error
        except BaseException:
            release(handle)
            raise
        release(handle)


def release(handle: int) -> None:
    """Free the lock that `acquire` gave, also for a child that a fork in compiled code gave a share of it."""
    _open.pop(handle, None)
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _forget() -> None:
    for handle, which in _open.items():
        with suppress(OSError):
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino) == which:
                os.close(handle)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _still_there(path: Path, handle: int) -> bool:
    mine = os.fstat(handle)
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (mine.st_ino, mine.st_dev) == (named.st_ino, named.st_dev)


@contextmanager
def held(
    path: Path, *, shared: bool = False, blocked: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[None]:
    """Hold the lock inside; `blocked` is entered for as long as another holds it."""
    handle = acquire(path, shared=shared, wait=False)
    if handle is None:
        with blocked():
            handle = acquire(path, shared=shared)
    assert handle is not None
    try:
        yield
    finally:
        release(handle)


def taken(path: Path) -> bool:
    """Whether some process holds the lock now; false where there is no such file."""
    if not path.is_file():
        return False
    handle = acquire(path, shared=True, wait=False)
    if handle is not None:
        release(handle)
    return handle is None
