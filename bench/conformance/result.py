"""Checks and their results: `run_checks` runs a contract, `render` prints a report."""

import inspect
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bench.records.errors import one_line
from bench.records.spec import Settings

Kind = Literal["cell", "model", "solver", "task"]
Verdict = Literal["pass", "warn", "skip", "FAIL"]
_MAX_ERROR = 200  # characters of an exception's message
_WIDTH = 132


class Broken(Exception):
    """A rule is broken; the message is what was found."""


def require(good: object, found: str) -> str:
    """What was found; raises Broken with it unless `good`."""
    if not good:
        raise Broken(found)
    return found


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


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of one definition; `parameters`: how many numbers it trains, None for a solver or task."""

    kind: Kind
    path: str
    settings: Settings
    parameters: int | None
    findings: list[Result]

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(result.verdict == "FAIL" for result in self.findings)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A rule of a contract: what it expects, the usual remedy, and the checks that must pass before it runs.

    `run` returns what it found of a Subject that keeps the rule, raises Broken, or returns a Result that warns or skips.
    """

    name: str
    expected: str
    remedy: str
    run: Callable[[Any], str | Result]
    needs: tuple[str, ...] = ()


def check(*needs: str) -> Callable[[Callable[[Any], str | Result]], Check]:
    """Make a function a Check: its docstring's first line is what is expected, the rest the remedy."""

    def register(run: Callable[[Any], str | Result]) -> Check:
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
        if missing is not None:
            result = Result("skip", "", f"not run until {missing} passes")
        else:
            try:
                found = one.run(subject)
                result = found if isinstance(found, Result) else Result("pass", found)
            except Broken as broken:
                result = Result("FAIL", str(broken), one.remedy)
            except (Exception, SystemExit) as error:  # a user's code may raise anything
                result = Result("FAIL", describe_error(error, file), one.remedy)
        if missing is not None or result.verdict == "FAIL":
            unmet.add(one.name)
        results.append(replace(result, check=one.name, expected=one.expected))
    return results


def describe_error(error: BaseException, file: Path | None = None) -> str:
    """An exception in one line, with the last line of the user's file in its traceback."""
    text = one_line(f"{type(error).__name__}: {error}")
    text = text if len(text) <= _MAX_ERROR else f"{text[:_MAX_ERROR]}…"
    frames = traceback.extract_tb(error.__traceback__) if file else ()
    lines = [frame.lineno for frame in frames if file and Path(frame.filename).resolve() == file.resolve()]
    return f"{text} ({file.name}, line {lines[-1]})" if file and lines else text


def render(report: Report, width: int = _WIDTH) -> str:
    """A title, then one entry per check: what was found and, unless it passed, what was expected and why; `width` in columns."""
    details = [f"{name} {value}" for name, value in report.settings.items()]
    details += [] if report.parameters is None else [f"{report.parameters:,} parameters"]
    title = one_line(f"{report.kind} {report.path}" + (f" ({', '.join(details)})" if details else ""))
    lines = textwrap.wrap(title, width, break_on_hyphens=False)
    longest = max(len(result.check) for result in report.findings)
    for result in report.findings:
        expected = f"Expected: {result.expected}." if result.verdict in ("warn", "FAIL") else ""
        text = one_line(". ".join(part for part in (result.found, f"{expected} {result.reason}".strip()) if part))
        head = f"  {result.verdict}  {result.check:{longest}}  "
        lines += textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
    verdicts = [result.verdict for result in report.findings]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in get_args(Verdict) if word in verdicts)
    return "\n".join([*lines, counts, ""])
