"""The record of the experiments as pictures: a thin line a seed, a thick one their mean; the paper's points hollow.

The mean is that of the tables: geometric, but arithmetic for an excess, which can be negative.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from bench.analysis.statistics import Scale, interval

Series = list[tuple[float, float]]
_BLUE, _ORANGE, _GREEN, _RED, _PINK, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#777777"
_SOLVERS = {"picard": _RED, "anderson": _BLUE, "broyden": _GREEN}
_DASHED, _DOTTED = (0, (5, 2)), (0, (1, 1.2))
_PAPER = "DEQ paper"
# Read off the poster, approximately: evaluations until ||f(z) - z|| is 1e-4, at length 150.
_PAPER_RESIDUAL = {"epoch 1": (85.0, 85.0), "epoch 12": (150.0, 200.0)}
_PAPER_TIED = (180.0, 180.0)
_PAPER_TIED_LATE = 20.0
# Validation perplexity by tolerance, its figure 3; below 0.1 it is flat.
_PAPER_TOLERANCE = [(1e-6, 24.0), (1e-1, 24.0), (1.0, 27.0), (2.0, 38.0), (3.0, 77.0), (4.0, 196.0)]
# Bai, Koltun, Kolter (ICML 2021), table 5: trained at 30 evaluations, stopped at 12 or 30.
_LATER_CAP = [(12.0, 29.2), (30.0, 24.0)]


class Rows:
    """The rows that have values, by experiment; and what an experiment's settings are."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._experiments = record["experiments"]

    def of(self, experiment: str, **subject: Any) -> list[dict[str, Any]]:
        """The values of the rows of that subject, a dictionary a seed."""
        rows = self._experiments[experiment]["rows"]
        wanted = [row for row in rows if all(row[key] == value for key, value in subject.items())]
        return [row["values"] for row in wanted if row["values"] is not None]

    def every(self, experiment: str, column: str) -> list[Any]:
        """What stands in a column of the rows that have values, each once, in their order."""
        rows = self._experiments[experiment]["rows"]
        return list(dict.fromkeys(row[column] for row in rows if row["values"] is not None))

    def setting(self, experiment: str, name: str) -> Any:
        """A setting of an experiment."""
        return self._experiments[experiment]["settings"][name]


def _mean(lines: Sequence[Series], scale: Scale = "log") -> Series:
    """The mean over seeds at each x that all of them have; on the log scale, where all are positive."""
    by_x: dict[float, list[float]] = {}
    for line in lines:
        for x, y in line:
            by_x.setdefault(x, []).append(y)
    whole = {x: ys for x, ys in sorted(by_x.items()) if len(ys) == len(lines)}
    return [(x, interval(ys, scale).mean) for x, ys in whole.items() if scale != "log" or min(ys) > 0]


def _draw(
    axes: Axes,
    lines: Sequence[Series],
    colour: str,
    dash: Any = "-",
    thin: bool = True,
    marker: str = "",
    scale: Scale = "log",
) -> None:
    """Each seed thin, their mean thick; what is not positive has no place on a log axis and is not drawn, but counts in a mean."""
    lines = [known for line in lines if (known := [(x, y) for x, y in line if y is not None])]
    drawn = [positive for line in lines if (positive := [(x, y) for x, y in line if y > 0])]
    for line in drawn if thin and len(lines) > 1 else ():
        axes.plot(*zip(*line, strict=True), color=colour, linestyle=dash, linewidth=0.7, alpha=0.45)
    mean = [(x, y) for x, y in _mean(lines, scale) if y > 0]
    if mean:
        axes.plot(*zip(*mean, strict=True), color=colour, linestyle=dash, marker=marker, markersize=3.5)


def _grid(lines: int, columns: int, title: str, height: float, **how: Any) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(10.2, height))
    grid = figure.subplots(lines, columns, squeeze=False, **how)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure, [list(line) for line in grid]


def _key(figure: Figure, named: Mapping[str, tuple[str, Any]], more: Sequence[Line2D] = ()) -> None:
    handles = [Line2D([], [], color=colour, linestyle=dash, label=label) for label, (colour, dash) in named.items()]
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=min(6, len(handles) + len(more)))


_HOLLOW: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "markeredgewidth": 1.4, "markersize": 6}


