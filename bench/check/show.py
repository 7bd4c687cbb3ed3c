"""What was found, for a terminal and for a script."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.check.find import Checked
from bench.check.finding import Finding
from bench.report import plain
from bench.tables import Entry, Table

_VERDICTS = ("pass", "warn", "skip", "FAIL")


def failed(things: Iterable[Checked]) -> bool:
    """Whether any check failed."""
    return any(finding.verdict == "FAIL" for one in things for finding in one.findings)


def text(one: Checked) -> str:
    """A table of all checks of one thing, a line each; below it why, for those that did not pass."""
    notes = list(dict.fromkeys(finding.why for finding in one.findings if finding.why))
    return plain(
        Table(
            ending="",
            title=title(one),
            caption=_counted(one.findings),
            heads=tuple((head, "") for head in ("check", "", "expected", "found")),
            rows=tuple(_row(finding, notes) for finding in one.findings),
            notes=tuple(notes),
            words=(0, 1, 2, 3),
        )
    )


def title(one: Checked) -> str:
    """Kind, path, settings and size."""
    settings = [f"{name} {value}" for name, value in one.settings.items()]
    size = [] if one.parameters is None else [f"{one.parameters:,} parameters"]
    return f"{one.kind} {one.path}" + (f" ({', '.join([*settings, *size])})" if settings or size else "")


def _row(finding: Finding, notes: Sequence[str]) -> tuple[Entry, ...]:
    marks = (notes.index(finding.why) + 1,) if finding.why else ()
    return Entry(finding.check), Entry(finding.verdict, notes=marks), Entry(finding.expected), Entry(finding.found)


def _counted(findings: Sequence[Finding]) -> str:
    verdicts = [finding.verdict for finding in findings]
    return ", ".join(f"{verdicts.count(word)} {word}" for word in _VERDICTS if word in verdicts)


def data(file: Path, things: Sequence[Checked]) -> dict[str, Any]:
    """The same for a script."""
    return {"file": str(file), "failed": failed(things), "checked": [asdict(one) for one in things]}
