"""Figures of the studies: thin lines are seeds, thick lines their mean, hollow points the paper's.

The mean is that of the tables: geometric, but arithmetic for an excess, which can be negative.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from bench.analysis.statistics import Scale, interval

Series = list[tuple[float, float]]
_BLUE, _ORANGE, _GREEN, _RED, _PINK, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#777777"
_SOLVERS = {"picard": _RED, "anderson": _BLUE, "broyden": _GREEN}
_DASHED, _DOTTED = (0, (5, 2)), (0, (1, 1.2))
_MOMENTS = (("start", _DOTTED), ("end", "-"))
_MOMENTS_KEY = {"before training": ("#444444", _DOTTED), "after": ("#444444", "-")}
_HOLLOW: dict[str, Any] = {"color": "black", "marker": "o", "markerfacecolor": "white", "markeredgewidth": 1.4, "markersize": 6}
_GUIDE: dict[str, Any] = {"color": _GREY, "linestyle": _DASHED, "linewidth": 1}
_NATS = "validation loss [nats], ↓ better"
# Read off the paper's poster, approximately: evaluations until ||f(z) - z|| is 1e-4, at length 150.
_PAPER_RESIDUAL = {"DEQ": {"epoch 1": (85.0, 85.0), "epoch 12": (150.0, 200.0)}, "weight-tied": {"epoch 1": (180.0, 180.0)}}
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
            axes.plot(*zip(*positive, strict=True), linewidth=0.7, alpha=0.45, **style)
    if mean := [(x, y) for x, y in _mean(known, scale) if y > 0]:
        axes.plot(*zip(*mean, strict=True), marker=marker, markersize=3.5, **style)


def _grid(lines: int, columns: int, title: str, height: float, **options: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of log-log axes."""
    figure = Figure(figsize=(10.2, height))
    grid = figure.subplots(lines, columns, squeeze=False, **options)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    for axes in grid.flat:
        axes.set(xscale="log", yscale="log")
    return figure, [list(line) for line in grid]


def _key(figure: Figure, entries: Mapping[str, tuple[str, Any]], *more: Line2D) -> Figure:
    handles = [Line2D([], [], color=colour, linestyle=dash, label=label) for label, (colour, dash) in entries.items()]
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=min(6, len(handles) + len(more)))
    return figure


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


def solver_steps(rows: Rows) -> Figure | None:
    """Figure 2, left: evaluations of the solves in the course of training."""
    tasks, settings = rows.unique("training", "task"), rows.settings["training"]
    if not tasks:
        return None
    title = f"Evaluations that solves take as training goes on (to a residual of {settings['rtol']:g})"
    figure, [panels] = _grid(1, len(tasks), title, 3.3)
    for axes, task in zip(panels, tasks, strict=True):
        for name, colour in (("forward_nfe", _BLUE), ("backward_nfe", _ORANGE)):
            _draw(axes, _lines(rows.values("training", task=task, model="DEQ"), "course", x="step", y=name), colour)
        axes.axhline(settings["cap"], **_GUIDE)
        axes.set(title=task, xlabel="training steps", xscale="linear")
        axes.set_yticks(ticks := [3, 5, 10, 20, 40, 60], labels=map(str, ticks))
        axes.yaxis.set_minor_formatter("")
        axes.set_ylim(2.5, 1.3 * settings["cap"])
    panels[0].set_ylabel("evaluations a solve, ↓ better")
    return _key(figure, {"forward solve": (_BLUE, "-"), "backward solve": (_ORANGE, "-"), "cap": (_GREY, _DASHED)})


