"""The figures that a results folder holds, each with what is drawn in words."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from bench.columns import Group, metrics
from bench.errors import UserError
from bench.page.drawing import Shapes

_MOST = 1 << 20  # bytes of a PNG


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure: its ending, its name, its text alternative, and itself as HTML."""

    ending: str
    name: str
    says: str
    html: Markup


# By ending: the name, and what is drawn; {score} is the headline with its direction, {models} the rows, {group} the comparison.
_GROUP = {
    "tradeoff": (
        "Score against cost",
        "A panel for each cost that was measured, with a point for each model and its 95 % intervals: test {score} against FLOPs, "
        "peak of live bytes, time and, where there is a sensor, energy of the training; a grey line joins the models that none "
        "beats, by their means. {group}: {models}.",
    ),
    "quality": (
        "Time to equal quality",
        "A point for each equilibrium model: seconds of training until the tied network's final validation {score} against the "
        "median residual of the training solves; a line marks the tied network's own time. {group}: {models}.",
    ),
    "curves-steps": (
        "Learning curves by step",
        "Two panels with a thick line for each model, its mean over seeds, and a thin one a seed: validation {score} and training "
        "loss against training steps. {group}: {models}.",
    ),
    "curves-seconds": (
        "Learning curves by time",
        "Two panels with a thick line for each model, its mean over seeds, and a thin one a seed: validation {score} and training "
        "loss against seconds of training. {group}: {models}.",
    ),
    "solver": (
        "The solver during training",
        "Up to three panels against training steps: evaluations of a forward solve, evaluations of a backward solve, and the "
        "relative residual that a solve leaves, a line for each equilibrium model. {group}: {models}.",
    ),
    "residual": (
        "Residual against solver work, after training",
        "A panel for each model that can be iterated: relative residual on a log scale against evaluations of f, a colour for each "
        "solver, median solid and 95th percentile dotted. {group}: {models}.",
    ),
    "memory": (
        "Memory against depth",
        "Two panels: bytes saved for backward and peak of live bytes in one training step against depth or solver steps, both on "
        "log scales, a line for each method. {group}: {models}.",
    ),
}
_MEMORY = {
    "waterfall": (
        "What a training step's memory is for",
        "Stacked bars of a training step's bytes at their peak by kind (weights, gradients, optimiser, batch, saved for backward, "
        "solver history, temporaries), a bar for each model of the paper's tables, for the core alone and for the whole model; "
        "diamonds mark the paper's figures.",
    ),
    "depth": (
        "Memory against depth or solver steps",
        "Two panels, equilibrium models and explicit networks: the largest sum of live bytes in a training step against depth or "
        "solver steps, both on log scales, a line for each model.",
    ),
    "shape": (
        "Memory against length, batch size and width",
        "Three panels: the largest sum of live bytes in a training step against sequence length, batch size and width, all on log "
        "scales, a line for each model.",
    ),
}
_PAPERS = "the paper's own points stand hollow in a panel beside them"
_CLAIMS = {
    "fig2-steps": (
        "Evaluations that solves take as training goes on (the paper's figure 2, left)",
        "A panel a task: evaluations of a forward and of a backward solve to one tolerance against training steps, a thin line "
        "a seed and a thick one their geometric mean; a dashed line marks the cap.",
    ),
    "fig2-residual": (
        "Residual against evaluations (figure 2, right)",
        "A panel for each task and for the map of an equilibrium model and of a weight-tied network: relative residual against "
        f"evaluations by solver, dotted before training and solid after; {_PAPERS}.",
    ),
    "fig3-tolerance": (
        "Quality against the tolerance of evaluation (figure 3, left)",
        "A panel a task: validation loss above and evaluations a sample below against the relative tolerance of the solves, one "
        f"trained model a seed; {_PAPERS}.",
    ),
    "fig3-cap": (
        "Quality against the cap on evaluations (figure 3, right)",
        "A panel a task: validation loss above and evaluations a sample below against the cap on evaluations, one trained model a "
        "seed; points of a later paper by the same authors stand hollow in a panel beside them.",
    ),
    "work-precision": (
        "Work and precision",
        "A panel a task: validation loss of a trained model against the evaluations that its solves took, a line a seed, stopped "
        "by a tolerance or by a cap.",
    ),
    "fig4-layers": (
        "A trained map iterated on (figure 4)",
        "A panel for each task and model: relative change a layer against the layer, at the trained length, twice and four times "
        "it; below, validation loss against the number of layers, with the trained depth as a dashed line.",
    ),
    "gradient-fidelity": (
        "How far gradients are from the exact one",
        "A panel a task: relative distance from a dense float64 gradient against the tolerance of backward and forward solve, "
        "against the steps of phantom and unrolled gradients, and 1 - cosine against the tolerance; dotted before training, solid "
        "after.",
    ),
    "dependency-length": (
        "Loss against the length of the dependence",
        "Two panels against the tokens between opener and closer: loss at the closer, with chance and optimum as dashed lines, and "
        "excess over the entropy rate, a line a model.",
    ),
}


def group_pictures(results: Path, group: Group, shapes: Shapes) -> list[Picture]:
    """The figures of a comparison that the report has drawn."""
    headline, known = metrics(group.records)
    direction = f", {known[headline].better} is better" if headline in known else ""
    said = {
        "score": f"{headline.replace('_', ' ')} ({known[headline].unit if headline in known else 'nats'}{direction})",
        "models": ", ".join(row.label for row in group.rows),
        "group": group.name,
    }
    folder = results / "figures" / group.suite
    found = [
        _picture(folder / f"{group.slug}-{ending}", ending, name, _filled(says, said), shapes, "python -m bench report")
        for ending, (name, says) in _GROUP.items()
    ]
    return [picture for picture in found if picture is not None]


def memory_pictures(results: Path, shapes: Shapes) -> list[Picture]:
    """The figures of the memory record."""
    return _pictures(results / "memory", _MEMORY, shapes, "python -m bench memory")


def claims_pictures(results: Path, shapes: Shapes) -> list[Picture]:
    """The figures of the experiments that claims rest on."""
    return _pictures(results / "claims", _CLAIMS, shapes, "python -m bench claims --measure")


def _pictures(folder: Path, named: dict[str, tuple[str, str]], shapes: Shapes, made_by: str) -> list[Picture]:
    found = [_picture(folder / ending, ending, name, says, shapes, made_by) for ending, (name, says) in named.items()]
    return [picture for picture in found if picture is not None]


def _filled(text: str, words: dict[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", word)
    return text


def _picture(stem: Path, ending: str, name: str, says: str, shapes: Shapes, made_by: str) -> Picture | None:
    svg, png = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    if _own(svg):
        return Picture(ending=ending, name=name, says=says, html=Markup(shapes.drawn(svg, says, made_by)))
    if _own(png):
        return Picture(ending=ending, name=name, says=says, html=_embedded(png, says, made_by))
    return None


def _own(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _embedded(path: Path, says: str, made_by: str) -> Markup:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: damaged figure ({error.strerror}); `{made_by}` makes it again") from error
    if len(content) > _MOST or not content.startswith(b"\x89PNG\r\n"):
        raise UserError(f"{path}: damaged figure (no PNG of at most {_MOST >> 20} MiB); `{made_by}` makes it again")
    return Markup('<img class="drawing" alt="{}" src="data:image/png;base64,{}">').format(
        escape(says), base64.b64encode(content).decode()
    )


def split(pictures: Sequence[Picture], first: str) -> tuple[list[Picture], list[Picture]]:
    """The figures with that ending, and the others."""
    return [p for p in pictures if p.ending == first], [p for p in pictures if p.ending != first]
