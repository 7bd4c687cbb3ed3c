"""Figures of a comparison after training, each with its units and the better direction."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.aggregate import Group, natural
from bench.analysis.columns import metrics
from bench.analysis.probe_data import depth_probe, residual_probe
from bench.analysis.time_to_quality import quality
from bench.analysis.tradeoff import ParetoPoint, costs, front, parameters
from bench.report.style import METHOD_HUES, LineStyle, axis_label, grid_of, legend, log_axis, panels_of, plain_text, row_handle

_DASHED, _DOTTED, _GREY = (0, (4, 2)), (0, (1, 1.2)), "#555555"


def residual(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Residual against evaluations: a panel a row, a colour a solver; all solvers run on the same trained model."""
    found = {}
    for row in group.rows:
        positive = {name: [p for p in curve if p[1] > 0 and p[2] > 0] for name, curve in residual_probe(row)[0].items()}
        if any(positive.values()):
            found[row.label] = positive
    if not found:
        return None
    names = sorted({name for curves in found.values() for name in curves}, key=natural)
    hues = {name: METHOD_HUES[index % len(METHOD_HUES)] for index, name in enumerate(names)}
    columns = min(3, len(found))
    figure, panels = grid_of(len(found), columns, f"{group.name}: residual against solver work", 2.5, sharex=True, sharey=True)
    for axes, (label, curves) in zip(panels, found.items(), strict=True):
        for name, curve in curves.items():
            if curve:
                x, p50, p95 = zip(*curve, strict=True)
                axes.plot(x, p50, color=hues[name], linewidth=1.6)
                axes.plot(x, p95, color=hues[name], linewidth=1.2, linestyle=_DOTTED)
        axes.set_title(plain_text(label))
    log_axis(panels[0], "y")
    for index, axes in enumerate(panels):
        axes.set_xlim(left=0)
        if index + columns >= len(found):
            axes.set_xlabel("evaluations of f")
            axes.tick_params(labelbottom=True)
    figure.supylabel("relative residual, ↓ better", fontsize=9.5)
    handles = [Line2D([], [], color=hues[name], label=plain_text(name)) for name in names]
    handles += [Line2D([], [], color=_GREY, label="median over samples")]
    handles += [Line2D([], [], color=_GREY, linestyle=_DOTTED, label="95th percentile")]
    legend(figure, handles)
    return figure


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
            if at == 2:
                continue
            handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, label=plain_text(name)))
            if stored := [(point[0], point[3] * factor) for point in curve if point[3]]:
                axes.plot(*zip(*stored, strict=True), color=colour, linestyle=_DASHED, linewidth=1.3)
        log_axis(axes, "x")
        log_axis(axes, "y")
        if len(depths) <= 8:
            axes.set_xticks(depths, labels=[f"{depth:,}" for depth in depths])
        axes.set_xlabel("depth, or solver steps")
    left.set(title="saved for backward", ylabel=axis_label("bytes", unit, "lower"))
    right.set(title="peak live", ylabel=axis_label("bytes", unit, "lower"))
    if any(point[3] for curve in lines.values() for point in curve):
        handles.append(Line2D([], [], color=_GREY, linestyle=_DASHED, linewidth=1.3, label="solver storage"))
    legend(figure, handles)
    return figure


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
    columns = min(3, len(panels)) if len(panels) != 4 else 2
    figure, grid = grid_of(len(panels), columns, f"{group.name}: score against cost{sizes}", 2.9)
    headline, known = metrics(group.records)
    for index, (axes, cost) in enumerate(zip(grid, panels, strict=True)):
        for point in cost.points:
            _draw_point(axes, styles[point.row.label], point)
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
            axes.set_ylabel(axis_label(f"test {score.head}", known[headline].unit, score.better))
    drawn = [row for row in group.rows if any(row is point.row for cost in panels for point in cost.points)]
    handles = [row_handle(row, styles[row.label], marker=True) for row in drawn]
    legend(figure, [*handles, Line2D([], [], color="#888888", linewidth=1.2, label="best so far, by means")])
    return figure


def _draw_point(axes: Axes, style: LineStyle, point: ParetoPoint) -> None:
    at, score = point.cost, point.score
    if score.low is not None and score.high is not None:
        axes.plot([at.mean] * 2, [score.low, score.high], color=style.colour, linewidth=1.4, alpha=0.75)
    if at.low is not None and at.high is not None:
        axes.plot([at.low, at.high], [score.mean] * 2, color=style.colour, linewidth=1.4, alpha=0.75)
    axes.plot([at.mean], [score.mean], color=style.colour, marker=style.marker, markersize=8, markeredgecolor="white")


def time_to_quality(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Validation against seconds of training: a line each DEQ, and the envelope of all explicit rows; medians over seeds."""
    found = quality(group)
    if found is None:
        return None
    curves = {label: _median_curve(runs["scores"]) for label, runs in found.runs.groupby("label", sort=False)}
    explicit = [point for label in found.explicit for point in curves[label]]
    figure, (axes, *_) = panels_of(1, f"{group.name}: DEQs against the envelope of explicit networks")
    for label in found.explicit:
        axes.plot(*zip(*curves[label], strict=True), color="0.8", linewidth=0.9)
    best = np.minimum if found.lower else np.maximum
    seconds, scores = np.array(sorted(explicit)).T
    axes.plot(seconds, best.accumulate(scores), color="0.25", linewidth=2.2)
    drawn = [row for row in group.rows if row.label in curves and row.label not in found.explicit]
    for row in drawn:
        style = styles[row.label]
        axes.plot(*zip(*curves[row.label], strict=True), color=style.colour, linestyle=style.dash)
    axes.set_xlabel("training time [s], evaluation excluded")
    axes.set_ylabel(axis_label(found.headline, found.unit, "lower" if found.lower else "higher"))
    log_axis(axes, "x")
    handles = [Line2D([], [], color="0.25", linewidth=2.2, label="envelope of the explicit networks")]
    handles += [Line2D([], [], color="0.8", linewidth=0.9, label="one explicit network")]
    legend(figure, [*(row_handle(row, styles[row.label]) for row in drawn), *handles])
    return figure


def _median_curve(scores: "Iterable[pd.Series[float]]") -> list[tuple[float, float]]:
    """Pairs of seconds and score, each the median over the seeds at one validation."""
    runs = [list(one.items()) for one in scores]
    return [tuple(np.median(np.array(points, dtype=float), axis=0).tolist()) for points in zip(*runs, strict=False)]
