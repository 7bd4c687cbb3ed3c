"""How many evaluations a solve takes as training goes on (figure 2, left), and how each training ended."""

from statistics import fmean
from typing import Any

from bench.experiments.experiment import Experiment, Part
from bench.experiments.models import Models, number
from bench.experiments.scale import Scale
from bench.record import Point
from bench.spec import Spec

_READ = (
    *("train_converged_fraction", "train_backward_converged_fraction", "train_residual_p95"),
    *("train_forward_nfe_mean", "train_backward_nfe_mean", "parameters_total"),
)


def experiment(scale: Scale) -> Experiment:
    """A row a task, model and seed."""
    parts = tuple(
        Part(
            subject={"task": case.label, "model": label, "seed": seed},
            follow=follow,
            arguments=(spec, scale.points),
            specs=(spec,),
        )
        for case in scale.cases
        for seed in scale.seeds
        for label in scale.labels()
        for spec in [scale.spec(case, label, seed)]
    )
    return Experiment(
        name="training",
        measured="Mean evaluations of f a forward solve, and of its VJP a backward solve, of a batch, in each tenth of the "
        "training; a batch is done when its last sample is, the attached evaluation not counted. Losses at the end of each tenth.",
        units={
            "forward_nfe": "evaluations",
            "backward_nfe": "evaluations",
            "train_loss": "nats",
            "valid": "see the task's metrics",
        },
        settings={"rtol": scale.rtol, "cap": scale.cap, "steps": scale.steps, "batch": scale.batch, "solver": "anderson"},
        parts=parts,
    )


def follow(models: Models, spec: Spec, points: int) -> dict[str, Any]:
    """The training's course in `points` parts of equal length, and its end."""
    record = models.record(spec)
    steps = spec.train.steps
    tenths: list[list[Point]] = [[] for _ in range(points)]
    for point in record.curve:
        tenths[min(points - 1, (point.step - 1) * points // steps)].append(point)
    return {
        "status": record.status,
        "why": record.why,
        "course": [_mean(tenth) for tenth in tenths if tenth],
        **{name: None if (value := record.value(name)) is None else number(value) for name in _READ},
        "valid": {name: number(value) for name, value in record.curve[-1].valid.items()} if record.curve else {},
    }


def _mean(points: list[Point]) -> dict[str, Any]:
    found: dict[str, Any] = {"step": points[-1].step}
    for name in ("train_loss", "forward_nfe", "backward_nfe", "residual"):
        values = [value for point in points if (value := getattr(point, name)) is not None]
        found[name] = number(fmean(values)) if values else None
    valid = next((point.valid for point in reversed(points) if point.valid), {})
    found["valid_loss"] = number(valid["loss"]) if "loss" in valid else None
    return found
