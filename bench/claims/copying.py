"""Table 1 of the paper (copy memory at T=400) with our measurements and a verdict per row."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from bench.analysis.aggregate import Group, ResultRow, aggregate, measure_cell
from bench.analysis.columns import PARAMETERS, Column, metric_columns
from bench.analysis.grid import Cell, Line, Table, line
from bench.analysis.selection import by_seed
from bench.analysis.statistics import Interval, significant, written
from bench.claims.claim import decide
from bench.claims.evidence import Evidence
from bench.claims.judges_runs import of_scores
from bench.claims.parts import mean_within, ratios
from bench.suites.paper import COPY, PRINTED, PaperRow

SUITE = "copy"
NEAR = 1.1  # at chance: within this factor of it
TABLE_1 = [row for row in PRINTED if row.table == COPY]
_AT_CHANCE = ("LSTM", "GRU")  # the others are to copy
_HEADS = {
    **{"model": "", "runs": "", "paper: parameters": "k", "ours": "k", "paper: loss": "nats", "measured": "nats"},
    "verdict": "",
}


def table(evidence: Evidence) -> Table | None:
    """The table; None where the suite has not been run."""
    found = next((group for group in evidence.groups(SUITE) if group.rows), None)
    return table_of(found) if found is not None else None


def table_of(group: Group) -> Table:
    """The table of a comparison, in the paper's order; a row of ours begins with the paper's label."""
    score = next(column for column in metric_columns(group.records) if column.name == "test_loss")
    printed = {row.label: next((one for one in TABLE_1 if row.label.startswith(one.label)), None) for row in group.rows}
    rows = sorted(group.rows, key=lambda row: TABLE_1.index(one) if (one := printed[row.label]) else len(TABLE_1))
    return Table(
        kind="table-1",
        title=f"Table 1 of the paper, and ours: {group.name}",
        caption="Test loss in nats a position, geometric mean and 95 % t-interval over seeds. Chance, a predictor that knows the "
        f"position alone, is {score.chance:.4f}. Asked are at most the printed loss, of LSTM and GRU that of chance within a "
        f"factor of {NEAR:g}. Verdicts: one-sided t tests on the log scale at 5 %, each row by itself.",
        heads=tuple(_HEADS.items()),
        rows=tuple(_line(row, score, printed[row.label]) for row in rows),
        data=tuple(one for row in rows for one in _data(row, score, printed[row.label])),
        text_columns=(0, 6),
    )


def _line(row: ResultRow, score: Column, printed: PaperRow | None) -> Line:
    size, loss, verdict = (Cell("—"),) * 3
    if printed is not None:
        size = Cell(f"{printed.total / 1e3:.0f}", value=int(printed.total))
        loss = Cell(significant(printed.score, 2 if printed.score < 1e-3 else 3), value=printed.score, unit="nats")
        verdict = Cell(_verdict(printed, row, score.chance), bold=True)
    ours, measured = _mean(row, PARAMETERS[1], lambda count: f"{count.mean / 1e3:.1f}"), _mean(row, score, written)
    runs = f"{len(row.ok)}/{len(row.finals)}"
    return line(row.label, runs, size, ours, loss, measured, verdict, family=row.family)


def _mean(row: ResultRow, column: Column, write: Callable[[Interval], str]) -> Cell:
    one = aggregate(row, column)
    return replace(measure_cell(row, column, one), text=write(one.estimate) if one.estimate else "—", notes=(), measure="")


def _verdict(printed: PaperRow, row: ResultRow, chance: float | None) -> str:
    losses = by_seed(row, "test_loss")
    if printed.label in _AT_CHANCE:
        part = mean_within(row.label, ratios(losses, dict.fromkeys(losses, chance or 0.0)), "log", low=1 / NEAR, high=NEAR)
    else:
        part = mean_within(row.label, losses, "log", high=printed.score)
    return str(decide(of_scores(part, row), part.p_against or 0.0).verdict)


def _data(row: ResultRow, score: Column, printed: PaperRow | None) -> Iterator[dict[str, object]]:
    for record in row.finals:
        for head, measure, unit in (("ours", PARAMETERS[1].name, "1"), ("measured", score.name, "nats")):
            yield {
                **{"suite": SUITE, "group": "table 1", "label": row.label, "column": head, "seed": record.spec.seed},
                **{"value": record.value(measure), "unit": unit, "paper": printed.score if printed else None},
                **{"status": record.status, "reason": record.reason, "run_ids": record.run_id},
            }
