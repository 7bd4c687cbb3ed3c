"""The published figures of a results folder as they are, to be embedded in the page."""

import base64
import gzip
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from bench.analysis.aggregate import Group
from bench.records.errors import UserError

# By file name: the title, and what is drawn for those who cannot see it.
_GROUP = {
    "tradeoff": ("Score against cost", "Test score against FLOPs, peak live bytes, time and energy of training, a point a model"),
    "quality": ("Time to equal quality", "Seconds of training until the target against the median residual, a point a model"),
    "curves-steps": ("Learning curves by step", "Validation score and training loss against training steps, a line a model"),
    "curves-seconds": ("Learning curves by time", "Validation score and training loss against seconds, a line a model"),
    "solver": ("The solver during training", "Evaluations a solve and residuals against training steps, a line a model"),
    "residual": ("Residual against solver work, after training", "Relative residual against evaluations, a line a solver"),
    "memory": ("Memory against depth", "Bytes saved for backward and peak live bytes against depth, a line a method"),
}
_MEMORY = {
    "waterfall": ("What a training step's memory is for", "Stacked bars of bytes at the peak by kind, a bar a model"),
    "depth": ("Memory against depth or solver steps", "Peak live bytes against depth or solver steps, a line a model"),
    "shape": ("Memory against length, batch size and width", "Peak live bytes against each, a line a model"),
}
_CLAIMS = {
    "fig2-steps": ("Evaluations of solves during training (figure 2, left)", "Evaluations against training steps, a panel a task"),
    "fig2-residual": ("Residual against evaluations (figure 2, right)", "Relative residual against evaluations, a line a solver"),
    "fig3-tolerance": ("Quality against the tolerance of evaluation (figure 3, left)", "Loss and evaluations against tolerance"),
    "fig3-cap": (
        "Quality against the cap on evaluations (figure 3, right)",
        "Loss and evaluations against the cap",
    ),
    "work-precision": ("Work and precision", "Validation loss against evaluations, a line a seed"),
    "fig4-layers": ("A trained map iterated (figure 4)", "Relative change a layer and validation loss against layers"),
    "gradient-fidelity": ("Error of gradients", "Relative distance to the exact gradient against tolerances and steps"),
    "dependency-length": ("Loss against the length of the dependence", "Loss and excess over the entropy rate, a line a model"),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure: its name, its alternative text, and its SVG file, compressed and in base64."""

    name: str
    title: str
    alt: str
    svg: str


def group_figures(results: Path, group: Group) -> list[Figure]:
    """The figures of a comparison."""
    about = f"{group.name}: {', '.join(row.label for row in group.rows)}"
    return _figures(results / "figures" / group.suite, _GROUP, "python -m bench report", f"{group.slug}-", about)


def memory_figures(results: Path) -> list[Figure]:
    """The figures of the memory record."""
    return _figures(results / "memory", _MEMORY, "python -m bench memory")


def claim_figures(results: Path) -> list[Figure]:
    """The figures of the studies that claims rest on."""
    return _figures(results / "claims", _CLAIMS, "python -m bench claims --measure")


def _figures(
    folder: Path, named: dict[str, tuple[str, str]], made_by: str, prefix: str = "", about: str = "DEQ and explicit networks"
) -> list[Figure]:
    found = []
    for name, (title, alt) in named.items():
        path = folder / f"{prefix}{name}.svg"
        if path.is_file() and not path.is_symlink():
            found.append(Figure(name=name, title=title, alt=f"{alt}. {about}.", svg=embed(path, made_by)))
    return found


def embed(path: Path, made_by: str) -> str:
    """An SVG file, compressed and in base64; UserError that names the command where it is damaged.

    The page shows it as an image, in which a browser runs no script and loads nothing.
    """
    try:
        content = path.read_bytes()
        if ElementTree.fromstring(content).tag != "{http://www.w3.org/2000/svg}svg":
            raise ValueError("not an SVG image")
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: damaged figure ({error}); `{made_by}` makes it again") from error
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