def _numbers(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _few(axes: Axes) -> None:
    """Numbers on a y axis that spans a decade or two or less, where a log axis has hardly any of its own."""
    low, high = axes.get_ylim()
    if high < 200 * low:
        found = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
        if high > 4 * low:
            found = np.outer(10.0 ** np.arange(-9, 9), (1, 2, 5)).ravel().tolist()
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_yticks([tick for tick in found if low <= tick <= high])
    _numbers(axes, "y")
    axes.tick_params(axis="y", which="minor", labelleft=False)


def solver_steps(rows: Rows) -> Figure | None:
    """Figure 2, left."""
    label = next((name for name in rows.every("training", "model") if not name.startswith("tied")), None)
    tasks = rows.every("training", "task")
    if label is None:
        return None
    cap, rtol = rows.setting("training", "cap"), rows.setting("training", "rtol")
    figure, [panels] = _grid(1, len(tasks), f"Evaluations that solves take as training goes on (to a residual of {rtol:g})", 3.3)
    for axes, task in zip(panels, tasks, strict=True):
        courses = [values["course"] for values in rows.of("training", task=task, model=label)]
        for name, colour in (("forward_nfe", _BLUE), ("backward_nfe", _ORANGE)):
            _draw(axes, [[(point["step"], point[name]) for point in course] for course in courses], colour)
        axes.axhline(cap, color=_GREY, linestyle=_DASHED, linewidth=1)
        axes.set(title=task, xlabel="training steps", yscale="log")
        axes.set_yticks([3, 5, 10, 20, 40, 60], labels=["3", "5", "10", "20", "40", "60"], minor=False)
        axes.yaxis.set_minor_formatter("")
        axes.set_ylim(2.5, 1.3 * cap)
    panels[0].set_ylabel("evaluations a solve, ↓ better")
    _key(figure, {"forward solve": (_BLUE, "-"), "backward solve": (_ORANGE, "-"), "cap": (_GREY, _DASHED)})
    return figure


def residual(rows: Rows) -> Figure | None:
    """Figure 2, right: our tasks, and the paper's readings."""
    tasks, models = rows.every("residual", "task"), rows.every("residual", "model")
    if not tasks:
        return None
    figure, grid = _grid(len(models), len(tasks) + 1, "Residual against evaluations of f", 6.2)
    for line, model in zip(grid, models, strict=True):
        for axes, task in zip(line, tasks, strict=False):
            found = rows.of("residual", task=task, model=model)
            for solver, colour in _SOLVERS.items():
                for at, dash in (("start", _DOTTED), ("end", "-")):
                    curves = [[(point[0], point[1]) for point in values[at][solver]["curve"]] for values in found]
                    _draw(axes, curves, colour, dash, thin=at == "end")
            axes.set(title=f"{model}\n{task}", xscale="log", yscale="log")
            axes.set_ylim(3e-8, 5)
            _numbers(axes, "x")
        line[0].set_ylabel("||f(z) - z|| / ||f(z)||, ↓ better")
    for axes in grid[-1]:
        axes.set_xlabel("evaluations of f")
    _paper_residual(grid[0][-1], "DEQ", _PAPER_RESIDUAL)
    if len(grid) > 1:
        _paper_residual(grid[1][-1], "weight-tied", {"epoch 1": _PAPER_TIED})
        grid[1][-1].axhspan(10, 30, color=_GREY, alpha=0.2, linewidth=0)
        grid[1][-1].text(110, _PAPER_TIED_LATE, "epoch 12: oscillates", va="center", ha="center", fontsize=8)
    solvers = {solver: (colour, "-") for solver, colour in _SOLVERS.items()}
    _key(
        figure,
        {**solvers, "before training": ("#444444", _DOTTED), "after": ("#444444", "-")},
        [Line2D([], [], color="black", linestyle="none", label="the paper's, read off its poster", **_HOLLOW)],
    )
    return figure


def _paper_residual(axes: Axes, what: str, points: Mapping[str, tuple[float, float]]) -> None:
    for place, (name, ends) in enumerate(points.items()):
        axes.plot(ends, [1e-4] * 2, color="black", **_HOLLOW)
        axes.annotate(
            name, (ends[0], 1e-4), (0, 10 if place % 2 == 0 else -18), textcoords="offset points", fontsize=8, ha="center"
        )
    axes.set(title=f"{_PAPER}, {what}\nWikiText-103", ylabel="||f(z) - z||, not relative", yscale="log")
    axes.set_ylim(1e-6, 1e3)
    axes.set_xlim(0, 230)


def quality_by_tolerance(rows: Rows) -> Figure | None:
    """Figure 3 of the paper."""
    return _quality(rows, "tolerance")


def quality_by_cap(rows: Rows) -> Figure | None:
    """The same by the cap on evaluations."""
    return _quality(rows, "cap")


def _quality(rows: Rows, experiment: str) -> Figure | None:
    """Figure 3: loss above, evaluations below; the paper's perplexities beside."""
    tasks = rows.every(experiment, "task")
    if not tasks:
        return None
    key = {"tolerance": "rtol", "cap": "cap"}[experiment]
    against = {"tolerance": "relative tolerance", "cap": "cap on evaluations"}[experiment]
    figure, grid = _grid(2, len(tasks) + 1, f"Quality and work of an evaluation against its {against}, one model a seed", 5.4)
    for column, task in enumerate(tasks):
        found = rows.of(experiment, task=task)
        upper, lower = grid[0][column], grid[1][column]
        _draw(upper, [[(p[key], p["loss"]) for p in values["points"]] for values in found], _BLUE, marker="o")
        _draw(lower, [[(p[key], p["steps"]) for p in values["points"]] for values in found], _GREEN, marker="o")
        chance = found[0]["chance"]
        if chance is not None:
            upper.axhline(chance, color=_GREY, linestyle=_DASHED, linewidth=1)
        upper.set(title=task, xscale="log", yscale="log")
        lower.set(xlabel=against, xscale="log", yscale="log")
        for axes in (upper, lower):
            _few(axes)
    grid[0][0].set_ylabel("validation loss [nats], ↓ better")
    grid[1][0].set_ylabel("evaluations a sample, ↓ better")
    paper = grid[0][-1]
    points, title, label = (
        (_PAPER_TOLERANCE, f"{_PAPER}, figure 3", "tolerance, absolute, a step")
        if experiment == "tolerance"
        else (_LATER_CAP, "Bai et al. 2021", "cap on evaluations")
    )
    paper.plot(*zip(*points, strict=True), color="black", linewidth=0.8, **_HOLLOW)
    paper.set(title=title, xlabel=label, ylabel="perplexity, ↓ better", xscale="log", yscale="log")
    paper.set_yticks([24, 30, 50, 100, 200] if experiment == "tolerance" else [24, 26, 28, 30])
    _numbers(paper, "y")
    if experiment == "cap":
        paper.set_xticks([10, 20, 30, 40])
        _numbers(paper, "x")
        paper.set_xlim(9, 42)
    grid[1][-1].set_visible(False)
    _key(
        figure,
        {"loss": (_BLUE, "-"), "evaluations": (_GREEN, "-"), "chance": (_GREY, _DASHED)},
        [Line2D([], [], color="black", linewidth=0.8, label="published, a larger model", **_HOLLOW)],
    )
    return figure


def work_precision(rows: Rows) -> Figure | None:
    """Loss against the evaluations that it took, of one trained model a seed."""
    tasks = rows.every("tolerance", "task")
    if not tasks:
        return None
    figure, [panels] = _grid(1, len(tasks), "Work and precision: loss of a trained model against evaluations of its solves", 3.5)
    for axes, task in zip(panels, tasks, strict=True):
        for experiment, colour in (("tolerance", _BLUE), ("cap", _ORANGE)):
            lines = [[(p["steps"], p["loss"]) for p in values["points"]] for values in rows.of(experiment, task=task)]
            for line in lines:
                axes.plot(*zip(*sorted(line), strict=True), color=colour, linewidth=0.8, marker="o", markersize=2.6, alpha=0.7)
        axes.set(title=task, xlabel="evaluations a sample", xscale="log", yscale="log")
        _numbers(axes, "x")
        _few(axes)
    panels[0].set_ylabel("validation loss [nats], ↓ better")
    _key(figure, {"stopped by a tolerance": (_BLUE, "-"), "stopped by a cap": (_ORANGE, "-")})
    return figure


def layers(rows: Rows) -> Figure | None:
    """Figure 4, and what the loss does meanwhile."""
    tasks, models = rows.every("layers", "task"), rows.every("layers", "model")
    if not tasks:
        return None
    depth, named = rows.setting("layers", "trained depth"), {}
    title = "A trained map iterated on: change a layer, and loss"
    figure, grid = _grid(len(models) + 1, len(tasks), title, 8.2)
    colours, hues = (_BLUE, _ORANGE, _GREEN), (_PINK, _RED)
    for column, task in enumerate(tasks):
        for line, model in zip(grid, models, strict=False):
            axes, found = line[column], rows.of("layers", task=task, model=model)
            lengths = list(dict.fromkeys(name for values in found for name in values["lengths"]))
            for place, (name, colour) in enumerate(zip(lengths, colours, strict=False)):
                _draw(axes, [[(p[0], p[1]) for p in values["lengths"][name]["curve"]] for values in found], colour)
                named[("as trained", "twice as long", "four times")[place]] = (colour, "-")
            axes.axvline(depth, color=_GREY, linestyle=_DASHED, linewidth=1)
            axes.set(title=f"{model}\n{task}", xscale="log", yscale="log")
            axes.set_ylim(3e-8, 5)
            _numbers(axes, "x")
        axes = grid[-1][column]
        for model, hue in zip(models, hues, strict=False):
            _draw(axes, [[tuple(point) for point in values["loss"]] for values in rows.of("layers", task=task, model=model)], hue)
        axes.axvline(depth, color=_GREY, linestyle=_DASHED, linewidth=1)
        axes.set(title=task, xlabel="layers", xscale="log", yscale="log")
        _numbers(axes, "x")
        _few(axes)
    for line in grid[:-1]:
        line[0].set_ylabel("||z[i+1] - z[i]|| / ||z[i+1]||")
    grid[-1][0].set_ylabel("validation loss [nats], ↓ better")
    losses = {f"loss, {model}": (hue, "-") for model, hue in zip(models, hues, strict=False)}
    _key(figure, {**named, "depth of the tied net": (_GREY, _DASHED), **losses})
    return figure


def gradient(rows: Rows) -> Figure | None:
    """The distance of gradients from the exact one."""
    tasks = rows.every("gradient", "task")
    if not tasks:
        return None
    figure, grid = _grid(3, len(tasks), "How far a gradient is from the exact one: distance, and angle", 8.2, sharey="row")
    kinds = (
        ("backward", "rtol", _BLUE, 0),
        ("forward", "rtol", _ORANGE, 0),
        ("phantom", "steps", _GREEN, 1),
        ("unroll", "steps", _RED, 1),
    )
    for column, task in enumerate(tasks):
        found = rows.of("gradient", task=task)
        for kind, key, colour, line in kinds:
            for at, dash in (("start", _DOTTED), ("end", "-")):
                curves = [[(p[key], p["distance"]) for p in values[at].get(kind, ())] for values in found]
                _draw(grid[line][column], curves, colour, dash, thin=at == "end", marker="o" if at == "end" else "")
                if key == "rtol":
                    angles = [[(p[key], p["one_less_cosine"]) for p in values[at].get(kind, ())] for values in found]
                    _draw(grid[2][column], angles, colour, dash, thin=at == "end", marker="o" if at == "end" else "")
        grid[0][column].set(title=task, xlabel="relative tolerance of the solve", xscale="log", yscale="log")
        grid[1][column].set(xlabel="steps", xscale="log", yscale="log")
        grid[1][column].axhline(1, color=_GREY, linestyle=_DASHED, linewidth=1)
        _numbers(grid[1][column], "x")
        grid[2][column].set(xlabel="relative tolerance of the solve", xscale="log", yscale="log")
    for first, *_ in grid[:2]:
        first.set_ylabel("||g - exact|| / ||exact||, ↓ better")
        first.set_ylim(1e-10, 1e3)
    grid[2][0].set_ylabel("1 - cosine with the exact one, ↓ better")
    grid[2][0].set_ylim(1e-17, 3)
    _key(
        figure,
        {
            "implicit, by backward tolerance": (_BLUE, "-"),
            "by forward tolerance": (_ORANGE, "-"),
            "phantom": (_GREEN, "-"),
            "unrolled": (_RED, "-"),
            "before training": ("#444444", _DOTTED),
            "after": ("#444444", "-"),
        },
    )
    return figure


def dependency(rows: Rows) -> Figure | None:
    """Loss at the closer, and in all, by the length of the dependence."""
    models = rows.every("dependency", "model")
    if not models:
        return None
    figure, [panels] = _grid(1, 2, "Agreement over a growing distance", 3.7)
    hues = dict(zip(models, (_BLUE, _RED, _GREEN, _PINK), strict=False))
    lengths = rows.every("dependency", "dependency")
    scores: tuple[tuple[Axes, str, Scale, str], ...] = (
        (panels[0], "loss_agreement", "log", "loss at the closer [nats], ↓ better"),
        (panels[1], "excess_nats", "linear", "excess over the entropy rate\n[nats a token], ↓ better"),
    )
    for axes, score, scale, label in scores:
        for model, hue in hues.items():
            _draw(axes, list(_over(rows, model, lengths, score)), hue, marker="o", scale=scale)
        axes.set(xlabel="tokens between opener and closer", ylabel=label, xscale="log", yscale="log")
        axes.set_xticks(lengths)
        _numbers(axes, "x")
        _few(axes)
    closer = rows.of("dependency")[0]
    for name in ("chance", "optimum"):
        panels[0].axhline(closer[name], color=_GREY, linestyle=_DASHED, linewidth=1)
        panels[0].text(1.01, closer[name], name, transform=panels[0].get_yaxis_transform(), va="center", fontsize=8)
    _key(figure, {model: (hue, "-") for model, hue in hues.items()})
    return figure


def _over(rows: Rows, model: str, lengths: Sequence[int], score: str) -> Iterator[Series]:
    """A series a seed, against the length."""
    for seed in rows.every("dependency", "seed"):
        found = [(length, rows.of("dependency", model=model, dependency=length, seed=seed)) for length in lengths]
        yield [(length, values[0][score]) for length, values in found if values and values[0][score] is not None]
