"""Time to equal quality: the seconds of training in which a row reaches the loss that the tied network ends with."""

import math
import statistics
from dataclasses import dataclass

import pandas as pd

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metrics
from bench.analysis.frame import runs_frame
from bench.records.record import Record

_RESIDUALS = ("eval_residual_p99", "train_residual_p50")


@dataclass(frozen=True, kw_only=True)
class Reached:
    """One row against the target; `final`, `trained` and `seconds` by run.

    `final`: the last validation. `trained`: seconds of the whole training. `seconds`: when a validation first was as good as the
    target (infinite: never). `residual`: the largest over the runs of the 99th percentile of the test's solves. `shift`: the median
    over the runs of the test score with the training's stops over that of the solved evaluation. `unsolved`: the median over the
    runs of the median residual of their training solves. The last three are None for explicit models.
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
        """The median over the runs of `seconds`."""
        return statistics.median(self.seconds)

    @property
    def count(self) -> int:
        """How many runs reached the target."""
        return sum(map(math.isfinite, self.seconds))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The target, `best`, the tied row that sets it, and how every row reached it."""

    headline: str
    unit: str
    target: float
    best: Reached
    rows: tuple[Reached, ...]

    @property
    def points(self) -> list[tuple[Reached, float]]:
        """Every row with solves that reached the target, and the median residual of its training solves."""
        return [(one, one.unsolved) for one in self.rows if one.unsolved is not None and math.isfinite(one.median)]


def _valid(record: Record, headline: str) -> list[tuple[float, float]]:
    """Seconds of training and score of each validation."""
    return [(point.seconds, point.valid[headline]) for point in record.curve if headline in point.valid]


def _finals(row: ResultRow, headline: str) -> tuple[float, ...]:
    return tuple(_valid(record, headline)[-1][1] for record in row.ok)


def quality(group: Group) -> Quality | None:
    """Compare the rows' times to the target: the median final validation of the tied network at its best depth, of those that train
    for the fewest steps.

    None unless the group has a DEQ and two tied networks or more, all timed with the machine to themselves and validated meanwhile.
    """
    headline, known = metrics(group.records)
    if headline not in known:
        return None
    lower = known[headline].better == "lower"
    rows = [
        row
        for row in group.rows
        if row.ok
        and all(record.value("train_s") is not None and _valid(record, headline) for record in row.ok)
        and len(_valid(row.ok[0], headline)) > 2
    ]
    tied = [row for row in rows if row.family == "tied"]
    if len(tied) < 2 or not any(row.family == "deq" for row in rows):
        return None
    nominal = min(row.ok[0].spec.train.steps for row in tied)  # one that trains for longer may reach the target, not set it
    ends = {row.label: statistics.median(_finals(row, headline)) for row in tied if row.ok[0].spec.train.steps == nominal}
    best = (min if lower else max)(ends, key=lambda label: ends[label])
    reached = {row.label: _reached(row, headline, ends[best], lower) for row in rows}
    unit = known[headline].unit
    return Quality(headline=headline, unit=unit, target=ends[best], best=reached[best], rows=tuple(reached.values()))


def _reached(row: ResultRow, headline: str, target: float, lower: bool) -> Reached:
    test, as_trained = f"test_{headline}", f"test_{headline}_as_trained"
    runs = runs_frame(row.ok).reindex(columns=[*_RESIDUALS, as_trained, test])
    scores = runs[runs[test] != 0]

    def known(values: "pd.Series[float]", statistic: str) -> float | None:
        return float(values.agg(statistic)) if values.notna().any() else None

    def first(record: Record) -> float:
        times = (seconds for seconds, score in _valid(record, headline) if (score <= target if lower else score >= target))
        return next(times, math.inf)

    return Reached(
        row=row,
        final=_finals(row, headline),
        trained=tuple(record.curve[-1].seconds for record in row.ok),
        seconds=tuple(first(record) for record in row.ok),
        residual=known(runs[_RESIDUALS[0]], "max"),
        shift=known(scores[as_trained] / scores[test], "median"),
        unsolved=known(runs[_RESIDUALS[1]], "median"),
    )
