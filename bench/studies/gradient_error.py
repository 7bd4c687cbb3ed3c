"""Error of gradients against the exact one, by adjoint and tolerance, before and after training."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.records.spec import RunSpec
from bench.studies.config import Config, GradientConfig
from bench.studies.exact import Exact, root
from bench.studies.models import Models, bind
from bench.studies.study import PlannedRow, Study, Values, number
from bench.training.language_model import LanguageModel
from deq import Anderson, Implicit, Phantom, Picard, Solution, Solver, Stop, Unroll
from deq.adjoints import Adjoint

_ROOT = 1e-10  # relative residual below which a solution counts as a root
_NO_SOLVE = Stop(rtol=None, max_steps=1)  # a solve that returns its initial state


def study(config: Config) -> Study:
    """One row per task and seed."""
    own, arguments = config.gradient, (config.gradient, Stop(rtol=config.rtol, max_steps=config.most))
    return Study(
        name="gradient",
        measure=measure,
        units={"one_less_cosine": "1", "distance": "1", "rtol": "1", "nfe": "evaluations"},
        settings={
            **{"batch": own.batch, "candidates": own.candidates, "cap": config.most},
            **{"solver": "anderson", "dtype": "float64"},
        },
        rows=tuple(PlannedRow(subject, (spec,), arguments) for _, subject, spec in config.deqs()),
    )


def measure(models: Models, spec: RunSpec, config: GradientConfig, stop: Stop) -> Values:
    """The gradient in all parameters of the loss of one training batch against the exact one: that of the implicit function theorem
    at the root, by a dense solve in float64. 1 - cosine, and the norm of the difference over that of the exact. `backward`: the
    implicit gradient at the root by the tolerance of its solve; `forward`: by the tolerance of the forward solve, with the backward
    solve at the tightest; `phantom` (1: Jacobian-free) at the root; `unroll`: backpropagation through so many plain iterations from
    zero; `as trained`: in float32 with the tolerances of training. At the start of training and at its end, over the first
    sequences that have a root (`roots` of `candidates` have)."""
    batch = models.sequences(spec.task, "train", config.candidates)
    moments = {"start": models.fresh(spec), "end": models.trained(spec)}
    return {moment: gradients(model, *batch, config, stop) for moment, model in moments.items()}


def gradients(model: LanguageModel, inputs: Tensor, targets: Tensor, config: GradientConfig, stop: Stop) -> Values:
    """Errors of all gradients on the sequences that have a root; a reason where too few have. `stop`: as in training."""
    precise = copy.deepcopy(model).double()
    candidates: Values = {"roots": 0, "candidates": len(inputs)}
    z, batch, candidates["roots"] = rooted(precise, inputs, targets, config.batch)
    if len(z) < config.batch:
        return candidates | {"reason": too_few(candidates["roots"], len(inputs), config.batch)}
    exact, _ = gradient(precise, *batch, Exact(), z)

    def measured(adjoint: Adjoint, start: Tensor | None, solver: Solver, forward: Stop) -> Values:
        got, solutions = gradient(precise, *batch, adjoint, start, solver, forward)
        return error(got, exact) | {phase: work(solution) for phase, solution in solutions.items()}

    stops = {rtol: Stop(rtol=rtol, max_steps=stop.max_steps) for rtol in config.tolerances}
    implicit = {rtol: Implicit(solver=Anderson(), stop=to) for rtol, to in stops.items()}
    tightest, at_root = implicit[min(stops)], (z, Picard(), _NO_SOLVE)
    unrolled = {steps: (None, Picard(), Stop(rtol=None, max_steps=steps)) for steps in config.unroll_steps}
    single, _ = gradient(model, *batch, Implicit(solver=Anderson(), stop=stop), None, Anderson(), stop)
    return candidates | {
        "backward": [{"rtol": rtol, **measured(adjoint, *at_root)} for rtol, adjoint in implicit.items()],
        "forward": [{"rtol": rtol, **measured(tightest, None, Anderson(), to)} for rtol, to in stops.items()],
        "phantom": [{"steps": steps, **measured(Phantom(steps=steps), *at_root)} for steps in config.phantom_steps],
        "unroll": [{"steps": steps, **measured(Unroll(), *solve)} for steps, solve in unrolled.items()],
        "as trained": error(single.double(), exact),
    }


def rooted(model: LanguageModel, inputs: Tensor, targets: Tensor, few: int) -> tuple[Tensor, tuple[Tensor, Tensor], int]:
    """Roots (few, ...) of the first sequences that have one, their inputs and targets, and how many have one; float64."""
    with torch.no_grad():
        _, f, z0 = bind(model, inputs)
        solution = root(f, z0)
    found = (solution.residual < _ROOT).nonzero().flatten()
    chosen = found[:few]
    return solution.z[chosen], (inputs[chosen], targets[chosen]), len(found)


def too_few(count: int, candidates: int, needed: int) -> str:
    """The reason for no gradient."""
    return f"{count} of {candidates} sequences have a root that was found; {needed} are needed"


def gradient(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    adjoint: Adjoint,
    start: Tensor | None = None,
    solver: Solver | None = None,
    stop: Stop = _NO_SOLVE,
) -> tuple[Tensor, dict[str, Solution]]:
    """Gradient of the loss in all parameters, flat, and the solutions by phase; solved from `start`, or the initial state."""
    solutions: dict[str, Solution] = {}
    cell, f, z0 = bind(model, inputs)
    z = adjoint(f, z0 if start is None else start, solver or Picard(), stop, solutions.__setitem__)
    loss = F.cross_entropy(model.logits(cell.features(z)).flatten(0, 1), targets.flatten())
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.flatten() for part in parts]), solutions


def error(got: Tensor, exact: Tensor) -> dict[str, float | None]:
    """1 - cosine, computed without cancellation, and the relative distance."""
    apart = got / got.norm() - exact / exact.norm()
    return {"one_less_cosine": number(apart.square().sum() / 2), "distance": number((got - exact).norm() / exact.norm())}


def work(solution: Solution) -> Values:
    """Evaluations of a solve, and the share of samples that converged."""
    return {"nfe": solution.nfe, "converged": number(solution.converged.double().mean())}
