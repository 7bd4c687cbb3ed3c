"""Time to equal quality: seconds of training to a row's loss, against the fastest explicit row that reaches it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metrics
from bench.analysis.grid import ARROWS, Cell, Line, Sample, Table, line
from bench.analysis.selection import mixed_processors
from bench.analysis.statistics import Interval, significant, written
from bench.records.record import Record

Floats = npt.NDArray[np.float64]
_RESAMPLES = 2000
_CAPTION = "Every row's time to its own final validation, over that of the fastest other explicit row."
_LEGEND = (
    "Level: the row's final validation, median over seeds (of an even number, what half of them reach). Times: median over "
    "seeds of the seconds of training until a validation is first as good (evaluation not counted; clocks with the machine to "
    "themselves). The envelope is the fastest of the other explicit rows, of any depth and length. Ratio: a row's time over the"
    " envelope's; below 1 is faster, 0 means that no other explicit row gets there in half of its seeds. In brackets the "
    "central 95 % of 2,000 resamples of the seeds, each with a level, medians and a fastest rival of its own; with five seeds "
    "these cover less than 95 %. The other columns are medians too, the test residual is the largest."
)


@dataclass(frozen=True, kw_only=True)
class EnvelopeRatio:
    """A row's time to a level over that of the fastest explicit row; 0 and no `rival` where no other reaches the level.

    `low` and `high` are None with one seed.
    """

    level: float
    seconds: float
    rival: str | None
    rival_seconds: float
    ratio: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How the rows of a group compare in time to equal quality.

    `runs` has a line a run. `scores`: validations by seconds of training. `final`: the last validation. `trained`: seconds of the
    whole training. `residual`: the 99th percentile of the test's solves. `shift`: the test score with the training's stops over
    that of the solved evaluation. The last two are NaN for explicit models.
    """

    headline: str
    unit: str
    lower: bool
    explicit: tuple[str, ...]
    runs: pd.DataFrame
    ratios: Mapping[str, EnvelopeRatio]


def quality(group: Group) -> Quality | None:
    """Compare the rows' times on the seeds that all have; None without one.

    Also None unless a DEQ and two explicit rows were timed with the machine to themselves and validated.
    """
    headline, known = metrics(group.records)
    compared = [row for row in group.rows if row.ok and _is_timed(row, headline)]
    explicit = tuple(row.label for row in compared if row.explicit)
    if len(explicit) < 2 or not any(row.family == "deq" for row in compared):
        return None
    shared = set.intersection(*({record.spec.seed for record in row.ok} for row in compared))
    if not shared:
        return None
    ended = [(row, record) for row in compared for record in row.ok if record.spec.seed in shared]
    runs = pd.DataFrame([_measures(row, record, headline) for row, record in ended])
    runs = runs.astype(dict.fromkeys(("residual", "shift"), float))
    lower = known[headline].better == "lower"
    ratios = {row.label: _ratio(runs, row.label, explicit, lower) for row in compared}
    return Quality(headline=headline, unit=known[headline].unit, lower=lower, explicit=explicit, runs=runs, ratios=ratios)


def _ratio(runs: pd.DataFrame, label: str, explicit: tuple[str, ...], lower: bool) -> EnvelopeRatio:
    seeds = sorted(set(runs["seed"]))
    scores = runs.set_index(["label", "seed"])["scores"]
    draws = np.random.default_rng(0).integers(len(seeds), size=(_RESAMPLES, len(seeds)))
    samples = np.vstack([np.arange(len(seeds)), draws])  # the seeds themselves first
    finals = np.array([scores[label, seed].iloc[-1] for seed in seeds])
    # Of an even number of seeds the value that half of them reach, so that a row reaches its own level.
    levels = np.quantile(finals[samples], 0.5, axis=1, method="higher" if lower else "lower")

    def medians(name: str) -> Floats:
        times = np.stack([_first(scores[name, seed], levels, lower) for seed in seeds], axis=1)
        found: Floats = np.quantile(np.take_along_axis(times, samples, axis=1), 0.5, axis=1, method="lower")
        return found

    rivals = [name for name in explicit if name != label]
    own, others = medians(label), np.stack([medians(name) for name in rivals])
    ratios = own / others.min(axis=0)
    low, high = np.percentile(ratios[1:], [2.5, 97.5]) if len(seeds) > 1 else (None, None)
    fastest = int(others[:, 0].argmin())
    return EnvelopeRatio(
        level=float(levels[0]),
        seconds=float(own[0]),
        rival=rivals[fastest] if others[fastest, 0] < math.inf else None,
        rival_seconds=float(others[fastest, 0]),
        ratio=float(ratios[0]),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
    )


