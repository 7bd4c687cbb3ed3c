"""Figures of a comparison over training: learning curves and what the solver does."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metric_scale, metrics
from bench.analysis.statistics import Scale, over_seeds
from bench.records.metric import Metric
from bench.records.record import CurvePoint
from bench.report.style import LineStyle, axis_label, legend, log_axis, panels_of, row_handle

_AGAINST = {
    "steps": "training steps",
    "seconds": "training time [s], evaluation excluded",
    "timed": "training steps x the step timed alone [s]",
}


@dataclass(frozen=True, kw_only=True)
class _Series:
    """A row's curve as pairs of x and value: its mean over seeds at the steps that all ok runs have, and every seed's own."""

    mean: tuple[tuple[float, float], ...]
    seeds: tuple[tuple[tuple[float, float], ...], ...]

    def least(self) -> float:
        """The least value of all."""
        return min(value for curve in (self.mean, *self.seeds) for _, value in curve)


def _series(row: ResultRow, against: str, read: Callable[[CurvePoint], float | None], scale: Scale) -> _Series | None:
    """The curve of a measure, its means those of the tables: on the measure's `scale`, and times geometric; None without points.

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
        {point.step: (x_of(point, step_ms), value) for point in record.curve if (value := read(point)) is not None}
        for record, step_ms in zip(row.ok, timed, strict=True)
    ]
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if not steps:
        return None
    at = [[run[step] for run in runs] for step in steps]
    mean = tuple((over_seeds([x for x, _ in each], "log").mean, over_seeds([y for _, y in each], scale).mean) for each in at)
    return _Series(mean=mean, seeds=tuple(tuple(run.values()) for run in runs) if len(runs) > 1 else ())


def _draw_series(axes: Axes, series: _Series, style: LineStyle) -> None:
    """The mean, and every seed thinly: one line with gaps."""
    x, mean = zip(*series.mean, strict=True)
    axes.plot(x, mean, color=style.colour, linestyle=style.dash, marker=style.marker if len(x) == 1 else None)
    if series.seeds:
        pairs = [pair for curve in series.seeds for pair in (*curve, (math.nan, math.nan))]
        axes.plot(*zip(*pairs, strict=True), color=style.colour, linewidth=0.6, alpha=0.5, zorder=1.9)


def _reference_lines(axes: Axes, metric: Metric) -> None:
    """Chance and optimum as dashed lines, named at the right edge, outside the data."""
    log = axes.get_yscale() == "log"
    for name, value in (("chance", metric.chance), ("optimum", metric.optimum)):
        if value is None or (log and value <= 0):
            continue
        axes.axhline(value, color="#777777", linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        axes.text(1.01, value, name, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#555555")


def _panel(axes: Axes, rows: dict[str, _Series], styles: dict[str, LineStyle], log: bool, metric: Metric | None = None) -> None:
    for label, series in rows.items():
        _draw_series(axes, series, styles[label])
    log = log and all(series.least() > 0 for series in rows.values())
    if metric is not None:
        if log:
            axes.set_yscale("log")
        _reference_lines(axes, metric)
    if log:
        log_axis(axes, "y")


def learning_curves(group: Group, styles: dict[str, LineStyle], against: str = "steps") -> Figure | None:
    """Validation score and training loss against training steps, or against "seconds"."""
    headline, known = metrics(group.records)
    metric = known.get(headline)
    if against == "seconds" and any(record.value("train_s") is None for row in group.rows for record in row.ok):
        against = "timed"  # a clock that ran while other runs did is no timing
    scale: Scale = "log" if metric is None else metric_scale(headline, metric)
    valid = {row.label: s for row in group.rows if (s := _series(row, against, lambda point: point.valid.get(headline), scale))}
    train = {row.label: s for row in group.rows if (s := _series(row, against, lambda point: point.train_loss, "log"))}
    if not valid and not train:
        return None
    figure, (left, right) = panels_of(2, f"{group.name}: learning curves")
    _panel(left, valid, styles, scale == "log", metric)
    unit, better = (metric.unit, metric.better) if metric else ("", None)
    left.set(title="validation", ylabel=axis_label(headline, unit, better))
    _panel(right, train, styles, True)
    right.set(title="training batches", ylabel=axis_label("loss", "nats", "lower"))
    for axes in (left, right):
        axes.set_xlabel(_AGAINST[against])
        axes.set_xlim(left=0)
    drawn = [row for row in group.rows if row.label in valid or row.label in train]
    legend(figure, [row_handle(row, styles[row.label]) for row in drawn])
    return figure


curves_by_time = partial(learning_curves, against="seconds")


def solver(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Evaluations and residuals of the solves during training; a panel each that has data."""
    parts: list[tuple[str, str, Callable[[CurvePoint], float | None], bool]] = [
        ("forward solve", "evaluations of f", lambda point: point.forward_nfe, False),
        ("backward solve", "evaluations of the VJP", lambda point: point.backward_nfe, False),
        ("residual left", "||f(z) - z|| / ||f(z)||, p50", lambda point: point.residual, True),
    ]
    panels = [
        (title, name, {r.label: s for r in group.rows if (s := _series(r, "steps", read, "log"))}, log)
        for title, name, read, log in parts
    ]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        return None
    figure, axes = panels_of(len(panels), f"{group.name}: what the solver does during training", 3.2)
    for one, (title, name, rows, log) in zip(axes, panels, strict=True):
        _panel(one, rows, styles, log)
        one.set(title=title, xlabel="training steps", ylabel=axis_label(name, "", "lower"))
        one.set_xlim(left=0)
        one.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))  # narrow panels: more would touch
        if not log:
            one.set_ylim(bottom=0)
    drawn = [row for row in group.rows if any(row.label in panel[2] for panel in panels)]
    legend(figure, [row_handle(row, styles[row.label]) for row in drawn])
    return figure
