"""The data of the page's interactive figures; charts.py has the templates that draw them.

A figure is a dictionary: `id`, `title`, `kind` (of charts.py), `views` (what its selector offers) and `colours` by series. The
views of `lines` share their lists of coordinates in `lists`: a series is [name, run, index of its x values, index of its y values],
the run of a mean is empty.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.colors import to_hex

from bench.analysis.aggregate import ORDER, Group
from bench.analysis.columns import metric_parts, metric_scale, metrics
from bench.analysis.probe_data import depth_probe, residual_probe
from bench.analysis.selection import best_by_family, inadmissible
from bench.analysis.statistics import Interval, Scale, over_seeds
from bench.analysis.tradeoff import costs, front
from bench.records.record import CurvePoint, Record
from bench.report.generalisation import part_words
from bench.report.style import FAMILY_NAMES, LineStyle, line_style, method_colours

Figure = dict[str, Any]
_POINTS = 24  # of a learning curve
MIB = 2.0**-20
_DRAWN, _ROUGH = 4, 3  # significant digits of a coordinate of a line; of seconds, and of what is no score


def number(value: float | None, digits: int = 7) -> float | int | None:
    """A number with so many significant digits, as the page shows it; None for what JSON cannot hold."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def family_colours() -> dict[str, str]:
    """The colour of each family, the same in all figures."""
    return {FAMILY_NAMES[family]: to_hex(line_style(family, 0).colour) for family in ORDER}


class Lines:
    """Builds a figure of lines."""

    def __init__(self, id_: str, title: str) -> None:
        self._lists: dict[tuple[float | int | None, ...], int] = {}
        self._figure: Figure = {"id": id_, "title": title, "kind": "lines", "views": [], "colours": {}}

    def view(
        self, name: str, x: str, y: str, *, log: str = "", limits: Iterable[tuple[float, str]] = (), rough: bool = False
    ) -> None:
        """Begin a view; `log` names its logarithmic axes. Its y are drawn to three significant digits if `rough`."""
        self._digits = _ROUGH if rough else _DRAWN
        view = {"name": name, "x": x, "y": y, "log": log, "limits": [list(one) for one in limits], "series": []}
        self._figure["views"].append(view)

    def add(self, series: str, run: str, points: Iterable[tuple[float, float | None]]) -> None:
        """Add a run's line to the last view, or with `run` empty the mean's."""
        known = [(number(x, _ROUGH), number(y, self._digits)) for x, y in points if y is not None]
        if known:
            places = [self._lists.setdefault(values, len(self._lists)) for values in zip(*known, strict=True)]
            self._figure["views"][-1]["series"].append([series, run, *places])

    def add_seeds(
        self, series: str, runs: Mapping[str, Sequence[tuple[float, float | None]]], scale: Scale = "log", timed: bool = False
    ) -> None:
        """Add the lines of several runs, and of their mean: at each x that all have, or of times, which differ, point by point."""
        lines = [[pair for pair in points if pair[1] is not None] for points in runs.values()]
        for run, points in runs.items() if len(runs) > 1 else ():
            self.add(series, run, points)
        if lines and not timed:
            shared = set.intersection(*({x for x, _ in line} for line in lines))
            lines = [[pair for pair in line if pair[0] in shared] for line in lines]
        mean = []
        for at in zip(*lines, strict=False):
            xs, ys = zip(*at, strict=True)
            mean.append((over_seeds(xs, "log").mean if timed else xs[0], over_seeds(ys, scale).mean))
        self.add(series, "", mean)

    def done(self, colours: Mapping[str, str] | None = None) -> list[Figure]:
        """The figure, in a list; none where no view has a line. Without colours, those of methods."""
        figure = self._figure
        figure["views"] = [view for view in figure["views"] if view["series"]]
        names = list(dict.fromkeys(series[0] for view in figure["views"] for series in view["series"]))
        hues = colours or method_colours(names)
        figure["colours"] = {name: hues[name] for name in names}
        figure["lists"] = list(self._lists)
        return [figure] if figure["views"] else []


