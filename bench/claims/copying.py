"""The paper's table 1 beside ours: copy memory at T=400, what is printed, what was measured, and whether that agrees."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from bench.analysis.aggregate import Group, ResultRow, aggregate
from bench.analysis.columns import PARAMETERS, Column, metric_columns
from bench.analysis.grid import Cell, Line, Table, line
from bench.analysis.statistics import Interval, significant, written
from bench.analysis.tables import measure_cell
from bench.claims.claim import decided
from bench.claims.evidence import Evidence, by_seed
from bench.claims.hypothesis_tests import tested
from bench.claims.judges_runs import between, part

SUITE = "copy"
NEAR = 1.1  # of chance, either way


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A row of the paper's table 1: what its label begins with here, thousands of parameters, loss, and what is asked of ours."""

    label: str
    size: int
    loss: float
    asked: Literal["at most the printed loss", "at chance, as printed"]


TABLE_1 = (
    Printed(label="DEQ-Transformer", size=14, loss=3.5e-6, asked="at most the printed loss"),
    Printed(label="TCN", size=16, loss=2.7e-5, asked="at most the printed loss"),
    Printed(label="LSTM", size=14, loss=0.0501, asked="at chance, as printed"),
    Printed(label="GRU", size=14, loss=0.0491, asked="at chance, as printed"),
)


def table(evidence: Evidence) -> Table | None:
    """The table of the suite's runs; None where it has not been run."""
    found = next((group for group in evidence.groups(SUITE) if group.rows), None)
    return table_of(found) if found is not None else None


def table_of(group: Group) -> Table:
    """A line for each row of the comparison, the paper's first."""
    score = next(column for column in metric_columns(group.records) if column.name == "test_loss")
    rows = sorted(group.rows, key=lambda row: _place(row.label))
    return Table(
        ending="table-1",
        title=f"Table 1 of the paper, and ours: {group.name}",
        caption="Test loss in nats a position, geometric mean and 95 % t-interval over seeds. Chance, a predictor that knows the "
        f"position alone, is {score.chance:.4f}. Verdicts: one-sided t tests on the log scale at 5 %; at chance means within a "
        f"factor of {NEAR:g}. Each row is judged by itself.",
        rule="",
        heads=(
            ("model", ""),
            ("runs", ""),
            ("paper: parameters", "k"),
            ("ours", "k"),
            ("paper: loss", "nats"),
            ("measured", "nats"),
            ("asked", ""),
            ("verdict", ""),
        ),
        rows=tuple(_line(row, score) for row in rows),
        data=tuple(line for row in rows for line in _data(row, score)),
        words=(0, 6, 7),
    )


def _printed(label: str) -> Printed | None:
    return next((one for one in TABLE_1 if label.startswith(one.label)), None)


def _place(label: str) -> int:
    return next((index for index, one in enumerate(TABLE_1) if label.startswith(one.label)), len(TABLE_1))


def _line(row: ResultRow, score: Column) -> Line:
    printed = _printed(row.label)
    verdict = _verdict(printed, row, score.chance) if printed else "—"
    return line(
        row.label,
        f"{len(row.ok)}/{len(row.finals)}",
        Cell(f"{printed.size}", value=1000 * printed.size) if printed else "—",
        _mean(row, PARAMETERS[1], lambda size: f"{size.mean / 1e3:.1f}"),
        Cell(significant(printed.loss, 2 if printed.loss < 1e-3 else 3), value=printed.loss, unit="nats") if printed else "—",
        _mean(row, score, written),
        printed.asked if printed else "—",
        Cell(verdict, bold=verdict != "—"),
        family=row.family,
    )


def _mean(row: ResultRow, column: Column, write: Callable[[Interval], str]) -> Cell:
    one = aggregate(row, column)
    return replace(measure_cell(row, column, one), text=write(one.estimate) if one.estimate else "—", notes=(), measure="")


def _verdict(printed: Printed, row: ResultRow, chance: float | None) -> str:
    values = by_seed(row, "test_loss")
    if not values:
        return "not tested"
    if printed.asked == "at most the printed loss":
        found = part(row.label, tested(list(values.values()), printed.loss, "log"), printed.loss, "below", "", row, suite=SUITE)
    else:
        guess = dict.fromkeys(values, chance or 0.0)
        found = between(row.label, values, guess, 1 / NEAR, NEAR, row, suite=SUITE)
    return str(found.verdict or decided(found, found.p_against or 0.0).verdict)


def _data(row: ResultRow, score: Column) -> Iterator[dict[str, object]]:
    """A line a run and column."""
    printed = _printed(row.label)
    for record in row.finals:
        for head, measure, unit in (("ours", PARAMETERS[1].name, "1"), ("measured", score.name, "nats")):
            yield {
                **{"suite": SUITE, "group": "table 1", "label": row.label, "column": head, "seed": record.spec.seed},
                **{"value": record.value(measure), "unit": unit, "paper": printed.loss if printed else None},
                **{"status": record.status, "reason": record.reason, "run_ids": record.run_id},
            }
