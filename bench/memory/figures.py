"""Figures of the memory record."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.memory import scaling
from bench.memory.paper import GB, PAIRS
from bench.memory.storage_tracker import KINDS
from bench.report.style import grid_of, legend, span

_COLOURS = dict(zip(KINDS, ("#CCCCCC", "#56B4E9", "#0072B2", "#004B75", "#999999", "#D55E00", "#009E73", "#F0C27B"), strict=True))
_RIVALS = {"tied": "tied networks", "untied": "untied ones", "checkpointed": "a checkpointed one"}
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777", "#004B75", "#A6761D")
_MARKERS = "osD^vPX*ph"
_TITLES = {"core": "core alone", "model": "whole model"}
_EQUILIBRIUM = ("DEQ", "deq", "Neural ODE", "ode")


def waterfall(record: dict[str, Any]) -> Figure:
    """Bytes by kind at the peak of every model's step, each DEQ below its explicit rivals."""
    rows = [row for row in record["rows"] if row["steps"]]
    total = {row["label"]: _without_embeddings(row["steps"]["core"]["peak"]) for row in rows}
    ratios = {
        kind: [total[deq] / total[rival] for deq, rival, of in PAIRS if of == kind and {deq, rival} <= total.keys()]
        for kind in ("tied", "untied", "checkpointed")
    }
    parts = [f"{span(found)} times that of {words}" for kind, words in _RIVALS.items() if (found := ratios[kind])]
    title = f"Peak memory of a step without embeddings, a DEQ's core: {', '.join(parts)}"
    figure, panels = grid_of(2, 2, title, 0.2 * len(rows) + 0.7, sharey=True)
    rivals = {rival for _, rival, _ in PAIRS}
    last = {row["label"] for row in rows} - rivals
    at, place = [], 0.0
    for row in rows:
        at.append(place)
        place += 1.7 if row["label"] in last else 1.0  # a gap below each DEQ, and below a network that has none
    for axes, (configuration, title) in zip(panels, _TITLES.items(), strict=True):
        left = [0.0] * len(rows)
        for kind in KINDS[1:]:  # without embeddings
            sizes = [row["steps"][configuration]["peak"][kind] / GB for row in rows]
            axes.barh(at, sizes, left=left, color=_COLOURS[kind], label=kind, height=0.8)
            left = [before + size for before, size in zip(left, sizes, strict=True)]
        axes.set_yticks(at, [row["label"] for row in rows], fontsize=6)
        axes.grid(axis="y", visible=False)
        axes.set_title(title)
        axes.set_xlabel("GB (2^30 bytes), ↓ better")
    panels[0].invert_yaxis()  # both: they share it
    printed = [(row["printed_gb"], place) for row, place in zip(rows, at, strict=True) if row["printed_gb"] is not None]
    panels[1].plot(*zip(*printed, strict=True), "D", color="black", ms=3, label="the paper's figure")
    legend(figure, panels[1].get_legend_handles_labels()[0])
    return figure


def _without_embeddings(peak: Mapping[str, int]) -> int:
    return sum(size for kind, size in peak.items() if kind != KINDS[0])


def _plot(axes: Axes, rows: Sequence[Mapping[str, Any]], labels: Iterable[str], axis: str, label: str) -> None:
    """Bytes against a size on logarithmic axes, one line per model, drawn alike in every figure."""
    known = list(dict.fromkeys(row["label"] for row in rows))
    for name in labels:
        values, amounts = scaling.along(rows, name, axis)
        place = known.index(name)
        look: dict[str, Any] = {"color": _LINES[place % len(_LINES)], "marker": _MARKERS[place % len(_MARKERS)]}
        look["ls"] = "-" if place < len(_LINES) else "--"
        axes.plot(values, [amount / 2**20 for amount in amounts], **look, ms=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(label)


def depth(record: dict[str, Any]) -> Figure | None:
    """Bytes against depth or solver steps; None without laws."""
    rows = record["laws"]
    if not rows:
        return None
    figure, panels = grid_of(2, 2, "Memory of a training step against depth or solver steps", 2.8, sharey=True)
    for axes, equilibrium, title in zip(panels, (True, False), ("Equilibrium models", "Explicit networks"), strict=True):
        labels = [row["label"] for row in rows if row["axis"] == "depth" and row["label"].startswith(_EQUILIBRIUM) == equilibrium]
        _plot(axes, rows, labels, "depth", "layers, levels or solver steps")
        axes.set_title(title)
        if labels:
            axes.legend(loc="upper left", fontsize=5.5)
    panels[0].set_ylabel("largest sum of live bytes [MiB], ↓ better")
    return figure


def shape(record: dict[str, Any]) -> Figure | None:
    """Bytes against length, batch and width; None without laws."""
    rows = record["laws"]
    if not rows:
        return None
    title, number = "Memory of a training step against length, batch size and width", len(scaling.AXES)
    figure, panels = grid_of(number, number, title, 2.6, sharey=True)
    labels = dict.fromkeys(row["label"] for row in rows if row["axis"] != "depth")
    for axes, axis in zip(panels, scaling.AXES, strict=True):
        _plot(axes, rows, labels, axis, axis)
    panels[0].set_ylabel("largest sum of live bytes [MiB], ↓ better")
    if labels:
        legend(figure, panels[0].get_legend_handles_labels()[0])
    return figure
