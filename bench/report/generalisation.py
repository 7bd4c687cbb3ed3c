"""Figures of a comparison on test parts that are longer or harder than the trained one."""

from collections.abc import Callable

from matplotlib.figure import Figure

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metric_parts, metrics
from bench.analysis.statistics import over_seeds
from bench.report.style import LineStyle, axis_label, grid_of, legend, reference_lines, row_handle

# What the number counts: in a title, and on an axis.
_PARTS = {
    "T": ("length", "length of the test sequences"),
    "b": ("blanks:", "blanks of the test puzzles"),
    "n": ("cells a side:", "cells a side of the test mazes"),
}
_GOOD = 0.95


def by_length(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Test accuracy at the last position against the length of the sequences: the mean, and every seed thinly."""
    return _by_part(group, styles, "accuracy_last", ("an accuracy at the last token", "last token right"))


def by_difficulty(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Share of test puzzles solved against their difficulty: the mean, and every seed thinly."""
    return _by_part(group, styles, "solved", ("a solve rate", "solve rate"))


def part_words(name: str, score: str) -> tuple[str, str]:
    """What the number that ends a metric's name counts, in a title and on an axis; of a letter that is not known, the name."""
    return _PARTS.get(name[len(score) + 1], ("", name.rstrip("0123456789").replace("_", " ")))


def _by_part(group: Group, styles: dict[str, LineStyle], score: str, words: tuple[str, str]) -> Figure | None:
    """A score against the number that ends its name, as 64 in `accuracy_last_T64`. `words`: of the title and the axis."""
    _, known = metrics(group.records)
    parts = metric_parts(known, score)
    if len(parts) < 2:
        return None
    (title_word, axis_word), kind = part_words(parts[0][1], score), parts[0][1][len(score) + 1]
    found = {
        name: [row for row in group.rows if (row.family == "deq") == deq and _curves(row, parts)]
        for name, deq in (("DEQs", True), ("explicit networks", False))
    }
    sides = {name: rows for name, rows in found.items() if rows}
    if not sides:
        return None
    metric, longest = known[parts[-1][1]], parts[-1][0]
    ends = [over_seeds([run[-1] for run in _curves(row, parts)], "linear").mean for side in sides.values() for row in side]
    good = sum(mean >= _GOOD for mean in ends)
    title = f"{group.name}: {good} of {len(ends)} models have {words[0]} of {_GOOD:g} or more at {title_word} {longest}"
    figure, panels = grid_of(len(sides), len(sides), title, 2.3, sharey=True)
    for axes, (name, side) in zip(panels, sides.items(), strict=True):
        for row in side:
            _draw(axes.plot, _curves(row, parts), [number for number, _ in parts], styles[row.label])
        if kind == "T":
            axes.set_xscale("log", base=2)
        axes.set_xticks([number for number, _ in parts], [str(number) for number, _ in parts])
        axes.minorticks_off()
        axes.set(title=name, xlabel=axis_word)
        reference_lines(axes, metric, named=axes is panels[-1])
    panels[0].set_ylabel(axis_label(words[1], metric.unit, metric.better))
    legend(figure, [row_handle(row, styles[row.label]) for side in sides.values() for row in side])
    return figure


def _curves(row: ResultRow, parts: list[tuple[int, str]]) -> list[list[float]]:
    """The values of each run of a row by part; none where a run lacks one."""
    values = [[record.value(f"test_{name}") for _, name in parts] for record in row.ok]
    curves = [[value for value in run if value is not None] for run in values]
    return [] if any(len(run) < len(parts) for run in curves) else curves


def _draw(plot: Callable[..., object], curves: list[list[float]], at: list[int], style: LineStyle) -> None:
    """Draw the mean, and every seed thinly."""
    mean = [over_seeds([run[place] for run in curves], "linear").mean for place in range(len(at))]
    plot(at, mean, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=3.5)
    for run in curves if len(curves) > 1 else ():
        plot(at, run, color=style.colour, linewidth=0.5, alpha=0.5, zorder=1.9)
