"""The contract of a cell: bind gives one causal map per solve, which has a fixed point and the right implicit gradient."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.conformance import common, memory
from bench.conformance.common import SOLVED, TIGHT, Subject, check_shapes, wrong_tensor
from bench.conformance.compare import max_distance, projection
from bench.conformance.result import Result, check, judge
from deq import DEQ, SOLVERS, Anderson, Cell, Implicit, Picard, Solution, Stop, Unroll, solve, spectral_radius
from deq.adjoints import Adjoint

_SEEDS = (0, 1, 2)  # initialisations that fixed points are computed at
_LONG = Stop(rtol=1e-10, max_steps=600)


def _wrong_map(cell: Any, x: Tensor) -> str | None:
    z = cell.initial_state(x)
    fz, B, T = cell.bind(x)(z), *x.shape[:2]
    parts = (
        ("initial_state(x)", z, (B, T, z.shape[-1])),
        ("f(z)", fz, tuple(z.shape)),
        ("features(z)", cell.features(fz), (B, T, cell.width)),
    )
    wrong = (wrong_tensor(name, part, shape, x.dtype) for name, part, shape in parts)
    return next((message for message in wrong if message), None)


@check()
def shapes(subject: Subject) -> Result:
    """f(z) like z, features (B, T, width), in the dtype of x.

    initial_state(x) (B, T, N), bind(x, memory=None) -> f and features(z) (B, T, self.width) belong together, for any B and T. New
    tensors need x's dtype and device: x.new_zeros(...), torch.arange(..., device=x.device); constants are buffers.
    """
    cell = subject.make()
    N = cell.initial_state(torch.zeros(1, 1, subject.inputs)).shape[-1]
    return check_shapes(subject, _wrong_map, f"z (B, T, {N}), features (B, T, {cell.width})")


@check("finite")
def one_map(subject: Subject) -> Result:
    """bind gives one map for the whole solve.

    Something is drawn, counted or written in the map: dropout at every evaluation, a step counter, an in-place operation on z, or
    a result in a static buffer (a CUDA graph's), which the next call overwrites. The solve has no fixed target. Draw masks in bind
    (deq.dropout.variational_mask), write to nothing in f, and return a new tensor.
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
        return judge(False, "every call returns the same memory, so that a result changes at the next call")
    equal = torch.equal(*results)
    return judge(equal, "bitwise equal" if equal else f"f(z) at the same z differs by {max_distance(results[:1], results[1:]):.2g}")


def _causality(subject: Subject) -> Result:
    """Of the map; and of the equilibrium, where it is reached."""
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
    return judge(error <= common.tolerance(cell), f"{result.found}; at the equilibrium, solved to 1e-10, by {error:.2g}")


@torch.no_grad()
def _equilibria(subject: Subject) -> tuple[str, list[Solution], float]:
    """The solver that solves most samples in the fewest evaluations, its solution per seed, and the spectral radius there."""
    solutions: dict[str, list[Solution]] = {name: [] for name in SOLVERS}
    radius = 0.0
    for seed in _SEEDS:
        cell = subject.build(seed)
        x, _ = subject.arguments(cell, batch=8, time=12, seed=seed)
        f = cell.bind(x)
        for name, make in SOLVERS.items():
            solutions[name].append(solve(f, cell.initial_state(x), make(), SOLVED))
        nearest = min((found[-1] for found in solutions.values()), key=_residual)
        torch.manual_seed(seed)
        radius = max(radius, spectral_radius(f, nearest.z).max().item())
    best = max(solutions, key=lambda name: (_converged(solutions[name]), -sum(one.nfe for one in solutions[name])))
    return best, solutions[best], radius


def _residual(solution: Solution) -> float:
    return solution.residual.max().nan_to_num(math.inf).item()


def _converged(solutions: list[Solution]) -> int:
    return sum(int(solution.converged.sum()) for solution in solutions)


@check("finite", "one map", "evaluation")
def fixed_point(subject: Subject) -> Result:
    """Some solver finds every fixed point, to 1e-6 in 200 evaluations.

    z -> z + g(x) has no fixed point, and a map that expands has one that no solver reaches: a DEQ over it trains on states that
    solve nothing. Leave out the residual connection or put a normalisation after it, bound the state (tanh), or start recurrent
    weights below one (the factor `gain` of the cells here).
    """
    name, found, radius = _equilibria(subject)
    solved, total = _converged(found), sum(len(solution.status) for solution in found)
    if solved == total:
        diverges = "" if radius < 1 else ", so that plain iteration does not converge"
        steps = max(solution.nfe for solution in found)
        return judge(True, f"{solved} of {total} samples, by {name} in {steps} evaluations; spectral radius {radius:.2g}{diverges}")
    return judge(
        False,
        f"{'no fixed point found: ' if solved == 0 else ''}{solved} of {total} samples solved at best ({name}, "
        f"{SOLVED.max_steps} evaluations), residual {max(map(_residual, found)):.1g}; spectral radius {radius:.2g}",
    )


@check("gradient", "fixed point")
def implicit_gradient(subject: Subject) -> Result:
    """The implicit gradient is that of a long unroll, to 1e-5.

    The map's vector-Jacobian product differs between calls, and the backward solve makes many: a Function that frees or changes
    what it saved, or a backward that is not linear in its argument (clipping). Save with ctx.save_for_backward, and clip the
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


CELL = (
    shapes,
    common.finite,
    one_map,
    common.evaluation,
    common.same_seed,
    common.samples,
    dataclasses.replace(common.causality, run=_causality),
    common.gradient,
    common.parameters,
    common.state,
    common.carried_memory,
    fixed_point,
    implicit_gradient,
    memory.fake_tensors,
    memory.memory,
)
