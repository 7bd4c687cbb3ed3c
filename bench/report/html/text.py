"""The source of a cell, or the finding of a claim, as plain text: what `explain` prints and the page shows."""

from collections.abc import Iterator, Sequence

from bench.analysis.statistics import significant
from bench.claims.claim import Finding
from bench.records.escape import one_line
from bench.report.console import for_terminal, terminal_width, text_table
from bench.report.html.sources import CellSource


def render(found: CellSource | Finding) -> str:
    """Everything that `explain` prints; each text of a record is one line without control characters."""
    return "\n".join(_finding(found) if isinstance(found, Finding) else _cell(found))


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    cells = [[for_terminal(one_line(cell)) for cell in row] for row in rows]
    words = [index for index in range(len(heads)) if index not in right]
    body = text_table(list(map(one_line, heads)), cells, words, terminal_width())
    return f"{for_terminal(one_line(title), terminal_width())}\n\n{body}\n"


def _number(value: float | int | str | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:.7g}" if isinstance(value, float) else value


def _cell(source: CellSource) -> Iterator[str]:
    cell = source.cell
    unit = f" {cell.unit}" if cell.unit else ""
    lines: list[tuple[str, str]] = []
    if (one := cell.interval) is not None:
        lines.append(("mean", _number(one.mean) + unit))
        if one.low is not None and one.high is not None and not one.has_no_spread:
            lines.append(("interval", f"{_number(one.low)} to {_number(one.high)}{unit}"))
        lines.append(("n", str(one.n)))
    elif cell.value is not None:
        lines.append(("exact", _number(cell.value) + unit))
    lines.append(("statistic", source.statistic))
    for method, scope in cell.methods:
        lines += [("method", method), ("scope", scope)]
    lines += [*source.facts, ("reproduce", source.command)]
    yield _table(source.address, ("value", f"{cell.text} {source.shown_unit}".strip()), lines)
    if cell.samples:
        heads = ("of", f"value ({cell.unit})" if cell.unit else "value", "reason")
        rows = [(one.about, _number(one.value), one.reason) for one in cell.samples]
        kept = [i for i in range(3) if i < 2 or any(row[i] for row in rows)]
        yield _table("computed from", [heads[i] for i in kept], [[row[i] for i in kept] for row in rows], right=[1])
        if runs := [one.run for one in cell.samples if one.run]:
            yield "\n".join(["runs", "", *runs, ""])


def _finding(finding: Finding) -> Iterator[str]:
    claim = finding.claim
    sources = list(dict.fromkeys(source for part in finding.parts for source in part.sources))
    lines = [(name, getattr(claim, name)) for name in ("says", "where", "measured", "statistic")]
    lines += [("threshold", f"{claim.threshold} (fixed {claim.fixed})"), ("needs", claim.needs)]
    lines += [("reproduce", command) for command in dict.fromkeys(source.command for source in sources)]
    yield _table(claim.id, ("verdict", f"{finding.verdict}: {finding.reason}"), lines)
    if not finding.parts:
        return
    rows = []
    for part in finding.parts:
        p = ["—" if value is None else significant(value, 2) for value in (part.p_for, part.p_against)]
        rows.append((part.about, part.value, part.asked, part.verdict or "not tested", *p, part.decided_by, part.note))
    heads = ("about", "found", "asked", "verdict", "p for", "p against", "p, or fact", "note")
    kept = [at for at in range(len(heads)) if any(row[at] not in ("—", "") for row in rows)]
    right = [place for place, at in enumerate(kept) if at in (4, 5, 6)]
    yield _table("parts", [heads[at] for at in kept], [[row[at] for at in kept] for row in rows], right=right)
    samples = [(part.about, ", ".join(map(_number, part.samples))) for part in finding.parts if part.samples]
    if samples:
        yield _table("a number a seed", ("about", "samples"), samples)
    runs = [(source.path, run) for source in sources for run in source.runs or ("—",)]
    if runs:
        yield _table("from", ("record", "run"), list(dict.fromkeys(runs)))
