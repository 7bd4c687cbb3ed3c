"""Figures of the memory record."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.memory import scaling
from bench.memory.paper import GB
from bench.memory.storage_tracker import KINDS

_COLOURS = dict(zip(KINDS, ("#CCCCCC", "#56B4E9", "#0072B2", "#004B75", "#999999", "#D55E00", "#009E73", "#F0C27B"), strict=True))
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777", "#004B75", "#A6761D")
_MARKERS = "osD^vPX*ph"
_TITLES = {"core": "Core alone, no embedding, no softmax", "model": "Whole model, with word embeddings"}
_EQUILIBRIUM = ("DEQ", "deq", "Neural ODE", "ode")


def _panels(title: str, height: float, number: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(10.2, height))
    panels = figure.subplots(1, number, sharey=True)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure, panels


def waterfall(record: dict[str, Any]) -> Figure:
    """Bytes by kind at the peak of every model's step."""
    rows = [row for row in record["rows"] if row["steps"]]
    title = "What a training step's memory is for, at its peak (length 150, batch size 15)"
    figure, panels = _panels(title, 0.3 * len(rows) + 2.1, 2)
    printed = [(row["printed_gb"], place) for place, row in enumerate(rows) if row["printed_gb"] is not None]
    for axes, (configuration, title) in zip(panels, _TITLES.items(), strict=True):
        left = [0.0] * len(rows)
        for kind in KINDS:
            sizes = [row["steps"][configuration]["peak"][kind] / GB for row in rows]
            axes.barh(range(len(rows)), sizes, left=left, color=_COLOURS[kind], label=kind, height=0.7)
            left = [before + size for before, size in zip(left, sizes, strict=True)]
        axes.plot(
            [size for size, _ in printed], [place for _, place in printed], "D", color="black", ms=5, label="the paper's figure"
        )
        axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
        axes.grid(axis="y", visible=False)
        axes.set_title(title)
        axes.set_xlabel("GB (2^30 bytes) ↓")
    panels[0].invert_yaxis()  # both: they share it
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _plot(axes: Axes, curves: Mapping[str, tuple[list[int], list[int]]], label: str) -> None:
    """Bytes against a size on logarithmic axes, one line per model."""
    for place, ((name, (values, amounts)), marker) in enumerate(zip(curves.items(), cycle(_MARKERS), strict=False)):
        colour, style = _LINES[place % len(_LINES)], "-" if place < len(_LINES) else "--"
        axes.plot(values, [amount / 2**20 for amount in amounts], color=colour, ls=style, marker=marker, ms=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(label)


def depth(record: dict[str, Any]) -> Figure:
    """Bytes against depth or solver steps."""
    rows = record["laws"]
    figure, panels = _panels("Memory of a training step against depth or solver steps", 4.6, 2)
    for axes, equilibrium, title in zip(panels, (True, False), ("Equilibrium models", "Explicit networks"), strict=True):
        labels = [row["label"] for row in rows if row["axis"] == "depth" and row["label"].startswith(_EQUILIBRIUM) == equilibrium]
        _plot(axes, {label: scaling.along(rows, label, "depth") for label in labels}, "layers, levels or solver steps")
        axes.set_title(title)
        if labels:
            axes.legend(loc="upper left", fontsize=8)
    panels[0].set_ylabel("largest sum of live bytes (MiB) ↓")
    return figure


def shape(record: dict[str, Any]) -> Figure:
    """Bytes against length, batch and width."""
    rows = record["laws"]
    figure, panels = _panels("Memory of a training step against length, batch size and width", 5.2, len(scaling.AXES))
    labels = dict.fromkeys(row["label"] for row in rows if row["axis"] != "depth")
    for axes, axis in zip(panels, scaling.AXES, strict=True):
        _plot(axes, {label: scaling.along(rows, label, axis) for label in labels}, axis)
    panels[0].set_ylabel("largest sum of live bytes (MiB) ↓")
    if labels:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
