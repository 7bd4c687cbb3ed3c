"""Figures of a comparison after training, each with its units and the better direction."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.aggregate import Group
from bench.analysis.columns import metrics
from bench.analysis.probe_data import depth_probe
from bench.analysis.selection import inadmissible
from bench.analysis.time_to_quality import quality
from bench.analysis.tradeoff import ParetoPoint, costs, front, parameters
from bench.report.style import LineStyle, axis_label, grid_of, legend, log_axis, method_colours, plain_text, row_handle

_DASHED, _GREY = (0, (4, 2)), "#555555"


_Curve = tuple[tuple[int, int, int, int | None], ...]  # depth, saved, peak live, solver bytes


def _methods(group: Group) -> dict[str, _Curve]:
    """A curve a method; rows whose counts agree in a method share its curve."""
    shared: dict[str, dict[_Curve, list[str]]] = {}
    for row in group.rows:
        for method, points in depth_probe(row)[0].items():
            curve = tuple((p.depth, p.saved_bytes, p.peak_live_bytes, p.solver_bytes) for p in points)
            shared.setdefault(method, {}).setdefault(curve, []).append(row.label)
    curves: dict[str, _Curve] = {}
    for method, sharing in sorted(shared.items()):
        for curve, labels in sharing.items():
            more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
            curves[method if len(sharing) == 1 else f"{labels[0]}{more}: {method}"] = curve
    return curves


def memory(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Bytes of a training step against depth, a line a method."""
    lines = _methods(group)
    if not any(len(curve) > 1 for curve in lines.values()):
        return None
    largest = max(peak for curve in lines.values() for _, saved, peak, _ in curve)
    factor, unit = (2.0**-20, "MiB") if largest >= 2**20 else (2.0**-10, "KiB")
    figure, (left, right) = grid_of(2, 2, _memory_title(group, lines, factor, unit), 2.4)
    depths = sorted({point[0] for curve in lines.values() for point in curve})
    colours = method_colours(lines)
    handles = []
    for axes, at in ((left, 1), (right, 2)):
        for index, (name, curve) in enumerate(lines.items()):
            colour, marker = colours[name], "osD^vPX"[index % 7]
            x = [point[0] for point in curve]
            y = tuple(point[at] * factor for point in curve)  # type: ignore[operator]
            under = sum(1 for later in list(lines.values())[index + 1 :] if [p[at] for p in later] == [p[at] for p in curve])
            # Equal counts lie on one another: the lower line is drawn wider, so that all can be seen.
            axes.plot(x, y, color=colour, marker=marker, markersize=3.2 + 1.8 * under, linewidth=0.9 + 1.6 * under)
            if at == 2:
                continue
            handles.append(Line2D([], [], color=colour, marker=marker, markersize=3.2, label=plain_text(name)))
            if stored := [(point[0], point[3] * factor) for point in curve if point[3]]:
                axes.plot(*zip(*stored, strict=True), color=colour, linestyle=_DASHED, linewidth=1.0)
        log_axis(axes, "x")
        log_axis(axes, "y")
        if len(depths) <= 8:
            axes.set_xticks(depths, labels=[f"{depth:,}" for depth in depths])
        axes.set_xlabel("depth, or solver steps")
    left.set(title="saved for backward", ylabel=axis_label("bytes", unit, "lower"))
    right.set(title="peak live", ylabel=axis_label("bytes", unit, "lower"))
    if any(point[3] for curve in lines.values() for point in curve):
        handles.append(Line2D([], [], color=_GREY, linestyle=_DASHED, linewidth=1.0, label="solver storage"))
    legend(figure, handles)
    return figure


def _memory_title(group: Group, lines: dict[str, _Curve], factor: float, unit: str) -> str:
    """What is saved by the curves that depth does not change, and by the one that it changes most."""
    saved = {name: [point[1] * factor for point in curve] for name, curve in lines.items() if len(curve) > 1}
    flat = sorted({f"{amounts[0]:.3g}" for amounts in saved.values() if len(set(amounts)) == 1}, key=float)
    growing = {name: amounts for name, amounts in saved.items() if len(set(amounts)) > 1}
    if not flat or not growing:
        return f"{group.name}: memory of a training step against depth"
    steepest = max(growing, key=lambda name: max(growing[name]))
    return (
        f"{group.name}: {' or '.join(flat)} {unit} saved for backward at any number of solver steps, "
        f"{min(growing[steepest]):.3g} to {max(growing[steepest]):.3g} with depth ({steepest})"
    )


