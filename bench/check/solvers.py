"""The contract of a solver: it finds what can be found, sample by sample, keeps its state in its memory, and gives no NaN."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bench.check import maps
from bench.check.differences import apart, drawn, same_bytes, slopes
from bench.check.finding import Check, Outcome, told
from bench.check.memory import FOLLOWED, Followed
from bench.check.models import SOLVED
from bench.spec import Named
from bench.statistics import growth
from deq import DEQ, Core, MLPCell, Solution, Solver, Stop, solve

_DTYPES = (torch.float32, torch.float64)  # a solve in half precision keeps a float32 state
_FEW = Stop(rtol=None, max_steps=8)
_NOTHING = ("constant", "bounded")


@dataclass(frozen=True, kw_only=True)
class Solving(Followed):
    """A solver as `make()` makes it; `named` is a DEQ that it solves. Problems are to be solved in `cap` evaluations."""

    make: Callable[[], Solver]
    named: Named | None = None
    inputs: int = 16
    cap: int = 1000

    def equilibrium(self) -> Core:
        """A DEQ that it solves."""
        return DEQ(MLPCell(width=self.inputs), solver=self.make(), stop=SOLVED)


def protocol(subject: Solving) -> Outcome:
    """Iterates of z's shape and dtype; a memory that is a tree of tensors; a flag for its derivative."""
    solver = subject.make()
    if not isinstance(solver.differentiable, bool):
        return told(False, f"differentiable is {solver.differentiable!r}, not True or False")
    for dtype in _DTYPES:
        z = torch.zeros(3, 2, 4, dtype=dtype)
        memory = solver.init(z, 8)
        for number in range(1, 5):
            z, memory = solver.step(torch.cos, z, torch.cos(z), memory)
            if z.shape != (3, 2, 4) or z.dtype != dtype:
                return told(False, f"iterate {number} is {tuple(z.shape)} {z.dtype} for z (3, 2, 4) {dtype}".replace("torch.", ""))
            if not z.isfinite().all():
                return told(False, f"iterate {number} is not finite in {dtype}".replace("torch.", ""))
    return told(True, "iterates like z in float32 and float64")


def closed_forms(subject: Solving) -> Outcome:
    """Fixed points known otherwise, to 1e-10 in float64, and from the solver's own point of view converged."""
    said = []
    for known in (maps.affine(), maps.tanh(), maps.cosine()):
        solution = solve(known.f, known.z0, subject.make(), Stop(rtol=1e-10, max_steps=subject.cap))
        error = known.error(solution.z)
        if not bool(solution.converged.all()) or not error < 1e-8:
            number = int(solution.converged.sum())
            return told(False, f"{known.name}: {number} of 3 samples in {solution.nfe} evaluations, error {error:.1g}")
        said.append(f"{known.name} in {solution.nfe}")
    return told(True, ", ".join(said) + " evaluations")


def samples(subject: Solving) -> Outcome:
    """The first iterates of a sample alone and among others, one of which is not a number."""
    known = maps.affine()
    plain = solve(known.f, known.z0, subject.make(), _FEW)
    worst = 0.0
    for row in range(3):
        alone = solve(_one_of(known, row), known.z0[row : row + 1], subject.make(), _FEW)
        worst = max(worst, apart(plain.z[row : row + 1], alone.z), apart(plain.gaps[:, row : row + 1], alone.gaps))
    if worst > 1e-8:
        return told(False, f"alone and among others, its first iterates differ by {worst:.2g}")
    poisoned = solve(maps.broken_row(known.f, 1), known.z0, subject.make(), _FEW)
    off = max(apart(poisoned.z[[0, 2]], plain.z[[0, 2]]), apart(poisoned.gaps[:, [0, 2]], plain.gaps[:, [0, 2]]))
    return told(off <= 1e-8, f"apart by {worst:.2g}; beside a sample that is not a number, {off:.2g}")


def _one_of(known: maps.Known, row: int) -> Callable[[Tensor], Tensor]:
    """The map of one sample."""
    return lambda z: known.f(z.expand(3, -1))[row : row + 1]


def singular(subject: Solving) -> Outcome:
    """Twelve steps on maps whose residuals say nothing new."""
    for name, f in maps.SINGULAR.items():
        solution = solve(f, torch.zeros(3, 4, dtype=torch.float64), subject.make(), Stop(rtol=None, max_steps=12))
        bad = (~solution.gaps.isfinite()).any(dim=1).nonzero().flatten().tolist()
        if bad:
            return told(False, f"z -> {name}: not finite from evaluation {bad[0] + 1} on")
    return told(True, f"finite on z -> {', z -> '.join(maps.SINGULAR)}")


def stateless(subject: Solving) -> Outcome:
    """One solver solves twice alike, goes on with a memory after another solve, and has no tensor on itself."""
    solver, known, other = subject.make(), maps.affine(), maps.cosine()
    first = solve(known.f, known.z0, solver, _FEW)

    def between(act: Callable[[], object]) -> Tensor:
        memory = solver.init(known.z0, 8)
        z, memory = solver.step(known.f, known.z0, known.f(known.z0), memory)
        act()
        return solver.step(known.f, z, known.f(z), memory)[0]

    undisturbed = between(lambda: None)
    off = apart(between(lambda: solve(other.f, other.z0, solver, _FEW)), undisturbed)
    if off:
        return told(False, f"after another solve began, the next step of the first differs by {off:.2g}")
    again = solve(known.f, known.z0, solver, _FEW)
    if not same_bytes([first.z, first.gaps], [again.z, again.gaps]):
        return told(False, f"a second solve of the same problem differs by {apart(again.gaps, first.gaps):.2g}")
    kept = [leaf for leaf in tree_leaves(getattr(solver, "__dict__", {})) if isinstance(leaf, Tensor) and leaf.numel() > 1]
    return told(not kept, f"tensors on the solver itself: {len(kept)}" if kept else "two solves alike, to the byte")


