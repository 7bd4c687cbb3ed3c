"""SHINE: the forward solve's own estimate of the inverse Jacobian gives the gradient, without a backward solve."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deq.adjoint import Watch
from deq.solve import Map, Solver, Stop, solve


@dataclass(frozen=True, kw_only=True)
class Shine:
    """An inexact gradient: u = (I - J)^-T v by the estimate that Broyden's method made of (I - J)^-1 on its way to the solution.

    Costs no evaluation of f and one VJP, that of the attached evaluation; stores nothing but the steps of the solve until backward.
    Biased: the estimate knows the directions of the forward solve alone, so that a longer solve gives a better gradient. A sample
    whose u is more than `limit` times as long as v takes v itself, which is Jacobian-free backpropagation. The solver must be
    Broyden's, with a window for all of its steps.
    Ramzi et al. (ICLR 2022), arXiv 2106.00553.
    """

    limit: float = 3.0

    def __post_init__(self) -> None:
        if not self.limit >= 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """f(z*) attached; without grad mode, f(z*) alone."""
        kept = _Kept(solver)
        with torch.no_grad():
            solution = solve(f, z0.detach(), kept, stop)
        watch("forward", solution)
        fz = f(solution.z)
        if fz.requires_grad:
            _check(kept.memory, solver, stop)
            steps, counts = kept.memory.steps[:, : kept.memory.stored], solution.steps - 1
            fz.register_hook(lambda v: self._shared(v, steps, counts))
        return fz

    def _shared(self, v: Tensor, steps: Tensor, counts: Tensor) -> Tensor:
        """u (B, ...) from v, by the transposed product of the solve's rank-one factors, the last first.

        steps (B, k, N): -B^-1 = (I + s_k s_{k-1}' / |s_{k-1}|^2) ... (I + s_2 s_1' / |s_1|^2), the inverse of I - J; of each sample
        the first of its counts (B,), since those after its own end are there for the others of its batch.
        """
        u = flat = v.flatten(1).to(steps.dtype)
        for last in range(steps.shape[1] - 1, 0, -1):
            earlier, later = steps[:, last - 1], steps[:, last]
            size = torch.linalg.vecdot(earlier, earlier).clamp_min(torch.finfo(steps.dtype).tiny)
            along = torch.where(last < counts, torch.linalg.vecdot(later, u) / size, 0)
            u = torch.addcmul(u, along.unsqueeze(1), earlier)
        longest = self.limit * torch.linalg.vector_norm(flat, dim=1)
        trusted = torch.linalg.vector_norm(u, dim=1) <= longest  # not so where it is NaN
        return torch.where(trusted.unsqueeze(1), u, flat).to(v.dtype).view_as(v)


def _check(memory: Any, solver: Solver, stop: Stop) -> None:
    """TypeError where a memory is no estimate, ValueError where a part of it was forgotten."""
    if not hasattr(memory, "steps") or not hasattr(memory, "stored"):
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
