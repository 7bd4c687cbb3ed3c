"""The tables of the comparison with other libraries; each cell with the rounds and counts of the record that it comes from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.analysis.grid import Cell, Table
from bench.records import side_file
from bench.report.html.sources import CellSource, Sample, SourcedTable
from bench.report.html.table_sources import key_columns, number

_INTERVAL = "median over rounds taken in turns; in brackets its 95 % interval by order statistics, or the range of fewer than six"
_COUNTED = "counted once: the same in every run"
_TABLES = {
    "overhead": ("A training step by each library, over its floor", _INTERVAL),
    "steps": ("Evaluations of a solve to a tolerance", _COUNTED),
    "memory": ("Memory of a training step by each library", _COUNTED),
    "baselines": ("Training steps of the explicit baselines beside plain torch", _INTERVAL),
    "harness": ("What the harness adds to a training step", _INTERVAL),
}
_SETTINGS = ("library", "problem", "method", "rtol", "dtype")
# The fields that a column is computed from, by the end of its head; for any other column, all fields of its rows.
_FIELDS = {
    "step / floor": ("step_s", "floor_s"),
    "deq, time": ("step_s",),
    "reference, time": ("model_s", "reference_s"),
    "reference (ms)": ("reference_s",),
    "harness (ms)": ("harness_s",),
    "loop (ms)": ("bare_s",),
    "more (%)": ("harness_s", "bare_s"),
    "f + VJP": ("evaluations", "products"),
    "saved (MiB)": ("saved_bytes",),
    "a state)": ("peak_bytes", "state_bytes"),
    "peak (MiB)": ("peak_bytes",),
    "ms": ("step_s", "model_s"),
}


def peer_tables(results: Path) -> list[SourcedTable]:
    """The tables of the peers' record; none without one."""
    record = side_file.PEERS.read(results / "peers" / "peers.json")
    if record is None:
        return []
    from bench.peers.show import tables

    return [_sourced(kind, markdown, record) for kind, markdown in tables(record).items()]


def _sourced(kind: str, markdown: str, record: dict[str, Any]) -> SourcedTable:
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.strip().splitlines()]
    first = key_columns(heads)
    title, statistic = _TABLES[kind]
    libraries = list(record["libraries"])
    table = Table(
        ending=kind,
        title=title,
        caption=f"Libraries: {', '.join(f'{name} {version}' for name, version in record['libraries'].items())}.",
        rule=f"{statistic[0].upper()}{statistic[1:]}.",
        heads=tuple((head, "") for head in heads),
        rows=tuple(tuple(map(Cell, row)) for row in rows),
        words=tuple(i for i in range(len(heads)) if i < first or all(number(row[i]) is None for row in rows)),
    )

    def source(row: Sequence[str], index: int) -> CellSource:
        head, keys = heads[index], {name: text.lower() for name, text in zip(heads[:first], row, strict=False)}
        library = next((name for name in libraries if head.startswith(f"{name}: ")), None)
        if library is None and heads.count(head) > 1:  # the first such column is the first library's
            library = libraries[heads[:index].count(head)]
        lines = [line for line in record[kind] if all(str(line.get(name, "")).lower() == text for name, text in keys.items())]
        lines = [line for line in lines if library in (None, line.get("library")) and _of_tolerance(head, line)]
        return CellSource(
            suite="peers",
            group=kind,
            row=", ".join(row[:first]),
            column=f"{head} ({library})" if head in heads[:index] else head,
            shown=row[index],
            value=number(row[index]),
            statistic=statistic,
            samples=tuple(sample for line in lines for sample in _samples(line, set(keys), head)),
            command="python -m bench peers",
        )

    sources = tuple((*[None] * first, *(source(row, i) for i in range(first, len(heads)))) for row in rows)
    return SourcedTable(table=table, sources=sources)


def _of_tolerance(head: str, line: dict[str, Any]) -> bool:
    """Whether a solve belongs to a column named by tolerance, such as `1e-3 (float32)`; lines without a tolerance always do."""
    return "rtol" not in line or (number(head) == line["rtol"] and head.endswith(f"({line['dtype']})"))


def _samples(line: dict[str, Any], keys: set[str], head: str) -> list[Sample]:
    """The fields of a line that a column is computed from, a list round by round."""
    fields = next((fields for end, fields in _FIELDS.items() if head.endswith(end)), None)
    prefix = f"{line['library']}: " if "library" in line and "library" not in keys else ""
    found = []
    for name, value in line.items():
        if name in keys or name in _SETTINGS or (fields is not None and name not in fields):
            continue
        rounds = enumerate(value, 1) if isinstance(value, list) else [(0, value)]
        found += [Sample(about=f"{prefix}{name}" + (f", round {n}" if n else ""), value=one) for n, one in rounds]
    return found
