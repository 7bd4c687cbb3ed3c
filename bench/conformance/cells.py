"""The contract of a cell: bind gives one causal map per solve, which has a fixed point and the right implicit gradient."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.conformance import common, memory
from bench.conformance.compare import max_distance, projection
from bench.conformance.result import Result, check, judge
from bench.conformance.subject import SOLVED, TIGHT, Subject, check_shapes, tolerance, wrong_tensor
from deq import DEQ, SOLVERS, Anderson, Cell, Implicit, Picard, Solution, Stop, Unroll, solve, spectral_radius
from deq.adjoints import Adjoint

_SEEDS = (0, 1, 2)  # initialisations for fixed_point
_LONG = Stop(rtol=1e-10, max_steps=600)


def _wrong_map(cell: Any, x: Tensor) -> str | None:
    z = cell.initial_state(x)
    fz, B, T = cell.bind(x)(z), *x.shape[:2]
    return (
        wrong_tensor("initial_state(x)", z, (B, T, z.shape[-1]), x.dtype)
        or wrong_tensor("f(z)", fz, tuple(z.shape), x.dtype)
        or wrong_tensor("features(z)", cell.features(fz), (B, T, cell.width), x.dtype)
    )


@check()
def shapes(subject: Subject) -> Result:
    """f(z) like z, features (B, T, width), in the dtype of x.

    Return initial_state(x) and f(z) (B, T, N) and features(z) (B, T, self.width) for any B and T, in x's dtype and on its device.
    """
    cell = subject.make()
    N = cell.initial_state(torch.zeros(1, 1, subject.inputs)).shape[-1]
    return check_shapes(subject, _wrong_map, f"z (B, T, {N}), features (B, T, {cell.width})")


@check("finite")
def one_map(subject: Subject) -> Result:
    """bind gives one map for the whole solve.

    Draw masks in bind (deq.dropout.variational_mask), write to nothing in f, and return a new tensor, not a static buffer.
    """
    cell = subject.build().train()
    x, z = subject.arguments(cell)
    x_before, z_before = x.clone(), z.clone()
    f, results, shared = cell.bind(x), [], False
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.set_grad_enabled(seed == 0):  # a static result may be used in inference only
            result = f(z)
            results.append(result.detach().clone())
            other = f(z_before + 1)
            shared |= result is not z and result.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        if not (torch.equal(x, x_before) and torch.equal(z, z_before)):
            return judge(False, "it writes to z or x")
    if shared:
        return judge(False, "every call returns the same memory: the next call overwrites a result")
    equal = torch.equal(*results)
    return judge(equal, "bitwise equal" if equal else f"f(z) at the same z differs by {max_distance(results[:1], results[1:]):.2g}")


def _causality(subject: Subject) -> Result:
    """Causality of the map and, where Anderson solves it, of the equilibrium."""
    result = common.causality.run(subject)
    if result.verdict != "pass":
        return result
    cell = subject.build()
    x, other = subject.arguments(cell)[0], subject.arguments(cell, seed=99)[0]
    changed = torch.cat((x[:, :3], other[:, 3:]), dim=1)
    with torch.no_grad():
        before, after = (solve(cell.bind(each), cell.initial_state(each), Anderson(), TIGHT) for each in (x, changed))
    if not bool((before.residual.max() < 1e-10) & (after.residual.max() < 1e-10)):
        return result
    error = max_distance([cell.features(after.z)[:, :3]], [cell.features(before.z)[:, :3]])
    return judge(error <= tolerance(cell), f"{result.found}; at the equilibrium, solved to 1e-10, by {error:.2g}")


@check("finite", "one map", "evaluation")
def fixed_point(subject: Subject) -> Result:
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
                found[name].append(solve(f, cell.initial_state(x), make(), SOLVED))
            nearest = min((solutions[-1] for solutions in found.values()), key=_residual)
            torch.manual_seed(seed)
            radius = max(radius, spectral_radius(f, nearest.z).max().item())
    converged = {name: sum(int(one.converged.sum()) for one in solutions) for name, solutions in found.items()}
    name = max(found, key=lambda name: (converged[name], -sum(one.nfe for one in found[name])))
    solved, total = converged[name], sum(len(one.status) for one in found[name])
    if solved == total:
        diverges = "" if radius < 1 else ", so that plain iteration does not converge"
        steps = max(one.nfe for one in found[name])
        return judge(True, f"{solved} of {total} samples, by {name} in {steps} evaluations; spectral radius {radius:.2g}{diverges}")
    return judge(
        False,
        f"{'no fixed point found: ' if solved == 0 else ''}{solved} of {total} samples solved at best ({name}, "
        f"{SOLVED.max_steps} evaluations), residual {max(map(_residual, found[name])):.1g}; spectral radius {radius:.2g}",
    )


def _residual(solution: Solution) -> float:
    return solution.residual.max().nan_to_num(math.inf).item()


@check("gradient", "fixed point")
def implicit_gradient(subject: Subject) -> Result:
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
        return judge(not found.any(), "both zero")
    error, cosine = ((found - wanted).norm() / wanted.norm()).item(), functional.cosine_similarity(found, wanted, dim=0).item()
    return judge(error <= 1e-5, f"relative error {error:.1g}, cosine {cosine:.6f}")


def _gradient(cell: Cell, x: Tensor, adjoint: Adjoint, solver: Any, stop: Stop) -> Tensor:
    x = x.detach().requires_grad_()
    y = DEQ(cell, solver=solver, stop=stop, adjoint=adjoint)(x).y
    leaves = [x, *(parameter for parameter in cell.parameters() if parameter.requires_grad)]
    found = torch.autograd.grad(projection([y], seed=8), leaves, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


_MAP = (shapes, common.finite, one_map, common.evaluation, common.same_seed, common.samples)
_DERIVATIVES = (common.gradient, common.parameters, common.state, common.carried_memory, fixed_point, implicit_gradient)
CELL = (*_MAP, dataclasses.replace(common.causality, run=_causality), *_DERIVATIVES, memory.fake_tensors, memory.memory)
