"""The evidence of a cell, or of a claim, as text for a terminal."""

from collections.abc import Sequence

from bench.claims.claim import Finding
from bench.page.evidence import Origin
from bench.report import plain
from bench.statistics import significant
from bench.tables import Entry, Table


def told(found: Origin | Finding) -> str:
    """Everything that `explain` says; whatever records hold is one line, without control characters."""
    return _finding(found) if isinstance(found, Finding) else _origin(found)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], words: tuple[int, ...] = (0, 1)) -> str:
    made = Table(
        ending="",
        title=title,
        caption="",
        heads=tuple((head, "") for head in heads),
        rows=tuple(tuple(map(Entry, row)) for row in rows),
        words=words,
    )
    return plain(made).rstrip() + "\n"


def _number(value: float | int | str | None) -> str:
    return (
        "n/a"
        if value is None
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:.7g}"
        if isinstance(value, float)
        else value
    )


def _origin(origin: Origin) -> str:
    unit = f" {origin.unit}" if origin.unit else ""
    lines: list[tuple[str, str]] = []
    if origin.estimate is not None:
        one = origin.estimate
        lines.append(("mean", _number(one.mean) + unit))
        if one.low is not None and one.high is not None and one.low != one.high:
            lines.append(("interval", f"{_number(one.low)} to {_number(one.high)}{unit}"))
        lines.append(("n", str(one.n)))
    lines.append(("statistic", origin.statistic))
    for method, scope in origin.methods:
        lines += [("method", method), ("scope", scope)]
    lines += [(name.lower(), what) for name, what in origin.facts]
    lines.append(("made anew by", origin.command))
    text = _table(origin.address, ("value", f"{origin.shown} {origin.shown_unit}".strip()), lines)
    if not origin.readings:
        return text
    rows = [(r.about, _number(r.value), r.run, r.why) for r in origin.readings]
    kept = [index for index in range(4) if index < 2 or any(row[index] for row in rows)]
    heads = ("of", f"value{f' ({origin.unit})' if origin.unit else ''}", "run", "why")
    words = tuple(place for place, index in enumerate(kept) if index != 1)
    made_of = _table("made of", [heads[i] for i in kept], [[row[i] for i in kept] for row in rows], words)
    return f"{text}\n{made_of}"


def _finding(finding: Finding) -> str:
    claim = finding.claim
    lines = [("says", claim.says), ("where", claim.where)]
    lines += [
        ("measured", claim.measured),
        ("statistic", claim.statistic),
        ("threshold", f"{claim.threshold} (fixed {claim.fixed})"),
        ("needs", claim.needs),
    ]
    sources = [source for part in finding.parts for source in part.sources]
    lines += [("made anew by", command) for command in dict.fromkeys(source.command for source in sources)]
    text = _table(claim.id, ("verdict", f"{finding.verdict}: {finding.why}"), lines)
    if not finding.parts:
        return text
    rows = []
    for part in finding.parts:
        p = ["—" if value is None else significant(value, 2) for value in (part.p_for, part.p_against)]
        rows.append((part.about, part.value, part.asked, str(part.verdict or "not tested"), *p, part.decided_by, part.note))
    heads = ("about", "found", "asked", "verdict", "p for", "p against", "p corrected, or fact", "note")
    parts = _table("parts", heads, rows, (0, 1, 2, 3, 7))
    samples = [(part.about, ", ".join(map(_number, part.samples))) for part in finding.parts if part.samples]
    parts += f"\n{_table('a number a seed', ('about', 'samples'), samples)}" if samples else ""
    runs = [(source.path, run) for source in dict.fromkeys(sources) for run in source.runs]
    runs += [(source.path, "—") for source in dict.fromkeys(sources) if not source.runs]
    return "\n".join([text, parts, _table("from", ("record", "run"), list(dict.fromkeys(runs)))] if runs else [text, parts])
