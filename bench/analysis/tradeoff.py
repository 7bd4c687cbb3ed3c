"""Score against cost: a point a row for each cost that was measured, and the rows that no other beats in both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.analysis.aggregate import Group, ResultRow, aggregate
from bench.analysis.columns import PARAMETERS, STEP, Better, Column
from bench.analysis.selection import headline_column
from bench.analysis.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """A row with its cost and its score, both with their intervals."""

    row: ResultRow
    cost: Interval
    score: Interval


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One cost, in its unit, of every row that has it and a score."""

    head: str
    unit: str
    points: tuple[ParetoPoint, ...]


_CLOCK = "train_s"
# Measure, head, unit, factor, and whether the measure is of one step (at the model's own caps), to be taken times the steps.
_COSTS = (
    ("train_step_flops", "FLOPs of training", "TFLOP", 1e-12, True),
    ("peak_live_bytes", "peak memory of a step", "MiB", 2.0**-20, False),
    (_CLOCK, "training time", "s", 1.0, False),
    (STEP.name, "training time, step timed alone", "s", 1e-3, True),
    ("energy_J", "energy of training", "J", 1.0, False),
)


def costs(group: Group) -> tuple[Column, list[Cost]] | None:
    """The headline's column and every cost that some row has; None where no row has both a cost and a score."""
    score = headline_column(group)
    if score is None:
        return None
    scored = [(row, estimate) for row in group.rows if (estimate := aggregate(row, score).estimate) is not None]
    # A clock that ran while other runs did is no timing: where one row's did, the step that was timed alone replaces it for all.
    timed = all(record.value(_CLOCK) is not None for row, _ in scored for record in row.ok)
    found = []
    for name, head, unit, factor, of_a_step in _COSTS:
        if name == (STEP.name if timed else _CLOCK):
            continue
        points = tuple(
            ParetoPoint(row=row, cost=_scaled(x, factor * (row.ok[0].spec.train.steps if of_a_step else 1)), score=y)
            for row, y in scored
            if (x := aggregate(row, Column(name=name, head=head)).estimate) is not None and x.mean > 0
        )
        if points:
            found.append(Cost(head=head, unit=unit, points=points))
    return (score, found) if found else None


def _scaled(value: Interval, factor: float) -> Interval:
    low, high = (None if end is None else end * factor for end in (value.low, value.high))
    return replace(value, mean=value.mean * factor, low=low, high=high)


def front(points: Sequence[ParetoPoint], better: Better | None) -> list[ParetoPoint]:
    """The Pareto front, cheapest first.

    By means: intervals that overlap leave open which of two rows is ahead.
    """
    sign = -1.0 if better == "higher" else 1.0
    best, found = float("inf"), []
    for point in sorted(points, key=lambda point: (point.cost.mean, sign * point.score.mean)):
        if sign * point.score.mean < best:
            best = sign * point.score.mean
            found.append(point)
    return found


def parameters(group: Group) -> tuple[float, float] | None:
    """The fewest and the most parameters of the rows."""
    counts = [one.estimate.mean for row in group.rows if (one := aggregate(row, PARAMETERS[0])).estimate is not None]
    return (min(counts), max(counts)) if counts else None
