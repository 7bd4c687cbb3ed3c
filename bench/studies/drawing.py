"""What the figures of the studies are drawn with: rows of the record, lines of seeds and their means, axes.

A mean is that of the tables: geometric, but arithmetic for an excess, which can be negative.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from bench.analysis.statistics import Scale, interval
from bench.report.style import grid_of, legend

Series = list[tuple[float, float]]


class Rows:
    """The rows that have values, by study."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        studies = record["experiments"]
        self.settings: dict[str, dict[str, Any]] = {name: study["settings"] for name, study in studies.items()}
        self._rows = {name: [row for row in study["rows"] if row["values"] is not None] for name, study in studies.items()}

    def values(self, study: str, **subject: Any) -> list[dict[str, Any]]:
        """Subject and values of the rows with that subject."""
        return [row | row["values"] for row in self._rows[study] if all(row[name] == one for name, one in subject.items())]

    def unique(self, study: str, column: str) -> list[Any]:
        """The distinct entries of a column, in order."""
        return list(dict.fromkeys(row[column] for row in self._rows[study]))


def seed_lines(seeds: Iterable[Any], *path: Any, x: Any = 0, y: Any = 1) -> list[Series]:
    """One line per seed, of entries x and y of the points at a path within its values."""
    return [[(point[x], point[y]) for point in reduce(lambda at, name: at.get(name, {}), path, values)] for values in seeds]


def mean_line(lines: Sequence[Series], scale: Scale = "log") -> Series:
    """The mean over seeds at each x that all have; on the log scale, where all are positive."""
    by_x: dict[float, list[float]] = {}
    for x, y in sorted((point for line in lines for point in line), key=lambda point: point[0]):
        by_x.setdefault(x, []).append(y)
    complete = ((x, ys) for x, ys in by_x.items() if len(ys) == len(lines) and (scale != "log" or min(ys) > 0))
    return [(x, interval(ys, scale).mean) for x, ys in complete]


def draw_seeds(axes: Axes, lines: Iterable[Series], colour: str, dash: Any = "-", marker: str = "", scale: Scale = "log") -> None:
    """Draw each seed thin (if solid) and their mean thick; values that are not positive count in a mean but are not drawn."""
    known = [points for line in lines if (points := [(x, y) for x, y in line if y is not None])]
    style = {"color": colour, "linestyle": dash}
    for line in known if dash == "-" and len(known) > 1 else ():
        if positive := [(x, y) for x, y in line if y > 0]:
            axes.plot(*zip(*positive, strict=True), linewidth=0.5, alpha=0.45, **style)
    if mean := [(x, y) for x, y in mean_line(known, scale) if y > 0]:
        axes.plot(*zip(*mean, strict=True), marker=marker, markersize=2.5, **style)


def log_grid(lines: int, columns: int, title: str, height: float, **options: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of log-log axes, each line `height` inches high."""
    figure, panels = grid_of(lines * columns, columns, title, height, **options)
    for axes in panels:
        axes.set(xscale="log", yscale="log")
    return figure, [panels[first : first + columns] for first in range(0, len(panels), columns)]


def with_key(figure: Figure, entries: Mapping[str, tuple[str, Any]], *more: Line2D) -> Figure:
    """The figure with a legend of lines by name, each with its colour and dash, and of `more`."""
    legend(figure, [*(Line2D([], [], color=colour, linestyle=dash, label=name) for name, (colour, dash) in entries.items()), *more])
    return figure


def mean_factor(pairs: Iterable[tuple[float, float]]) -> float:
    """The geometric mean of later over earlier."""
    return interval([later / earlier for earlier, later in pairs], "log").mean


def plain_numbers(axis: Axis) -> None:
    """Plain numbers at the major ticks, none at the minor ones."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def few_ticks(axes: Axes) -> None:
    """Numbers on a y axis of two decades or less, where a log axis has hardly any of its own."""
    low, high = axes.get_ylim()
    if high < 200 * low:
        ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
        if high > 4 * low:
            ticks = np.outer(10.0 ** np.arange(-9, 9), (1, 2, 5)).ravel().tolist()
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    plain_numbers(axes.yaxis)
    axes.tick_params(axis="y", which="minor", labelleft=False)
