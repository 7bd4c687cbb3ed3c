"""All figures: one registry, one style, one place that draws and writes them.

To add a figure, write a function that returns a matplotlib Figure, or None where there is nothing to show, and name it below. All
are as wide as a page's text. The nine kinds marked `paper` are also written as PDF; the others are an appendix, or a first look.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

from matplotlib import style

from bench.records.record import write_bytes
from bench.report.style import STYLE, rendered

Kind = Literal["overview", "comparison", "memory", "experiments"]
Images = dict[str, bytes]  # by file name


@dataclass(frozen=True)
class FigureEntry:
    """The function that draws a figure (imported when it is drawn: some need torch), its title, and whether it is for a paper."""

    draw: str
    title: str
    paper: bool = False


FIGURES: dict[Kind, dict[str, FigureEntry]] = {
    "overview": {  # drawn from the groups of all suites
        "score-and-cost": FigureEntry("bench.report.overview:score_and_cost", "Score against cost", paper=True),
        "learning-curves": FigureEntry("bench.report.overview:learning_curves", "Learning curves", paper=True),
    },
    "comparison": {  # drawn from a Group and the line styles of its suite
        "tradeoff": FigureEntry("bench.report.plots:tradeoff", "Score against cost"),
        "quality": FigureEntry("bench.report.plots:time_to_quality", "Time to equal quality"),
        "curves": FigureEntry("bench.report.curves:learning_curves", "Learning curves by step and by time"),
        "memory": FigureEntry("bench.report.plots:memory", "Memory against depth", paper=True),
        "length": FigureEntry("bench.report.generalisation:by_length", "Accuracy against the length of test sequences", paper=True),
        "difficulty": FigureEntry(
            "bench.report.generalisation:by_difficulty", "Share solved against the difficulty of test puzzles"
        ),
    },
    "memory": {  # drawn from the memory record
        "waterfall": FigureEntry("bench.memory.figures:waterfall", "What a training step's memory is for", paper=True),
        "depth": FigureEntry("bench.memory.figures:depth", "Memory against depth or solver steps"),
        "shape": FigureEntry("bench.memory.figures:shape", "Memory against length, batch size and width"),
    },
    "experiments": {  # drawn from the record of experiments
        "steps-and-residual": FigureEntry("bench.studies.figures:steps_and_residual", "Work of the solves (figure 2)", paper=True),
        "tolerance-and-cap": FigureEntry(
            "bench.studies.figures:tolerance_and_cap", "Quality against tolerance and cap (figure 3)", paper=True
        ),
        "gradient-error": FigureEntry("bench.studies.figures:gradient", "Error of gradients", paper=True),
        "layers": FigureEntry("bench.studies.figures:layers", "A trained map iterated (figure 4)"),
        "steps-at-test": FigureEntry(
            "bench.studies.figures:steps_at_test", "Accuracy against evaluations at test time", paper=True
        ),
    },
}


def render(kind: Kind, *subject: Any) -> Images:
    """Draw the figures of a kind that have something to show; a user's matplotlibrc changes nothing."""
    images: Images = {}
    with style.context(["default", STYLE]):
        for name, entry in FIGURES[kind].items():
            figure = resolve_name(entry.draw)(*subject)
            if figure is not None:
                formats = ("svg", "pdf") if entry.paper else ("svg",)
                images |= {f"{name}.{extension}": content for extension, content in rendered(figure, formats).items()}
    return images


def write(folder: Path, images: Mapping[str, bytes], prefix: str = "") -> list[Path]:
    """Write `<prefix><name>` for every image; return the paths."""
    paths = {folder / f"{prefix}{name}": content for name, content in images.items()}
    for path, content in paths.items():
        write_bytes(path, content)
    return list(paths)
