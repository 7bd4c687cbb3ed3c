"""The data of the figures of claims, of the memory record and of the studies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.analysis.selection import OUTCOMES
from bench.claims.cases import Contest
from bench.claims.claim import Finding, Part
from bench.memory.paper import GB
from bench.report.html.figures import MIB, Figure, Lines, ends, family_colours, number


def claim_figure(finding: Finding) -> Figure | None:
    """Every seed of the parts of a claim, their means and limits; None for facts, which have no seeds."""
    parts = [part for part in finding.parts if part.estimate is not None]
    if not parts:
        return None
    log = all(part.estimate.scale == "log" for part in parts if part.estimate)
    limits = sorted({limit for part in parts for limit in part.limits or () if limit is not None})
    return {
        **{"id": f"claim-{finding.claim.id}", "title": "Seeds, means and the values asked", "kind": "parts", "colours": {}},
        "views": [
            {
                **{"name": "parts", "x": finding.claim.measured, "log": "x" if log else "", "parts": list(map(_part, parts))},
                "limits": [[number(limit), f"asked: {finding.claim.threshold}"] for limit in limits],
            }
        ],
    }


def _part(part: Part) -> dict[str, Any]:
    assert part.estimate is not None
    shown = {"part": part.about, "found": part.value, "asked": part.asked, "seeds": list(map(number, part.samples))}
    return shown | dict(zip(("mean", "low", "high"), ends(part.estimate), strict=True))


def outcomes(contests: Sequence[Contest]) -> Figure:
    """A point a task, by the outcome of the best DEQ against the best explicit network."""
    points = [
        {
            **{"outcome": one.outcome, "task": one.group.name, "series": "DEQ"},
            **{"DEQ": f"{one.deq.label}: {one.score(0)}", "explicit": f"{one.rival.label}: {one.score(1)}"},
        }
        for outcome in OUTCOMES
        for one in contests
        if one.outcome == outcome
    ]
    views = [{"name": "tasks", "log": "", "outcomes": points, "order": OUTCOMES}]
    return {"id": "outcomes", "title": "The best DEQ against the best explicit network", "kind": "outcomes", "views": views} | {
        "colours": family_colours()
    }


def memory_figures(record: Mapping[str, Any]) -> list[Figure]:
    """Figures of the memory record: bytes by kind, and against depth, length, batch and width."""
    kinds = list(dict.fromkeys(kind for row in record["rows"] for step in row["steps"].values() for kind in step["peak"]))
    views = []
    for name, title in (("core", "core alone, without embedding and softmax"), ("model", "whole model")):
        steps = [(row["label"], row["steps"][name]["peak"]) for row in record["rows"] if name in row["steps"]]
        bars = [[label, kind, number(peak[kind] / GB)] for label, peak in steps for kind in kinds if peak[kind]]
        views.append({"name": title, "x": "GB at the peak of a training step, lower is better", "log": "", "bars": bars})
    hues = dict(zip(kinds, ("#BBBBBB", "#56B4E9", "#0072B2", "#004B75", "#999999", "#D55E00", "#009E73", "#E69F00"), strict=False))
    waterfall = {
        "id": "waterfall",
        "title": "What a training step's memory is for",
        "kind": "bars",
        "views": views,
        "colours": hues,
    }
    lines = Lines("laws", "Memory of a training step against its sizes")
    for axis in dict.fromkeys(row["axis"] for row in record["laws"]):
        what = "depth, or solver steps" if axis == "depth" else axis
        lines.view(f"against {what}", what, "largest sum of live bytes (MiB), lower is better", log="xy")
        for row in record["laws"]:
            if row["axis"] == axis:
                lines.add(row["label"], "", [(point[axis], point["bytes"] * MIB) for point in row["points"]])
    return [waterfall, *lines.done()]


def study_figures(studies: Mapping[str, Any]) -> list[Figure]:
    """Figures of the studies, those that were run: a view a task."""
    figures = []
    for id_, (study, title, x, y, log, read) in _STUDIES.items():
        rows = [row for row in studies.get(study, {}).get("rows", []) if row["values"] is not None]
        lines, views = Lines(id_, title), dict.fromkeys(row.get("task", "") for row in rows)
        for task in views:
            found: dict[tuple[str, str], dict[str, list[tuple[float, float | None]]]] = {}
            for row in rows:
                if row.get("task", "") == task:
                    for view, series, points in read(row):
                        named = f"{row['model']}: {view}" if "model" in row else view
                        found.setdefault((named, series), {}).setdefault(f"seed {row['seed']}", []).extend(points)
            for view in dict.fromkeys(view for view, _ in found):
                lines.view(f"{task}: {view}".strip(": "), x, y or view, log=log)
                for (one, series), runs in found.items():
                    if one == view:
                        lines.add_seeds(series, runs)
        figures += lines.done()
    return figures


_Read = Iterator[tuple[str, str, list[tuple[float, float | None]]]]


def _steps(row: Mapping[str, Any]) -> _Read:
    for name in ("forward", "backward"):
        points = [(one["step"], one[f"{name}_nfe"]) for one in row["values"]["course"]]
        yield "evaluations", f"{name} solve", points


def _by(setting: str) -> Callable[[Mapping[str, Any]], _Read]:
    def read(row: Mapping[str, Any]) -> _Read:
        for name, view in (("loss", "validation loss (nats)"), ("steps", "evaluations a sample")):
            yield view, view, [(point[setting], point[name]) for point in row["values"]["points"]]

    return read


def _solvers(row: Mapping[str, Any]) -> _Read:
    for moment in ("start", "end"):
        for solver, one in row["values"].get(moment, {}).items():
            yield f"{moment} of training", solver, [(x, y) for x, y, _ in one.get("curve", ()) if y > 0]


def _layers(row: Mapping[str, Any]) -> _Read:
    for length, one in row["values"]["lengths"].items():
        yield "change a layer", length, [(x, y) for x, y, _ in one.get("curve", ()) if y > 0]


def _gradient(row: Mapping[str, Any]) -> _Read:
    for moment in ("start", "end"):
        for kind, points in row["values"].get(moment, {}).items():
            if isinstance(points, list):
                setting = "rtol" if points and "rtol" in points[0] else "steps"
                known = [(one[setting], one["distance"]) for one in points if one["distance"]]
                yield f"{'by tolerance' if setting == 'rtol' else 'by steps'}, {moment} of training", kind, known


_RESIDUAL, _DISTANCE = "relative residual, lower is better", "relative distance to the exact gradient, lower is better"
_STUDIES: dict[str, tuple[str, str, str, str, str, Callable[[Mapping[str, Any]], _Read]]] = {
    "steps": ("training", "Evaluations of solves during training", "training steps", "evaluations a solve", "", _steps),
    "residuals": ("residual", "Residual against evaluations", "evaluations of f", _RESIDUAL, "xy", _solvers),
    "tolerance": ("tolerance", "Quality against the tolerance of evaluation", "relative tolerance", "", "xy", _by("rtol")),
    "cap": ("cap", "Quality against the cap on evaluations", "cap on evaluations", "", "xy", _by("cap")),
    "layers": ("layers", "A trained map iterated on", "layers", "relative change a layer", "xy", _layers),
    "gradients": ("gradient", "Error of gradients", "relative tolerance, or steps", _DISTANCE, "xy", _gradient),
}


def claim_link(finding: Finding) -> tuple[str, str] | None:
    """The section and the figure that show a claim's evidence over all settings, where one does."""
    sources = finding.parts[0].sources if finding.parts else ()
    if finding.claim.id == "memory-saved" and sources:
        return f"{sources[0].path.removeprefix('runs/')}/{finding.parts[0].about.partition(': ')[0]}", "depth"
    return _SHOWS.get(finding.claim.id)


_SHOWS = {
    **dict.fromkeys(("memory-88", "memory-80", "memory-60", "memory-checkpointing"), ("memory", "waterfall")),
    **dict.fromkeys(("memory-whole", "checkpointing"), ("memory", "laws")),
    **dict.fromkeys(("steps-grow", "backward-shorter"), ("solver", "steps")),
    **{"tolerance": ("solver", "tolerance"), "cap": ("solver", "cap"), "tied-rest": ("solver", "layers")},
    **{"root": ("solver", "residuals"), "gradient": ("solver", "gradients")},
}
