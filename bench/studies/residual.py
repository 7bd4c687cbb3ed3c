"""Residual by evaluations and solver, and trained maps iterated beyond their depth (figures 2, right, and 4)."""

import torch
from torch import Tensor

from baselines import Unrolled
from bench.records.spec import ComponentConfig, RunSpec
from bench.studies.config import Config
from bench.studies.models import Models, bind, cell_of
from bench.studies.study import PlannedRow, Study, Values, median, number
from bench.training.evaluation import evaluate
from deq import Anderson, Broyden, Map, Picard, Solution, Solver, Stop, solve, spectral_radius

_REACH = (1e-2, 1e-4)  # the paper reads its curves at 1e-4


def studies(config: Config) -> tuple[Study, Study]:
    """Residuals by solver, and trained maps iterated beyond their depth at several lengths; one row per task, model and seed."""
    settings = {"evaluations": config.most, "split": "validation"}
    half, tied = config.samples // 2, config.depth
    depths = tuple(sorted({depth for depth in (1, 2, 3, 6, tied, 2 * tied, 4 * tied, 8 * tied) if depth <= config.most}))
    return (
        Study(
            name="residual",
            measure=measure,
            units={"residual": "1", "evaluations": "1", "share": "fraction", "radius": "1"},
            settings={**settings, "samples": config.samples, "broyden's window": config.most, "reach": list(_REACH)},
            rows=tuple(PlannedRow(subject, (spec,), (config.most, config.samples)) for _, subject, spec in config.deqs_and_tied()),
        ),
        Study(
            name="layers",
            measure=measure_layers,
            units={"change": "1", "still": "fraction", "loss": "nats"},
            settings={**settings, "samples": half, "trained depth": tied},
            rows=tuple(
                PlannedRow(subject, (spec,), (case.lengths, depths, config.most, half))
                for case, subject, spec in config.deqs_and_tied()
            ),
        ),
    )


def measure(models: Models, spec: RunSpec, most: int, samples: int) -> Values:
    """Relative residual ||f(z) - z|| / ||f(z)|| at each evaluation of f: [evaluations, median, 95th percentile] over samples, at
    the start of training and at its end, for the map of a DEQ and for that of a weight-tied network. `reach`: the share of
    samples whose residual falls below a threshold, and the median evaluations until then (null: half do not). `radius`: the
    spectral radius of df/dz at the best solution found, of samples whose residual there is below 1e-4."""
    inputs, _ = models.sequences(spec.task, "valid", samples)
    moments = {"start": models.fresh(spec), "end": models.trained(spec)}
    with torch.no_grad():
        return {moment: by_solver(*bind(model, inputs)[1:], most) for moment, model in moments.items()}


@torch.no_grad()
def by_solver(f: Map, z0: Tensor, most: int) -> Values:
    """The residual's curve with each solver, when it falls below each threshold, and the spectral radius where it did."""
    solvers: dict[str, Solver] = {"picard": Picard(), "anderson": Anderson(), "broyden": Broyden(window=max(2, most))}
    solutions = {name: solve(f, z0, solver, Stop(rtol=None, max_steps=most)) for name, solver in solvers.items()}
    found: Values = {}
    for name, solution in solutions.items():
        relative = _relative(f, solution)
        found[name] = {"curve": _curve(relative), "reach": {f"{below:g}": _reach(relative, below) for below in _REACH}}
    best = min(solutions.values(), key=lambda solution: solution.residual.median())
    near = best.residual < _REACH[-1]
    torch.manual_seed(0)  # for the start of the power iteration
    radius = spectral_radius(f, best.z)[near]
    largest = number(radius.max()) if len(radius) else None
    return found | {"radius": {"samples": int(near.sum()), "median": median(radius), "largest": largest}}


def _relative(f: Map, solution: Solution) -> Tensor:
    """(nfe, B): every gap over the norm of f at the best iterate; a normalised map has one norm everywhere."""
    return (solution.gaps / f(solution.z).flatten(1).norm(dim=1)).double()


def _curve(relative: Tensor) -> list[list[float | None]]:
    """[evaluations, median, 95th percentile], thinned: all of the first twenty, then steps of 6 %, and the last."""
    rows: list[list[float | None]] = []
    shown = 0
    for step, row in enumerate(relative, start=1):
        if step <= 20 or step >= 1.06 * shown or step == len(relative):
            finite = bool(torch.isfinite(row).all())
            rows.append([step, *(number(row.quantile(q)) if finite else None for q in (0.5, 0.95))])
            shown = step
    return rows


def _reach(relative: Tensor, below: float) -> dict[str, float | None]:
    under = relative < below
    first = torch.where(under.any(0), under.int().argmax(0) + 1, len(relative) + 1).double()
    middle = first.quantile(0.5)
    return {"share": number(under.any(0).double().mean()), "median": number(middle) if middle <= len(relative) else None}


def measure_layers(
    models: Models,
    spec: RunSpec,
    lengths: tuple[tuple[str, ComponentConfig], ...],
    depths: tuple[int, ...],
    most: int,
    samples: int,
) -> Values:
    """||z[i+1] - z[i]|| / ||z[i+1]|| against the layer i of a trained map that is iterated on, [layer, median, 95th percentile]
    over samples, at the length it was trained at and at greater ones; `still`: the share of samples below 1e-4 at the last
    layer; `loss`: validation loss by number of layers, at the length it was trained at."""
    model, task, by_length = models.trained(spec), models.task(spec.task), {}
    for name, named in lengths:
        with torch.no_grad():
            _, f, z0 = bind(model, models.sequences(named, "valid", samples)[0])
            relative = _relative(f, solve(f, z0, Picard(), Stop(rtol=None, max_steps=most)))
        by_length[name] = {"curve": _curve(relative), "still": number((relative[-1] < _REACH[-1]).double().mean())}
    cell, losses = cell_of(model), []
    for depth in depths:
        model.core = Unrolled(cell, depth=depth)
        losses.append([depth, number(evaluate(model, task, "valid", spec)[task.headline])])
    return {"lengths": by_length, "loss": losses, "chance": task.metrics[task.headline].chance}
