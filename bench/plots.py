"""Figures say their units, their better direction and where chance lies; one colour a row in all figures of a suite.

Colours are Okabe and Ito's (safe for colour-blind readers), a hue a family; within it shade, dash and marker tell rows apart.
"""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bench.columns import (
    ORDER,
    Cell,
    Column,
    Family,
    Group,
    Row,
    cell,
    depth_probe,
    metric_columns,
    metric_scale,
    metrics,
    natural,
    residual_probe,
)
from bench.metric import Metric
from bench.quality_table import drawn, reference
from bench.record import Point

MARK = "bench.report"
_HUES: dict[Family, str] = {
    **{"deq": "#0072B2", "ode": "#56B4E9", "tied": "#D55E00", "attention": "#E69F00"},
    **{"convolution": "#CC79A7", "recurrent": "#009E73", "other": "#777777"},
}
_TINTS = (0.0, 0.45, -0.4, 0.25, -0.2)  # towards white where positive, towards black where negative
# One fewer than the tints: the first twenty rows of a family all differ.
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_MARKERS: dict[Family, str] = {
    **{"deq": "osD^v", "ode": "o<>pd", "tied": "sPXp*", "attention": "XPdh8"},
    **{"convolution": "DhHd8", "recurrent": "^v<>D", "other": "8Hp*P"},
}
STYLE: dict[str, Any] = {
    "svg.hashsalt": MARK,  # or element ids are random
    "svg.fonttype": "path",
    **{"font.family": "DejaVu Sans", "font.size": 9.5},  # comes with matplotlib: the same letters everywhere
    **{"axes.titlesize": 10.5, "axes.titlelocation": "left"},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#666666"},
    **{"axes.grid": True, "axes.axisbelow": True, "xtick.color": "#444444", "ytick.color": "#444444"},
    **{"grid.color": "#E4E4E4", "grid.linewidth": 0.7},
    **{"legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.8},
    "legend.handlelength": 2.6,
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a row is drawn."""

    colour: tuple[float, float, float]
    dash: Any
    marker: str


def looks(groups: Iterable[Group]) -> dict[str, Look]:
    """A look for each label of a suite, the same in all its figures."""
    members: dict[Family, set[str]] = {family: set() for family in ORDER}
    for group in groups:
        for row in group.rows:
            members[row.family].add(row.label)
    return {
        label: _look(family, index) for family, labels in members.items() for index, label in enumerate(sorted(labels, key=natural))
    }


def _look(family: Family, index: int) -> Look:
    red, green, blue = to_rgb(_HUES[family])
    tint = _TINTS[index % len(_TINTS)]
    towards = 1.0 if tint > 0 else 0.0
    colour = tuple(part + (towards - part) * abs(tint) for part in (red, green, blue))
    return Look(
        colour=(colour[0], colour[1], colour[2]),
        dash=_DASHES[index % len(_DASHES)],
        marker=_MARKERS[family][(index + index // len(_TINTS)) % len(_MARKERS[family])],
    )


def group_figures(group: Group, look: dict[str, Look]) -> dict[str, dict[str, bytes]]:
    """The figures of a comparison that have something to show, by ending, each as {"png": bytes, "svg": bytes}."""
    draw: dict[str, Callable[[Group, dict[str, Look]], Figure | None]] = {
        "tradeoff": _tradeoff,
        "quality": _quality,
        "curves-steps": lambda group, look: _curves(group, look, against="steps"),
        "curves-seconds": lambda group, look: _curves(group, look, against="seconds"),
        "solver": _solver,
        "residual": _residual,
        "memory": _memory,
    }
    drawn: dict[str, dict[str, bytes]] = {}
    with style.context(["default", STYLE]):  # the reader's matplotlibrc must not change what is published
        for ending, make in draw.items():
            figure = make(group, look)
            if figure is not None:
                drawn[ending] = rendered(figure)
    return drawn


def rendered(figure: Figure) -> dict[str, bytes]:
    """Both formats, each drawn once: savefig draws once more for the layout, which is solved here with the first."""
    png, svg = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None, "Source": MARK})
    figure.set_layout_engine("none")
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Creator": MARK, "Date": None})
    return {"png": png.getvalue(), "svg": svg.getvalue()}


def _figure(panels: int, title: str, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8.4 if panels < 3 else 10.2, height))
    axes = figure.subplots(1, panels, squeeze=False)[0]
    figure.suptitle(_text(title), x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure, list(axes)


def _legend(figure: Figure, handles: Sequence[Any], columns: int | None = None) -> None:
    """Below the panels, where it covers nothing; a long one makes the figure higher."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = columns or max(1, min(len(handles), int(figure.get_figwidth() * 13 // (longest + 7))))
    lines = math.ceil(len(handles) / columns)
    if lines > 1:
        figure.set_figheight(figure.get_figheight() + 0.21 * (lines - 1))
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)


def _text(text: str) -> str:
    return text.replace("$", r"\$")  # a dollar would start mathematics


def _row_handle(row: Row, look: Look, marker: bool = False) -> Line2D:
    label = row.label + (f" ({len(row.ok)}/{len(row.finals)} ok)" if row.failed else "")
    how: dict[str, Any] = {"linestyle": "none", "marker": look.marker} if marker else {"linestyle": look.dash}
    return Line2D([], [], color=look.colour, label=_text(label), **how)


def _axis_label(name: str, unit: str, better: str | None) -> str:
    direction = {"lower": ", ↓ better", "higher": ", ↑ better"}.get(better or "", "")
    return _text(f"{name.replace('_', ' ')}{f' [{unit}]' if unit and unit != '1' else ''}{direction}")


def _log_axis(axes: Axes, which: str) -> None:
    """A log axis whose ticks are numbers one can read: 0.5, 2, 30, and powers of ten beyond."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    decades = math.log10(high / low)
    steps = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.7 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    if decades > 0.25:
        axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    else:  # less than a factor of two: the log axis is as good as linear
        axis.set_major_locator(MaxNLocator(4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, _: int | None = None) -> str:
    if value <= 0:
        return "0"
    exponent = math.floor(math.log10(value) + 1e-9)
    if -4 <= exponent < 5:
        return f"{value:,.6g}"
    mantissa, power = value / 10**exponent, rf"10^{{{exponent}}}"
    return f"${power}$" if abs(mantissa - 1) < 1e-6 else rf"${mantissa:.3g}\times{power}$"


_AGAINST = {
    "steps": "training steps",
    "seconds": "training time [s], evaluation excluded",
    "timed": "training steps x the step timed alone [s]",
}
Series = list[tuple[float, float, float, float]]  # x, mean, least, greatest over seeds


def _series(row: Row, against: str, read: Callable[[Point], float | None]) -> Series:
    """The mean over seeds at each step that all ok runs have, with their extremes; seconds are averaged, too.

    `against`: "steps", "seconds" (as clocked), or "timed" (steps times the step's time with the machine to itself).
    """
    timed = [value for record in row.ok if (value := record.value("step_ms_median")) is not None]
    if against == "timed" and not timed:
        return []
    alone = fmean(timed) / 1e3 if timed else 0.0
    runs = [{point.step: (point, value) for point in record.curve if (value := read(point)) is not None} for record in row.ok]
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    series: Series = []
    for step in steps:
        points = [run[step] for run in runs]
        if against == "steps":
            x = float(step)
        elif against == "seconds":
            x = fmean(point.seconds for point, _ in points)
        else:
            x = step * alone
        values = [value for _, value in points]
        series.append((x, fmean(values), min(values), max(values)))
    return series


def _draw_series(axes: Axes, series: Series, look: Look) -> None:
    x, mean, low, high = zip(*series, strict=True)
    axes.plot(x, mean, color=look.colour, linestyle=look.dash, marker=look.marker if len(x) == 1 else None)
    if any(a != b for a, b in zip(low, high, strict=True)):
        axes.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0)


def _reference_lines(axes: Axes, metric: Metric) -> None:
    """Chance and optimum as dashed lines, named at the right edge, outside the data."""
    log = axes.get_yscale() == "log"
    for name, value in (("chance", metric.chance), ("optimum", metric.floor)):
        if value is None or (log and value <= 0):
            continue
        axes.axhline(value, color="#777777", linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        axes.text(1.01, value, name, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#555555")


def _panel(axes: Axes, rows: dict[str, Series], look: dict[str, Look], log: bool, metric: Metric | None = None) -> None:
    for label, series in rows.items():
        _draw_series(axes, series, look[label])
    log = log and all(low > 0 for series in rows.values() for _, _, low, _ in series)
    if metric is not None:
        if log:
            axes.set_yscale("log")
        _reference_lines(axes, metric)
    if log:
        _log_axis(axes, "y")


def _curves(group: Group, look: dict[str, Look], against: str) -> Figure | None:
    headline, known = metrics(group.records)
    metric = known.get(headline)
    if against == "seconds" and any(record.value("train_s") is None for row in group.rows for record in row.ok):
        against = "timed"  # a clock that ran beside other runs is no timing
    valid = {row.label: s for row in group.rows if (s := _series(row, against, lambda point: point.valid.get(headline)))}
    train = {row.label: s for row in group.rows if (s := _series(row, against, lambda point: point.train_loss))}
    if not valid and not train:
        return None
    figure, (left, right) = _figure(2, f"{group.name}: learning curves")
    log = metric is None or metric_scale(headline, metric) == "log"
    _panel(left, valid, look, log, metric)
    unit, better = (metric.unit, metric.better) if metric else ("", None)
    left.set(title="validation", ylabel=_axis_label(headline, unit, better))
    _panel(right, train, look, True)
    right.set(title="training batches", ylabel=_axis_label("loss", "nats", "lower"))
    for axes in (left, right):
        axes.set_xlabel(_AGAINST[against])
        axes.set_xlim(left=0)
    drawn = [row for row in group.rows if row.label in valid or row.label in train]
    _legend(figure, [_row_handle(row, look[row.label]) for row in drawn])
    return figure


def _solver(group: Group, look: dict[str, Look]) -> Figure | None:
    parts: list[tuple[str, str, Callable[[Point], float | None], bool]] = [
        ("forward solve", "evaluations of f", lambda point: point.forward_nfe, False),
        ("backward solve", "evaluations of the VJP", lambda point: point.backward_nfe, False),
        ("residual left", "||f(z) - z|| / ||f(z)||, p50", lambda point: point.residual, True),
    ]
    panels = [
        (title, name, {r.label: s for r in group.rows if (s := _series(r, "steps", read))}, log) for title, name, read, log in parts
    ]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        return None
    figure, axes = _figure(len(panels), f"{group.name}: what the solver does during training", 3.2)
    for one, (title, name, rows, log) in zip(axes, panels, strict=True):
        _panel(one, rows, look, log)
        one.set(title=title, xlabel="training steps", ylabel=_axis_label(name, "", "lower"))
        one.set_xlim(left=0)
        if not log:
            one.set_ylim(bottom=0)
    drawn = [row for row in group.rows if any(row.label in panel[2] for panel in panels)]
    _legend(figure, [_row_handle(row, look[row.label]) for row in drawn])
    return figure


_METHOD_HUES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")


def _residual(group: Group, look: dict[str, Look]) -> Figure | None:
    """A panel a row, a colour a solver: the solvers are run on the same trained model."""
    found = {row.label: curves for row in group.rows if (curves := residual_probe(row)[0])}
    found = {
        label: {name: [p for p in c if p[1] > 0 and p[2] > 0] for name, c in curves.items()} for label, curves in found.items()
    }
    found = {label: curves for label, curves in found.items() if any(curves.values())}
    if not found:
        return None
    names = sorted({name for curves in found.values() for name in curves}, key=natural)
    hues = {name: _METHOD_HUES[index % len(_METHOD_HUES)] for index, name in enumerate(names)}
    columns = min(3, len(found))
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(8.4 if columns < 3 else 10.2, 0.9 + 2.5 * lines))
    grid = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    figure.suptitle(_text(f"{group.name}: residual against solver work"), x=0.01, ha="left", fontsize=11, fontweight="bold")
    for axes, (label, curves) in zip(grid, found.items(), strict=False):
        for name, curve in curves.items():
            if curve:
                x, p50, p95 = zip(*curve, strict=True)
                axes.plot(x, p50, color=hues[name], linewidth=1.6)
                axes.plot(x, p95, color=hues[name], linewidth=1.2, linestyle=(0, (1, 1.2)))
        axes.set_title(_text(label))
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    _log_axis(shown[0], "y")
    for index, axes in enumerate(shown):
        axes.set_xlim(left=0)
        if index + columns >= len(found):
            axes.set_xlabel("evaluations of f")
            axes.tick_params(labelbottom=True)
    figure.supylabel("relative residual, ↓ better", fontsize=9.5)
    handles = [Line2D([], [], color=hues[name], label=_text(name)) for name in names]
    handles += [Line2D([], [], color="#555555", label="median over samples")]
    handles += [Line2D([], [], color="#555555", linestyle=(0, (1, 1.2)), label="95th percentile")]
    _legend(figure, handles)
    return figure


_Curve = tuple[tuple[int, int, int, int | None], ...]  # depth, saved, peak live, solver bytes


def _memory(group: Group, look: dict[str, Look]) -> Figure | None:
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
    figure, (left, right) = _figure(2, f"{group.name}: memory of one training step against depth", 3.7)
    largest = max(peak for curve in lines.values() for _, saved, peak, _ in curve)
    factor, unit = (2.0**-20, "MiB") if largest >= 2**20 else (2.0**-10, "KiB")
    depths = sorted({point[0] for curve in lines.values() for point in curve})
    handles = []
    for axes, at in ((left, 1), (right, 2)):
        for index, (name, curve) in enumerate(lines.items()):
            colour = _METHOD_HUES[index % len(_METHOD_HUES)]
            marker = "osD^v"[index // len(_METHOD_HUES) % 5]
            x = [point[0] for point in curve]
            y = tuple(point[at] * factor for point in curve)  # type: ignore[operator]
            under = sum(1 for later in list(lines.values())[index + 1 :] if [p[at] for p in later] == [p[at] for p in curve])
            # Equal counts lie on one another: the lower line is drawn wider, so that all can be seen.
            axes.plot(x, y, color=colour, marker=marker, markersize=4.5 + 2.4 * under, linewidth=1.8 + 2.2 * under)
            stored = [(point[0], point[3] * factor) for point in curve if point[3]]
            if at == 1 and stored:
                axes.plot(*zip(*stored, strict=True), color=colour, linestyle=(0, (4, 2)), linewidth=1.3)
            if at == 1:
                handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, label=_text(name)))
        _log_axis(axes, "x")
        _log_axis(axes, "y")
        if len(depths) <= 8:
            axes.set_xticks(depths, labels=[f"{depth:,}" for depth in depths])
        axes.set_xlabel("depth, or solver steps")
    left.set(title="saved for backward", ylabel=_axis_label("bytes", unit, "lower"))
    right.set(title="peak live", ylabel=_axis_label("bytes", unit, "lower"))
    if any(point[3] for curve in lines.values() for point in curve):
        handles.append(Line2D([], [], color="#555555", linestyle=(0, (4, 2)), linewidth=1.3, label="solver storage"))
    _legend(figure, handles)
    return figure


def _tradeoff(group: Group, look: dict[str, Look]) -> Figure | None:
    """The headline score against what it costs: a point a row, with both intervals, cut at a factor of four from all."""
    headline, _ = metrics(group.records)
    score = next((column for column in metric_columns(group) if column.name == f"test_{headline}"), None)
    if score is None:
        return None
    panels: list[tuple[str, float, str, list[tuple[Row, Cell, Cell]]]] = []
    for name, head, factor, unit in (
        ("saved_bytes", "saved for backward", 2.0**-20, "MiB"),
        ("step_ms_median", "training step", 1.0, "ms"),
    ):
        pairs = [(row, cell(row, Column(name=name, head=head)), cell(row, score)) for row in group.rows]
        pairs = [(row, x, y) for row, x, y in pairs if x.estimate is not None and y.estimate is not None and x.estimate.mean > 0]
        if pairs:
            panels.append((_axis_label(head, unit, "lower"), factor, unit, pairs))
    if not panels:
        return None
    figure, axes = _figure(len(panels), f"{group.name}: score against cost")
    for one, (label, factor, _, pairs) in zip(axes, panels, strict=True):
        for row, x, y in pairs:
            _draw_point(one, look[row.label], x, y, factor)
        if score.scale == "log" and all(y.estimate is not None and y.estimate.scale == "log" for _, _, y in pairs):
            one.set_yscale("log")
            (bottom, top), means = one.get_ylim(), [y.estimate.mean for _, _, y in pairs if y.estimate is not None]
            one.set_ylim(max(bottom, min(means) / 4), min(top, 4 * max(means)))
            _log_axis(one, "y")
        _log_axis(one, "x")
        one.set_xlabel(label)
    metric = metrics(group.records)[1][headline]
    axes[0].set_ylabel(_axis_label(f"test {headline}", metric.unit, metric.better))
    drawn = [row for row in group.rows if any(row is pair[0] for panel in panels for pair in panel[3])]
    _legend(figure, [_row_handle(row, look[row.label], marker=True) for row in drawn])
    return figure


def _draw_point(axes: Axes, look: Look, x: Cell, y: Cell, factor: float) -> None:
    assert x.estimate is not None
    assert y.estimate is not None
    at, score = x.estimate, y.estimate
    if score.low is not None and score.high is not None:
        axes.plot([at.mean * factor] * 2, [score.low, score.high], color=look.colour, linewidth=1.4, alpha=0.75)
    if at.low is not None and at.high is not None:
        axes.plot([at.low * factor, at.high * factor], [score.mean] * 2, color=look.colour, linewidth=1.4, alpha=0.75)
    axes.plot([at.mean * factor], [score.mean], color=look.colour, marker=look.marker, markersize=8, markeredgecolor="white")


def _quality(group: Group, look: dict[str, Look]) -> Figure | None:
    """Seconds to the tied network's final score against how far training was from solved: a point a DEQ."""
    points, tied = drawn(group)
    if not points:
        return None
    figure, (axes, *_) = _figure(1, f"{group.name}: time to equal quality")
    for one, residual, seconds in points:
        axes.plot([residual], [seconds], color=look[one.row.label].colour, marker=look[one.row.label].marker, markersize=8)
    reference(axes, max(tied, *(seconds for *_, seconds in points)), tied)
    _log_axis(axes, "x")
    _legend(figure, [_row_handle(one.row, look[one.row.label], marker=True) for one, *_ in points])
    return figure