def residual(rows: Rows) -> Figure | None:
    """Figure 2, right: residual by solver on our tasks, and the paper's readings."""
    tasks, models = rows.unique("residual", "task"), rows.unique("residual", "model")
    if not tasks:
        return None
    figure, grid = _grid(len(models), len(tasks) + 1, "Residual against evaluations of f", 6.2)
    for line, model in zip(grid, models, strict=True):
        for axes, task in zip(line, tasks, strict=False):
            found = rows.values("residual", task=task, model=model)
            for solver, colour in _SOLVERS.items():
                for at, dash in _MOMENTS:
                    _draw(axes, _lines(found, at, solver, "curve"), colour, dash)
            axes.set(title=f"{model}\n{task}", ylim=(3e-8, 5))
            _plain(axes.xaxis)
        line[0].set_ylabel("||f(z) - z|| / ||f(z)||, ↓ better")
    for line, (name, points) in zip(grid, _PAPER_RESIDUAL.items(), strict=False):
        for offset, (label, ends) in zip((10, -18), points.items(), strict=False):
            line[-1].plot(ends, [1e-4] * 2, **_HOLLOW)
            line[-1].annotate(label, (ends[0], 1e-4), (0, offset), textcoords="offset points", fontsize=8, ha="center")
        line[-1].set(title=f"DEQ paper, {name}\nWikiText-103", ylabel="||f(z) - z||, not relative", xscale="linear")
        line[-1].set(ylim=(1e-6, 1e3), xlim=(0, 230))
    for axes in grid[-1]:
        axes.set_xlabel("evaluations of f")
    if len(grid) > 1:
        grid[1][-1].axhspan(10, 30, color=_GREY, alpha=0.2, linewidth=0)
        grid[1][-1].text(110, 20, "epoch 12: oscillates", va="center", ha="center", fontsize=8)
    paper = Line2D([], [], linestyle="none", label="the paper's, read off its poster", **_HOLLOW)
    return _key(figure, {solver: (colour, "-") for solver, colour in _SOLVERS.items()} | _MOMENTS_KEY, paper)


def _quality(rows: Rows, study: str, setting: str, label: str) -> Figure | None:
    """Figure 3: loss above, evaluations below, published perplexities on the right."""
    if not (tasks := rows.unique(study, "task")):
        return None
    figure, grid = _grid(2, len(tasks) + 1, f"Quality and work of an evaluation against its {label}, one model a seed", 5.4)
    for column, task in enumerate(tasks):
        found = rows.values(study, task=task)
        for line, (name, colour) in zip(grid, (("loss", _BLUE), ("steps", _GREEN)), strict=True):
            _draw(line[column], _lines(found, "points", x=setting, y=name), colour, marker="o")
        if found[0]["chance"] is not None:
            grid[0][column].axhline(found[0]["chance"], **_GUIDE)
        grid[0][column].set_title(task)
        grid[1][column].set_xlabel(label)
        for line in grid:
            _few(line[column])
    grid[0][0].set_ylabel(_NATS)
    grid[1][0].set_ylabel("evaluations a sample, ↓ better")
    paper, points = grid[0][-1], _PAPER_TOLERANCE if study == "tolerance" else _LATER_CAP
    paper.plot(*zip(*points, strict=True), linewidth=0.8, **_HOLLOW)
    paper.set_ylabel("perplexity, ↓ better")
    if study == "tolerance":
        paper.set(title="DEQ paper, figure 3", xlabel="tolerance, absolute, a step", yticks=[24, 30, 50, 100, 200])
    else:
        paper.set(title="Bai et al. 2021", xlabel=label, yticks=[24, 26, 28, 30], xticks=[10, 20, 30, 40])
        _plain(paper.xaxis)
        paper.set_xlim(9, 42)
    _plain(paper.yaxis)
    grid[1][-1].set_visible(False)
    return _key(
        figure,
        {"loss": (_BLUE, "-"), "evaluations": (_GREEN, "-"), "chance": (_GREY, _DASHED)},
        Line2D([], [], linewidth=0.8, label="published, a larger model", **_HOLLOW),
    )


quality_by_tolerance = partial(_quality, study="tolerance", setting="rtol", label="relative tolerance")
quality_by_cap = partial(_quality, study="cap", setting="cap", label="cap on evaluations")


