"""Find a cell by its address as a person types it: any case, beginnings of names, or the measure's name for the column."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from bench.analysis.aggregate import groups
from bench.claims.claim import Claim, Finding, judge_claims
from bench.claims.entries import CLAIMS
from bench.claims.evidence import Evidence
from bench.records.errors import UserError, unknown
from bench.records.store import Store
from bench.report.html.sources import CellSource, memory_tables, peer_tables, sourced_group_tables, study_tables

_RECORDS = {
    "memory": ("paper.json", memory_tables),
    "peers": ("peers.json", peer_tables),
    "claims": ("experiments.json", study_tables),
}


def find(results: Path, address: str, claims: Sequence[Claim] | None = None) -> CellSource | Finding:
    """The source of a cell, or the finding of a claim by its id; UserError that lists the names where none or several match."""
    if "/" not in address:
        findings = {one.claim.id: one for one in judge_claims(CLAIMS if claims is None else claims, Evidence(results))}
        return findings[match_name("claim", address, findings)]
    suite, _, rest = address.partition("/")
    suites = Store(results).suites()
    records = [name for name, (file, _) in _RECORDS.items() if name not in suites and (results / name / file).is_file()]
    if not suites and not records:
        raise UserError(f"no records below {results}: run a suite first")
    name = match_name("suite", suite.strip(), [*suites, *records])
    if name in suites:
        found = groups(name, Store(results).read_all(name))
        sources = [source for group in found for table in sourced_group_tables(group, hidden=True) for source in table.all()]
    else:
        sources = [source for table in _RECORDS[name][1](results) for source in table.all()]
    first = {source.address: source for source in reversed(sources)}
    return _find_cell(address, rest, list(first.values()))


def _find_cell(address: str, rest: str, sources: Sequence[CellSource]) -> CellSource:
    """The source that group/row/column names. Names may hold a slash themselves, so every way to cut the text is tried."""
    parts = [part.strip() for part in rest.split("/")]
    if len(parts) < 3 or not all(parts):
        form = "a cell is suite/group/row/column, such as 'smoke/copy memory T=20/LSTM/loss'"
        raise UserError(f"explain {address!r}: {form}; groups: {', '.join(sorted({source.group for source in sources}))}")
    last: UserError | None = None
    for first, second in combinations(range(1, len(parts)), 2):
        try:
            return _find_cut("/".join(parts[:first]), "/".join(parts[first:second]), "/".join(parts[second:]), sources)
        except UserError as error:
            last = error
    assert last is not None
    raise last


def _find_cut(group: str, row: str, column: str, sources: Sequence[CellSource]) -> CellSource:
    group = match_name("group", group, {source.group for source in sources})
    sources = [source for source in sources if source.group == group]
    row = match_name("row", row, {source.row for source in sources})
    by_column = {source.column: source for source in sources if source.row == row}
    by_name = {source.cell.measure: source for source in by_column.values() if source.cell.measure} | by_column
    return by_name[match_name("column", column, by_column, by_name)]


def match_name(kind: str, text: str, names: Iterable[str], whole: Mapping[str, object] | None = None) -> str:
    """The name that is the text in any case, or the only one that begins with it; names in `whole` match only in full."""
    listed, low = sorted(names), text.casefold()
    exact = [name for name in [*listed, *(whole or ())] if name.casefold() == low]
    if exact:
        return text if text in exact else exact[0]
    beginning = [name for name in listed if name.casefold().startswith(low)]
    if kind == "group":  # a comparison goes before its further tables
        beginning = [name for name in beginning if ": " not in name] or beginning
    if len(beginning) > 1:
        raise UserError(f"{kind} {text!r} is the beginning of {len(beginning)}: {', '.join(beginning)}")
    if not beginning:
        raise unknown(kind, text, listed)
    return beginning[0]
