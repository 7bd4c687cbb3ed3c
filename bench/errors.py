"""Errors that a user can mend: one clear line and exit status 2, never a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 2000  # characters of a message: an exception of a user's may bring 50 MB


class UserError(Exception):
    """A wrong call, file or option; its message, one line, names the value and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


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
    """The text as one line, `shortened`: a user's exception may have several lines."""
    return " ".join(shortened(text).splitlines())


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """A UserError for a name that is not among the allowed ones, with the nearest one suggested."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} Allowed: {', '.join(names)}".replace("' Allowed", "'. Allowed"))
