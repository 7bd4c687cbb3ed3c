"""Table 1 of the paper (copy memory at T=400) with our measurements and a verdict per row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from bench.analysis.aggregate import Group, ResultRow, aggregate
from bench.analysis.columns import PARAMETERS, Column, metric_columns
from bench.analysis.grid import Cell, Line, Table, line
from bench.analysis.statistics import Interval, significant, written
from bench.analysis.tables import measure_cell
from bench.claims.claim import decide
from bench.claims.evidence import Evidence, by_seed
from bench.claims.hypothesis_tests import seed_test
from bench.claims.parts import one_sided, within

SUITE = "copy"
NEAR = 1.1  # at chance: within this factor of it


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's table 1: the start of our label, thousands of parameters, loss, and what our loss must be."""

    label: str
    size: int
    loss: float
    asked: Literal["at most the printed loss", "at chance, as printed"]


TABLE_1 = (
    PaperRow("DEQ-Transformer", 14, 3.5e-6, "at most the printed loss"),
    PaperRow("TCN", 16, 2.7e-5, "at most the printed loss"),
    PaperRow("LSTM", 14, 0.0501, "at chance, as printed"),
    PaperRow("GRU", 14, 0.0491, "at chance, as printed"),
)
_HEADS = {
    **{"model": "", "runs": "", "paper: parameters": "k", "ours": "k", "paper: loss": "nats", "measured": "nats"},
    **{"asked": "", "verdict": ""},
}


def table(evidence: Evidence) -> Table | None:
    """The table; None where the suite has not been run."""
    found = next((group for group in evidence.groups(SUITE) if group.rows), None)
    return table_of(found) if found is not None else None


def table_of(group: Group) -> Table:
    """The table of a comparison, in the paper's order."""
    score = next(column for column in metric_columns(group.records) if column.name == "test_loss")
    printed = {row.label: next((one for one in TABLE_1 if row.label.startswith(one.label)), None) for row in group.rows}
    rows = sorted(group.rows, key=lambda row: TABLE_1.index(one) if (one := printed[row.label]) else len(TABLE_1))
    return Table(
        ending="table-1",
        title=f"Table 1 of the paper, and ours: {group.name}",
        caption="Test loss in nats a position, geometric mean and 95 % t-interval over seeds. Chance, a predictor that knows the "
        f"position alone, is {score.chance:.4f}. Verdicts: one-sided t tests on the log scale at 5 %; at chance means within a "
        f"factor of {NEAR:g}. Each row is judged by itself.",
        heads=tuple(_HEADS.items()),
        rows=tuple(_line(row, score, printed[row.label]) for row in rows),
        data=tuple(one for row in rows for one in _data(row, score, printed[row.label])),
        words=(0, 6, 7),
    )


def _line(row: ResultRow, score: Column, printed: PaperRow | None) -> Line:
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


def _verdict(printed: PaperRow, row: ResultRow, chance: float | None) -> str:
    losses = by_seed(row, "test_loss")
    if not losses:
        return "not tested"
    if printed.asked == "at most the printed loss":
        part = one_sided(row.label, seed_test(list(losses.values()), printed.loss, "log"), "below", printed.loss)
    else:
        part = within(row.label, losses, dict.fromkeys(losses, chance or 0.0), 1 / NEAR, NEAR)
    return str(part.verdict or decide(part, part.p_against or 0.0).verdict)


def _data(row: ResultRow, score: Column, printed: PaperRow | None) -> Iterator[dict[str, object]]:
    for record in row.finals:
        for head, measure, unit in (("ours", PARAMETERS[1].name, "1"), ("measured", score.name, "nats")):
            yield {
                **{"suite": SUITE, "group": "table 1", "label": row.label, "column": head, "seed": record.spec.seed},
                **{"value": record.value(measure), "unit": unit, "paper": printed.loss if printed else None},
                **{"status": record.status, "reason": record.reason, "run_ids": record.run_id},
            }
