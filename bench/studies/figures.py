"""Figures of the studies: thin lines are seeds, thick lines their mean, hollow points the paper's.

The mean is that of the tables: geometric, but arithmetic for an excess, which can be negative.
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
from bench.report.style import WIDTH, legend, method_colours, set_title

Series = list[tuple[float, float]]
_BLUE, _ORANGE, _GREEN, _RED, _PINK, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#777777"
_SOLVERS = method_colours(("picard", "anderson", "broyden"))
_DASHED, _DOTTED = (0, (5, 2)), (0, (1, 1.2))
_MOMENTS = (("start", _DOTTED), ("end", "-"))
_MOMENTS_KEY = {"before training": ("#444444", _DOTTED), "after": ("#444444", "-")}
_HOLLOW: dict[str, Any] = {"color": "black", "marker": "o", "markerfacecolor": "white", "markeredgewidth": 1.0, "markersize": 4}
_GUIDE: dict[str, Any] = {"color": _GREY, "linestyle": _DASHED, "linewidth": 0.8}
_SOLVED = 1e-3  # relative residual: the tolerance of training
_SHORT = {"copy memory T=20": "copy memory", "agreement language": "agreement", "tinyshakespeare by character": "tinyshakespeare"}
# Validation perplexity by tolerance, the paper's figure 3; below 0.1 it is flat.
_PAPER_TOLERANCE = [(1e-6, 24.0), (1e-1, 24.0), (1.0, 27.0), (2.0, 38.0), (3.0, 77.0), (4.0, 196.0)]
# Bai, Koltun, Kolter (ICML 2021), table 5: trained at 30 evaluations, stopped at 12 or 30.
_LATER_CAP = [(12.0, 29.2), (30.0, 24.0)]


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


def _lines(seeds: Iterable[Any], *path: Any, x: Any = 0, y: Any = 1) -> list[Series]:
    """One line per seed, of entries x and y of the points at a path within its values."""
    return [[(point[x], point[y]) for point in reduce(lambda at, name: at.get(name, {}), path, values)] for values in seeds]


def _mean(lines: Sequence[Series], scale: Scale = "log") -> Series:
    """The mean over seeds at each x that all have; on the log scale, where all are positive."""
    by_x: dict[float, list[float]] = {}
    for x, y in sorted((point for line in lines for point in line), key=lambda point: point[0]):
        by_x.setdefault(x, []).append(y)
    complete = ((x, ys) for x, ys in by_x.items() if len(ys) == len(lines) and (scale != "log" or min(ys) > 0))
    return [(x, interval(ys, scale).mean) for x, ys in complete]


def _draw(axes: Axes, lines: Iterable[Series], colour: str, dash: Any = "-", marker: str = "", scale: Scale = "log") -> None:
    """Draw each seed thin (if solid) and their mean thick; values that are not positive count in a mean but are not drawn."""
    known = [points for line in lines if (points := [(x, y) for x, y in line if y is not None])]
    style = {"color": colour, "linestyle": dash}
    for line in known if dash == "-" and len(known) > 1 else ():
        if positive := [(x, y) for x, y in line if y > 0]:
            axes.plot(*zip(*positive, strict=True), linewidth=0.5, alpha=0.45, **style)
    if mean := [(x, y) for x, y in _mean(known, scale) if y > 0]:
        axes.plot(*zip(*mean, strict=True), marker=marker, markersize=2.5, **style)


def _grid(lines: int, columns: int, title: str, height: float, **options: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of log-log axes, each line `height` inches high."""
    figure = Figure(figsize=(WIDTH, 0.4 + lines * height))
    grid = figure.subplots(lines, columns, squeeze=False, **options)
    set_title(figure, title)
    for axes in grid.flat:
        axes.set(xscale="log", yscale="log")
    return figure, [list(line) for line in grid]


def _key(figure: Figure, entries: Mapping[str, tuple[str, Any]], *more: Line2D) -> Figure:
    legend(figure, [*(Line2D([], [], color=colour, linestyle=dash, label=name) for name, (colour, dash) in entries.items()), *more])
    return figure


