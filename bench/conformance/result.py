"""Checks and their results: `run_checks` runs a contract, `render` prints the results."""

import inspect
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench.records.errors import one_line

Verdict = Literal["pass", "warn", "skip", "FAIL"]
_MAX_ERROR = 200  # characters of an exception's message
_WIDTH = 132


@dataclass(frozen=True)
class Result:
    """Result of a check; `reason` is the remedy of a failure, or the cause of a skip or a warning.

    `run_checks` sets `check` and `expected`.
    """

    verdict: Verdict
    found: str
    reason: str = ""
    check: str = ""
    expected: str = ""


def judge(good: bool, found: str) -> Result:
    """A pass or a FAIL."""
    return Result("pass" if good else "FAIL", found)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A rule of a contract: what it expects, the usual remedy, and the checks that must pass before it runs."""

    name: str
    expected: str
    remedy: str
    run: Callable[[Any], Result]
    needs: tuple[str, ...] = ()


def check(*needs: str) -> Callable[[Callable[[Any], Result]], Check]:
    """Make a function a Check: its docstring's first line is what is expected, the rest the remedy."""

    def register(run: Callable[[Any], Result]) -> Check:
        expected, _, remedy = inspect.cleandoc(run.__doc__ or "").partition("\n")
        name = run.__name__.replace("_", " ")
        return Check(name=name, expected=expected.rstrip("."), remedy=" ".join(remedy.split()), run=run, needs=needs)

    return register


def run_checks(checks: Sequence[Check], subject: Any, file: Path | None = None) -> list[Result]:
    """Run every check in order; an exception is a failure, and what needs a failed check (all need the first) is skipped."""
    results: list[Result] = []
    unmet: set[str] = set()
    for one in checks:
        missing = next((name for name in (checks[0].name, *one.needs) if name in unmet), None)
        try:
            result = one.run(subject) if missing is None else Result("skip", "", f"not run until {missing} passes")
        except (Exception, SystemExit) as error:  # a user's code may raise anything
            result = Result("FAIL", describe_error(error, file))
        if missing is not None or result.verdict == "FAIL":
            unmet.add(one.name)
        reason = one.remedy if result.verdict == "FAIL" else result.reason
        results.append(replace(result, check=one.name, expected=one.expected, reason=reason))
    return results


def describe_error(error: BaseException, file: Path | None = None) -> str:
    """An exception in one line, with the last line of the user's file in its traceback."""
    text = one_line(f"{type(error).__name__}: {error}")
    text = text if len(text) <= _MAX_ERROR else f"{text[:_MAX_ERROR]}…"
    frames = traceback.extract_tb(error.__traceback__) if file else ()
    lines = [frame.lineno for frame in frames if file and Path(frame.filename).resolve() == file.resolve()]
    return f"{text} ({file.name}, line {lines[-1]})" if file and lines else text


def render(title: str, results: Sequence[Result]) -> str:
    """One entry per check: what was found and, unless it passed, what was expected and why."""
    width = max(len(result.check) for result in results)
    lines = [one_line(title)]
    for result in results:
        expected = f"Expected: {result.expected}." if result.verdict in ("warn", "FAIL") else ""
        text = one_line(". ".join(part for part in (result.found, f"{expected} {result.reason}".strip()) if part))
        head = f"  {result.verdict}  {result.check:{width}}  "
        lines += textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
    verdicts = [result.verdict for result in results]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in ("pass", "warn", "skip", "FAIL") if word in verdicts)
    return "\n".join([*lines, counts, ""])
