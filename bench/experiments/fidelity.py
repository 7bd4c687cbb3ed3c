"""How far a gradient is from the exact one, by the tolerance of the solves and by adjoint, at a start and after training."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.experiments.exact import Exact, root
from bench.experiments.experiment import Experiment, Part
from bench.experiments.models import Models, cell_of, number
from bench.experiments.scale import DEQ_LABEL, Scale
from bench.model import LanguageModel
from bench.spec import Spec
from deq import Anderson, Implicit, Phantom, Picard, Solution, Solver, Stop, Unroll
from deq.adjoint import Adjoint

_ROOT = 1e-10  # relative residual below which a solution counts as a root
_HERE = Stop(rtol=None, max_steps=1)  # a solve that returns where it starts


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is swept: tolerances, numbers of steps, and the sequences of the batch among so many candidates."""

    few: int
    candidates: int
    tolerances: tuple[float, ...]
    phantom_steps: tuple[int, ...]
    unroll_steps: tuple[int, ...]
    most: int
    rtol: float


def experiment(scale: Scale) -> Experiment:
    """A row a task and seed."""
    sizes = Sizes(
        few=scale.few,
        candidates=scale.candidates,
        tolerances=scale.gradient_tolerances,
        phantom_steps=scale.phantom_steps,
        unroll_steps=scale.unroll_steps,
        most=scale.most,
        rtol=scale.rtol,
    )
    parts = tuple(
        Part(subject={"task": case.label, "seed": seed}, follow=follow, arguments=(spec, sizes), specs=(spec,))
        for case in scale.cases
        for seed in scale.seeds
        for spec in [scale.spec(case, DEQ_LABEL, seed)]
    )
    return Experiment(
        name="gradient",
        measured="The gradient in all parameters of the loss of one training batch beside the exact one: that of the implicit "
        "function theorem at the root, by a dense solve in float64. 1 - cosine, and the norm of the difference over that of the "
        "exact. `backward`: the implicit gradient at the root by the tolerance of its solve; `forward`: by the tolerance of the "
        "forward solve, with the backward solve at the tightest; `phantom` (1: Jacobian-free) at the root; `unroll`: "
        "backpropagation through so many plain iterations from zero; `as trained`: in float32 with the tolerances of training. At "
        "the start of training and at its end, over the first sequences that have a root (`roots` of `candidates` have).",
        units={"one_less_cosine": "1", "distance": "1", "rtol": "1", "nfe": "evaluations"},
        settings={"batch": sizes.few, "candidates": sizes.candidates, "cap": sizes.most, "solver": "anderson", "dtype": "float64"},
        parts=parts,
    )


def follow(models: Models, spec: Spec, sizes: Sizes) -> dict[str, Any]:
    """Every gradient at the start and at the end."""
    inputs, targets = models.sequences(spec.task, "train", sizes.candidates)
    return {
        "start": gradients(models.fresh(spec), inputs, targets, sizes),
        "end": gradients(models.trained(spec), inputs, targets, sizes),
    }


def rooted(model: LanguageModel, inputs: Tensor, few: int) -> tuple[Tensor, Tensor, int]:
    """The roots (few, ...) of the first sequences that have one, which those are, and how many of all have. For a float64 model."""
    with torch.no_grad():
        x = model.embed(inputs)
    cell = cell_of(model)
    solution = root(cell.bind(x), cell.start(x))
    chosen = (solution.residual < _ROOT).nonzero().flatten()
    return solution.z[chosen[:few]], chosen[:few], len(chosen)


def gradients(model: LanguageModel, inputs: Tensor, targets: Tensor, sizes: Sizes) -> dict[str, Any]:
    """The errors of all gradients of the sequences that have a root; null with a reason where too few have."""
    precise = copy.deepcopy(model).double()
    z, chosen, count = rooted(precise, inputs, sizes.few)
    found: dict[str, Any] = {"roots": count, "candidates": len(inputs)}
    if len(chosen) < sizes.few:
        return found | {"why": f"{count} of {len(inputs)} sequences have a root that was found; {sizes.few} are needed"}
    batch = inputs[chosen], targets[chosen]
    exact, _ = gradient(precise, *batch, Exact(), z)

    def compared(adjoint: Adjoint, start: Tensor | None = None, solver: Solver | None = None, stop: Stop = _HERE) -> dict[str, Any]:
        got, heard = gradient(precise, *batch, adjoint, start, solver, stop)
        return error(got, exact) | {
            phase: {"nfe": solution.nfe, "converged": _share(solution)} for phase, solution in heard.items()
        }

    def implicit(rtol: float) -> Implicit:
        return Implicit(solver=Anderson(), stop=Stop(rtol=rtol, max_steps=sizes.most))

    tightest = min(sizes.tolerances)
    found["backward"] = [{"rtol": rtol, **compared(implicit(rtol), z)} for rtol in sizes.tolerances]
    found["forward"] = [
        {"rtol": rtol, **compared(implicit(tightest), None, Anderson(), Stop(rtol=rtol, max_steps=sizes.most))}
        for rtol in sizes.tolerances
    ]
    found["phantom"] = [{"steps": steps, **compared(Phantom(steps=steps), z)} for steps in sizes.phantom_steps]
    found["unroll"] = [
        {"steps": steps, **compared(Unroll(), None, Picard(), Stop(rtol=None, max_steps=steps))} for steps in sizes.unroll_steps
    ]
    stop = Stop(rtol=sizes.rtol, max_steps=sizes.most)
    single, _ = gradient(model, *batch, implicit(sizes.rtol), None, Anderson(), stop)
    found["as trained"] = error(single.double(), exact)
    return found


def gradient(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    adjoint: Adjoint,
    start: Tensor | None = None,
    solver: Solver | None = None,
    stop: Stop = _HERE,
) -> tuple[Tensor, dict[str, Solution]]:
    """The loss's gradient in all parameters, flat, and what the solves said; from `start`, or from where the cell's solves do."""
    heard: dict[str, Solution] = {}
    x, cell = model.embed(inputs), cell_of(model)
    z0 = cell.start(x) if start is None else start
    z = adjoint(cell.bind(x), z0, solver or Picard(), stop, heard.__setitem__)
    loss = F.cross_entropy(model.logits(cell.features(z)).flatten(0, 1), targets.flatten())
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.flatten() for part in parts]), heard


def error(got: Tensor, exact: Tensor) -> dict[str, float | None]:
    """1 - cosine, without the cancellation of one less a number near one, and the relative distance."""
    apart = got / got.norm() - exact / exact.norm()
    return {"one_less_cosine": number(apart.square().sum() / 2), "distance": number((got - exact).norm() / exact.norm())}


def _share(solution: Solution) -> float | None:
    return number(solution.converged.double().mean())
