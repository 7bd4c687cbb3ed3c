"""How the residual falls with evaluations, by solver, and what a trained map does when iterated on (figures 2, right, and 4)."""

from typing import Any

import torch
from torch import Tensor

from baselines import Unrolled
from bench.evaluation import evaluate
from bench.experiments.experiment import Experiment, Part
from bench.experiments.models import Models, cell_of, median, number
from bench.experiments.scale import Case, Scale
from bench.model import LanguageModel
from bench.spec import Named, Spec
from deq import Anderson, Broyden, Map, Picard, Solution, Solver, Stop, solve, spectral_radius

_REACH = (1e-2, 1e-4)  # the paper reads its curves at 1e-4
_RELATIVE = "relative residual ||f(z) - z|| / ||f(z)||"


def experiments(scale: Scale) -> tuple[Experiment, Experiment]:
    """The residual by solver, before and after training; and trained maps iterated beyond their depth, at several lengths."""
    subjects = [
        (case, seed, label, scale.spec(case, label, seed))
        for case in scale.cases
        for seed in scale.seeds
        for label in scale.labels()
    ]
    settings = {"evaluations": scale.most, "split": "validation"}
    return (
        Experiment(
            name="residual",
            measured=f"{_RELATIVE} at each evaluation of f: [evaluations, median, 95th percentile] over samples, at the start of "
            "training and at its end, for the map of a DEQ and for that of a weight-tied network. "
            "`reach`: the share of samples that ever come below, and the median evaluations until then (null: half do not). "
            "`radius`: the spectral radius of df/dz at the best solution found, of samples whose residual there is below 1e-4.",
            units={"residual": "1", "evaluations": "1", "share": "fraction", "radius": "1"},
            settings={**settings, "samples": scale.samples, "broyden's window": scale.most, "reach": list(_REACH)},
            parts=tuple(
                _part(case, seed, label, spec, follow, (spec, scale.most, scale.samples)) for case, seed, label, spec in subjects
            ),
        ),
        Experiment(
            name="layers",
            measured="||z[i+1] - z[i]|| / ||z[i+1]|| against the layer i of a trained map that is iterated on, [layer, median, "
            "95th percentile] over samples, at the length it was trained at and at greater ones; `still`: the share of samples "
            "below 1e-4 at the last layer; `loss`: validation loss by number of layers, at the length it was trained at.",
            units={"change": "1", "still": "fraction", "loss": "nats"},
            settings={**settings, "samples": scale.samples // 2, "trained depth": scale.depth},
            parts=tuple(
                _part(case, seed, label, spec, follow_layers, (spec, case.lengths, _depths(scale), scale.most, scale.samples // 2))
                for case, seed, label, spec in subjects
            ),
        ),
    )


def _part(case: Case, seed: int, label: str, spec: Spec, how: Any, arguments: tuple[Any, ...]) -> Part:
    return Part(subject={"task": case.label, "model": label, "seed": seed}, follow=how, arguments=arguments, specs=(spec,))


def _depths(scale: Scale) -> tuple[int, ...]:
    steps = (1, 2, 3, 6, scale.depth, 2 * scale.depth, 4 * scale.depth, 8 * scale.depth)
    return tuple(sorted({depth for depth in steps if depth <= scale.most}))


def follow(models: Models, spec: Spec, most: int, samples: int) -> dict[str, Any]:
    """Curves of each solver, at the start and at the end."""
    inputs, _ = models.sequences(spec.task, "valid", samples)
    return {
        "start": by_solver(*bound(models.fresh(spec), inputs), most),
        "end": by_solver(*bound(models.trained(spec), inputs), most),
    }


@torch.no_grad()
def bound(model: LanguageModel, inputs: Tensor) -> tuple[Map, Tensor]:
    """The map of a batch of tokens, and where its solves start."""
    x, cell = model.embed(inputs), cell_of(model)
    return cell.bind(x), cell.start(x)


@torch.no_grad()
def by_solver(f: Map, z0: Tensor, most: int) -> dict[str, Any]:
    """The residual's curve with each solver, whether and when it gets small, and the spectral radius where it did."""
    found: dict[str, Any] = {}
    solvers: dict[str, Solver] = {"picard": Picard(), "anderson": Anderson(), "broyden": Broyden(window=max(2, most))}
    best: Solution | None = None
    for name, solver in solvers.items():
        solution = solve(f, z0, solver, Stop(rtol=None, max_steps=most))
        relative = _relative(f, solution)
        found[name] = {"curve": _curve(relative), "reach": {f"{below:g}": _reach(relative, below) for below in _REACH}}
        if best is None or solution.residual.median() < best.residual.median():
            best = solution
    assert best is not None
    near = best.residual < _REACH[-1]
    torch.manual_seed(0)  # the power iteration's start
    radius = spectral_radius(f, best.z)[near]
    found["radius"] = {
        "samples": int(near.sum()),
        "median": median(radius),
        "largest": number(radius.max()) if len(radius) else None,
    }
    return found


def _relative(f: Map, solution: Solution) -> Tensor:
    """(nfe, B): every gap over the norm of f at the best iterate; a normalised map has the same norm everywhere."""
    size = f(solution.z).flatten(1).norm(dim=1)
    return (solution.gaps / size).double()


def _curve(relative: Tensor) -> list[list[float | None]]:
    """[evaluations, median, 95th percentile], thinned: all of the first twenty, then one in twenty of a decade's."""
    rows: list[list[float | None]] = []
    shown = 0
    for step, row in enumerate(relative, start=1):
        if step <= 20 or step >= 1.06 * shown or step == len(relative):
            p50, p95 = (
                row.quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)) if torch.isfinite(row).all() else (torch.inf,) * 2
            )
            rows.append([step, number(p50), number(p95)])
            shown = step
    return rows


def _reach(relative: Tensor, below: float) -> dict[str, float | None]:
    under = relative < below
    first = torch.where(under.any(0), under.int().argmax(0) + 1, len(relative) + 1).double()
    middle = first.quantile(0.5)
    return {"share": number(under.any(0).double().mean()), "median": number(middle) if middle <= len(relative) else None}


def follow_layers(
    models: Models, spec: Spec, lengths: tuple[tuple[str, Named], ...], depths: tuple[int, ...], most: int, samples: int
) -> dict[str, Any]:
    """The map iterated to `most` layers at each length, and the loss after so many at its own."""
    model, by_length = models.trained(spec), {}
    for name, named in lengths:
        inputs, _ = models.sequences(named, "valid", samples)
        f, z0 = bound(model, inputs)
        with torch.no_grad():
            solution = solve(f, z0, Picard(), Stop(rtol=None, max_steps=most))
            relative = _relative(f, solution)
        by_length[name] = {"curve": _curve(relative), "still": number((relative[-1] < _REACH[-1]).double().mean())}
    task, cell, losses = models.task(spec.task), cell_of(model), []
    for depth in depths:
        model.core = Unrolled(cell, depth=depth)
        losses.append([depth, number(evaluate(model, task, "valid", spec)[task.headline])])
    return {"lengths": by_length, "loss": losses, "chance": task.metrics[task.headline].chance}