def tradeoff(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """The headline score against each cost: a point a row, with both intervals, and a line along those that none beats."""
    found = costs(group)
    if found is None:
        return None
    score, panels = found
    sizes = ""
    if (range_ := parameters(group)) is not None:
        fewest, most = (f"{count:,.0f}" for count in range_)
        sizes = f", {fewest} parameters" if fewest == most else f", {fewest} to {most} parameters"
    columns = min(2, len(panels))
    figure, grid = grid_of(len(panels), columns, f"{group.name}: score against cost{sizes}", 1.9)
    headline, known = metrics(group.records)
    for index, (axes, cost) in enumerate(zip(grid, panels, strict=True)):
        for point in cost.points:
            draw_point(axes, styles[point.row.label], point)
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
            linewidth=0.9,
            zorder=1,
        )
        axes.set_xlabel(axis_label(cost.head, cost.unit, "lower"))
        if index % columns == 0:
            axes.set_ylabel(axis_label(f"test {score.head}", known[headline].unit, score.better))
    drawn = [row for row in group.rows if any(row is point.row for cost in panels for point in cost.points)]
    handles = [row_handle(row, styles[row.label], marker=True) for row in drawn]
    front_line = Line2D([], [], color="#888888", linewidth=0.9, label="best so far, by means")
    legend(figure, [*handles, front_line, *hollow_handle(point for cost in panels for point in cost.points)])
    return figure


def draw_point(axes: Axes, style: LineStyle, point: ParetoPoint) -> None:
    """A row's mean, with the intervals of its cost and its score; hollow where the score is inadmissible."""
    at, score = point.cost, point.score
    if score.low is not None and score.high is not None:
        axes.plot([at.mean] * 2, [score.low, score.high], color=style.colour, linewidth=0.9, alpha=0.75)
    if at.low is not None and at.high is not None:
        axes.plot([at.low, at.high], [score.mean] * 2, color=style.colour, linewidth=0.9, alpha=0.75)
    face, edge = (style.colour, "white") if inadmissible(point.row) is None else ("white", style.colour)
    axes.plot([at.mean], [score.mean], marker=style.marker, markersize=5, markerfacecolor=face, markeredgecolor=edge)


def hollow_handle(points: Iterable[ParetoPoint]) -> list[Line2D]:
    """A legend's entry for inadmissible scores, if there are any."""
    if all(inadmissible(point.row) is None for point in points):
        return []
    hollow = {"marker": "o", "linestyle": "", "markerfacecolor": "white", "markeredgecolor": _GREY}
    return [Line2D([], [], **hollow, label="hollow: inadmissible, unsolved or not causal")]  # type: ignore[arg-type]


def time_to_quality(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Validation against seconds of training: a line each DEQ, and the envelope of all explicit rows; medians over seeds."""
    found = quality(group)
    if found is None:
        return None
    curves = {label: _median_curve(runs["scores"]) for label, runs in found.runs.groupby("label", sort=False)}
    explicit = [point for label in found.explicit for point in curves[label]]
    figure, (axes, *_) = grid_of(1, 1, f"{group.name}: DEQs against the envelope of explicit networks", 2.3)
    for label in found.explicit:
        axes.plot(*zip(*curves[label], strict=True), color="0.8", linewidth=0.7)
    best = np.minimum if found.lower else np.maximum
    seconds, scores = np.array(sorted(explicit)).T
    axes.plot(seconds, best.accumulate(scores), color="0.25", linewidth=1.6)
    drawn = [row for row in group.rows if row.label in curves and row.label not in found.explicit]
    for row in drawn:
        style = styles[row.label]
        axes.plot(*zip(*curves[row.label], strict=True), color=style.colour, linestyle=style.dash)
    axes.set_xlabel("training time [s], evaluation excluded")
    axes.set_ylabel(axis_label(found.headline, found.unit, "lower" if found.lower else "higher"))
    log_axis(axes, "x")
    handles = [Line2D([], [], color="0.25", linewidth=1.6, label="envelope of the explicit networks")]
    handles += [Line2D([], [], color="0.8", linewidth=0.7, label="one explicit network")]
    legend(figure, [*(row_handle(row, styles[row.label]) for row in drawn), *handles])
    return figure


def _median_curve(scores: "Iterable[pd.Series[float]]") -> list[tuple[float, float]]:
    """Pairs of seconds and score, each the median over the seeds at one validation."""
    runs = [list(one.items()) for one in scores]
    return [tuple(np.median(np.array(points, dtype=float), axis=0).tolist()) for points in zip(*runs, strict=False)]
