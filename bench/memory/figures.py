"""The memory record as pictures."""

from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.memory import scaling
from bench.memory.paper import GB
from bench.memory.storage_tracker import KINDS

_COLOURS = dict(zip(KINDS, ("#CCCCCC", "#56B4E9", "#0072B2", "#004B75", "#999999", "#D55E00", "#009E73", "#F0C27B"), strict=True))
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777", "#004B75", "#A6761D")
_TITLES = {
    "core": "Core alone, no embedding, no softmax",
    "model": "Whole model, with word embeddings",
}


def waterfall(record: dict[str, Any]) -> Figure:
    """What the bytes of every model's step are for, at its peak."""
    built = [row for row in record["rows"] if row["steps"]]
    figure = Figure(figsize=(10.2, 0.3 * len(built) + 2.1))
    panels = figure.subplots(1, 2, sharey=True)
    figure.suptitle(
        "What a training step's memory is for, at its peak (length 150, batch size 15)", x=0.01, ha="left", fontweight="bold"
    )
    for axes, configuration in zip(panels, ("core", "model"), strict=True):
        _bars(axes, built, configuration)
    panels[0].invert_yaxis()  # both: they share it
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5)
    return figure


def _bars(axes: Axes, rows: list[dict[str, Any]], configuration: str) -> None:
    places = range(len(rows))
    left = [0.0] * len(rows)
    for kind in KINDS:
        sizes = [row["steps"][configuration]["peak"][kind] / GB for row in rows]
        axes.barh(places, sizes, left=left, color=_COLOURS[kind], label=kind, height=0.7)
        left = [before + size for before, size in zip(left, sizes, strict=True)]
    printed = [(place, row["printed_gb"]) for place, row in zip(places, rows, strict=True) if row["printed_gb"] is not None]
    axes.plot(
        [value for _, value in printed], [place for place, _ in printed], "D", color="black", ms=5, label="the paper's figure"
    )
    axes.set_yticks(places, [row["label"] for row in rows])
    axes.grid(axis="y", visible=False)
    axes.set_title(_TITLES[configuration])
    axes.set_xlabel("GB (2^30 bytes) ↓")


_EQUILIBRIUM = ("DEQ", "deq", "Neural ODE", "ode")


def depth(record: dict[str, Any]) -> Figure:
    """Bytes against depth or solver steps."""
    rows = record["laws"]
    figure = Figure(figsize=(10.2, 4.6))
    panels = figure.subplots(1, 2, sharey=True)
    figure.suptitle("Memory of a training step against depth or solver steps", x=0.01, ha="left", fontweight="bold")
    for axes, title in zip(panels, ("Equilibrium models", "Explicit networks"), strict=True):
        wanted = axes is panels[0]
        mine = [row for row in rows if row["axis"] == "depth" and row["label"].startswith(_EQUILIBRIUM) == wanted]
        for row, colour, marker in zip(mine, cycle(_LINES), cycle("osD^vPX*ph"), strict=False):
            deep = [point["depth"] for point in row["points"]]
            axes.plot(
                deep, [point["bytes"] / 2**20 for point in row["points"]], color=colour, marker=marker, ms=4, label=row["label"]
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(title)
        axes.set_xlabel("layers, levels or solver steps")
        if mine:
            axes.legend(loc="upper left", fontsize=8)
    panels[0].set_ylabel("largest sum of live bytes (MiB) ↓")
    return figure


def shape(record: dict[str, Any]) -> Figure:
    """Bytes against length, batch and width."""
    rows = record["laws"]
    figure = Figure(figsize=(10.2, 5.2))
    panels = figure.subplots(1, len(scaling.AXES), sharey=True)
    figure.suptitle("Memory of a training step against length, batch size and width", x=0.01, ha="left", fontweight="bold")
    labels = list(dict.fromkeys(row["label"] for row in rows if row["axis"] != "depth"))
    for axes, axis in zip(panels, scaling.AXES, strict=True):
        for place, (label, colour, marker) in enumerate(zip(labels, cycle(_LINES), cycle("osD^vPX*ph"), strict=False)):
            values, amounts = scaling.along(rows, label, axis)
            axes.plot(
                values,
                [amount / 2**20 for amount in amounts],
                color=colour,
                ls="-" if place < len(_LINES) else "--",
                marker=marker,
                ms=4,
                label=label,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(axis)
    panels[0].set_ylabel("largest sum of live bytes (MiB) ↓")
    if labels:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure
