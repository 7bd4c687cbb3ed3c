"""The contract of a cell: bind gives one causal map per solve, which has a fixed point and the right implicit gradient."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.conformance import common, memory
from bench.conformance.compare import distance, projection
from bench.conformance.result import Broken, Result, check, require
from bench.conformance.subject import TIGHT, TIGHT_STOP, Subject, modules_and_inputs, require_tensor, tolerance
from deq import DEQ, SOLVERS, Anderson, Cell, Implicit, Picard, Solution, Stop, Unroll, solve, spectral_radius
from deq.adjoints import Adjoint

_SEEDS = (0, 1, 2)  # initialisations for fixed_point
_LONG = Stop(rtol=1e-10, max_steps=600)


@check()
def shapes(subject: Subject) -> str:
    """f(z) like z, features (B, T, width), in the dtype of x.

    Return initial_state(x) and f(z) (B, T, N) and features(z) (B, T, self.width) for any B and T, in x's dtype and on its device.
    """
    for cell, x in modules_and_inputs(subject):
        z, (B, T) = cell.initial_state(x), x.shape[:2]
        require_tensor("initial_state(x)", z, (B, T, z.shape[-1]), x.dtype)
        fz = cell.bind(x)(z)
        require_tensor("f(z)", fz, tuple(z.shape), x.dtype)
        require_tensor("features(z)", cell.features(fz), (B, T, cell.width), x.dtype)
    return f"z (B, T, {z.shape[-1]}), features (B, T, {cell.width}), float32 and float64"


@check("finite")
def one_map(subject: Subject) -> str:
    """bind gives one map for the whole solve.

    Draw masks in bind (deq.dropout.variational_mask), write to nothing in f, and return a new tensor, not a static buffer.
    """
    cell = subject.build().train()
    x, z = subject.arguments(cell)
    x_before, z_before = x.clone(), z.clone()
    f, results = cell.bind(x), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.set_grad_enabled(seed == 0):  # a static result may be used in inference only
            result = f(z)
            results.append(result.detach().clone())
            other = f(z_before + 1)
        require(torch.equal(x, x_before) and torch.equal(z, z_before), "it writes to z or x")
        shared = result is not z and result.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        require(not shared, "every call returns the same memory: the next call overwrites a result")
    require(torch.equal(*results), f"f(z) at the same z differs by {distance(*results):.2g}")
    return "bitwise equal"


def _causality(subject: Subject) -> str | Result:
    """Causality of the map and, where Anderson solves it, of the equilibrium."""
    found = common.causality.run(subject)
    cell = subject.build()
    x, other = subject.arguments(cell)[0], subject.arguments(cell, seed=99)[0]
    changed = torch.cat((x[:, :3], other[:, 3:]), dim=1)
    with torch.no_grad():
        before, after = (solve(cell.bind(each), cell.initial_state(each), Anderson(), TIGHT) for each in (x, changed))
    if not torch.cat((before.residual, after.residual)).max() < 1e-10:
        return found
    error = distance(cell.features(after.z)[:, :3], cell.features(before.z)[:, :3])
    return require(error <= tolerance(cell), f"{found}; at the equilibrium, solved to 1e-10, by {error:.2g}")


@check("finite", "one map", "evaluation")
def fixed_point(subject: Subject) -> str:
    """Some solver finds every fixed point, to 1e-6 in 200 evaluations.

    Leave out the residual connection or put a normalisation after it, bound the state (tanh), or scale the initial recurrent
    weights below one (the factor `gain` of the cells here).
    """
    found: dict[str, list[Solution]] = {name: [] for name in SOLVERS}
    radius = 0.0
    with torch.no_grad():
        for seed in _SEEDS:
            cell = subject.build(seed)
            x, _ = subject.arguments(cell, batch=8, time=12, seed=seed)
            f = cell.bind(x)
            for name, make in SOLVERS.items():
                found[name].append(solve(f, cell.initial_state(x), make(), TIGHT_STOP))
            nearest = min((solutions[-1] for solutions in found.values()), key=_residual)
            torch.manual_seed(seed)
            radius = max(radius, spectral_radius(f, nearest.z).max().item())
    converged = {name: sum(int(one.converged.sum()) for one in solutions) for name, solutions in found.items()}
    name = max(found, key=lambda name: (converged[name], -sum(one.nfe for one in found[name])))
    solved, total = converged[name], sum(len(one.status) for one in found[name])
    if solved == total:
        diverges = "" if radius < 1 else ", so that plain iteration does not converge"
        steps = max(one.nfe for one in found[name])
        return f"{solved} of {total} samples, by {name} in {steps} evaluations; spectral radius {radius:.2g}{diverges}"
    raise Broken(
        f"{'no fixed point found: ' if solved == 0 else ''}{solved} of {total} samples solved at best ({name}, "
        f"{TIGHT_STOP.max_steps} evaluations), residual {max(map(_residual, found[name])):.1g}; spectral radius {radius:.2g}"
    )


def _residual(solution: Solution) -> float:
    return solution.residual.max().nan_to_num(math.inf).item()


@check("gradient", "fixed point")
def implicit_gradient(subject: Subject) -> str | Result:
    """The implicit gradient is that of a long unroll, to 1e-5.

    The map's vector-Jacobian product must be linear and the same at every call: save with ctx.save_for_backward, and clip the
    gradient of the loss instead.
    """
    cell = subject.build()
    x, _ = subject.arguments(cell)
    with torch.no_grad():
        f, z0 = cell.bind(x), cell.initial_state(x)
        plain = (Picard(relaxation=share) for share in (1.0, 0.5, 0.2))
        unrolled = next((solver for solver in plain if bool(solve(f, z0, solver, _LONG).converged.all())), None)
    if unrolled is None:
        return Result("skip", "", f"plain iteration does not converge in {_LONG.max_steps} steps: nothing to compare with")
    found = _gradient(cell, x, Implicit(solver=Anderson(), stop=TIGHT), Anderson(), TIGHT)
    wanted = _gradient(cell, x, Unroll(), unrolled, _LONG)
    if not wanted.any():
        return require(not found.any(), "both zero")
    error, cosine = ((found - wanted).norm() / wanted.norm()).item(), functional.cosine_similarity(found, wanted, dim=0).item()
    return require(error <= 1e-5, f"relative error {error:.1g}, cosine {cosine:.6f}")


def _gradient(cell: Cell, x: Tensor, adjoint: Adjoint, solver: Any, stop: Stop) -> Tensor:
    x = x.detach().requires_grad_()
    y = DEQ(cell, solver=solver, stop=stop, adjoint=adjoint)(x).y
    leaves = [x, *(parameter for parameter in cell.parameters() if parameter.requires_grad)]
    found = torch.autograd.grad(projection([y], seed=8), leaves, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


_MAP = (shapes, common.finite, one_map, common.evaluation, common.same_seed, common.samples)
_DERIVATIVES = (common.gradient, common.parameters, common.state, common.carried_memory, fixed_point, implicit_gradient)
CELL = (*_MAP, dataclasses.replace(common.causality, run=_causality), *_DERIVATIVES, memory.fake_tensors, memory.memory)
