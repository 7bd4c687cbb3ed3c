"""Figure of a comparison on sequences longer than the trained ones."""

import re
from collections.abc import Callable

from matplotlib.figure import Figure

from bench.analysis.aggregate import Group, ResultRow
from bench.analysis.columns import metrics
from bench.analysis.statistics import over_seeds
from bench.report.style import LineStyle, axis_label, legend, panels_of, row_handle

_LAST = re.compile(r"accuracy_last_T(\d+)")


def by_length(group: Group, styles: dict[str, LineStyle]) -> Figure | None:
    """Test accuracy at the last position against the length of the sequences: the mean, and every seed thinly."""
    _, known = metrics(group.records)
    lengths = sorted((int(found[1]), name) for name in known if (found := _LAST.fullmatch(name)))
    if len(lengths) < 2:
        return None
    figure, (axes,) = panels_of(1, f"{group.name}: accuracy at the last position by length", 4.2)
    drawn = [row for row in group.rows if _draw(axes.plot, row, lengths, styles[row.label])]
    metric = known[lengths[0][1]]
    axes.set_xscale("log", base=2)
    axes.set_xticks([length for length, _ in lengths], [str(length) for length, _ in lengths])
    axes.minorticks_off()
    axes.set(xlabel="length of the test sequences", ylabel=axis_label("accuracy, last position", metric.unit, metric.better))
    if metric.chance is not None:
        axes.axhline(metric.chance, color="#777777", linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        axes.text(1.01, metric.chance, "chance", transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#555555")
    legend(figure, [row_handle(row, styles[row.label]) for row in drawn])
    return figure


def _draw(plot: Callable[..., object], row: ResultRow, lengths: list[tuple[int, str]], style: LineStyle) -> bool:
    """Draw a row's line and its seeds' where every run has all lengths; whether it was drawn."""
    values = [[record.value(f"test_{name}") for _, name in lengths] for record in row.ok]
    curves = [[value for value in run if value is not None] for run in values]
    if not curves or any(len(run) < len(lengths) for run in curves):
        return False
    at = [length for length, _ in lengths]
    mean = [over_seeds([run[place] for run in curves], "linear").mean for place in range(len(at))]
    plot(at, mean, color=style.colour, linestyle=style.dash, marker=style.marker)
    for run in curves if len(curves) > 1 else ():
        plot(at, run, color=style.colour, linewidth=0.6, alpha=0.5, zorder=1.9)
    return True