def storage(subject: Solving) -> Outcome:
    """Bytes of its memory against the steps of the solve: by its window, if it declares one."""
    window = getattr(subject.make(), "window", None)
    claims = isinstance(window, int) and window > 0
    steps = [factor * window for factor in (1, 2, 4)] if claims and isinstance(window, int) else [4, 8, 16, 32, 64]
    sizes = [_stored(subject, number) for number in steps]
    law = growth(steps, sizes).verdict if any(sizes) else "constant"
    said = f"{sizes[0]:,} B after {steps[0]} steps, {sizes[-1]:,} B after {steps[-1]}, a state is {3 * 8 * 8} B"
    if claims:
        return told(law in _NOTHING, f"window {window}: {said}")
    if law in _NOTHING:
        return told(True, said)
    return Outcome("warn", said, "its memory grows with the steps: give it a window, or count on that column of the tables")


def _stored(subject: Solving, steps: int) -> int:
    known = maps.affine()
    return solve(known.f, known.z0, subject.make(), Stop(rtol=None, max_steps=steps)).solver_bytes


def evaluations(subject: Solving) -> Outcome:
    """A step takes f(z) as it is given."""
    known, solver = maps.affine(), subject.make()
    counted = maps.Counted(known.f)
    z, memory = known.z0, solver.init(known.z0, 8)
    for _ in range(4):
        z, memory = solver.step(counted, z, known.f(z), memory)
    if counted.calls:
        why = "nfe, the price in every table, does not count what step evaluates itself"
        return Outcome("warn", f"{counted.calls} evaluations in 4 steps", why)
    return told(True, "no evaluation of its own")


def derivative(subject: Solving) -> Outcome:
    """Where it says that it may be differentiated through, the gradient of twelve steps is their slope."""
    if not subject.make().differentiable:
        return Outcome("skip", "", "it says that it is not to be differentiated through")
    W, b = (0.3 * drawn(4, 4, seed=0)).requires_grad_(), drawn(3, 4, seed=1)

    def value() -> Tensor:
        solution: Solution = solve(lambda z: torch.tanh(z @ W + b), torch.zeros(3, 4).double(), subject.make(), _FEW)
        return (solution.z * drawn(3, 4, seed=2)).sum()

    found = slopes(value, {"W": [W]}, directions=4)
    return told(found.right, f"relative error {found.worst:.2g} in 4 directions")


def _check(name: str, expected: str, cause: str, run: Callable[[Solving], Outcome], *needs: str) -> Check[Any]:
    return Check(name=name, expected=expected, cause=cause, run=run, needs=needs)


SOLVER: tuple[Check[Solving], ...] = (
    _check(
        "shapes",
        "init and step; iterates like z, whatever its shape",
        "init(z, steps) returns the memory, step(f, z, fz, memory) the pair (z, memory), z (B, …) as it was in shape and dtype. "
        "Flatten with z.flatten(1) and come back with .view(z.shape).",
        protocol,
    ),
    _check(
        "solves",
        "three known fixed points, to 1e-10 in float64",
        "A sign turned around (the residual is f(z) - z), a ridge or damping too large to get to the last digits (make it "
        "relative to the residuals), or a step that is never full.",
        closed_forms,
        "shapes",
    ),
    _check(
        "samples",
        "each sample as if it were alone",
        "A norm, inner product, damping or least-squares system over the whole batch. Take them over flatten(1), row by row "
        "(vector_norm(…, dim=1), bmm, solve_ex), so that a hard sample changes nothing for its neighbours.",
        samples,
        "shapes",
    ),
    _check(
        "singular",
        "finite iterates where residuals are zero or all alike",
        "A division by a residual, or a system of equal or zero residuals. Use cholesky_ex or solve_ex, clamp denominators, and "
        "fall back on a plain step, z <- f(z), for the samples that have no solution.",
        singular,
        "shapes",
    ),
    _check(
        "same solve",
        "settings on the solver, state in its memory",
        "init leaves something of the last solve, a step writes to self, or random numbers are drawn. One solver serves the "
        "forward and backward solves of every layer: make all state in init, return it, and take it from step's argument.",
        stateless,
        "shapes",
    ),
    _check(
        "memory",
        "no growth beyond its window",
        "Its memory grows although it declares a `window`: write step k at k modulo window instead of appending, or drop the "
        "oldest.",
        storage,
        "shapes",
    ),
    _check("evaluations", "none but those of the loop", "step raised when it was given a map.", evaluations, "shapes"),
    _check(
        "gradient",
        "where differentiable, the slope of its steps",
        "`differentiable` is True, but step writes its history in place or detaches. Say False (Implicit does not need it), or "
        "build new tensors in step.",
        derivative,
        "shapes",
        "singular",
    ),
    replace(FOLLOWED, needs=("shapes",)),
)
