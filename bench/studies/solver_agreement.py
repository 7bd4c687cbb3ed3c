"""Logits and gradient of one trained model by every solver, and by one of scipy's."""

from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import NoConvergence, newton_krylov
from torch import Tensor

from bench.records.spec import RunSpec
from bench.studies.config import COMPARED, Config
from bench.studies.exact import Exact
from bench.studies.gradient_error import error, gradient, rooted, too_few, work
from bench.studies.models import Models, bind
from bench.studies.study import PlannedRow, Study, Values, number
from bench.training.language_model import LanguageModel
from deq import Implicit, Map, Stop, solve

_RTOL = 1e-6
_NEWTON_STEPS = 40  # at most, each with a line search
Answer = tuple[Tensor, Tensor]  # logits (S, T, V), and which samples (S,) converged


def study(config: Config) -> Study:
    """One row per task and seed."""
    own, most = config.gradient, 2 * config.most
    arguments = (config.samples, own.batch, own.candidates, Stop(rtol=_RTOL, max_steps=most))
    return Study(
        name="independence",
        measure=measure,
        units={"loss": "nats", "logits": "nats", "converged": "fraction", "same": "fraction", "distance": "1"},
        settings={
            **{"rtol": _RTOL, "cap": most, "samples": config.samples, "batch of the gradient": own.batch},
            "dtype": "float64",
        },
        rows=tuple(PlannedRow(subject, (spec,), arguments) for _, subject, spec in config.deqs()),
    )


def measure(models: Models, spec: RunSpec, samples: int, few: int, candidates: int, stop: Stop) -> Values:
    """A trained DEQ's test sequences solved in float64 by each solver: the share that converged, the mean loss of these, and for
    each pair of solvers, over the sequences that both solved, the largest difference of a sequence's loss and of a logit, and the
    share whose logits agree to 1e-3 (the same root). newton-krylov: scipy's, sequence by sequence, on as many of the first as the
    batch of the gradient. `gradient`: the implicit gradient at the root by each solver backward against the dense float64 one."""
    model = models.trained(spec).double()
    inputs, targets = models.sequences(spec.task, "test", samples)
    answers = answers_by_solver(model, inputs, few, stop)
    found: Values = {"solvers": {}, "pairs": {}}
    losses = {}
    for name, (logits, solved) in answers.items():
        losses[name] = F.cross_entropy(logits.transpose(1, 2), targets[: len(logits)], reduction="none").mean(1)
        mean = number(losses[name][solved].mean()) if solved.any() else None
        found["solvers"][name] = {"samples": len(logits), "converged": number(solved.double().mean()), "loss": mean}
    for one, other in combinations(answers, 2):
        found["pairs"][f"{one}, {other}"] = _difference(answers[one], answers[other], losses[one], losses[other])
    return found | {"gradient": backward(model, *models.sequences(spec.task, "train", candidates), few, stop)}


@torch.no_grad()
def answers_by_solver(model: LanguageModel, inputs: Tensor, few: int, stop: Stop) -> dict[str, Answer]:
    """Logits by each solver of the registry, and by scipy's for the first few."""
    cell, f, z0 = bind(model, inputs)
    found: dict[str, Answer] = {}
    for name, make in COMPARED.items():
        solution = solve(f, z0, make(), stop)
        found[name] = model.logits(cell.features(f(solution.z))), solution.converged
    logits, converged = [], []
    for sample in inputs[:few].split(1):
        cell, f, z0 = bind(model, sample)
        z, is_root = _newton_krylov(f, z0)
        logits.append(model.logits(cell.features(f(z))))
        converged.append(is_root)
    return found | {"newton-krylov": (torch.cat(logits), torch.tensor(converged))}


def _newton_krylov(f: Map, z0: Tensor) -> tuple[Tensor, bool]:
    """Solve by scipy's Newton-Krylov method; also whether the result meets the tolerance."""

    def gap(flat: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(flat).view_as(z0)
        return np.asarray((f(z) - z).flatten().numpy())

    settings = {"tol_norm": np.linalg.norm, "maxiter": _NEWTON_STEPS, "inner_maxiter": 30}
    try:
        found = newton_krylov(gap, z0.flatten().numpy(), f_tol=_RTOL * f(z0).norm().item(), **settings)
    except (NoConvergence, ValueError, FloatingPointError):  # ValueError: a zero in its Jacobian's inverse
        return z0, False
    z = torch.from_numpy(found).view_as(z0)
    fz = f(z)
    return z, bool((fz - z).norm() < _RTOL * fz.norm())


def _difference(one: Answer, other: Answer, losses: Tensor, others: Tensor) -> Values:
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


def backward(model: LanguageModel, inputs: Tensor, targets: Tensor, few: int, stop: Stop) -> Values:
    """Error of the implicit gradient by each solver backward, at the roots of a batch."""
    z, batch, count = rooted(model, inputs, targets, few)
    if len(z) < few:
        return {"reason": too_few(count, len(inputs), few)}
    exact, _ = gradient(model, *batch, Exact(), z)
    found: Values = {}
    for name, make in COMPARED.items():
        got, solutions = gradient(model, *batch, Implicit(solver=make(), stop=stop), z)
        found[name] = error(got, exact) | work(solutions["backward"])
    return found
