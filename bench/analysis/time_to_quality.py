"""Time to equal quality: the seconds of training in which a row reaches the loss that the tied network ends with."""

import math
import statistics
from dataclasses import dataclass

import pandas as pd

from bench.analysis.aggregate import Group, ResultRow, metrics
from bench.analysis.frame import runs_frame
from bench.records.record import Record

_SOLVES = ("eval_residual_p99", "train_residual_p50")


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How one row stands against the target.

    `seconds` by run: when its validation was first as good as the target (infinite: never); `trained` by run: seconds of the whole
    training; `final` by run: the last validation. `residual`: the largest over the runs of what 99 % of the test's solves stay
    below; `shift`: the median over the runs of the test score with the training's stops over that of the solved evaluation; both
    None for explicit models. `unsolved`: the median over the runs of the median residual of their training solves.
    """

    row: ResultRow
    final: tuple[float, ...]
    trained: tuple[float, ...]
    seconds: tuple[float, ...]
    residual: float | None
    shift: float | None
    unsolved: float | None

    @property
    def median(self) -> float:
        """The median over the runs; infinite where half of them never got there."""
        return statistics.median(self.seconds)

    @property
    def count(self) -> int:
        """How many runs got there."""
        return sum(map(math.isfinite, self.seconds))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """`best` is the tied row, at its own best depth, whose median final validation score is the `target`: of those that train for
    the fewest steps."""

    headline: str
    unit: str
    target: float
    best: Reached
    rows: tuple[Reached, ...]

    @property
    def points(self) -> list[tuple[Reached, float]]:
        """Every row with solves that reached the target, and the median residual of its training solves."""
        return [(one, one.unsolved) for one in self.rows if one.unsolved is not None and math.isfinite(one.median)]


def _final(record: Record, headline: str) -> float | None:
    return next((point.valid[headline] for point in reversed(record.curve) if headline in point.valid), None)


def _first(record: Record, headline: str, target: float, lower: bool) -> float:
    for point in record.curve:
        value = point.valid.get(headline)
        if value is not None and (value <= target if lower else value >= target):
            return point.seconds
    return math.inf


def _timed(row: ResultRow, headline: str) -> bool:
    return bool(row.ok) and all(r.value("train_s") is not None and _final(r, headline) is not None for r in row.ok)


def quality(group: Group) -> Quality | None:
    """What the group's own clocks say; None unless a DEQ stands beside two tied networks or more (so that there is a best depth),
    all timed with the machine to themselves, and validated on the way."""
    headline, known = metrics(group.records)
    if headline not in known:
        return None
    lower = known[headline].better == "lower"
    rows = [row for row in group.rows if _timed(row, headline) and sum(headline in p.valid for p in row.ok[0].curve) > 2]
    tied = [row for row in rows if row.family == "tied"]
    if len(tied) < 2 or not any(row.family == "deq" for row in rows):
        return None

    nominal = min(row.ok[0].spec.train.steps for row in tied)  # one that trains for longer may reach the target, not set it
    best = (min if lower else max)(
        (row for row in tied if row.ok[0].spec.train.steps == nominal), key=lambda row: statistics.median(_finals(row, headline))
    )
    target = statistics.median(_finals(best, headline))
    reached = {row.label: _reached(row, headline, target, lower) for row in rows}
    return Quality(
        headline=headline, unit=known[headline].unit, target=target, best=reached[best.label], rows=tuple(reached.values())
    )


def _finals(row: ResultRow, headline: str) -> tuple[float, ...]:
    return tuple(value for record in row.ok if (value := _final(record, headline)) is not None)


def _reached(row: ResultRow, headline: str, target: float, lower: bool) -> Reached:
    runs = runs_frame(row.ok).reindex(columns=[*_SOLVES, f"test_{headline}_as_trained", f"test_{headline}"])
    scores = runs[runs[f"test_{headline}"] != 0]

    def known(values: "pd.Series[float]", statistic: str) -> float | None:
        return float(values.agg(statistic)) if values.notna().any() else None

    return Reached(
        row=row,
        final=_finals(row, headline),
        trained=tuple(record.curve[-1].seconds for record in row.ok),
        seconds=tuple(_first(record, headline, target, lower) for record in row.ok),
        residual=known(runs[_SOLVES[0]], "max"),
        shift=known(scores[f"test_{headline}_as_trained"] / scores[f"test_{headline}"], "median"),
        unsolved=known(runs[_SOLVES[1]], "median"),
    )
