"""The source of a table cell: its samples, statistic and facts, and the command that reproduces it.

The page and `explain` show the same CellSource.
"""

import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.analysis.aggregate import Group
from bench.analysis.grid import ARROWS, Cell, Line, Table
from bench.analysis.tables import MEASURE_TABLES, group_tables, measure_tables
from bench.claims import copying, gradients
from bench.claims.evidence import Evidence
from bench.records import side_file
from bench.records.record import Record
from bench.suites import SUITES

_STATISTICS = {
    "log": "geometric mean over seeds; two-sided 95 % t-interval of the mean logarithm",
    "linear": "arithmetic mean over seeds; two-sided 95 % t-interval",
    "fraction": "arithmetic mean over seeds; two-sided 95 % t-interval, clipped to [0, 1]",
    "proportion": "share of the runs; exact two-sided 95 % interval (Clopper and Pearson 1934)",
}


@dataclass(frozen=True, kw_only=True)
class CellSource:
    """A table cell with its address (suite, group, row, column) and its source; `facts` are pairs (name, text)."""

    suite: str
    group: str
    row: str
    column: str
    cell: Cell
    shown_unit: str
    statistic: str
    facts: tuple[tuple[str, str], ...]
    command: str

    @property
    def address(self) -> str:
        """`suite/group/row/column`, as `explain` takes it."""
        return f"{self.suite}/{self.group}/{self.row}/{self.column}"

    def as_data(self) -> dict[str, Any]:
        """The source for JSON, numbers unrounded."""
        cell = self.cell
        return {
            "address": self.address,
            **{name: getattr(self, name) for name in ("suite", "group", "row", "column")},
            **{"shown": cell.text, "shown_unit": self.shown_unit, "unit": cell.unit},
            "value": None if isinstance(cell.value, float) and not math.isfinite(cell.value) else cell.value,
            "estimate": None if cell.interval is None else asdict(cell.interval),
            "statistic": self.statistic,
            "readings": [asdict(sample) for sample in cell.samples],
            "methods": [{"method": method, "scope": scope} for method, scope in cell.methods],
            "facts": [{"name": name, "what": text} for name, text in self.facts],
            "command": self.command,
        }


@dataclass(frozen=True, kw_only=True)
class SourcedTable:
    """A table with the source of each cell: None for a cell that names its row or is a reference value."""

    table: Table
    sources: tuple[tuple[CellSource | None, ...], ...]

    def all(self) -> Iterator[CellSource]:
        """Every source, row by row."""
        return (source for row in self.sources for source in row if source is not None)


def attach_sources(suite: str, tables: Iterable[tuple[str, Table]], command: Callable[[Line], str]) -> list[SourcedTable]:
    """Pair each cell of tables, given with the group of their addresses, with its source."""
    measures: dict[tuple[str, str, str], str] = {}  # by address: a column whose head is another's has its measure for a name

    def source(group: str, table: Table, row: Line, index: int) -> CellSource | None:
        if index < table.label_columns or row.family == "reference":
            return None
        cell, (head, unit) = row[index], table.heads[index]
        column, label = head.rstrip(" ↓↑"), ", ".join([row.label, *(key.text for key in row[1 : table.label_columns])])
        if measures.setdefault((group, label, column), cell.measure) != cell.measure:
            column = cell.measure
        return CellSource(
            suite=suite,
            group=group,
            row=label,
            column=column,
            cell=cell,
            shown_unit=unit,
            statistic=_statistic(table, column, cell),
            facts=tuple(_facts(table, head, index, cell)),
            command=command(row),
        )

    return [
        SourcedTable(table=table, sources=tuple(tuple(source(group, table, row, i) for i in range(len(row))) for row in table.rows))
        for group, table in tables
    ]


def _statistic(table: Table, column: str, cell: Cell) -> str:
    if column.startswith(("paper", "table 4", "the paper's")):
        return "printed in the paper: not measured here"
    if cell.interval is None:
        return table.caption
    if cell.interval.low is None:
        return "one run: no interval"
    return "the same value in every run: nothing to estimate" if cell.interval.has_no_spread else _STATISTICS[cell.interval.scale]


def _facts(table: Table, head: str, index: int, cell: Cell) -> Iterator[tuple[str, str]]:
    yield from (("better", better) for better, arrow in ARROWS.items() if better and head.endswith(arrow))
    yield from ((row[0].text.strip("()"), row[index].text) for row in table.rows if row.family == "reference" and row[index].text)
    yield from (("note", table.notes[number - 1]) for number in cell.notes)
    yield from (("means", remark.partition(": ")[2]) for remark in table.remarks if remark.startswith(f"{head}: "))
    if table.legend:
        yield "rule", table.legend


def command(suite: str, records: Sequence[Record]) -> str:
    """The command that trains a row again, into `results/reproduced` so that no published file is overwritten."""
    spec = records[0].spec
    group = spec.group.removesuffix(f", {spec.processes} processes")  # a plan adds these two to the group's name in the suite
    group = group.removesuffix(" on GPU") if spec.device == "cuda" else group
    seeds = sorted({record.spec.seed for record in records if record.spec.role == "final"})
    words = ["python", "-m", "bench", "run", suite if suite in SUITES else f"PATH/{suite}.py"]
    words += ["--only", f"{group}/{spec.label}", "--device", spec.device]
    words += ["--seeds", ",".join(map(str, seeds))] if seeds else []
    words += ["--processes", str(spec.processes)] if spec.processes > 1 else []
    if (corpus := spec.task.settings.get("data")) is not None:
        from bench.tasks.corpora import CORPORA

        words += ["--data", str(corpus) if corpus in CORPORA else f"{corpus}=PATH"]
    return shlex.join([*words, "--results", "results/reproduced"])


def sourced_group_tables(group: Group, hidden: bool = False) -> list[SourcedTable]:
    """The tables of a comparison, and with `hidden` those of the measures that are only in CSV files too."""
    tables = group_tables(group)
    tables += [copying.table_of(group)] if group.suite == copying.SUITE and group.rows else []
    tables += measure_tables(group, hidden=True) if hidden else []
    records = {record.spec.label: [record] for record in group.trials} | {row.label: list(row.finals) for row in group.rows}
    named = ((group.name if t.kind in MEASURE_TABLES else f"{group.name}: {t.kind}", t) for t in tables)
    return attach_sources(group.suite, named, lambda row: command(group.suite, records.get(row.label) or list(group.records)))


def memory_tables(results: Path) -> list[SourcedTable]:
    """The tables of the memory record; none without one."""
    record = side_file.MEMORY.read(results / "memory" / "paper.json")
    if record is None:
        return []
    from bench.memory.tables import paper_tables

    tables = ((table.kind, table) for table in paper_tables(record))
    return attach_sources("memory", tables, lambda row: "python -m bench memory --suite paper")


def study_tables(results: Path) -> list[SourcedTable]:
    """The tables of the record of studies; none without their study."""
    table = gradients.table(Evidence(results))
    return attach_sources("claims", [(table.kind, table)], lambda row: gradients.COMMAND) if table is not None else []


def peer_tables(results: Path) -> list[SourcedTable]:
    """The tables of the peers' record; none without one."""
    record = side_file.PEERS.read(results / "peers" / "peers.json")
    if record is None:
        return []
    from bench.peers.show import tables

    return attach_sources("peers", tables(record).items(), lambda row: "python -m bench peers")