def comparison_figures(group: Group, styles: Mapping[str, LineStyle]) -> list[Figure]:
    """The figures of a comparison that have something to show."""
    colours = {label: to_hex(style.colour) for label, style in styles.items()}
    return [*tradeoff(group), *_curves(group, colours), *_residual(group), *depth(group), *_parts(group, colours)]


def ends(one: Interval) -> list[float | int | None]:
    """Mean, low and high end."""
    return [number(one.mean), number(one.low), number(one.high)]


def tradeoff(group: Group) -> list[Figure]:
    """Score against cost: a view a cost, a point a row."""
    found = costs(group)
    if found is None:
        return []
    score, panels = found
    headline, known = metrics(group.records)
    views, best = [], {row.label for row in best_by_family(group)}
    for cost in panels:
        least = {point.row.label for point in front(cost.points, score.better)}
        points = [
            {
                **{"model": point.row.label, "series": FAMILY_NAMES[point.row.family], "front": point.row.label in least},
                **{"x": ends(point.cost), "y": ends(point.score), "runs": " ".join(r.run_id for r in point.row.ok)},
                **{"best": point.row.label in best, "fault": inadmissible(point.row) or ""},
            }
            for point in cost.points
        ]
        better = {"lower": "lower is better", "higher": "higher is better"}.get(score.better or "", "")
        name = f"test {score.head} ({known[headline].unit}), {better}".replace("(1), ", "")
        views.append(
            {
                **{"name": cost.head, "x": f"{cost.head} ({cost.unit})", "y": name, "better": score.better},
                **{"log": "xy" if score.scale == "log" else "x", "points": points},
            }
        )
    return [{"id": "tradeoff", "title": "Score against cost", "kind": "points", "views": views, "colours": family_colours()}]


def _thinned(record: Record) -> list[CurvePoint]:
    """The points of a learning curve that the page shows: those with a validation, and of many every so many."""
    validations = [point for point in record.curve if point.valid]
    every = math.ceil(len(record.curve) / _POINTS)
    if 2 * len(validations) <= _POINTS:
        return [point for place, point in enumerate(record.curve, 1) if point.valid or place % every == 0]
    return validations[:: -math.ceil(len(validations) / _POINTS)][::-1]  # the last stays


def _curves(group: Group, colours: Mapping[str, str]) -> list[Figure]:
    """Validation, training loss and solver against steps and seconds."""
    headline, known = metrics(group.records)
    metric = known.get(headline)
    scale: Scale = "log" if metric is None else metric_scale(headline, metric)
    clocked = all(record.value("train_s") is not None for row in group.rows for record in row.ok)
    limits = [(v, n) for n in ("chance", "optimum") if (v := getattr(metric, n, None)) is not None and (v > 0 or scale != "log")]
    measures: tuple[tuple[str, Callable[[CurvePoint], float | None], Scale, str], ...] = (
        (f"validation {headline.replace('_', ' ')}", lambda point: point.valid.get(headline), scale, metric.unit if metric else ""),
        ("training loss", lambda point: point.train_loss, "log", "nats"),
        ("evaluations a forward solve", lambda point: point.forward_nfe, "linear", ""),
        ("evaluations a backward solve", lambda point: point.backward_nfe, "linear", ""),
        ("relative residual left", lambda point: point.residual, "log", ""),
    )
    lines = Lines("curves", "During training: scores, losses and solves")
    for place, (name, read, how, unit) in enumerate(measures):
        for against in ("steps", "seconds") if place < 2 else ("steps",):
            x = {"steps": "training steps", "seconds": "seconds of training" if clocked else "steps x the step timed alone (s)"}
            y = f"{name} ({unit})" if unit not in ("", "1") else name
            log = "y" if how == "log" else ""
            lines.view(f"{name} by {against}", x[against], y, log=log, limits=() if place else limits, rough=place > 0)
            for row in group.rows:
                timed = against == "seconds" and not clocked
                times = [value for one in row.ok if (value := one.value("step_ms_median")) is not None]
                if timed and not times:
                    continue
                mean_ms = over_seeds(times, "log").mean if timed else None
                runs = {one.run_id: _run_curve(one, read, against, mean_ms) for one in row.ok}
                if runs and all(runs.values()):
                    lines.add_seeds(row.label, runs, how, timed=against == "seconds")
    return lines.done(colours)


