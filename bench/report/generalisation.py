"""Figures of a comparison on test parts that are longer or harder than the trained one."""

from collections.abc import Callable

from matplotlib.figure import Figure

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metric_parts, metrics
from bench.analysis.statistics import over_seeds
from bench.report.style import LineStyle, axis_label, legend, panels_of, row_handle

_PARTS = {"T": "length of the test sequences", "b": "blanks of the test puzzles", "n": "cells a side of the test mazes"}


def by_length(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Test accuracy at the last position against the length of the sequences: the mean, and every seed thinly."""
    return _by_part(group, styles, "accuracy_last", ("accuracy at the last position by length", "accuracy, last position"))


def by_difficulty(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Share of test puzzles solved against their difficulty: the mean, and every seed thinly."""
    return _by_part(group, styles, "solved", ("share solved by difficulty", "solved"))


def _by_part(group: Group, styles: dict[str, LineStyle], score: str, words: tuple[str, str]) -> Figure | None:
    """A score against the number that ends its name, as 64 in `accuracy_last_T64`. `words`: of the title and the axis."""
    _, known = metrics(group.records)
    parts = metric_parts(known, score)
    if len(parts) < 2:
        return None
    kind = parts[0][1][len(score) + 1]
    figure, (axes,) = panels_of(1, f"{group.name}: {words[0]}", 4.2)
    drawn = [row for row in group.rows if _draw(axes.plot, row, parts, styles[row.label])]
    metric = known[parts[0][1]]
    if kind == "T":
        axes.set_xscale("log", base=2)
    axes.set_xticks([number for number, _ in parts], [str(number) for number, _ in parts])
    axes.minorticks_off()
    axes.set(xlabel=_PARTS[kind], ylabel=axis_label(words[1], metric.unit, metric.better))
    if metric.chance is not None:
        axes.axhline(metric.chance, color="#777777", linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        axes.text(1.01, metric.chance, "chance", transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#555555")
    legend(figure, [row_handle(row, styles[row.label]) for row in drawn])
    return figure


def _draw(plot: Callable[..., object], row: ResultRow, parts: list[tuple[int, str]], style: LineStyle) -> bool:
    """Draw a row's line and its seeds' where every run has all parts; whether it was drawn."""
    values = [[record.value(f"test_{name}") for _, name in parts] for record in row.ok]
    curves = [[value for value in run if value is not None] for run in values]
    if not curves or any(len(run) < len(parts) for run in curves):
        return False
    at = [number for number, _ in parts]
    mean = [over_seeds([run[place] for run in curves], "linear").mean for place in range(len(at))]
    plot(at, mean, color=style.colour, linestyle=style.dash, marker=style.marker)
    for run in curves if len(curves) > 1 else ():
        plot(at, run, color=style.colour, linewidth=0.6, alpha=0.5, zorder=1.9)
    return True
