"""Whether it matters who solves: the same model's answers, and its gradient, by every solver and by one that is not ours."""

import copy
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import NoConvergence, newton_krylov
from torch import Tensor

from bench.experiments.exact import Exact
from bench.experiments.experiment import Experiment, Part
from bench.experiments.fidelity import error, gradient, rooted
from bench.experiments.models import Models, cell_of, number
from bench.experiments.scale import DEQ_LABEL, Scale
from bench.model import LanguageModel
from bench.spec import Spec
from deq import SOLVERS, Implicit, Map, Picard, Stop, solve

FOREIGN = "newton-krylov"
_RTOL = 1e-6
_NEWTONS = 40  # of at most so many steps, each with a line search


def experiment(scale: Scale) -> Experiment:
    """A row a task and seed."""
    most = 2 * scale.most
    parts = tuple(
        Part(
            subject={"task": case.label, "seed": seed},
            follow=follow,
            arguments=(spec, scale.samples, scale.few, scale.candidates, most),
            specs=(spec,),
        )
        for case in scale.cases
        for seed in scale.seeds
        for spec in [scale.spec(case, DEQ_LABEL, seed)]
    )
    return Experiment(
        name="independence",
        measured="A trained DEQ's test sequences solved in float64 by each solver: the share that converged, the mean loss of "
        "these, and for each pair of solvers, over the sequences that both solved, the largest difference of a sequence's loss and "
        f"of a logit, and the share whose logits agree to 1e-3 (the same root). {FOREIGN}: scipy's, sequence by sequence, on the "
        f"first {scale.few}. `gradient`: the implicit gradient at the root by each solver backward, beside the dense float64 one.",
        units={"loss": "nats", "logits": "nats", "converged": "fraction", "same": "fraction", "distance": "1"},
        settings={"rtol": _RTOL, "cap": most, "samples": scale.samples, "batch of the gradient": scale.few, "dtype": "float64"},
        parts=parts,
    )


def follow(models: Models, spec: Spec, samples: int, few: int, candidates: int, most: int) -> dict[str, Any]:
    """Answers of every solver, differences of every pair, gradients by every backward solver."""
    model = copy.deepcopy(models.trained(spec)).double()
    inputs, targets = models.sequences(spec.task, "test", samples)
    answers = answered(model, inputs, few, most)
    losses = {name: _losses(logits, targets[: len(logits)]) for name, (logits, _) in answers.items()}
    found: dict[str, Any] = {"solvers": {}, "pairs": {}}
    for name, (logits, solved) in answers.items():
        mean = number(losses[name][solved].mean()) if solved.any() else None
        found["solvers"][name] = {"samples": len(logits), "converged": number(solved.double().mean()), "loss": mean}
    for one, other in combinations(answers, 2):
        found["pairs"][f"{one}, {other}"] = _apart(answers[one], answers[other], losses[one], losses[other])
    train = models.sequences(spec.task, "train", candidates)
    return found | {"gradient": backward(model, *train, few, most)}


Answer = tuple[Tensor, Tensor]  # logits (S, T, V), and which samples (S,) converged


@torch.no_grad()
def answered(model: LanguageModel, inputs: Tensor, few: int, most: int) -> dict[str, Answer]:
    """The logits by each solver of the registry, and by scipy's of the first few."""
    x, cell = model.embed(inputs), cell_of(model)
    f, z0 = cell.bind(x), cell.start(x)
    found: dict[str, Answer] = {}
    for name, make in SOLVERS.items():
        solution = solve(f, z0, make(), Stop(rtol=_RTOL, max_steps=most))
        found[name] = model.logits(cell.features(f(solution.z))), solution.converged
    logits, solved = [], []
    for sample in range(min(few, len(inputs))):
        f = cell.bind(x[sample : sample + 1])
        z, converged = _foreign(f, z0[sample : sample + 1])
        logits.append(model.logits(cell.features(f(z))))
        solved.append(converged)
    found[FOREIGN] = torch.cat(logits), torch.tensor(solved)
    return found


def _foreign(f: Map, z0: Tensor) -> tuple[Tensor, bool]:
    """The root by scipy's Newton-Krylov method, and whether it is one, judged by its gap."""

    def gap(flat: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(flat).view_as(z0)
        return np.asarray((f(z) - z).flatten().numpy())

    size = f(z0).norm().item()
    try:
        found = newton_krylov(
            gap, z0.flatten().numpy(), f_tol=_RTOL * size, tol_norm=np.linalg.norm, maxiter=_NEWTONS, inner_maxiter=30
        )
    except (NoConvergence, ValueError, FloatingPointError):  # ValueError: its Jacobian's inverse met a zero
        return z0, False
    z = torch.from_numpy(found).view_as(z0)
    fz = f(z)
    return z, bool((fz - z).norm() < _RTOL * fz.norm())


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)


def _apart(one: Answer, other: Answer, losses: Tensor, others: Tensor) -> dict[str, Any]:
    samples = min(len(one[0]), len(other[0]))
    both = one[1][:samples] & other[1][:samples]
    if not both.any():
        return {"samples": 0, "logits": None, "loss": None, "mean_loss": None, "same": None}
    logits = (one[0][:samples] - other[0][:samples])[both].abs().flatten(1).amax(1)
    loss = (losses[:samples] - others[:samples])[both]
    return {
        "samples": int(both.sum()),
        "logits": number(logits.max()),
        "loss": number(loss.abs().max()),
        "mean_loss": number(loss.mean().abs()),
        "same": number((logits < 1e-3).double().mean()),
    }


def backward(model: LanguageModel, inputs: Tensor, targets: Tensor, few: int, most: int) -> dict[str, Any]:
    """The error of the implicit gradient by each solver backward, at the roots of a batch."""
    z, chosen, count = rooted(model, inputs, few)
    if len(chosen) < few:
        return {"why": f"{count} of {len(inputs)} sequences have a root that was found; {few} are needed"}
    batch = inputs[chosen], targets[chosen]
    exact, _ = gradient(model, *batch, Exact(), z)
    found: dict[str, Any] = {}
    for name, make in SOLVERS.items():
        adjoint = Implicit(solver=make(), stop=Stop(rtol=_RTOL, max_steps=most))
        got, heard = gradient(model, *batch, adjoint, z, Picard())
        solution = heard["backward"]
        found[name] = error(got, exact) | {"nfe": solution.nfe, "converged": number(solution.converged.double().mean())}
    return found
