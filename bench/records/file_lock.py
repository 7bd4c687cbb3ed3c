"""File locks by flock, which the kernel releases when the holder dies.

A forked child inherits its parent's open files and would keep the lock of a dead parent, so it closes them first.
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
_open: dict[int, tuple[int, int]] = {}  # by handle: device and inode, since other code may close it


def acquire(path: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """Return the handle of a file that holds the lock, for `release`; None where another holds it and `wait` is false.

    Links are not followed. The holder may remove the file: who waited for it then locks the new one. OSError, with the path, where
    the file cannot be opened, or (on a file system without flock) locked.
    """
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o600)
        mine = os.fstat(handle)
        _open[handle] = (mine.st_dev, mine.st_ino)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            with suppress(FileNotFoundError):
                named = os.stat(path, follow_symlinks=False)
                if (named.st_dev, named.st_ino) == _open[handle]:
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
    """Free the lock that `acquire` returned; also for children that compiled code forked, which share it."""
    _open.pop(handle, None)
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _close_inherited() -> None:
    for handle, which in _open.items():
        with suppress(OSError):
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino) == which:
                os.close(handle)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


@contextmanager
def held(
    path: Path, *, shared: bool = False, blocked: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[None]:
    """Hold the lock inside; `blocked` is entered while another process holds it."""
    handle = acquire(path, shared=shared, wait=False)
    if handle is None:
        with blocked():
            handle = acquire(path, shared=shared)
    assert handle is not None
    try:
        yield
    finally:
        release(handle)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock now; false where there is no such file."""
    if not path.is_file():
        return False
    handle = acquire(path, shared=True, wait=False)
    if handle is None:
        return True
    release(handle)
    return False
