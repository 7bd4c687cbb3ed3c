"""Evaluations until sequences are solved, by solver and by the window of what it remembers."""

import torch
from torch import Tensor

from bench.records.spec import ComponentConfig, RunSpec
from bench.studies.config import Config
from bench.studies.models import Models, bind
from bench.studies.study import PlannedRow, Study, Values, median, number
from deq import Anderson, Broyden, Map, Picard, Reversible, Solver, Stop, solve

_CAP = 300
_BACKTRACK = 1.5
SOLVERS: dict[str, Solver] = {  # by name
    "Picard": Picard(),
    "reversible": Reversible(),
    **{f"Anderson, window {window}": Anderson(window=window) for window in (3, 6, 12, 24)},
    **{f"Broyden, window {window}": Broyden(window=window) for window in (10, 30, 100)},
    **{f"Broyden, window {window}, backtracking": Broyden(window=window, backtrack=_BACKTRACK) for window in (30, 100)},
}


def study(config: Config) -> Study:
    """One row per task and seed."""
    stop = Stop(rtol=config.rtol, max_steps=_CAP)
    sizes = {"samples": config.samples, "split": "test", "backtrack": _BACKTRACK}
    return Study(
        name="solver window",
        measure=measure,
        units={"unsolved": "fraction", "evaluations": "1", "token": "1"},
        settings={"rtol": config.rtol, "cap": _CAP, **sizes},
        rows=tuple(PlannedRow(subject, (spec,), (case.lengths[:2], config.samples, stop)) for case, subject, spec in config.deqs()),
    )


def measure(models: Models, spec: RunSpec, lengths: tuple[tuple[str, ComponentConfig], ...], samples: int, stop: Stop) -> Values:
    """A trained DEQ's test sequences by each solver, at the length it was trained at and at twice that: the share `unsolved` at
    the cap; the `evaluations` until a sequence meets the tolerance, mean (an unsolved one counts the cap) and median (null: half do
    not). `token`: the largest relative residual ||f(z) - z|| / ||f(z)|| of a token of a sequence that is solved, median and largest
    over sequences."""
    model, found = models.trained(spec), {}
    for name, task in lengths:
        with torch.no_grad():
            _, f, z0 = bind(model, models.sequences(task, "test", samples)[0])
        found[name] = {solver: solved(f, z0, made, stop) for solver, made in SOLVERS.items()}
    return {"lengths": found}


@torch.no_grad()
def solved(f: Map, z0: Tensor, solver: Solver, stop: Stop) -> Values:
    """Evaluations of a solve of z0 (B, T, ...), and the residuals of single tokens at its solutions."""
    solution = solve(f, z0, solver, stop)
    converged, steps = solution.converged, solution.steps.double()
    middle = torch.where(converged, steps, torch.inf).quantile(0.5, interpolation="higher")
    z, fz = solution.z.double().flatten(2), f(solution.z).double().flatten(2)
    token = ((fz - z).norm(dim=2) / fz.norm(dim=2)).amax(1)[converged]
    return {
        "unsolved": number(1 - converged.double().mean()),
        "evaluations": {"mean": number(steps.mean()), "median": number(middle)},
        "token": {"median": median(token), "largest": number(token.max()) if len(token) else None},
    }
