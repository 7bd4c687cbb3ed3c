"""Figures over the tasks of all suites: the best row of each family, next to one another.

A row is picked by its validation score. Of several comparisons on one task the broadest is drawn, with the rows of others on its
terms, and only those with a DEQ and at least three other families.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metric_scale, metrics
from bench.analysis.selection import (
    OUTCOMES,
    Outcome,
    best_by_family,
    best_row,
    breadth,
    broadest,
    headline_column,
    outcome_of,
    rows_elsewhere,
)
from bench.analysis.tradeoff import Cost, ParetoPoint, costs
from bench.report.curves import draw_series, series_of
from bench.report.plots import draw_point, hollow_handle
from bench.report.style import FAMILY_NAMES, axis_label, grid_of, legend, line_style, log_axis, plain_text, reference_lines

_FAMILIES, _TASKS = 4, 4


def score_and_cost(groups: Sequence[Group]) -> Figure | None:
    """Test score against training time and against peak memory, a line of panels a task, a labelled point a family."""
    lines = [(group, rows, panels) for group, rows in _tasks(groups) if len(panels := _time_and_memory(group)) == 2]
    if not lines:
        return None
    outcomes = [_outcome(group, rows) for group, rows, _ in lines]
    counted = ", ".join(f"{outcome} on {count}" for outcome in OUTCOMES if (count := outcomes.count(outcome)))
    title = f"The best DEQ next to the best of each other family: of {len(lines)} tasks {counted}"
    figure, grid = grid_of(2 * len(lines), 2, title, 1.5)
    for place, (group, rows, panels) in enumerate(lines):
        headline, known = metrics(group.records)
        for axes, cost in zip(grid[2 * place : 2 * place + 2], panels, strict=True):
            _draw_points(axes, [point for point in cost.points if any(point.row is row for row in rows)])
            axes.set_title(plain_text(group.name), fontsize=7.5)
            axes.set_xlabel(axis_label(cost.head, cost.unit, "lower"))
        better = known[headline].better
        grid[2 * place].set_ylabel(axis_label(f"test {headline}", "", better) + f"\n[{plain_text(known[headline].unit)}]")
    drawn = [one for _, rows, panels in lines for cost in panels for one in cost.points if any(one.row is row for row in rows)]
    if hollow := hollow_handle(drawn):
        legend(figure, hollow)
    return figure


def _draw_points(axes: Axes, points: Sequence[ParetoPoint]) -> None:
    """The points with their intervals, cut where they leave the panel, and their names, moved apart where two would touch."""
    for point in points:
        draw_point(axes, line_style(point.row.family, 0), point)
    if points and all(point.score.scale == "log" for point in points):
        axes.set_yscale("log")
        means = [point.score.mean for point in points]
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, min(means) / 3), min(top, 3 * max(means)))
        log_axis(axes, "y")
    log_axis(axes, "x")
    left, right = axes.get_xlim()
    axes.set_xlim(left / (right / left) ** 0.12, right * (right / left) ** 0.12)
    across, up = axes.transScale + axes.transLimits, -1.0
    placed = [(across.transform((point.cost.mean, point.score.mean)), point) for point in points]
    for (x, y), point in sorted(placed, key=lambda pair: pair[0][1]):
        up = max(y, up + 0.1)  # of the panel's height: a line of text
        side = 1 if x < 0.55 else -1
        how: dict[str, Any] = {"ha": "left" if side > 0 else "right", "va": "center", "fontsize": 6}
        colour = line_style(point.row.family, 0).colour
        axes.text(x + 0.025 * side, up, plain_text(point.row.label), transform=axes.transAxes, color=colour, **how)


def _tasks(groups: Sequence[Group]) -> list[tuple[Group, list[ResultRow]]]:
    """The broadest comparisons, at most four, each with the best row of every family."""
    found = [replace(group, rows=(*group.rows, *rows_elsewhere(group, groups))) for group in broadest(groups)]
    best = [(group, best_by_family(group)) for group in found]
    drawn = [(group, rows) for group, rows in best if len(rows) >= _FAMILIES and any(row.family == "deq" for row in rows)]
    return sorted(drawn, key=lambda pair: breadth(pair[0]), reverse=True)[:_TASKS]


def _time_and_memory(group: Group) -> list[Cost]:
    found = costs(group)
    return [cost for cost in found[1] if cost.head.startswith(("training time", "peak memory"))][::-1] if found else []


def _outcome(group: Group, rows: Sequence[ResultRow]) -> Outcome:
    """Whether the DEQ among the rows is ahead of the best explicit one, as the guide decides it."""
    score = headline_column(group)
    rival = best_row([row for row in rows if row.explicit], score) if score else None
    return outcome_of(rows[0], rival, score) if score and rival else "undecided"


def learning_curves(groups: Sequence[Group]) -> Figure | None:
    """Validation score against training steps, a panel a task, the best row of each family with every seed."""
    found, gains = [], []
    for group, rows in _tasks(groups):
        headline, known = metrics(group.records)
        scale = metric_scale(headline, known[headline])
        curves = {row.family: one for row in rows if (one := series_of(row, "steps", headline, scale))}
        if curves:
            found.append((group, curves, scale))
            gains += [
                abs(1 - one.mean[-1][1] / one.mean[-2][1]) for one in curves.values() if len(one.mean) > 1 and one.mean[-2][1]
            ]
    if not found:
        return None
    title = "Validation while training, best row of each family"
    if gains:
        title += f": from the last validation but one they still change by {100 * min(gains):.1g} to {100 * max(gains):.0f} %"
    figure, grid = grid_of(len(found), min(2, len(found)), title, 1.9)
    for axes, (group, curves, scale) in zip(grid, found, strict=True):
        headline, known = metrics(group.records)
        for family, one in curves.items():
            draw_series(axes, one, line_style(family, 0))
        log = scale == "log" and all(one.least() > 0 for one in curves.values())
        if log:
            axes.set_yscale("log")
        reference_lines(axes, known[headline])
        if log:
            log_axis(axes, "y")
        axes.set_title(plain_text(group.name), fontsize=7.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("training steps")
        axes.set_ylabel(axis_label(headline, known[headline].unit, known[headline].better))
    named = {FAMILY_NAMES[family]: line_style(family, 0) for _, curves, _ in found for family in curves}
    legend(figure, [Line2D([], [], color=one.colour, linestyle=one.dash, label=name) for name, one in named.items()])
    return figure
