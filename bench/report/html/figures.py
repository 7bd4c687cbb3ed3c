"""The published figures of a results folder as they are, to be embedded in the page."""

import base64
import gzip
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.records.errors import UserError
from bench.report.figures import FIGURES, Kind

# Alternative texts, by the figure's name.
_ALT = {
    "tradeoff": "Test score against FLOPs, peak live bytes, time and energy of training, a point a model",
    "quality": "Seconds of training until the target against the median residual, a point a model",
    "curves-steps": "Validation score and training loss against training steps, a line a model",
    "curves-seconds": "Validation score and training loss against seconds, a line a model",
    "solver": "Evaluations a solve and residuals against training steps, a line a model",
    "residual": "Relative residual against evaluations, a line a solver",
    "memory": "Bytes saved for backward and peak live bytes against depth, a line a method",
    "waterfall": "Stacked bars of bytes at the peak by kind, a bar a model",
    "depth": "Peak live bytes against depth or solver steps, a line a model",
    "shape": "Peak live bytes against each, a line a model",
    "fig2-steps": "Evaluations against training steps, a panel a task",
    "fig2-residual": "Relative residual against evaluations, a line a solver",
    "fig3-tolerance": "Loss and evaluations against tolerance",
    "fig3-cap": "Loss and evaluations against the cap",
    "work-precision": "Validation loss against evaluations, a line a seed",
    "fig4-layers": "Relative change a layer and validation loss against layers",
    "gradient-fidelity": "Relative distance to the exact gradient against tolerances and steps",
    "dependency-length": "Loss and excess over the entropy rate, a line a model",
}


def embedded_figures(
    folder: Path, kind: Kind, command: str, prefix: str = "", about: str = "DEQ and explicit networks"
) -> list[dict[str, Any]]:
    """The figures of a kind that are in a folder, as the template shows them: title, alternative text, image, whether it is opened.

    `command` writes them, `about` ends their alternative texts.
    """
    paths = {name: folder / f"{prefix}{name}.svg" for name in FIGURES[kind]}
    return [
        {
            **{"title": FIGURES[kind][name].title, "alt": f"{_ALT.get(name, FIGURES[kind][name].title)}. {about}."},
            **{"svg": embed(path, command), "opened": name == "tradeoff"},
        }
        for name, path in paths.items()
        if path.is_file() and not path.is_symlink()
    ]


def embed(path: Path, command: str) -> str:
    """An SVG file, compressed and in base64; UserError that names the command where it is damaged.

    The page shows it as an image, in which a browser runs no script and loads nothing.
    """
    try:
        content = path.read_bytes()
        if ElementTree.fromstring(content).tag != "{http://www.w3.org/2000/svg}svg":
            raise ValueError("not an SVG image")
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: damaged figure ({error}); `{command}` makes it again") from error
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
