"""All figures: one registry, one style, one place that draws and writes them.

To add a figure, write a function that returns a matplotlib Figure, or None where there is nothing to show, and name it below.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

from matplotlib import style

from bench.records.record import write_bytes
from bench.report.style import STYLE, rendered

Kind = Literal["comparison", "memory", "experiments"]
Images = dict[str, bytes]  # SVG by name


@dataclass(frozen=True)
class FigureEntry:
    """The function that draws a figure (imported when it is drawn: some need torch), and the figure's title."""

    draw: str
    title: str


FIGURES: dict[Kind, dict[str, FigureEntry]] = {
    "comparison": {  # drawn from a Group and the line styles of its suite
        "tradeoff": FigureEntry("bench.report.plots:tradeoff", "Score against cost"),
        "quality": FigureEntry("bench.report.plots:time_to_quality", "Time to equal quality"),
        "curves-steps": FigureEntry("bench.report.curves:learning_curves", "Learning curves by step"),
        "curves-seconds": FigureEntry("bench.report.curves:curves_by_time", "Learning curves by time"),
        "solver": FigureEntry("bench.report.curves:solver", "The solver during training"),
        "residual": FigureEntry("bench.report.plots:residual", "Residual against solver work, after training"),
        "memory": FigureEntry("bench.report.plots:memory", "Memory against depth"),
        "length": FigureEntry("bench.report.generalisation:by_length", "Accuracy against the length of test sequences"),
        "difficulty": FigureEntry(
            "bench.report.generalisation:by_difficulty", "Share solved against the difficulty of test puzzles"
        ),
    },
    "memory": {  # drawn from the memory record
        "waterfall": FigureEntry("bench.memory.figures:waterfall", "What a training step's memory is for"),
        "depth": FigureEntry("bench.memory.figures:depth", "Memory against depth or solver steps"),
        "shape": FigureEntry("bench.memory.figures:shape", "Memory against length, batch size and width"),
    },
    "experiments": {  # drawn from the record of experiments
        "fig2-steps": FigureEntry("bench.studies.figures:solver_steps", "Evaluations of solves during training (figure 2, left)"),
        "fig2-residual": FigureEntry("bench.studies.figures:residual", "Residual against evaluations (figure 2, right)"),
        "fig3-tolerance": FigureEntry(
            "bench.studies.figures:quality_by_tolerance", "Quality against the tolerance of evaluation (figure 3, left)"
        ),
        "fig3-cap": FigureEntry("bench.studies.figures:quality_by_cap", "Quality against the cap on evaluations (figure 3, right)"),
        "work-precision": FigureEntry("bench.studies.figures:work_precision", "Work and precision"),
        "fig4-layers": FigureEntry("bench.studies.figures:layers", "A trained map iterated (figure 4)"),
        "gradient-fidelity": FigureEntry("bench.studies.figures:gradient", "Error of gradients"),
        "dependency-length": FigureEntry("bench.studies.figures:dependency", "Loss against the length of the dependence"),
    },
}


def render(kind: Kind, *subject: Any) -> Images:
    """Draw the figures of a kind that have something to show; a user's matplotlibrc changes nothing."""
    images: Images = {}
    with style.context(["default", STYLE]):
        for name, entry in FIGURES[kind].items():
            figure = resolve_name(entry.draw)(*subject)
            if figure is not None:
                images[name] = rendered(figure)
    return images


def write(folder: Path, images: Mapping[str, bytes], prefix: str = "") -> list[Path]:
    """Write `<prefix><name>.svg` for every image; return the paths."""
    paths = {folder / f"{prefix}{name}.svg": content for name, content in images.items()}
    for path, content in paths.items():
        write_bytes(path, content)
    return list(paths)
