"""SHINE: the forward solve's own estimate of the inverse Jacobian gives the gradient, without a backward solve."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from deq.adjoint import Watch, attached, forward_solve, unit_scaled
from deq.solve import Map, Solver, Stop


@dataclass(frozen=True, kw_only=True)
class Shine:
    """An inexact gradient: u = (I - J)^-T v by the estimate that Broyden's method made of (I - J)^-1 on its way to the solution.

    Costs no evaluation of f and one VJP, that of the attached evaluation; stores nothing but the steps of the solve until backward.
    Biased: the estimate knows the directions of the forward solve alone, so that a longer solve gives a better gradient. A sample
    whose u is more than `limit` times as long as v takes v itself, which is Jacobian-free backpropagation. The authors' code has a
    limit of 1.8; a map that halves distances has inverses of up to 2, and 3 keeps those. The solver must be Broyden's, with a
    window for all of its steps. First derivatives only: under `create_graph` its backward raises RuntimeError.
    Ramzi et al. (ICLR 2022), arXiv 2106.00553.
    """

    numerics: ClassVar[int] = 1

    limit: float = 3.0

    def __post_init__(self) -> None:
        if not self.limit >= 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")

    def check(self, solver: Solver, stop: Stop) -> None:
        """TypeError for a solver that makes no estimate, ValueError for one that forgets a part of it."""
        _check(solver.init(torch.zeros(1, 1), stop.max_steps), solver, stop)

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """f(z*) attached; f(z*) alone without grad mode, or where nothing that f depends on needs a gradient."""
        kept = _Kept(solver)
        solution = forward_solve(f, z0, kept, stop, watch)
        z, fz = solution.z, f(solution.z)
        if not fz.requires_grad:
            return fz.to(z.dtype, copy=True)
        _check(kept.memory, solver, stop)
        estimate, dtype = _Estimate.of(kept.memory, solution.steps - 1), fz.dtype
        return attached(fz, z, lambda v: estimate.shared(v, self.limit).to(dtype), "Shine")


@dataclass(frozen=True, kw_only=True)
class _Estimate:
    """Broyden's estimate of (I - J)^-1 as a product of rank-one factors, the last first:

        (I + s_k s_{k-1}' / d_{k-1}) ... (I + s_2 s_1' / d_1)

    of the solve's steps s (B, k, N), with the divisors d = |s|^2 (B, k), infinite where the solver skipped a singular update; of
    each sample the first of its counts (B,), since those after its own end are there for the others of its batch.
    """

    steps: Tensor
    divisors: Tensor
    counts: Tensor

    @classmethod
    def of(cls, memory: Any, counts: Tensor) -> "_Estimate":
        """The estimate that a solve's last memory holds."""
        stored = memory.stored
        return cls(steps=memory.steps[:, :stored], divisors=memory.divisors[:, :stored], counts=counts)

    def shared(self, v: Tensor, limit: float) -> Tensor:
        """u (B, ...) from v by the transposed product; v itself for a sample whose u is more than `limit` times as long."""
        unit, power = unit_scaled(v)
        u = flat = unit.flatten(1).to(self.steps.dtype)
        for last in range(self.steps.shape[1] - 1, 0, -1):
            earlier, later = self.steps[:, last - 1], self.steps[:, last]
            along = torch.linalg.vecdot(later, u) / self.divisors[:, last - 1]
            u = torch.addcmul(u, torch.where(last < self.counts, along, 0).unsqueeze(1), earlier)
        longest = limit * torch.linalg.vector_norm(flat, dim=1)
        trusted = torch.linalg.vector_norm(u, dim=1) <= longest  # not so where it is NaN
        return torch.where(trusted.unsqueeze(1), u, flat).view_as(v) * power


def _check(memory: Any, solver: Solver, stop: Stop) -> None:
    """TypeError where a memory is no estimate, ValueError where a part of it was forgotten."""
    if not all(hasattr(memory, part) for part in ("steps", "divisors", "stored")):
        raise TypeError(f"Shine shares the estimate of Broyden's method, which {type(solver).__name__} does not make")
    if memory.steps.shape[1] < stop.max_steps - 1:
        raise ValueError(f"Shine needs a window for all {stop.max_steps - 1} steps of the solve, got {memory.steps.shape[1]}")


class _Kept:
    """Broyden's method, its last memory kept."""

    differentiable = False

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self.memory: Any = None

    def init(self, z: Tensor, steps: int) -> Any:
        self.memory = self._solver.init(z, steps)
        return self.memory

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        z, self.memory = self._solver.step(f, z, fz, memory)
        return z, self.memory
