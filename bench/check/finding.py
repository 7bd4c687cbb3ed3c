"""A check says what it expected and what it found; a failure says, too, what usually causes it and how to mend it."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

from bench.errors import one_line

Verdict = Literal["pass", "warn", "skip", "FAIL"]
S = TypeVar("S", contravariant=True)
_LONGEST = 200  # characters of an exception's text


class Outcome(NamedTuple):
    """What a check's function gives: the verdict, what was found, and why it is a skip or a warning."""

    verdict: Verdict
    found: str
    why: str = ""


def told(good: bool, found: str) -> Outcome:
    """pass or FAIL."""
    return Outcome("pass" if good else "FAIL", found)


@dataclass(frozen=True, kw_only=True)
class Check(Generic[S]):
    """One rule of a contract: `run(subject)` judges it; `cause` is what usually breaks it and how to mend that.

    Where a check that it `needs` has failed, it is skipped: what it would find is that failure again.
    """

    name: str
    expected: str
    cause: str
    run: Callable[[S], Outcome]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check's outcome in words; `why` is a failure's usual cause and its mending, or the reason of a skip or a warning."""

    check: str
    verdict: Verdict
    expected: str
    found: str
    why: str = ""


def after(check: Check[S], *names: str) -> Check[S]:
    """The same check, with more that comes first."""
    return replace(check, needs=(*names, *check.needs))


def judge(subject: S, checks: Sequence[Check[S]], file: Path | None = None) -> list[Finding]:
    """Every check in its order. What raises has failed; the place in the user's `file` that it came from is named."""
    findings: list[Finding] = []
    lost: set[str] = set()
    for check in checks:
        blocked = [name for name in check.needs if name in lost]
        outcome = Outcome("skip", "", f"not looked at before {blocked[0]} is mended") if blocked else _run(check, subject, file)
        if blocked or outcome.verdict == "FAIL":
            lost.add(check.name)
        why = check.cause if outcome.verdict == "FAIL" else outcome.why
        findings.append(Finding(check=check.name, verdict=outcome.verdict, expected=check.expected, found=outcome.found, why=why))
    return findings


def _run(check: Check[S], subject: S, file: Path | None) -> Outcome:
    try:
        return check.run(subject)
    except (Exception, SystemExit) as error:  # a user's code may do anything
        return Outcome("FAIL", raised(error, file))


def raised(error: BaseException, file: Path | None = None) -> str:
    """An exception in one line, with the line of the user's file that it passed last."""
    text = one_line(f"{type(error).__name__}: {error}")
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    lines = [] if file is None else [f.lineno for f in traceback.extract_tb(error.__traceback__) if _same(f.filename, file)]
    return f"{text} ({file.name}, line {lines[-1]})" if file is not None and lines else text


def _same(name: str, file: Path) -> bool:
    return Path(name).resolve() == file.resolve()