def _run_curve(
    record: Record, read: Callable[[CurvePoint], float | None], against: str, mean_ms: float | None
) -> list[tuple[float, float | None]]:
    """A run's curve; with `mean_ms`, seconds are its steps times its own step's time, or that mean of its row where it has none."""
    step_ms = record.value("step_ms_median") or mean_ms

    def x_of(point: CurvePoint) -> float:
        if against == "steps":
            return point.step
        return point.seconds if mean_ms is None or step_ms is None else point.step * step_ms / 1e3

    # A point at step 0 has no place on a mean of logarithms of time.
    return [(x_of(point), value) for point in _thinned(record) if (value := read(point)) is not None and point.step]


def _residual(group: Group) -> list[Figure]:
    lines = Lines("residual", "Residual against solver work, after training")
    for row in group.rows:
        solvers, run = residual_probe(row)
        lines.view(row.label, "evaluations of f", "relative residual, lower is better", log="y", rough=True)
        for solver, curve in solvers.items():
            lines.add(solver, "", [(nfe, p50) for nfe, p50, _ in curve if p50 > 0])
            lines.add(solver, f"{run}, 95th percentile", [(nfe, p95) for nfe, _, p95 in curve if p95 > 0])
    return lines.done()


def depth(group: Group) -> list[Figure]:
    """Bytes of a training step against depth, a line a method; rows with equal counts share it."""
    lines, probes = (
        Lines("depth", "Memory of a training step against depth"),
        [(row.label, *depth_probe(row)) for row in group.rows],
    )
    for name, head in (("saved_bytes", "saved for backward"), ("peak_live_bytes", "peak live"), ("solver_bytes", "solver storage")):
        lines.view(head, "depth, or solver steps", f"{head} (MiB), lower is better", log="xy")
        seen: dict[tuple[str, tuple[tuple[int, float], ...]], str] = {}
        for label, methods, run in probes:
            for method, points in methods.items():
                pairs = tuple((p.depth, amount * MIB) for p in points if (amount := getattr(p, name)) is not None and amount > 0)
                if pairs and seen.setdefault((method, pairs), label) == label:
                    others = [one for one, _ in seen if one == method]
                    lines.add(method if len(others) == 1 else f"{method} ({label})", "", pairs)
                    lines.add(method if len(others) == 1 else f"{method} ({label})", run or "", pairs[:1])
    return lines.done()


def _parts(group: Group, colours: Mapping[str, str]) -> list[Figure]:
    """Accuracy at the last position against the length of test sequences, and share solved against the difficulty of puzzles."""
    _, known = metrics(group.records)
    lines = Lines("length", "Longer and harder test data")
    for score, words in (("accuracy_last", "accuracy at the last position"), ("solved", "share solved")):
        parts = metric_parts(known, score)
        if len(parts) < 2:
            continue
        chance = known[parts[0][1]].chance
        limits = [] if chance is None else [(chance, "chance")]
        axis = part_words(parts[0][1], score)[1]
        lines.view(words, axis, f"{words}, higher is better", log="x" if score == "accuracy_last" else "", limits=limits)
        for row in group.rows:
            runs = {record.run_id: [(part, record.value(f"test_{name}")) for part, name in parts] for record in row.ok}
            whole = {run: points for run, points in runs.items() if all(y is not None for _, y in points)}
            lines.add_seeds(row.label, whole, "linear")
    return lines.done(colours)
