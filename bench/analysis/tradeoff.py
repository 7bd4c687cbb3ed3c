"""Score against what it costs: a point a row for each cost that was measured, and the rows that no other beats in both."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.aggregate import PARAMETERS, Better, Column, Group, ResultRow, cell, metric_columns, metrics
from bench.analysis.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class Point:
    """A row with what it costs and what it scores, both with their intervals."""

    row: ResultRow
    cost: Interval
    score: Interval


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One cost, in its unit, of every row that has it and a score."""

    head: str
    unit: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What a row is charged for: a measure, in which unit, and whether it is of one step, to be taken times their number."""

    name: str
    head: str
    unit: str
    factor: float
    each: bool = False


_CLOCK, _STEP = "train_s", "step_ms_median"
_COSTS = (
    _Measured(name="train_step_flops", head="steps x FLOPs of a full one", unit="TFLOP", factor=1e-12, each=True),
    _Measured(name="peak_live_bytes", head="peak of a training step", unit="MiB", factor=2.0**-20),
    _Measured(name=_CLOCK, head="training time", unit="s", factor=1.0),
    _Measured(name=_STEP, head="steps x a full one, timed alone", unit="s", factor=1e-3, each=True),
    _Measured(name="energy_J", head="energy of the run", unit="J", factor=1.0),
)


def costs(group: Group) -> tuple[Column, list[Cost]] | None:
    """The headline's column and every cost that some row has; None where no row has both a cost and a score."""
    headline, _ = metrics(group.records)
    score = next((column for column in metric_columns(group) if column.name == f"test_{headline}"), None)
    if score is None:
        return None
    scored = [(row, estimate) for row in group.rows if (estimate := cell(row, score).estimate) is not None]
    # A clock that ran beside other runs is no timing: where one row's did, the step that was timed alone stands in for all.
    timed = all(record.value(_CLOCK) is not None for row, _ in scored for record in row.ok)
    found = []
    for one in _COSTS:
        if one.name == (_STEP if timed else _CLOCK):
            continue
        points = tuple(
            Point(row=row, cost=_scaled(x, one.factor * (row.ok[0].spec.train.steps if one.each else 1)), score=y)
            for row, y in scored
            if (x := cell(row, Column(name=one.name, head=one.head)).estimate) is not None and x.mean > 0
        )
        if points:
            found.append(Cost(head=one.head, unit=one.unit, points=points))
    return (score, found) if found else None


def _scaled(value: Interval, factor: float) -> Interval:
    ends = [None if end is None else end * factor for end in (value.low, value.high)]
    return Interval(mean=value.mean * factor, low=ends[0], high=ends[1], n=value.n, scale=value.scale)


def front(points: Sequence[Point], better: Better | None) -> list[Point]:
    """The points that none beats: no other costs as little and scores as well, and less or better in one; cheapest first.

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
    counts = [one.estimate.mean for row in group.rows if (one := cell(row, PARAMETERS[0])).estimate is not None]
    return (min(counts), max(counts)) if counts else None
