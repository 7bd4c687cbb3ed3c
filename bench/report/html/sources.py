"""Where the number of a table cell comes from: its runs, their values, the statistic, and the command that reproduces it.

The page and `explain` show the same CellSource. This module has the sources of the tables of measures (means over seeds).
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.analysis.aggregate import (
    COST,
    COST_MORE,
    MEMORY,
    MEMORY_MORE,
    PARAMETERS,
    SOLVER,
    SOLVER_MORE,
    Column,
    Group,
    ResultRow,
    cell,
    metric_columns,
    unit,
)
from bench.analysis.grid import Cell, Table
from bench.analysis.statistics import Interval, significant, written
from bench.records.record import Record
from bench.suites import SUITES

_STATISTICS = {
    "log": "geometric mean over seeds; two-sided 95 % t-interval of the mean logarithm",
    "linear": "arithmetic mean over seeds; two-sided 95 % t-interval",
    "fraction": "arithmetic mean over seeds; two-sided 95 % t-interval, clipped to [0, 1]",
}
_BOLD = "the best of its column, its interval apart from every other row's, or all exact counts"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One value that a number is computed from; `about` is its seed, depth or round, `why` the reason that it does not count."""

    about: str
    value: float | int | str | None
    run: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class CellSource:
    """What one table cell shows and where it comes from; suite, group, row and column are its address.

    `shown` is the text in the table, in `shown_unit`; `estimate`, `samples` and `value`, by which a column is sorted, are in
    `unit`. `methods` are pairs (method, scope), `facts` pairs (name, text). `measure` is the recorded name of the column.
    """

    suite: str
    group: str
    row: str
    column: str
    shown: str
    shown_unit: str = ""
    unit: str = ""
    value: float | None
    estimate: Interval | None = None
    statistic: str
    samples: tuple[Sample, ...] = ()
    methods: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    command: str
    measure: str = field(default="", compare=False)

    @property
    def address(self) -> str:
        """`suite/group/row/column`, as `explain` takes it."""
        return f"{self.suite}/{self.group}/{self.row}/{self.column}"

    def as_data(self) -> dict[str, Any]:
        """The source for JSON, numbers unrounded."""
        names = ("suite", "group", "row", "column", "shown", "shown_unit", "unit")
        return {
            "address": self.address,
            **{name: getattr(self, name) for name in names},
            "value": self.value if self.value is None or math.isfinite(self.value) else None,
            "estimate": None if self.estimate is None else asdict(self.estimate),
            "statistic": self.statistic,
            "readings": [asdict(sample) for sample in self.samples],
            "methods": [{"method": method, "scope": scope} for method, scope in self.methods],
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


def command(suite: str, records: Sequence[Record]) -> str:
    """The command that trains a row again, into `results/reproduced` so that no published file is overwritten."""
    spec = records[0].spec
    group = spec.group.removesuffix(f", {spec.processes} processes")  # a plan adds these two to the group's name in the suite
    group = group.removesuffix(" on GPU") if spec.device == "cuda" else group
    seeds = sorted({record.spec.seed for record in records if record.spec.role == "final"})
    words = ["python", "-m", "bench", "run", suite if suite in SUITES else f"{suite}.py"]
    words += ["--only", f"{group}/{spec.label}", "--device", spec.device]
    words += ["--seeds", ",".join(map(str, seeds))] if seeds else []
    words += ["--processes", str(spec.processes)] if spec.processes > 1 else []
    if (corpus := spec.task.settings.get("data")) is not None:
        from bench.tasks.corpora import CORPORA

        words += ["--data", str(corpus) if corpus in CORPORA else f"{corpus}=PATH"]
    return shlex.join([*words, "--results", "results/reproduced"])


def _statistic(estimate: Interval | None) -> str:
    if estimate is None:
        return "no value: see why"
    if estimate.low is None:
        return "one run: no interval"
    return "the same value in every run: nothing to estimate" if estimate.exact else _STATISTICS[estimate.scale]


def _measure_source(group: Group, row: ResultRow, column: Column, name: str) -> CellSource:
    """The source of a row's mean of one measure."""
    one = cell(row, column)
    samples = []
    for record in row.finals:
        measure = record.measures.get(column.name)
        absent = "not recorded" if measure is None else measure.reason or ""
        reason = absent if record.status == "ok" else f"{record.status}: {record.reason}"
        value = measure.value if measure is not None and record.status == "ok" else None
        samples.append(Sample(about=f"seed {record.spec.seed}", value=value, run=record.run_id, reason=reason))
    facts: list[tuple[str, str]] = [("Better", column.better)] if column.better else []
    facts += [(name, significant(v, 4)) for name, v in (("Chance", column.chance), ("Optimum", column.optimum)) if v is not None]
    facts += [("Not measured", reason) for reason in one.reasons]
    return CellSource(
        suite=group.suite,
        group=group.name,
        row=row.label,
        column=name,
        shown="n/a" if one.estimate is None else written(one.estimate, counted=column.counted),
        shown_unit=unit(column, [one]),
        unit=unit(column, [one]),
        value=None if one.estimate is None else one.estimate.mean,
        estimate=one.estimate,
        statistic=_statistic(one.estimate),
        samples=tuple(samples),
        methods=tuple(dict.fromkeys((measure.method, measure.scope) for measure in one.measures)),
        facts=tuple(facts),
        command=command(group.suite, row.finals),
        measure=column.name,
    )


def _count_source(group: Group, row: ResultRow, shown: str) -> CellSource:
    """The source of the number of runs that ended ok."""
    finals = [
        Sample(about=f"seed {one.spec.seed}", value=one.status, run=one.run_id, reason=one.reason or "") for one in row.finals
    ]
    return CellSource(
        suite=group.suite,
        group=group.name,
        row=row.label,
        column="n",
        shown=shown,
        value=float(len(row.ok)),
        statistic="runs that ended ok, of all; only those enter a mean",
        samples=tuple(finals),
        command=command(group.suite, row.finals),
    )


def _columns(group: Group) -> dict[str, tuple[Sequence[Column], Sequence[Column]]]:
    """By kind of table: the columns it shows, and those that are only in its CSV file."""
    return {
        "": ((*PARAMETERS, *metric_columns(group)), metric_columns(group, "valid")),
        "cost": (COST, COST_MORE),
        "memory": (MEMORY, MEMORY_MORE),
        "solver": (SOLVER, SOLVER_MORE),
    }


MEASURE_TABLES = ("", "cost", "memory", "solver")


def _names(group: Group) -> dict[str, str]:
    """The name of each column in an address: its head, or its measure where another column has that head."""
    found: dict[str, str] = {}
    for shown, more in _columns(group).values():
        for column in (*shown, *more):
            found.setdefault(column.name, column.name if column.head in ("n", *found.values()) else column.head)
    return found


def _is_shown(group: Group, column: Column) -> bool:
    return any(cell(row, column).estimate for row in group.rows)


def measure_table(group: Group, table: Table) -> SourcedTable:
    """A table of measures with its sources; its columns are those, in order, that some row has."""
    columns = [column for column in _columns(group)[table.ending][0] if _is_shown(group, column)]
    rows, names = {row.label: row for row in group.rows}, _names(group)

    def sources(entries: Sequence[Cell]) -> Iterator[CellSource | None]:
        row = rows.get(entries[0].text)
        if row is None:  # the reference rows (chance) and (optimum)
            yield from [None] * len(entries)
            return
        yield from (None, _count_source(group, row, entries[1].text))
        for column, entry, (_, shown_unit) in zip(columns, entries[2:], table.heads[2:], strict=True):
            source = _measure_source(group, row, column, names[column.name])
            facts = (*source.facts, ("Bold", _BOLD)) if entry.bold else source.facts
            yield replace(source, shown=entry.text, shown_unit=shown_unit, facts=facts)

    return SourcedTable(table=table, sources=tuple(tuple(sources(entries)) for entries in table.rows))


def unshown(group: Group) -> Iterator[CellSource]:
    """The sources of the measures that no table shows, for `explain` alone."""
    names = _names(group)
    for shown, more in _columns(group).values():
        hidden = [column for column in (*shown, *more) if column in more or not _is_shown(group, column)]
        yield from (_measure_source(group, row, column, names[column.name]) for column in hidden for row in group.rows)
