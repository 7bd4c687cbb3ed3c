"""One row of a comparison next to another, seed by seed."""

from dataclasses import dataclass

from bench.analysis.aggregate import Group, ResultRow, aggregate
from bench.analysis.columns import COST, PEAK, SAVED, SOLVER, STEP, TEST_CONVERGED, Column, metric_columns, unit
from bench.analysis.selection import Outcome, difference, outcome_of, solved, solved_more
from bench.analysis.statistics import Interval, proportion

_RUNS = Column(name="solved", head="solved runs", better="higher", scale="fraction")
_FLOPS = next(column for column in COST if column.name == "train_step_flops")
_NFE = next(column for column in SOLVER if column.name == "train_forward_nfe_mean")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A measure of two rows: both means, and the ratio (scale "log") or the difference over the seeds that both have.

    Of the share of runs that solve the task there is no difference: a test of the seeds in which one alone does decides.
    """

    column: Column
    unit: str
    ours: Interval | None
    theirs: Interval | None
    difference: Interval | None
    outcome: Outcome | None


def pairs(group: Group, row: ResultRow, rival: ResultRow) -> list[Pair]:
    """The scores, times and memory of two rows, as far as one of them has them; no outcome where only one has it."""
    found = _solved(row, rival)
    for column in (*metric_columns(group.records), STEP, _FLOPS, SAVED, PEAK, _NFE, TEST_CONVERGED):
        ours, theirs = aggregate(row, column), aggregate(rival, column)
        if ours.estimate is None and theirs.estimate is None:
            continue
        one = difference(row, rival, column)
        found.append(
            Pair(
                column=column,
                unit=unit(column, (*ours.measures, *theirs.measures)),
                ours=ours.estimate,
                theirs=theirs.estimate,
                difference=one,
                outcome=None if one is None or column.better is None else outcome_of(row, rival, column),
            )
        )
    return found


def _solved(row: ResultRow, rival: ResultRow) -> list[Pair]:
    """The shares of runs that solve the task, if any does."""
    if not any(map(solved, (*row.ok, *rival.ok))):
        return []
    ours, theirs = (proportion(sum(map(solved, one.ok)), len(one.finals)) for one in (row, rival))
    return [Pair(column=_RUNS, unit="", ours=ours, theirs=theirs, difference=None, outcome=solved_more(row, rival))]
