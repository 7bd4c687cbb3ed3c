"""Errors that a user can mend: one clear line and exit status 2, never a traceback."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

from bench.escape import one_line as one_line


class UserError(Exception):
    """A wrong call, file or option; its message, one line, names the value and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class CodeError(UserError):
    """The user's own code failed on import: before the runs a UserError like any other, in a run its outcome."""


# How an allocation that failed is worded where no type says it: torch on the host, C++, the kernel, cuBLAS and its like, oneDNN.
_EXHAUSTED = (
    *("out of memory", "defaultcpuallocator", "not enough memory", "bad_alloc", "cannot allocate memory", "can't allocate memory"),
    *("alloc_failed", "failed to allocate", "unable to allocate", "memory allocation failure", "memory allocation failed"),
    *("could not allocate", "memoryerror"),
)


def says_out_of_memory(text: str) -> bool:
    """Whether a library's message says that memory ran out."""
    lower = text.lower()
    return any(sign in lower for sign in _EXHAUSTED) and "static tls block" not in lower


def out_of_memory(error: BaseException) -> str | None:
    """What says that memory ran out, in a line: the exception, one that it was raised from or while handling, or one of its group.

    None where nothing does.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        text = str(one)
        wordy = isinstance(one, (RuntimeError, ImportError, SystemError)) and says_out_of_memory(text)
        named = "OutOfMemory" in type(one).__name__ or (isinstance(one, OSError) and one.errno == errno.ENOMEM)
        if isinstance(one, MemoryError) or named or wordy:
            return one_line(text.strip().splitlines()[0]) if text.strip() else "no detail"
        waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return None


def failure(error: BaseException) -> tuple[Literal["oom", "crashed"], str]:
    """How a run ended that raised this: its status and, in a line, why."""
    found = out_of_memory(error)
    if found is not None:
        return "oom", f"out of memory: {found}"
    return "crashed", one_line(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """A UserError for a name that is not among the allowed ones, with the nearest one suggested."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} Allowed: {', '.join(names)}".replace("' Allowed", "'. Allowed"))
