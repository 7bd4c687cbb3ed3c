"""The contract of a solver: it finds known fixed points, solves each sample by itself, and keeps its state in its memory."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bench.analysis.statistics import growth
from bench.conformance.compare import distance, gradient_errors, random_tensor, same_bytes
from bench.conformance.memory import fake_tensors
from bench.conformance.result import Broken, Result, check, require
from bench.conformance.subject import Subject
from bench.memory.scaling import FLAT
from deq import Map, Solver, Stop, solve

_FEW = Stop(rtol=None, max_steps=8)
SINGULAR: dict[str, Map] = {  # the residuals are all equal, all zero, or zero from the second evaluation on
    "z + 1": lambda z: z + 1,
    "z": lambda z: z.clone(),
    "a constant": lambda z: torch.ones_like(z),
}


@dataclass(frozen=True)
class _KnownMap:
    """A map, an initial state, and its fixed point (B, N), all float64."""

    f: Map
    z0: Tensor
    solution: Tensor


def _affine() -> _KnownMap:
    """f(z) = A z + b, A symmetric with eigenvalues evenly spread from -0.9 to 0.9; solved densely."""
    basis = torch.linalg.qr(random_tensor(3, 8, 8, seed=0))[0]
    A, b = (basis * torch.linspace(-0.9, 0.9, 8, dtype=torch.float64)) @ basis.mT, random_tensor(3, 8, seed=1)
    solution = torch.linalg.solve(torch.eye(8, dtype=torch.float64) - A, b)
    return _KnownMap(lambda z: (A @ z.unsqueeze(2)).squeeze(2) + b, torch.zeros_like(b), solution)


def _tanh() -> _KnownMap:
    """f(z) = tanh(W z + b) with ||W||_2 = 0.9; solved by Newton's method with the dense Jacobian."""
    W, b = random_tensor(8, 8, seed=2), random_tensor(3, 8, seed=3)
    W = 0.9 * W / torch.linalg.matrix_norm(W, 2)
    z = torch.zeros_like(b)
    for _ in range(50):
        fz = torch.tanh(z @ W.T + b)
        z = z + torch.linalg.solve(torch.eye(8, dtype=torch.float64) - (1 - fz**2).unsqueeze(2) * W, fz - z)
    return _KnownMap(lambda z: torch.tanh(z @ W.T + b), torch.zeros_like(b), z)


def _cosine() -> _KnownMap:
    """f(z) = cos z in every coordinate."""
    z0 = torch.linspace(0, 1, 12, dtype=torch.float64).view(3, 4)
    return _KnownMap(torch.cos, z0, torch.full_like(z0, 0.7390851332151607))


@check()
def shapes(subject: Subject) -> str:
    """init and step; iterates of the shape and dtype of z.

    init(z, steps) returns the memory, step(f, z, fz, memory) the pair (z, memory), z with its shape and dtype unchanged.
    """
    solver = subject.make()
    require(isinstance(solver.differentiable, bool), f"differentiable is {solver.differentiable!r}, not True or False")
    for dtype in (torch.float32, torch.float64):  # a solve in half precision keeps a float32 state
        z = torch.zeros(3, 2, 4, dtype=dtype)
        memory = solver.init(z, 8)
        for number in range(1, 5):
            z, memory = solver.step(torch.cos, z, torch.cos(z), memory)
            found = f"iterate {number} is {tuple(z.shape)} {z.dtype} for z (3, 2, 4) {dtype}".replace("torch.", "")
            require(z.shape == (3, 2, 4) and z.dtype == dtype, found)
            require(z.isfinite().all(), f"iterate {number} is not finite in {dtype}".replace("torch.", ""))
    return "iterates like z in float32 and float64"


@check()
def solves(subject: Subject) -> str:
    """Three known fixed points are found, to 1e-10 in float64.

    Check the sign (the residual is f(z) - z), make a ridge or damping relative to the residuals, and allow a full step.
    """
    found = []
    for name, known in (("affine", _affine()), ("tanh", _tanh()), ("cosine", _cosine())):
        solution = solve(known.f, known.z0, subject.make(), Stop(rtol=1e-10, max_steps=subject.max_evaluations))
        error = ((solution.z - known.solution).norm(dim=1) / known.solution.norm(dim=1)).max().item()
        converged = int(solution.converged.sum())
        wrong = f"{name}: {converged} of 3 samples in {solution.nfe} evaluations, error {error:.1g}"
        require(converged == 3 and error < 1e-8, wrong)
        found.append(f"{name} in {solution.nfe}")
    return ", ".join(found) + " evaluations"


