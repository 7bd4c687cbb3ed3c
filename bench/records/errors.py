"""Errors that a user can correct, each shown as one line, and the classification of exceptions."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

from bench.records import escape

LONGEST = 2000  # characters of a message: a user's exception may hold 50 MB


class UserError(Exception):
    """A wrong call, file or option; the message is one line that names the value and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class CodeError(UserError):
    """The user's code failed on import: inside a run this is the run's outcome, elsewhere a UserError like any other."""


class LeftOut(UserWarning):
    """A damaged or misplaced file is left out; one line."""


def shortened(text: str) -> str:
    """Cut the middle of a text to leave at most `LONGEST` characters, and escape what UTF-8 cannot encode."""
    if len(text) > LONGEST:
        cut, kept = f" [... {len(text):,} characters in all ...] ", LONGEST // 2 - 30
        text = text[:kept] + cut + text[-kept:]
    try:
        text.encode()
    except UnicodeEncodeError:  # escaping makes it longer
        return shortened(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return text


def one_line(text: str) -> str:
    """The text as one visible line, shortened."""
    return escape.one_line(shortened(text))


# Messages of a failed allocation that has no type of its own: torch on the host, C++, the kernel, cuBLAS, oneDNN.
_EXHAUSTED = (
    *("out of memory", "defaultcpuallocator", "not enough memory", "bad_alloc", "cannot allocate memory", "can't allocate memory"),
    *(
        "alloc_failed",
        "allocation_failed",
        "failed to allocate",
        "unable to allocate",
        "memory allocation failure",
        "memory allocation failed",
    ),
    *("could not allocate", "memoryerror"),
    # A full GPU: torch's allocator asks NVML how full it is, which fails on MIG slices, Jetsons and in containers; cuBLAS.
    *("nvml_success ==", "not_initialized when calling `cublascreate"),
)


def says_out_of_memory(text: str) -> bool:
    """Whether a library's message says that memory ran out."""
    lower = text.lower()
    return any(sign in lower for sign in _EXHAUSTED) and "static tls block" not in lower


def out_of_memory(error: BaseException) -> str | None:
    """The line that reports exhausted memory, of an exception, its causes and contexts, or a group's members; None without one."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        text = str(one)
        by_text = isinstance(one, (RuntimeError, ImportError, SystemError)) and says_out_of_memory(text)
        by_type = isinstance(one, MemoryError) or "OutOfMemory" in type(one).__name__
        if by_type or by_text or (isinstance(one, OSError) and one.errno == errno.ENOMEM):
            return one_line(text.strip().splitlines()[0]) if text.strip() else "no detail"
        waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return None


def failure(error: BaseException) -> tuple[Literal["oom", "crashed"], str]:
    """The status of a run that raised this, and the reason in one line."""
    found = out_of_memory(error)
    if found is not None:
        return "oom", f"out of memory: {found}"
    return "crashed", one_line(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """A UserError for a name that is not allowed, with the nearest allowed one suggested."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    between = "; " if any("," in name for name in names) else ", "
    return UserError(f"unknown {kind} {name!r}{hint} Allowed: {between.join(names)}")
