"""Learning curves of a comparison."""

import math
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metric_scale, metrics
from bench.analysis.statistics import Scale, over_seeds
from bench.records.record import CurvePoint
from bench.report.style import LineStyle, axis_label, grid_of, legend, log_axis, reference_lines, row_handle

_AGAINST = {
    "steps": "training steps",
    "seconds": "training time without evaluation [s]",
    "timed": "steps x the step timed alone [s]",
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """A row's curve as pairs of x and value: its mean over seeds at the steps that all ok runs have, and every seed's own."""

    mean: tuple[tuple[float, float], ...]
    seeds: tuple[tuple[tuple[float, float], ...], ...]

    def least(self) -> float:
        """The least value of all."""
        return min(value for curve in (self.mean, *self.seeds) for _, value in curve)


def series_of(row: ResultRow, against: str, headline: str, scale: Scale) -> Series | None:
    """The validation curve, its means those of the tables: on the metric's `scale`, and times geometric; None without points.

    `against`: "steps", "seconds" (as clocked), or "timed" (steps times the step's time with the machine to itself).
    """
    timed = [record.value("step_ms_median") for record in row.ok]
    known = [value for value in timed if value is not None]
    if against == "timed" and not known:
        return None
    mean_ms = over_seeds(known, "log").mean if known else 0.0

    def x_of(point: CurvePoint, step_ms: float | None) -> float:
        if against == "timed":
            return point.step * (mean_ms if step_ms is None else step_ms) / 1e3
        return float(point.step) if against == "steps" else point.seconds

    runs = [
        {point.step: (x_of(point, step_ms), value) for point in record.curve if (value := point.valid.get(headline)) is not None}
        for record, step_ms in zip(row.ok, timed, strict=True)
    ]
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if not steps:
        return None
    at = [[run[step] for run in runs] for step in steps]
    mean = tuple((over_seeds([x for x, _ in each], "log").mean, over_seeds([y for _, y in each], scale).mean) for each in at)
    return Series(mean=mean, seeds=tuple(tuple(run.values()) for run in runs) if len(runs) > 1 else ())


def draw_series(axes: Axes, series: Series, style: LineStyle) -> None:
    """The mean, and every seed thinly: one line with gaps."""
    x, mean = zip(*series.mean, strict=True)
    axes.plot(x, mean, color=style.colour, linestyle=style.dash, marker=style.marker if len(x) == 1 else None)
    if series.seeds:
        pairs = [pair for curve in series.seeds for pair in (*curve, (math.nan, math.nan))]
        axes.plot(*zip(*pairs, strict=True), color=style.colour, linewidth=0.5, alpha=0.5, zorder=1.9)


def learning_curves(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Validation score against training steps, and against seconds."""
    headline, known = metrics(group.records)
    metric = known.get(headline)
    scale: Scale = "log" if metric is None else metric_scale(headline, metric)
    # A clock that ran while other runs did is no timing.
    clocked = all(record.value("train_s") is not None for row in group.rows for record in row.ok)
    panels = {
        against: {row.label: found for row in group.rows if (found := series_of(row, against, headline, scale))}
        for against in ("steps", "seconds" if clocked else "timed")
    }
    if not panels["steps"]:
        return None
    shown = {against: series for against, series in panels.items() if series}
    figure, axes = grid_of(len(shown), len(shown), f"{group.name}: learning curves", 2.3)
    for one, (against, series) in zip(axes, shown.items(), strict=True):
        for label, curve in series.items():
            draw_series(one, curve, styles[label])
        log = scale == "log" and all(curve.least() > 0 for curve in series.values())
        if log:
            one.set_yscale("log")
        if metric is not None:
            reference_lines(one, metric)
        if log:
            log_axis(one, "y")
        one.set_xlabel(_AGAINST[against])
        one.set_xlim(left=0)
    unit, better = (metric.unit, metric.better) if metric else ("", None)
    axes[0].set_ylabel(axis_label(f"validation {headline}", unit, better))
    legend(figure, [row_handle(row, styles[row.label]) for row in group.rows if row.label in panels["steps"]])
    return figure
