"""Time to equal quality: the seconds of training in which a row reaches the loss that the tied network ends with."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metrics
from bench.analysis.grid import ARROWS, Cell, Line, Sample, Table, line
from bench.analysis.statistics import significant
from bench.records.record import Record

_RULE = (
    "Target: the median over seeds of the final validation of the tied network, at the depth where that is best; of those with the "
    "fewest training steps. A time is the "
    "median over seeds of the training seconds until a validation first reaches it (evaluation not counted); never, where half of "
    "the seeds do not. The other columns are medians over seeds too, the test residual is the largest. Clocks with the machine to "
    "themselves."
)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The target, `best`, the label of the tied row that sets it, and how every run and row reached it.

    `runs` has a line a run. `final`: the last validation. `trained`: seconds of the whole training. `seconds`: when a validation
    first was as good as the target (infinite: never). `residual`: the 99th percentile of the test's solves. `unsolved`: the median
    residual of the training's. `shift`: the test score with the training's stops over that of the solved evaluation. The last
    three are NaN for explicit models. `rows` has by label their medians, the largest `residual`, and how many `reached` the target.
    """

    headline: str
    unit: str
    target: float
    best: str
    runs: pd.DataFrame
    rows: pd.DataFrame


def quality(group: Group) -> Quality | None:
    """Compare the rows' times to the target: the median final validation of the tied network at its best depth, of those that train
    for the fewest steps.

    None unless the group has a DEQ and two tied networks or more, all timed with the machine to themselves and validated meanwhile.
    """
    headline, known = metrics(group.records)
    compared = [row for row in group.rows if row.ok and _is_timed(row, headline)]
    tied = [row.label for row in compared if row.family == "tied"]
    if len(tied) < 2 or not any(row.family == "deq" for row in compared):
        return None
    runs = pd.DataFrame([_measures(row, record, headline) for row in compared for record in row.ok])
    runs = runs.astype(dict.fromkeys(("residual", "unsolved", "shift"), float))
    ends = runs[runs["label"].isin(tied)]
    nominal = ends[ends["steps"] == ends["steps"].min()]  # one that trains for longer may reach the target, not set it
    medians = nominal.groupby("label", sort=False)["final"].median()
    lower = known[headline].better == "lower"
    best = str(medians.idxmin() if lower else medians.idxmax())
    target = float(medians[best])

    def first(scores: "pd.Series[float]") -> float:
        met = scores.index[scores <= target if lower else scores >= target]
        return float(met[0]) if len(met) else math.inf

    runs["seconds"] = runs["scores"].map(first)
    runs["reached"] = runs["seconds"] < math.inf
    statistics = dict.fromkeys(("steps", "seconds", "trained", "final", "unsolved", "shift"), "median")
    rows = runs.groupby("label", sort=False).agg(statistics | {"residual": "max", "reached": "sum"})
    return Quality(headline=headline, unit=known[headline].unit, target=target, best=best, runs=runs, rows=rows)


def _scores(record: Record, headline: str) -> "pd.Series[float]":
    """The validations of a run, by seconds of training."""
    return pd.Series({point.seconds: point.valid[headline] for point in record.curve if headline in point.valid}, dtype=float)


def _is_timed(row: ResultRow, headline: str) -> bool:
    """Whether all runs were timed and validated, more than twice."""
    timed = all(record.value("train_s") is not None and len(_scores(record, headline)) for record in row.ok)
    return timed and len(_scores(row.ok[0], headline)) > 2


def _measures(row: ResultRow, record: Record, headline: str) -> dict[str, Any]:
    scores = _scores(record, headline)
    solved, as_trained = record.value(f"test_{headline}"), record.value(f"test_{headline}_as_trained")
    return {
        **{"label": row.label, "steps": record.spec.train.steps, "seed": record.spec.seed, "run_id": record.run_id},
        **{"scores": scores, "final": scores.iloc[-1], "trained": record.curve[-1].seconds},
        **{"residual": record.value("eval_residual_p99"), "unsolved": record.value("train_residual_p50")},
        "shift": as_trained / solved if solved and as_trained is not None else None,
    }


def quality_table(group: Group) -> Table | None:
    """How many runs of each row reached the target and when, its final validation, and how far its test was solved."""
    found = quality(group)
    if found is None:
        return None
    families = {row.label: row.family for row in group.rows}
    return Table(
        ending="quality",
        title=f"{group.name}: time to equal quality",
        caption=f"Target: {significant(found.target, 4)} {found.unit} of validation {found.headline}, the end of {found.best}.",
        rule=_RULE,
        heads=(
            *(("model", ""), ("steps", ""), ("reached (runs)", ""), (f"to the target {ARROWS['lower']}", "s")),
            *((f"relative {ARROWS['lower']}", ""), ("whole training", "s"), (f"final valid {found.headline}", found.unit)),
            *(("test residual p99", ""), ("as trained / solved", "")),
        ),
        rows=tuple(_line(found, str(label), families[str(label)]) for label in found.rows.index),
        remarks=tuple(f"Runs, {label}: {', '.join(ids)}." for label, ids in found.runs.groupby("label", sort=False)["run_id"]),
        data=tuple(
            {
                **{"suite": group.suite, "group": group.name, "label": run["label"], "column": "seconds_to_target"},
                **{"seed": run["seed"], "value": run["seconds"] if run["reached"] else None, "unit": "s", "better": "lower"},
                **{"target": found.target, "trained_s": run["trained"], "final": run["final"], "run_ids": run["run_id"]},
            }
            for run in found.runs.to_dict("records")
        ),
    )


def _line(found: Quality, label: str, family: str) -> Line:
    row, runs = found.rows.loc[label], found.runs[found.runs["label"] == label].to_dict("records")

    def samples(name: str) -> tuple[Sample, ...]:
        return tuple(Sample(f"seed {run['seed']}", run[name], run["run_id"]) for run in runs)

    def cell(value: float, digits: int, unit: str = "", of: tuple[Sample, ...] = ()) -> Cell:
        if math.isnan(value):
            return Cell("—")
        return Cell(significant(value, digits) if math.isfinite(value) else "never", value=float(value), unit=unit, samples=of)

    never = math.isinf(row["seconds"])  # of two that never reach it, neither is faster
    relative = math.inf if never else row["seconds"] / found.rows.loc[found.best, "seconds"]
    reached = tuple(
        one if run["reached"] else replace(one, value=None, reason="never reached the target")
        for one, run in zip(samples("seconds"), runs, strict=True)
    )
    return line(
        f"{label} (the target)" if label == found.best else label,
        f"{int(row['steps']):,}",
        Cell(f"{int(row['reached'])}/{len(runs)}", value=int(row["reached"]), samples=reached),
        cell(row["seconds"], 3, "s", reached),
        cell(relative, 3, "", reached),
        cell(row["trained"], 3, "s", samples("trained")),
        cell(row["final"], 4, found.unit, samples("final")),
        cell(row["residual"], 2),
        cell(row["shift"], 4),
        label=label,
        family=family,
    )
