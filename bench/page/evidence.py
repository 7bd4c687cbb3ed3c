"""What a number of a table comes from: its runs, their values, the statistic, and the command that makes it anew.

The page's panels and `explain` both show an Origin, so that they cannot tell different things.
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.columns import (
    COST,
    COST_MORE,
    MEMORY,
    MEMORY_MORE,
    PARAMETERS,
    SOLVER,
    SOLVER_MORE,
    Aggregate,
    Column,
    Group,
    Row,
    cell,
    metric_columns,
    unit,
)
from bench.record import Record
from bench.spec import Spec
from bench.statistics import Interval, significant, written
from bench.suites import SUITES
from bench.tables import Entry, Table

REPRODUCED = "results/reproduced"  # where the commands put what they make: never over what is published
_RUNS = "n"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One value that a number is made of: what it is `about` (a seed, a depth, a round), its run, and why it does not count."""

    about: str
    value: float | int | str | None
    run: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What one cell shows and what it comes from; suite, group, row and column are its address.

    `shown` is the text in the table, in `shown_unit`; `estimate`, `readings` and `value`, by which a column is sorted, are in
    `unit`. `methods` are pairs of how and over what; `facts` are pairs of a name and what there is to say.
    """

    suite: str
    group: str
    row: str
    column: str
    shown: str
    shown_unit: str
    unit: str
    value: float | None
    estimate: Interval | None = None
    statistic: str
    readings: tuple[Reading, ...] = ()
    methods: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    command: str
    also: str = field(default="", compare=False)  # another name of the column: of the measure

    @property
    def address(self) -> str:
        """`suite/group/row/column`: what `explain` takes."""
        return f"{self.suite}/{self.group}/{self.row}/{self.column}"


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table with the origin of each of its cells, None where a cell names its row or holds no finding."""

    table: Table
    origins: tuple[tuple[Origin | None, ...], ...]

    def all(self) -> Iterator[Origin]:
        """Every origin, row by row."""
        return (origin for line in self.origins for origin in line if origin is not None)


def as_data(origin: Origin) -> dict[str, Any]:
    """The origin for JSON: numbers unrounded."""
    estimate = origin.estimate
    interval = None if estimate is None else {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "n": estimate.n}
    return {
        "address": origin.address,
        **{name: getattr(origin, name) for name in ("suite", "group", "row", "column", "shown", "shown_unit", "unit")},
        "value": origin.value if origin.value is None or math.isfinite(origin.value) else None,
        "estimate": None if interval is None or estimate is None else {**interval, "scale": estimate.scale},
        "statistic": origin.statistic,
        "readings": [{"about": r.about, "value": r.value, "run": r.run, "why": r.why} for r in origin.readings],
        "methods": [{"method": method, "scope": scope} for method, scope in origin.methods],
        "facts": [{"name": name, "what": what} for name, what in origin.facts],
        "command": origin.command,
    }


def command(suite: str, records: Sequence[Record]) -> str:
    """The command that trains a row anew, below `results/reproduced`; a corpus that is not fetched by its name is a NAME=PATH."""
    spec = records[0].spec
    name = suite if suite in SUITES else f"{suite}.py"
    seeds = sorted({record.spec.seed for record in records if record.spec.role == "final"})
    words = ["python", "-m", "bench", "run", name, "--only", f"{_asked(spec)}/{spec.label}", "--device", spec.device]
    words += ["--seeds", ",".join(map(str, seeds))] if seeds else []
    words += ["--processes", str(spec.processes)] if spec.processes > 1 else []
    corpus = spec.task.settings.get("data")
    words += ["--data", _corpus(str(corpus))] if corpus is not None else []
    return shlex.join([*words, "--results", REPRODUCED])


def _asked(spec: Spec) -> str:
    """The group's name in the suite: a plan adds to it where a device or processes were asked for on the command line."""
    name = spec.group.removesuffix(f", {spec.processes} processes")
    return name.removesuffix(" on GPU") if spec.device == "cuda" else name


def _corpus(name: str) -> str:
    from bench.tasks.published import CORPORA

    return name if name in CORPORA else f"{name}=PATH"


_SCALES = {
    "log": "geometric mean over seeds; two-sided 95 % t-interval of the mean logarithm",
    "linear": "arithmetic mean over seeds; two-sided 95 % t-interval",
    "fraction": "arithmetic mean over seeds; two-sided 95 % t-interval, clipped to [0, 1]",
}


def _statistic(estimate: Interval | None) -> str:
    if estimate is None:
        return "no value: see why"
    if estimate.low is None:
        return "one run: no interval"
    if estimate.low == estimate.high:
        return "the same value in every run: nothing to estimate"
    return _SCALES[estimate.scale]


