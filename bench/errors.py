"""Errors that a user can mend: one clear line and exit status 2, never a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches

from bench.escape import one_line as one_line


class UserError(Exception):
    """A wrong call, file or option; its message, one line, names the value and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """A UserError for a name that is not among the allowed ones, with the nearest one suggested."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} Allowed: {', '.join(names)}".replace("' Allowed", "'. Allowed"))