@check()
def samples(subject: Subject) -> str:
    """Each sample is solved as if it were alone.

    Take norms, inner products and systems over flatten(1), row by row (vector_norm(…, dim=1), bmm, solve_ex).
    """
    known = _affine()
    batch = solve(known.f, known.z0, subject.make(), _FEW)

    def error(f: Map, z0: Tensor, rows: list[int], of: list[int]) -> float:
        found = solve(f, z0, subject.make(), _FEW)
        return max(distance(found.z[rows], batch.z[of]), distance(found.gaps[:, rows], batch.gaps[:, of]))

    def one_nan(z: Tensor) -> Tensor:
        return known.f(z).index_fill(0, torch.tensor([1]), torch.nan)

    def row_alone(row: int) -> float:
        one = slice(row, row + 1)
        return error(lambda z: known.f(z.expand(3, -1))[one], known.z0[one], [0], [row])

    alone = max(map(row_alone, range(3)))
    require(alone <= 1e-8, f"alone and in a batch, the first iterates differ by {alone:.2g}")
    with_nan = error(one_nan, known.z0, [0, 2], [0, 2])
    return require(with_nan <= 1e-8, f"differ by {alone:.2g}; in a batch with a sample that is NaN, by {with_nan:.2g}")


@check()
def singular(subject: Subject) -> str:
    """Iterates stay finite where residuals are zero or equal.

    Use cholesky_ex or solve_ex, clamp denominators, and take a plain step, z <- f(z), where there is no solution.
    """
    for name, f in SINGULAR.items():
        solution = solve(f, torch.zeros(3, 4, dtype=torch.float64), subject.make(), Stop(rtol=None, max_steps=12))
        bad = (~solution.gaps.isfinite()).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise Broken(f"z -> {name}: not finite from evaluation {bad[0] + 1} on")
    return f"finite on z -> {', z -> '.join(SINGULAR)}"


@check()
def same_solve(subject: Subject) -> str:
    """The solver holds settings only; the state is in its memory.

    Make all state in init, return it, and read it from step's argument: one solver serves every layer, forward and backward.
    """
    solver, known, other = subject.make(), _affine(), _cosine()
    first = solve(known.f, known.z0, solver, _FEW)
    seconds = []
    for interrupted in (False, True):
        memory = solver.init(known.z0, 8)
        z, memory = solver.step(known.f, known.z0, known.f(known.z0), memory)
        if interrupted:
            solve(other.f, other.z0, solver, _FEW)
        seconds.append(solver.step(known.f, z, known.f(z), memory)[0])
    error = distance(*seconds)
    require(not error, f"after another solve, the next step of the first differs by {error:.2g}")
    again = solve(known.f, known.z0, solver, _FEW)
    same = same_bytes([first.z, first.gaps], [again.z, again.gaps])
    require(same, f"a second solve of the same problem differs by {distance(again.gaps, first.gaps):.2g}")
    kept = [leaf for leaf in tree_leaves(getattr(solver, "__dict__", {})) if isinstance(leaf, Tensor) and leaf.numel() > 1]
    require(not kept, f"{len(kept)} tensors on the solver itself")
    return "two solves are bitwise equal"


@check()
def memory(subject: Subject) -> str | Result:
    """The memory does not grow beyond its window.

    Write step k at k modulo `window` instead of appending, or drop the oldest.
    """
    known, window = _affine(), getattr(subject.make(), "window", None)
    declared = window if isinstance(window, int) and window > 0 else 0
    steps = [declared, 2 * declared, 4 * declared] if declared else [4, 8, 16, 32, 64]
    sizes = [solve(known.f, known.z0, subject.make(), Stop(rtol=None, max_steps=number)).solver_bytes for number in steps]
    flat = not any(sizes) or growth(steps, sizes).verdict in FLAT
    found = f"{sizes[0]:,} B after {steps[0]} steps, {sizes[-1]:,} B after {steps[-1]}, a state is {known.z0.nbytes} B"
    if declared or flat:
        return require(flat, f"window {window}: {found}" if declared else found)
    return Result("warn", found, "its memory grows with the steps: give it a window, or expect it in the tables' memory column")


@check()
def evaluations(subject: Subject) -> str | Result:
    """A step does not evaluate the map itself.

    step raised when it was given a map.
    """
    known, solver, calls = _affine(), subject.make(), 0

    def counted(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return known.f(z)

    z, memory = known.z0, solver.init(known.z0, 8)
    for _ in range(4):
        z, memory = solver.step(counted, z, known.f(z), memory)
    if calls:
        return Result("warn", f"{calls} evaluations in 4 steps", "nfe, the cost in every table, does not count evaluations in step")
    return "no evaluation of its own"


@check("singular")
def gradient(subject: Subject) -> str | Result:
    """Where differentiable, the gradient through its steps agrees with difference quotients.

    Build new tensors in step, without writing in place or detaching, or set `differentiable` to False.
    """
    solver: Solver = subject.make()
    if not solver.differentiable:
        return Result("skip", "", "`differentiable` is False: it is not differentiated through")
    W, b = (0.3 * random_tensor(4, 4, seed=0)).requires_grad_(), random_tensor(3, 4, seed=1)

    def value() -> Tensor:
        solution = solve(lambda z: torch.tanh(z @ W + b), torch.zeros(3, 4).double(), subject.make(), _FEW)
        return (solution.z * random_tensor(3, 4, seed=2)).sum()

    error = gradient_errors(value, {"W": [W]}, directions=4)["W"]
    return require(error <= 1e-4, f"relative error {error:.2g} in 4 directions")


SOLVER = (shapes, solves, samples, singular, same_solve, memory, evaluations, gradient, fake_tensors)