def _factor(pairs: Iterable[tuple[float, float]]) -> float:
    """The geometric mean of later over earlier."""
    return interval([later / earlier for earlier, later in pairs], "log").mean


def _span(values: Iterable[float]) -> str:
    """The least and the largest with two digits, or the one where they agree."""
    ordered = sorted(values)
    low, high = (f"{value:.2g}" for value in (ordered[0], ordered[-1]))
    return low if low == high else f"{low} to {high}"


def _plain(axis: Axis) -> None:
    """Plain numbers at the major ticks, none at the minor ones."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _few(axes: Axes) -> None:
    """Numbers on a y axis of two decades or less, where a log axis has hardly any of its own."""
    low, high = axes.get_ylim()
    if high < 200 * low:
        ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
        if high > 4 * low:
            ticks = np.outer(10.0 ** np.arange(-9, 9), (1, 2, 5)).ravel().tolist()
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    _plain(axes.yaxis)
    axes.tick_params(axis="y", which="minor", labelleft=False)


def steps_and_residual(rows: Rows) -> Figure | None:
    """Figure 2: evaluations of the solves in the course of training, and residual by solver before and after it."""
    tasks = [task for task in rows.unique("training", "task") if task in rows.unique("residual", "task")]
    if not tasks:
        return None
    courses = {task: _lines(rows.values("training", task=task, model="DEQ"), "course", x="step", y="forward_nfe") for task in tasks}
    ends = {task: [(line[0][1], line[-1][1]) for line in lines if line and line[0][1]] for task, lines in courses.items()}
    growth = [_factor(pairs) for pairs in ends.values() if pairs]
    title = "Evaluations of solves in training, and residuals by solver"
    if growth:
        curves = [
            line for task in tasks for line in _lines(rows.values("residual", task=task, model="DEQ"), "end", "picard", "curve")
        ]
        stuck = sum(line[-1][1] > _SOLVED for line in curves if line)
        title = f"Solves take {_span(growth)} times the evaluations at the end of training; "
        title += f"plain iteration leaves {stuck} of {len(curves)} trained models above {_SOLVED:g}"
    figure, (above, below) = _grid(2, len(tasks), title, 1.75)
    cap = rows.settings["training"]["cap"]
    for axes, task in zip(above, tasks, strict=True):
        for name, colour in (("forward_nfe", "#444444"), ("backward_nfe", _ORANGE)):
            _draw(axes, _lines(rows.values("training", task=task, model="DEQ"), "course", x="step", y=name), colour)
        axes.axhline(cap, **_GUIDE)
        axes.set(title=_SHORT.get(task, task), xlabel="training steps", xscale="linear")
        axes.set_yticks(ticks := [3, 5, 10, 20, 40, 60], labels=map(str, ticks))
        axes.yaxis.set_minor_formatter("")
        axes.set_ylim(2.5, 1.3 * cap)
    above[0].set_ylabel("evaluations, ↓ better")
    for axes, task in zip(below, tasks, strict=True):
        for solver, colour in _SOLVERS.items():
            for at, dash in _MOMENTS:
                _draw(axes, _lines(rows.values("residual", task=task, model="DEQ"), at, solver, "curve"), colour, dash)
        axes.set(ylim=(3e-8, 5), xlabel="evaluations of f")
        _plain(axes.xaxis)
    below[0].set_ylabel("relative residual, ↓ better")
    work = {"forward solve": ("#444444", "-"), "backward solve": (_ORANGE, "-"), "cap": (_GREY, _DASHED)}
    return _key(figure, work | {name.capitalize(): (colour, "-") for name, colour in _SOLVERS.items()} | _MOMENTS_KEY)


def tolerance_and_cap(rows: Rows) -> Figure | None:
    """Figure 3: loss and evaluations against the tolerance of an evaluation, loss against its cap; published values."""
    tasks = [task for task in rows.unique("tolerance", "task") if task in rows.unique("cap", "task")]
    if not tasks:
        return None
    losses = {task: _lines(rows.values("tolerance", task=task), "points", x="rtol", y="loss") for task in tasks}
    loosened, tightest = [], set[float]()
    for lines in losses.values():  # from the tightest to the loosest that is 0.1 or less
        ends = [(line[0], max(point for point in line if point[0] <= 0.1)) for line in map(sorted, lines) if line[0][0] <= 0.1]
        tightest |= {tight[0] for tight, _ in ends}
        loosened += [_factor((tight[1], loose[1]) for tight, loose in ends)] if ends else []
    title = "Loss by tolerance and cap of an evaluation"
    if loosened:
        title = f"Solving to 0.1 in place of {_span(tightest)} multiplies the loss by {_span(loosened)}"
    figure, grid = _grid(3, len(tasks) + 1, title, 1.45)
    measures = (("tolerance", "rtol", "loss", _BLUE), ("tolerance", "rtol", "steps", _GREEN), ("cap", "cap", "loss", _BLUE))
    for line, (study, setting, name, colour) in zip(grid, measures, strict=True):
        for axes, task in zip(line, tasks, strict=False):
            found = rows.values(study, task=task)
            _draw(axes, _lines(found, "points", x=setting, y=name), colour, marker="o")
            if name == "loss" and found[0]["chance"] is not None:
                axes.axhline(found[0]["chance"], **_GUIDE)
            _few(axes)
            axes.set_xlabel("relative tolerance" if study == "tolerance" else "cap on evaluations", fontsize=7)
            if study == "tolerance":
                axes.set_xticks([1e-6, 1e-3, 1])
            else:
                _plain(axes.xaxis)
        line[0].set_ylabel("validation loss [nats]" if name == "loss" else "evaluations", fontsize=7)
    for axes, task in zip(grid[0], tasks, strict=False):
        axes.set_title(_SHORT.get(task, task))
    tolerance, hidden, cap = (line[-1] for line in grid)
    hidden.set_visible(False)
    for axes, points in ((tolerance, _PAPER_TOLERANCE), (cap, _LATER_CAP)):
        axes.plot(*zip(*points, strict=True), linewidth=0.8, **_HOLLOW)
        axes.set_ylabel("perplexity", fontsize=7)
    tolerance.set(title="published", yticks=[24, 50, 100, 200], xticks=[1e-6, 1e-3, 1])
    tolerance.set_xlabel("tolerance, absolute", fontsize=7)
    cap.set(yticks=[24, 26, 28, 30], xticks=[10, 20, 30], xlim=(9, 42))
    cap.set_xlabel("cap on evaluations", fontsize=7)
    _plain(cap.xaxis)
    for axes in (tolerance, cap):
        _plain(axes.yaxis)
    key = {"loss, ↓ better": (_BLUE, "-"), "evaluations, ↓ better": (_GREEN, "-"), "chance": (_GREY, _DASHED)}
    return _key(figure, key, Line2D([], [], linewidth=0.8, label="published", **_HOLLOW))


def layers(rows: Rows) -> Figure | None:
    """Figure 4: change per layer of trained maps iterated beyond their depth, and their loss."""
    tasks, models = rows.unique("layers", "task"), rows.unique("layers", "model")
    if not tasks:
        return None
    figure, grid = _grid(len(models) + 1, len(tasks), "A trained map iterated on: change a layer, and loss", 1.6)
    colours = (_BLUE, _ORANGE, _GREEN)
    losses = dict(zip(models, (_PINK, _RED), strict=False))
    for task, column in zip(tasks, zip(*grid, strict=True), strict=True):
        for axes, model in zip(column, models, strict=False):
            found = [values["lengths"] for values in rows.values("layers", task=task, model=model)]
            for length, colour in zip(dict.fromkeys(length for lengths in found for length in lengths), colours, strict=False):
                _draw(axes, _lines(found, length, "curve"), colour)
            axes.set(title=f"{model}, {_SHORT.get(task, task)}", ylim=(3e-8, 5))
        for model, colour in losses.items():
            _draw(column[-1], _lines(rows.values("layers", task=task, model=model), "loss"), colour)
        column[-1].set_xlabel("layers")
        for axes in column:
            axes.axvline(rows.settings["layers"]["trained depth"], **_GUIDE)
            _plain(axes.xaxis)
        _few(column[-1])
    for line in grid[:-1]:
        line[0].set_ylabel("relative change")
    grid[-1][0].set_ylabel("validation loss [nats]")
    named = dict(zip(("as trained", "twice as long", "four times"), colours, strict=True))
    named |= {"depth of the tied net": _GREY} | {f"loss, {model}": colour for model, colour in losses.items()}
    return _key(figure, {name: (colour, _DASHED if colour == _GREY else "-") for name, colour in named.items()})


def gradient(rows: Rows) -> Figure | None:
    """Distance and angle of gradients from the exact one."""
    if not (tasks := rows.unique("gradient", "task")):
        return None
    ends = [values["end"] for values in rows.values("gradient")]
    tightest = max(min(end["backward"], key=lambda point: point["rtol"])["distance"] for end in ends)
    phantom = [one["distance"] for end in ends for one in end["phantom"] if one["steps"] == 1]
    error = f"{tightest:.0e}".replace("e-0", "e-")
    title = f"Implicit gradients err by at most {error} where solved tightly"
    title += f", one phantom step by {_span(phantom)}" if phantom else ""
    figure, grid = _grid(3, len(tasks), title, 1.6, sharey="row")
    kinds = (
        ("backward", "rtol", _BLUE, "implicit, by backward tolerance"),
        ("forward", "rtol", _ORANGE, "by forward tolerance"),
        ("phantom", "steps", _GREEN, "phantom"),
        ("unroll", "steps", _RED, "unrolled"),
    )
    for task, (by_tolerance, by_steps, angles) in zip(tasks, zip(*grid, strict=True), strict=True):
        found = rows.values("gradient", task=task)
        for kind, setting, colour, _ in kinds:
            panels = {"distance": by_tolerance, "one_less_cosine": angles} if setting == "rtol" else {"distance": by_steps}
            for at, dash in _MOMENTS:
                for error, axes in panels.items():
                    lines = _lines(found, at, kind, x=setting, y=error)
                    _draw(axes, lines, colour, dash, marker="o" if at == "end" else "")
        by_tolerance.set(title=_SHORT.get(task, task), xlabel="relative tolerance")
        by_steps.set_xlabel("steps")
        by_steps.axhline(1, **_GUIDE)
        _plain(by_steps.xaxis)
        angles.set_xlabel("relative tolerance")
    for first, *_ in grid[:2]:
        first.set(ylabel="relative error, ↓ better", ylim=(1e-10, 1e3))
    grid[2][0].set(ylabel="1 - cosine, ↓ better", ylim=(1e-17, 3))
    return _key(figure, {label: (colour, "-") for _, _, colour, label in kinds} | _MOMENTS_KEY)


def dependency(rows: Rows) -> Figure | None:
    """Loss at the closer, and excess over the entropy rate, by the length of the dependency."""
    models, lengths = rows.unique("dependency", "model"), rows.unique("dependency", "dependency")
    if not models:
        return None
    figure, [[closers, excess]] = _grid(1, 2, "Agreement over a growing distance", 2.3)
    colours = dict(zip(models, (_BLUE, _RED, _GREEN, _PINK), strict=False))
    scores: tuple[tuple[Axes, str, Scale, str], ...] = (
        (closers, "loss_agreement", "log", "loss at the closer [nats], ↓ better"),
        (excess, "excess_nats", "linear", "excess over the entropy rate\n[nats a token], ↓ better"),
    )
    for axes, score, scale, label in scores:
        for model, colour in colours.items():
            seeds = (rows.values("dependency", model=model, seed=seed) for seed in rows.unique("dependency", "seed"))
            _draw(axes, _lines(seeds, x="dependency", y=score), colour, marker="o", scale=scale)
        axes.set(xlabel="tokens between opener and closer", ylabel=label, xticks=lengths)
        _plain(axes.xaxis)
        _few(axes)
    for name in ("chance", "optimum"):
        level = rows.values("dependency")[0][name]
        closers.axhline(level, **_GUIDE)
        closers.text(1.01, level, name, transform=closers.get_yaxis_transform(), va="center", fontsize=7)
    return _key(figure, {model: (colour, "-") for model, colour in colours.items()})
