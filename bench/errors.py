"""Errors that a user can mend: one clear line and exit status 2, never a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A wrong call, file or option; its message, one line, names the value and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """The text as one line that any encoding can hold: a user's exception may have several, and bytes that are no characters."""
    return " ".join(" ".join(text.splitlines()).encode("utf-8", "backslashreplace").decode("utf-8").split(" "))


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """A UserError for a name that is not among the allowed ones, with the nearest one suggested."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} Allowed: {', '.join(names)}".replace("' Allowed", "'. Allowed"))
