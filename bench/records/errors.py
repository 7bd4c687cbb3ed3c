"""Errors that a user can mend: one clear line and exit status 2, never a traceback."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

from bench.records import escape

LONGEST = 2000  # characters of a message: an exception of a user's may bring 50 MB


class UserError(Exception):
    """A wrong call, file or option; its message, one line, names the value and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class CodeError(UserError):
    """The user's own code failed on import: before the runs a UserError like any other, in a run its outcome."""


class LeftOut(UserWarning):
    """Something damaged, or that does not belong where it lies, is left out of what is shown; one line."""


def shortened(text: str) -> str:
    """The text, its middle cut to leave at most `LONGEST` characters, in characters that any encoding of Unicode can hold."""
    if len(text) > LONGEST:
        cut, kept = f" [... {len(text):,} characters in all ...] ", LONGEST // 2 - 30
        text = text[:kept] + cut + text[-kept:]
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are no characters become four each or more
        return shortened(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return text


def one_line(text: str) -> str:
    """The text as one visible line, `shortened`: a user's exception may have several lines."""
    return escape.one_line(shortened(text))


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