def measure_origin(group: Group, row: Row, column: Column, head: str, shown: Entry | None = None, shown_unit: str = "") -> Origin:
    """A measure of a row: its mean over the runs that ended ok, each run's value, and the runs that do not count."""
    one: Aggregate = cell(row, column)
    own_unit = unit(column, [one])
    text = "n/a" if one.estimate is None else written(one.estimate, counted=column.counted)
    readings = []
    for record in row.finals:
        measure = record.measures.get(column.name)
        failed = "" if record.status == "ok" else f"{record.status}: {record.why}"
        absent = "not recorded" if measure is None else measure.why or ""
        value = None if measure is None or failed else measure.value
        readings.append(Reading(about=f"seed {record.spec.seed}", value=value, run=record.run_id, why=failed or absent))
    facts: list[tuple[str, str]] = [("Better", column.better)] if column.better else []
    facts += [(name, significant(v, 4)) for name, v in (("Chance", column.chance), ("Optimum", column.floor)) if v is not None]
    facts += [("Not measured", reason) for reason in one.reasons]
    if shown is not None and shown.bold:
        facts.append(("Bold", "the best of its column, its interval apart from every other row's, or all exact counts"))
    return Origin(
        suite=group.suite,
        group=group.name,
        row=row.label,
        column=head,
        shown=text if shown is None else shown.text,
        shown_unit=own_unit if shown is None else shown_unit,
        unit=own_unit,
        value=None if one.estimate is None else one.estimate.mean,
        estimate=one.estimate,
        statistic=_statistic(one.estimate),
        readings=tuple(readings),
        methods=tuple(dict.fromkeys((measure.method, measure.scope) for measure in one.measures)),
        facts=tuple(facts),
        command=command(group.suite, row.finals),
        also=column.name,
    )


def count_origin(group: Group, row: Row, shown: Entry) -> Origin:
    """How the runs of a row ended."""
    readings = [
        Reading(about=f"seed {record.spec.seed}", value=record.status, run=record.run_id, why=record.why or "")
        for record in row.finals
    ]
    return Origin(
        suite=group.suite,
        group=group.name,
        row=row.label,
        column=_RUNS,
        shown=shown.text,
        shown_unit="",
        unit="",
        value=float(len(row.ok)),
        statistic="runs that ended ok, of all; only those enter a mean",
        readings=tuple(readings),
        command=command(group.suite, row.finals),
    )


def columns(group: Group, ending: str) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """The columns of a group's table of measures, by its ending, and those that it keeps for its CSV file."""
    return {
        "": ((*PARAMETERS, *metric_columns(group)), tuple(metric_columns(group, "valid"))),
        "cost": (COST, COST_MORE),
        "memory": (MEMORY, MEMORY_MORE),
        "solver": (SOLVER, SOLVER_MORE),
    }[ending]


MEASURED = ("", "cost", "memory", "solver")


def names(group: Group) -> dict[str, str]:
    """What each column is called in an address: by its head, or by its measure where another column has that head."""
    found: dict[str, str] = {}
    for ending in MEASURED:
        for column in (*columns(group, ending)[0], *columns(group, ending)[1]):
            taken = {_RUNS, *found.values()}
            found.setdefault(column.name, column.name if column.head in taken else column.head)
    return found


def measured_sheet(group: Group, table: Table) -> Sheet:
    """A table of measures; its columns are those, in order, that some row has."""
    shown = [column for column in columns(group, table.ending)[0] if any(cell(row, column).estimate for row in group.rows)]
    rows, called = {row.label: row for row in group.rows}, names(group)
    origins: list[tuple[Origin | None, ...]] = []
    for entries in table.rows:
        row = rows.get(entries[0].text)
        if row is None:  # what a guess and the optimum score
            origins.append((None,) * len(entries))
            continue
        line: list[Origin | None] = [None, count_origin(group, row, entries[1])]
        for index, column in enumerate(shown, 2):
            line.append(measure_origin(group, row, column, called[column.name], entries[index], table.heads[index][1]))
        origins.append(tuple(line))
    return Sheet(table=table, origins=tuple(origins))


def unshown(group: Group) -> Iterator[Origin]:
    """Every measure of the columns that no table shows, for `explain` alone."""
    called = names(group)
    for ending in MEASURED:
        shown, more = columns(group, ending)
        for column in (*shown, *more):
            if column in more or not any(cell(row, column).estimate for row in group.rows):
                for row in group.rows:
                    yield measure_origin(group, row, column, called[column.name])