def work_precision(rows: Rows) -> Figure | None:
    """Loss of a trained model against the evaluations of its solves."""
    if not (tasks := rows.unique("tolerance", "task")):
        return None
    figure, [panels] = _grid(1, len(tasks), "Work and precision: loss of a trained model against evaluations of its solves", 3.5)
    for axes, task in zip(panels, tasks, strict=True):
        for study, colour in (("tolerance", _BLUE), ("cap", _ORANGE)):
            for line in _lines(rows.values(study, task=task), "points", x="steps", y="loss"):
                axes.plot(*zip(*sorted(line), strict=True), color=colour, linewidth=0.8, marker="o", markersize=2.6, alpha=0.7)
        axes.set(title=task, xlabel="evaluations a sample")
        _plain(axes.xaxis)
        _few(axes)
    panels[0].set_ylabel(_NATS)
    return _key(figure, {"stopped by a tolerance": (_BLUE, "-"), "stopped by a cap": (_ORANGE, "-")})


def layers(rows: Rows) -> Figure | None:
    """Figure 4: change per layer of trained maps iterated beyond their depth, and their loss."""
    tasks, models = rows.unique("layers", "task"), rows.unique("layers", "model")
    if not tasks:
        return None
    figure, grid = _grid(len(models) + 1, len(tasks), "A trained map iterated on: change a layer, and loss", 8.2)
    colours = (_BLUE, _ORANGE, _GREEN)
    losses = dict(zip(models, (_PINK, _RED), strict=False))
    for task, column in zip(tasks, zip(*grid, strict=True), strict=True):
        for axes, model in zip(column, models, strict=False):
            found = [values["lengths"] for values in rows.values("layers", task=task, model=model)]
            for length, colour in zip(dict.fromkeys(length for lengths in found for length in lengths), colours, strict=False):
                _draw(axes, _lines(found, length, "curve"), colour)
            axes.set(title=f"{model}\n{task}", ylim=(3e-8, 5))
        for model, colour in losses.items():
            _draw(column[-1], _lines(rows.values("layers", task=task, model=model), "loss"), colour)
        column[-1].set(title=task, xlabel="layers")
        for axes in column:
            axes.axvline(rows.settings["layers"]["trained depth"], **_GUIDE)
            _plain(axes.xaxis)
        _few(column[-1])
    for line in grid[:-1]:
        line[0].set_ylabel("||z[i+1] - z[i]|| / ||z[i+1]||")
    grid[-1][0].set_ylabel(_NATS)
    named = dict(zip(("as trained", "twice as long", "four times"), colours, strict=True))
    named |= {"depth of the tied net": _GREY} | {f"loss, {model}": colour for model, colour in losses.items()}
    return _key(figure, {name: (colour, _DASHED if colour == _GREY else "-") for name, colour in named.items()})


def gradient(rows: Rows) -> Figure | None:
    """Distance and angle of gradients from the exact one."""
    if not (tasks := rows.unique("gradient", "task")):
        return None
    figure, grid = _grid(3, len(tasks), "How far a gradient is from the exact one: distance, and angle", 8.2, sharey="row")
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
        by_tolerance.set(title=task, xlabel="relative tolerance of the solve")
        by_steps.set_xlabel("steps")
        by_steps.axhline(1, **_GUIDE)
        _plain(by_steps.xaxis)
        angles.set_xlabel("relative tolerance of the solve")
    for first, *_ in grid[:2]:
        first.set(ylabel="||g - exact|| / ||exact||, ↓ better", ylim=(1e-10, 1e3))
    grid[2][0].set(ylabel="1 - cosine with the exact one, ↓ better", ylim=(1e-17, 3))
    return _key(figure, {label: (colour, "-") for _, _, colour, label in kinds} | _MOMENTS_KEY)


def dependency(rows: Rows) -> Figure | None:
    """Loss at the closer, and excess over the entropy rate, by the length of the dependency."""
    models, lengths = rows.unique("dependency", "model"), rows.unique("dependency", "dependency")
    if not models:
        return None
    figure, [[closers, excess]] = _grid(1, 2, "Agreement over a growing distance", 3.7)
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
        closers.text(1.01, level, name, transform=closers.get_yaxis_transform(), va="center", fontsize=8)
    return _key(figure, {model: (colour, "-") for model, colour in colours.items()})
