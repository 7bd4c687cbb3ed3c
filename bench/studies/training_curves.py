"""Solver evaluations in the course of training (figure 2, left)."""

from statistics import fmean

from bench.records.record import CurvePoint
from bench.records.spec import RunSpec
from bench.studies.config import Config
from bench.studies.models import Models
from bench.studies.study import PlannedRow, Study, Values, number

_MEASURES = (
    *("train_converged_fraction", "train_backward_converged_fraction", "train_residual_p95"),
    *("train_forward_nfe_mean", "train_backward_nfe_mean", "parameters_total"),
)


def study(config: Config) -> Study:
    """One row per task, model and seed."""
    evaluations = dict.fromkeys(("forward_nfe", "backward_nfe"), "evaluations")
    return Study(
        name="training",
        measure=measure,
        units={**evaluations, "train_loss": "nats", "valid": "see the task's metrics"},
        settings={"rtol": config.rtol, "cap": config.cap, "steps": config.steps, "batch": config.batch, "solver": "anderson"},
        rows=tuple(PlannedRow(subject, (spec,), (config.points,)) for _, subject, spec in config.deqs_and_tied()),
    )


def measure(models: Models, spec: RunSpec, points: int) -> Values:
    """Mean evaluations of f per forward solve, and of its VJP per backward solve, of a batch, in each tenth of the training; a
    batch is done when its last sample is; the attached evaluation counts. The mean training loss of each tenth, and the last
    validation."""
    record = models.record(spec)
    tenths: list[list[CurvePoint]] = [[] for _ in range(points)]
    for point in record.curve:
        tenths[min(points - 1, (point.step - 1) * points // spec.train.steps)].append(point)
    return {
        "status": record.status,
        "reason": record.reason,
        "course": [_mean(tenth) for tenth in tenths if tenth],
        **{name: number(record.value(name)) for name in _MEASURES},
        "valid": {name: number(value) for name, value in record.curve[-1].valid.items()} if record.curve else {},
    }


def _mean(points: list[CurvePoint]) -> Values:
    found: Values = {"step": points[-1].step}
    for name in ("train_loss", "forward_nfe", "backward_nfe", "residual"):
        values = [value for point in points if (value := getattr(point, name)) is not None]
        found[name] = number(fmean(values)) if values else None
    losses = [point.valid["loss"] for point in points if "loss" in point.valid]
    return found | {"valid_loss": number(losses[-1]) if losses else None}