def _first(scores: "pd.Series[float]", levels: Floats, lower: bool) -> Floats:
    """The seconds of the first validation as good as each level; infinite where there is none."""
    sign = 1 if lower else -1
    best = np.minimum.accumulate(sign * scores.to_numpy())  # falls
    place = np.searchsorted(-best, -sign * levels)
    found: Floats = np.append(scores.index.to_numpy(dtype=float), math.inf)[place]
    return found


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
        "residual": record.value("eval_residual_p99"),
        "shift": as_trained / solved if solved and as_trained is not None else None,
    }


def quality_table(group: Group) -> Table | None:
    """Each row's time to its own level, next to the explicit envelope's; its final validation, and how far its test was solved."""
    found = quality(group)
    if found is None:
        return None
    families = {row.label: row.family for row in group.rows}
    return Table(
        kind="quality",
        title=f"{group.name}: time to equal quality",
        caption=_CAPTION + mixed_processors(group.rows),
        legend=_LEGEND,
        heads=(
            *(("model", ""), ("steps", ""), ("whole training", "s"), (f"final valid {found.headline}", found.unit)),
            *((f"to that level {ARROWS['lower']}", "s"), ("envelope", "s"), ("by", "")),
            *((f"ratio {ARROWS['lower']}", ""), ("test residual p99", ""), ("as trained / solved", "")),
        ),
        rows=tuple(_line(found, label, families[label]) for label in found.ratios),
        remarks=tuple(f"Runs, {label}: {', '.join(ids)}." for label, ids in found.runs.groupby("label", sort=False)["run_id"]),
        data=tuple(
            {
                **{"suite": group.suite, "group": group.name, "label": label, "column": "ratio_to_envelope"},
                **{"value": ratio.ratio, "low": ratio.low, "high": ratio.high, "unit": "1", "better": "lower"},
                **{"level": ratio.level, "seconds": ratio.seconds, "rival": ratio.rival},
                "rival_s": ratio.rival_seconds if ratio.rival else None,
                "run_ids": " ".join(found.runs.loc[found.runs["label"].isin((label, ratio.rival)), "run_id"]),
            }
            for label, ratio in found.ratios.items()
        ),
        text_columns=(0, 6),
    )


def _line(found: Quality, label: str, family: str) -> Line:
    table = found.runs[found.runs["label"] == label]
    runs, ratio = table.to_dict("records"), found.ratios[label]

    def samples(name: str) -> tuple[Sample, ...]:
        return tuple(Sample(f"seed {run['seed']}", run[name], run["run_id"]) for run in runs)

    def cell(value: float, digits: int, unit: str = "", of: tuple[Sample, ...] = ()) -> Cell:
        if math.isnan(value):
            return Cell("—")
        return Cell(significant(value, digits), value=float(value), unit=unit, samples=of)

    def reached(name: str) -> tuple[Sample, ...]:
        times = found.runs[found.runs["label"] == name].to_dict("records")
        each = [(run, float(_first(run["scores"], np.array([ratio.level]), found.lower)[0])) for run in times]
        return tuple(
            Sample(
                f"seed {run['seed']}", seconds if seconds < math.inf else None, run["run_id"], "" if seconds < math.inf else "never"
            )
            for run, seconds in each
        )

    own, rival = reached(label), reached(ratio.rival) if ratio.rival else ()
    estimate = Interval(mean=ratio.ratio, low=ratio.low, high=ratio.high, n=len(runs), scale="linear")
    return line(
        label,
        f"{int(table['steps'].median()):,}",
        cell(table["trained"].median(), 3, "s", samples("trained")),
        cell(table["final"].median(), 4, found.unit, samples("final")),
        cell(ratio.seconds, 3, "s", own),
        cell(ratio.rival_seconds, 3, "s", rival) if ratio.rival else Cell("never"),
        ratio.rival or "—",
        Cell(written(estimate), value=ratio.ratio, interval=estimate, samples=(*own, *rival)),
        cell(table["residual"].max(), 2),
        cell(table["shift"].median(), 4),
        label=label,
        family=family,
    )
