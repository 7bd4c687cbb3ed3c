"""Figures of the studies: thin lines are seeds, thick lines their mean, hollow points the paper's."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.columns import metric_parts
from bench.report.style import method_colours, span
from bench.studies.drawing import (
    Rows,
    draw_seeds,
    few_ticks,
    log_grid,
    mean_factor,
    mean_line,
    plain_numbers,
    seed_lines,
    with_key,
)

_BLUE, _ORANGE, _GREEN, _RED, _PINK, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#777777"
_SOLVERS = method_colours(("picard", "anderson", "broyden"))
_DASHED, _DOTTED = (0, (5, 2)), (0, (1, 1.2))
_MOMENTS = (("start", _DOTTED), ("end", "-"))
_MOMENTS_KEY = {"before training": ("#444444", _DOTTED), "after": ("#444444", "-")}
_HOLLOW: dict[str, Any] = {"color": "black", "marker": "o", "markerfacecolor": "white", "markeredgewidth": 1.0, "markersize": 4}
_GUIDE: dict[str, Any] = {"color": _GREY, "linestyle": _DASHED, "linewidth": 0.8}
_RIGHT = 0.95
_SOLVED = 1e-3  # relative residual: the tolerance of training
_SHORT = {"copy memory T=20": "copy memory", "agreement language": "agreement", "tinyshakespeare by character": "tinyshakespeare"}
# Validation perplexity by tolerance, the paper's figure 3; below 0.1 it is flat.
_PAPER_TOLERANCE = [(1e-6, 24.0), (1e-1, 24.0), (1.0, 27.0), (2.0, 38.0), (3.0, 77.0), (4.0, 196.0)]
# Bai, Koltun, Kolter (ICML 2021), table 5: trained at 30 evaluations, stopped at 12 or 30.
_LATER_CAP = [(12.0, 29.2), (30.0, 24.0)]


def steps_and_residual(rows: Rows) -> Figure | None:
    """Figure 2: evaluations of the solves in the course of training, and residual by solver before and after it."""
    tasks = [task for task in rows.unique("training", "task") if task in rows.unique("residual", "task")]
    if not tasks:
        return None
    courses = {
        task: seed_lines(rows.values("training", task=task, model="DEQ"), "course", x="step", y="forward_nfe") for task in tasks
    }
    ends = {task: [(line[0][1], line[-1][1]) for line in lines if line and line[0][1]] for task, lines in courses.items()}
    growth = [mean_factor(pairs) for pairs in ends.values() if pairs]
    title = "Evaluations of solves in training, and residuals by solver"
    if growth:
        found = [values for task in tasks for values in rows.values("residual", task=task, model="DEQ")]
        curves = seed_lines(found, "end", "picard", "curve")
        stuck = sum(line[-1][1] > _SOLVED for line in curves if line)
        title = f"Solves take {span(growth)} times the evaluations at the end of training; "
        title += f"plain iteration leaves {stuck} of {len(curves)} trained models above {_SOLVED:g}"
    figure, (above, below) = log_grid(2, len(tasks), title, 1.75)
    cap = rows.settings["training"]["cap"]
    for axes, task in zip(above, tasks, strict=True):
        for name, colour in (("forward_nfe", "#444444"), ("backward_nfe", _ORANGE)):
            draw_seeds(axes, seed_lines(rows.values("training", task=task, model="DEQ"), "course", x="step", y=name), colour)
        axes.axhline(cap, **_GUIDE)
        axes.set(title=_SHORT.get(task, task), xlabel="training steps", xscale="linear")
        axes.set_yticks(ticks := [3, 5, 10, 20, 40, 60], labels=map(str, ticks))
        axes.yaxis.set_minor_formatter("")
        axes.set_ylim(2.5, 1.3 * cap)
    above[0].set_ylabel("evaluations, ↓ better")
    for axes, task in zip(below, tasks, strict=True):
        for solver, colour in _SOLVERS.items():
            for at, dash in _MOMENTS:
                draw_seeds(axes, seed_lines(rows.values("residual", task=task, model="DEQ"), at, solver, "curve"), colour, dash)
        axes.set(ylim=(3e-8, 5), xlabel="evaluations of f")
        plain_numbers(axes.xaxis)
    below[0].set_ylabel("relative residual, ↓ better")
    work = {"forward solve": ("#444444", "-"), "backward solve": (_ORANGE, "-"), "cap": (_GREY, _DASHED)}
    return with_key(figure, work | {name.capitalize(): (colour, "-") for name, colour in _SOLVERS.items()} | _MOMENTS_KEY)


def tolerance_and_cap(rows: Rows) -> Figure | None:
    """Figure 3: loss and evaluations against the tolerance of an evaluation, loss against its cap; published values."""
    tasks = [task for task in rows.unique("tolerance", "task") if task in rows.unique("cap", "task")]
    if not tasks:
        return None
    losses = {task: seed_lines(rows.values("tolerance", task=task), "points", x="rtol", y="loss") for task in tasks}
    loosened, tightest = [], set[float]()
    for lines in losses.values():  # from the tightest to the loosest that is 0.1 or less
        ends = [(line[0], max(point for point in line if point[0] <= 0.1)) for line in map(sorted, lines) if line[0][0] <= 0.1]
        tightest |= {tight[0] for tight, _ in ends}
        loosened += [mean_factor((tight[1], loose[1]) for tight, loose in ends)] if ends else []
    title = "Loss by tolerance and cap of an evaluation"
    if loosened:
        title = f"Solving to 0.1 in place of {span(tightest)} multiplies the loss by {span(loosened)}"
    figure, grid = log_grid(3, len(tasks) + 1, title, 1.45)
    measures = (("tolerance", "rtol", "loss", _BLUE), ("tolerance", "rtol", "steps", _GREEN), ("cap", "cap", "loss", _BLUE))
    for line, (study, setting, name, colour) in zip(grid, measures, strict=True):
        for axes, task in zip(line, tasks, strict=False):
            found = rows.values(study, task=task)
            draw_seeds(axes, seed_lines(found, "points", x=setting, y=name), colour, marker="o")
            if name == "loss" and found[0]["chance"] is not None:
                axes.axhline(found[0]["chance"], **_GUIDE)
            few_ticks(axes)
            axes.set_xlabel("relative tolerance" if study == "tolerance" else "cap on evaluations", fontsize=7)
            if study == "tolerance":
                axes.set_xticks([1e-6, 1e-3, 1])
            else:
                plain_numbers(axes.xaxis)
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
    plain_numbers(cap.xaxis)
    for axes in (tolerance, cap):
        plain_numbers(axes.yaxis)
    key = {"loss, ↓ better": (_BLUE, "-"), "evaluations, ↓ better": (_GREEN, "-"), "chance": (_GREY, _DASHED)}
    return with_key(figure, key, Line2D([], [], linewidth=0.8, label="published", **_HOLLOW))


def layers(rows: Rows) -> Figure | None:
    """Figure 4: change per layer of trained maps iterated beyond their depth, and their loss."""
    tasks, models = rows.unique("layers", "task"), rows.unique("layers", "model")
    if not tasks:
        return None
    figure, grid = log_grid(len(models) + 1, len(tasks), "A trained map iterated on: change a layer, and loss", 1.6)
    colours = (_BLUE, _ORANGE, _GREEN)
    losses = dict(zip(models, (_PINK, _RED), strict=False))
    for task, column in zip(tasks, zip(*grid, strict=True), strict=True):
        for axes, model in zip(column, models, strict=False):
            found = [values["lengths"] for values in rows.values("layers", task=task, model=model)]
            for length, colour in zip(dict.fromkeys(length for lengths in found for length in lengths), colours, strict=False):
                draw_seeds(axes, seed_lines(found, length, "curve"), colour)
            axes.set(title=f"{model}, {_SHORT.get(task, task)}", ylim=(3e-8, 5))
        for model, colour in losses.items():
            draw_seeds(column[-1], seed_lines(rows.values("layers", task=task, model=model), "loss"), colour)
        column[-1].set_xlabel("layers")
        for axes in column:
            axes.axvline(rows.settings["layers"]["trained depth"], **_GUIDE)
            plain_numbers(axes.xaxis)
        few_ticks(column[-1])
    for line in grid[:-1]:
        line[0].set_ylabel("relative change")
    grid[-1][0].set_ylabel("validation loss [nats]")
    named = dict(zip(("as trained", "twice as long", "four times"), colours, strict=True))
    named |= {"depth of the tied net": _GREY} | {f"loss, {model}": colour for model, colour in losses.items()}
    return with_key(figure, {name: (colour, _DASHED if colour == _GREY else "-") for name, colour in named.items()})


def gradient(rows: Rows) -> Figure | None:
    """Distance and angle of gradients from the exact one."""
    if not (tasks := rows.unique("gradient", "task")):
        return None
    ends = [values["end"] for values in rows.values("gradient") if "backward" in values["end"]]  # of too few roots there is none
    if not ends:
        return None
    tightest = max(min(end["backward"], key=lambda point: point["rtol"])["distance"] for end in ends)
    phantom = [one["distance"] for end in ends for one in end["phantom"] if one["steps"] == 1]
    error = f"{tightest:.0e}".replace("e-0", "e-")
    title = f"Implicit gradients err by at most {error} where solved tightly"
    title += f", one phantom step by {span(phantom)}" if phantom else ""
    figure, grid = log_grid(3, len(tasks), title, 1.6, sharey="row")
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
                    lines = seed_lines(found, at, kind, x=setting, y=error)
                    draw_seeds(axes, lines, colour, dash, marker="o" if at == "end" else "")
        by_tolerance.set(title=_SHORT.get(task, task), xlabel="relative tolerance")
        by_steps.set_xlabel("steps")
        by_steps.axhline(1, **_GUIDE)
        plain_numbers(by_steps.xaxis)
        angles.set_xlabel("relative tolerance")
    for first, *_ in grid[:2]:
        first.set(ylabel="relative error, ↓ better", ylim=(1e-10, 1e3))
    grid[2][0].set(ylabel="1 - cosine, ↓ better", ylim=(1e-17, 3))
    return with_key(figure, {label: (colour, "-") for _, _, colour, label in kinds} | _MOMENTS_KEY)


def steps_at_test(rows: Rows) -> Figure | None:
    """Accuracy at the last token against the cap of the solves, by length of the test sequences, a panel for each model."""
    study, models = "test-time steps", rows.unique("test-time steps", "model")
    if not models:
        return None
    scores = metric_parts(rows.values(study)[0]["points"][0]["scores"], "accuracy_last")
    longest, hardest = scores[-1]
    colours = dict(zip((score for _, score in scores), (_BLUE, _GREEN, _ORANGE, _RED), strict=False))
    curves = {
        (model, score): [
            [(point["cap"], point["scores"][score]) for point in found["points"]] for found in rows.values(study, model=model)
        ]
        for model in models
        for score in colours
    }
    good = sum(mean_line(curves[model, hardest], "linear")[-1][1] >= _RIGHT for model in models)
    task = rows.unique(study, "task")[0]
    title = f"{task}: given the evaluations, {good} of {len(models)} models solve {longest} tokens"
    figure, [panels] = log_grid(1, len(models), title, 2.0, sharey=True)
    for axes, model in zip(panels, models, strict=True):
        for score, colour in colours.items():
            draw_seeds(axes, curves[model, score], colour, marker="o", scale="linear")
        axes.set_xscale("log", base=2)
        axes.set(title=model, xlabel="cap on evaluations", yscale="linear")
        plain_numbers(axes.xaxis)
    panels[0].set_ylabel("last token right, ↑ better")
    return with_key(figure, {f"{length} tokens": (colours[score], "-") for length, score in scores})
