"""The figures of a comparison: they say their units, their better direction and where chance lies."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.analysis.aggregate import Group, ResultRow, depth_probe, metric_scale, metrics, natural, residual_probe
from bench.analysis.statistics import Scale, over_seeds
from bench.analysis.time_to_quality import quality
from bench.analysis.tradeoff import Point as Pareto
from bench.analysis.tradeoff import costs, front, parameters
from bench.records.metric import Metric
from bench.records.record import CurvePoint
from bench.report.style import (
    METHOD_HUES,
    LineStyle,
    axis_label,
    legend,
    log_axis,
    panels_of,
    plain_text,
    row_handle,
)

_AGAINST = {
    "steps": "training steps",
    "seconds": "training time [s], evaluation excluded",
    "timed": "training steps x the step timed alone [s]",
}


@dataclass(frozen=True, kw_only=True)
class _Series:
    """A row's curve: its mean over seeds at the steps that all ok runs have, and every seed's own; pairs of x and value."""

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
    alone = over_seeds(known, "log").mean if known else 0.0

    def place(point: CurvePoint, step_ms: float | None) -> float:
        clocked = {"steps": float(point.step), "seconds": point.seconds}
        return clocked[against] if against in clocked else point.step * (alone if step_ms is None else step_ms) / 1e3

    runs = [
        {point.step: (place(point, step_ms), value) for point in record.curve if (value := read(point)) is not None}
        for record, step_ms in zip(row.ok, timed, strict=True)
    ]
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if not steps:
        return None
    mean = tuple(
        (over_seeds([run[step][0] for run in runs], "log").mean, over_seeds([run[step][1] for run in runs], scale).mean)
        for step in steps
    )
    return _Series(mean=mean, seeds=tuple(tuple(run.values()) for run in runs) if len(runs) > 1 else ())


def _draw_series(axes: Axes, series: _Series, look: LineStyle) -> None:
    """The mean, and every seed thinly: one line with gaps."""
    x, mean = zip(*series.mean, strict=True)
    axes.plot(x, mean, color=look.colour, linestyle=look.dash, marker=look.marker if len(x) == 1 else None)
    if series.seeds:
        pairs = [pair for curve in series.seeds for pair in (*curve, (math.nan, math.nan))]
        axes.plot(*zip(*pairs, strict=True), color=look.colour, linewidth=0.6, alpha=0.5, zorder=1.9)


def _reference_lines(axes: Axes, metric: Metric) -> None:
    """Chance and optimum as dashed lines, named at the right edge, outside the data."""
    log = axes.get_yscale() == "log"
    for name, value in (("chance", metric.chance), ("optimum", metric.optimum)):
        if value is None or (log and value <= 0):
            continue
        axes.axhline(value, color="#777777", linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        axes.text(1.01, value, name, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#555555")


def _panel(axes: Axes, rows: dict[str, _Series], look: dict[str, LineStyle], log: bool, metric: Metric | None = None) -> None:
    for label, series in rows.items():
        _draw_series(axes, series, look[label])
    log = log and all(series.least() > 0 for series in rows.values())
    if metric is not None:
        if log:
            axes.set_yscale("log")
        _reference_lines(axes, metric)
    if log:
        log_axis(axes, "y")


def curves_by_step(group: Group, look: dict[str, LineStyle]) -> Figure | None:
    """Validation score and training loss against training steps."""
    return _curves(group, look, "steps")


def curves_by_time(group: Group, look: dict[str, LineStyle]) -> Figure | None:
    """Validation score and training loss against training time."""
    return _curves(group, look, "seconds")


def _curves(group: Group, look: dict[str, LineStyle], against: str) -> Figure | None:
    headline, known = metrics(group.records)
    metric = known.get(headline)
    if against == "seconds" and any(record.value("train_s") is None for row in group.rows for record in row.ok):
        against = "timed"  # a clock that ran beside other runs is no timing
    scale: Scale = "log" if metric is None else metric_scale(headline, metric)
    valid = {row.label: s for row in group.rows if (s := _series(row, against, lambda point: point.valid.get(headline), scale))}
    train = {row.label: s for row in group.rows if (s := _series(row, against, lambda point: point.train_loss, "log"))}
    if not valid and not train:
        return None
    figure, (left, right) = panels_of(2, f"{group.name}: learning curves")
    _panel(left, valid, look, scale == "log", metric)
    unit, better = (metric.unit, metric.better) if metric else ("", None)
    left.set(title="validation", ylabel=axis_label(headline, unit, better))
    _panel(right, train, look, True)
    right.set(title="training batches", ylabel=axis_label("loss", "nats", "lower"))
    for axes in (left, right):
        axes.set_xlabel(_AGAINST[against])
        axes.set_xlim(left=0)
    drawn = [row for row in group.rows if row.label in valid or row.label in train]
    legend(figure, [row_handle(row, look[row.label]) for row in drawn])
    return figure


def solver(group: Group, look: dict[str, LineStyle]) -> Figure | None:
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
        _panel(one, rows, look, log)
        one.set(title=title, xlabel="training steps", ylabel=axis_label(name, "", "lower"))
        one.set_xlim(left=0)
        one.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))  # narrow panels: more would touch
        if not log:
            one.set_ylim(bottom=0)
    drawn = [row for row in group.rows if any(row.label in panel[2] for panel in panels)]
    legend(figure, [row_handle(row, look[row.label]) for row in drawn])
    return figure


def residual(group: Group, look: dict[str, LineStyle]) -> Figure | None:
    """A panel a row, a colour a solver: the solvers are run on the same trained model."""
    found = {row.label: curves for row in group.rows if (curves := residual_probe(row)[0])}
    found = {
        label: {name: [p for p in c if p[1] > 0 and p[2] > 0] for name, c in curves.items()} for label, curves in found.items()
    }
    found = {label: curves for label, curves in found.items() if any(curves.values())}
    if not found:
        return None
    names = sorted({name for curves in found.values() for name in curves}, key=natural)
    hues = {name: METHOD_HUES[index % len(METHOD_HUES)] for index, name in enumerate(names)}
    columns = min(3, len(found))
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(8.4 if columns < 3 else 10.2, 0.9 + 2.5 * lines))
    grid = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    figure.suptitle(plain_text(f"{group.name}: residual against solver work"), x=0.01, ha="left", fontsize=11, fontweight="bold")
    for axes, (label, curves) in zip(grid, found.items(), strict=False):
        for name, curve in curves.items():
            if curve:
                x, p50, p95 = zip(*curve, strict=True)
                axes.plot(x, p50, color=hues[name], linewidth=1.6)
                axes.plot(x, p95, color=hues[name], linewidth=1.2, linestyle=(0, (1, 1.2)))
        axes.set_title(plain_text(label))
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    log_axis(shown[0], "y")
    for index, axes in enumerate(shown):
        axes.set_xlim(left=0)
        if index + columns >= len(found):
            axes.set_xlabel("evaluations of f")
            axes.tick_params(labelbottom=True)
    figure.supylabel("relative residual, ↓ better", fontsize=9.5)
    handles = [Line2D([], [], color=hues[name], label=plain_text(name)) for name in names]
    handles += [Line2D([], [], color="#555555", label="median over samples")]
    handles += [Line2D([], [], color="#555555", linestyle=(0, (1, 1.2)), label="95th percentile")]
    legend(figure, handles)
    return figure


_Curve = tuple[tuple[int, int, int, int | None], ...]  # depth, saved, peak live, solver bytes


def memory(group: Group, look: dict[str, LineStyle]) -> Figure | None:
    """A line a method; rows whose counts agree in a method share its line."""
    shared: dict[str, dict[str, _Curve]] = {}
    for row in group.rows:
        for method, points in depth_probe(row)[0].items():
            curve = tuple((p.depth, p.saved_bytes, p.peak_live_bytes, p.solver_bytes) for p in points)
            shared.setdefault(method, {})[row.label] = curve
    lines: dict[str, _Curve] = {}
    for method, curves in sorted(shared.items()):
        sharing: dict[_Curve, list[str]] = {}
        for label, curve in curves.items():
            sharing.setdefault(curve, []).append(label)
        if len(sharing) == 1:
            lines[method] = next(iter(sharing))
        else:
            more = {curve: f" and {len(labels) - 1} more" if len(labels) > 1 else "" for curve, labels in sharing.items()}
            lines |= {f"{labels[0]}{more[curve]}: {method}": curve for curve, labels in sharing.items()}
    if not any(len(curve) > 1 for curve in lines.values()):
        return None
    figure, (left, right) = panels_of(2, f"{group.name}: memory of one training step against depth", 3.7)
    largest = max(peak for curve in lines.values() for _, saved, peak, _ in curve)
    factor, unit = (2.0**-20, "MiB") if largest >= 2**20 else (2.0**-10, "KiB")
    depths = sorted({point[0] for curve in lines.values() for point in curve})
    handles = []
    for axes, at in ((left, 1), (right, 2)):
        for index, (name, curve) in enumerate(lines.items()):
            colour = METHOD_HUES[index % len(METHOD_HUES)]
            marker = "osD^v"[index // len(METHOD_HUES) % 5]
            x = [point[0] for point in curve]
            y = tuple(point[at] * factor for point in curve)  # type: ignore[operator]
            under = sum(1 for later in list(lines.values())[index + 1 :] if [p[at] for p in later] == [p[at] for p in curve])
            # Equal counts lie on one another: the lower line is drawn wider, so that all can be seen.
            axes.plot(x, y, color=colour, marker=marker, markersize=4.5 + 2.4 * under, linewidth=1.8 + 2.2 * under)
            stored = [(point[0], point[3] * factor) for point in curve if point[3]]
            if at == 1 and stored:
                axes.plot(*zip(*stored, strict=True), color=colour, linestyle=(0, (4, 2)), linewidth=1.3)
            if at == 1:
                handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, label=plain_text(name)))
        log_axis(axes, "x")
        log_axis(axes, "y")
        if len(depths) <= 8:
            axes.set_xticks(depths, labels=[f"{depth:,}" for depth in depths])
        axes.set_xlabel("depth, or solver steps")
    left.set(title="saved for backward", ylabel=axis_label("bytes", unit, "lower"))
    right.set(title="peak live", ylabel=axis_label("bytes", unit, "lower"))
    if any(point[3] for curve in lines.values() for point in curve):
        handles.append(Line2D([], [], color="#555555", linestyle=(0, (4, 2)), linewidth=1.3, label="solver storage"))
    legend(figure, handles)
    return figure


def tradeoff(group: Group, look: dict[str, LineStyle]) -> Figure | None:
    """The headline score against each cost: a point a row, with both intervals, and a line along those that none beats."""
    found = costs(group)
    if found is None:
        return None
    score, panels = found
    columns = min(3, len(panels)) if len(panels) != 4 else 2
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(8.4 if columns < 3 else 10.2, 0.9 + 2.9 * lines))
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    figure.suptitle(
        plain_text(f"{group.name}: score against cost{_sizes(group)}"), x=0.01, ha="left", fontsize=11, fontweight="bold"
    )
    metric = metrics(group.records)[1][metrics(group.records)[0]]
    for index, (axes, cost) in enumerate(zip(grid, panels, strict=False)):
        for point in cost.points:
            _draw_point(axes, look[point.row.label], point)
        scores = [point.score.mean for point in cost.points]
        if all(point.score.scale == "log" for point in cost.points):
            axes.set_yscale("log")
            bottom, top = axes.get_ylim()
            axes.set_ylim(max(bottom, min(scores) / 4), min(top, 4 * max(scores)))  # an interval of three seeds can be endless
            log_axis(axes, "y")
        log_axis(axes, "x")
        least = front(cost.points, score.better)
        axes.step(
            [*(p.cost.mean for p in least), axes.get_xlim()[1]],
            [*(p.score.mean for p in least), least[-1].score.mean],
            where="post",
            color="#888888",
            linewidth=1.2,
            zorder=1,
        )
        axes.set_xlabel(axis_label(cost.head, cost.unit, "lower"), fontsize=9)
        if index % columns == 0:
            axes.set_ylabel(axis_label(f"test {score.head}", metric.unit, metric.better))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    drawn = [row for row in group.rows if any(row is point.row for cost in panels for point in cost.points)]
    handles = [row_handle(row, look[row.label], marker=True) for row in drawn]
    legend(figure, [*handles, Line2D([], [], color="#888888", linewidth=1.2, label="best so far, by means")])
    return figure


def _sizes(group: Group) -> str:
    """How many parameters the rows have."""
    found = parameters(group)
    if found is None:
        return ""
    fewest, most = (f"{count:,.0f}" for count in found)
    return f", {fewest} parameters" if fewest == most else f", {fewest} to {most} parameters"


def _draw_point(axes: Axes, look: LineStyle, point: Pareto) -> None:
    at, score = point.cost, point.score
    if score.low is not None and score.high is not None:
        axes.plot([at.mean] * 2, [score.low, score.high], color=look.colour, linewidth=1.4, alpha=0.75)
    if at.low is not None and at.high is not None:
        axes.plot([at.low, at.high], [score.mean] * 2, color=look.colour, linewidth=1.4, alpha=0.75)
    axes.plot([at.mean], [score.mean], color=look.colour, marker=look.marker, markersize=8, markeredgecolor="white")


def time_to_quality(group: Group, look: dict[str, LineStyle]) -> Figure | None:
    """Seconds to the tied network's final score against how far training was from solved: a point a DEQ that got there."""
    found = quality(group)
    if found is None or not found.points:
        return None
    figure, (axes, *_) = panels_of(1, f"{group.name}: time to equal quality")
    for one, residual in found.points:
        style = look[one.row.label]
        axes.plot([residual], [one.median], color=style.colour, marker=style.marker, markersize=8)
    tied = found.best.median
    axes.set_ylim(0, 1.15 * max(tied, *(one.median for one, _ in found.points)))
    axes.set_xlabel("median relative residual of training solves")
    axes.set_ylabel("training until the target (s) ↓")
    axes.axhline(tied, color="0.45", linewidth=1.0, linestyle=(0, (4, 2)))
    below: dict[str, Any] = {"xytext": (0, -4), "textcoords": "offset points", "ha": "center", "va": "top", "color": "0.35"}
    axes.annotate("tied, at its best depth", (0.5, tied), xycoords=("axes fraction", "data"), **below)
    log_axis(axes, "x")
    legend(figure, [row_handle(one.row, look[one.row.label], marker=True) for one, _ in found.points])
    return figure
