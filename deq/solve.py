"""Every fixed point in this library, forward and adjoint, is found by the one loop in this file.

A Solver proposes the next iterate and nothing else; `solve` evaluates f, counts, judges every sample by its own gap ||f(z) - z||,
keeps the best iterate and says how each sample ended. Numerics never raise and never pass silently: look at `Solution.status`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class Status(IntEnum):
    """How one sample's solve ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2
    NONFINITE = 3


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a sample is done: ||f(z) - z|| <= max(atol, rtol ||f(z)||), or max_steps evaluations, or a gap grown by `growth`.

    `rtol=None` asks for exactly `max_steps` evaluations with no data-dependent stop (one host sync a step less; traceable under
    FakeTensorMode). `growth` compares a sample's gap with its first one, in absolute terms: a relative gap cannot see divergence
    (z -> 3z + 1 keeps it at 2/3 for ever). In float32 an rtol below about 1e-6 is out of reach.
    """

    rtol: float | None = 1e-3
    atol: float = 0.0
    max_steps: int = 30
    growth: float = 1e6

    def __post_init__(self) -> None:
        if self.rtol is not None and not self.rtol > 0:
            raise ValueError(f"rtol must be positive or None, got {self.rtol}")
        if not self.atol >= 0:
            raise ValueError(f"atol must not be negative, got {self.atol}")
        if not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise ValueError(f"max_steps must be an integer of at least 1, got {self.max_steps}")
        if not self.growth > 1:
            raise ValueError(f"growth must be above 1, got {self.growth}")


class Solver(Protocol):
    """Proposes iterates: never loops, never stops, never counts. Settings live in the solver, state in the Memory it returns.

    Samples are independent: row b of a proposal depends on row b of the arguments alone.
    """

    @property
    def differentiable(self) -> bool:
        """Whether `step` may be differentiated through (its memory is not written in place)."""

    def init(self, z: Tensor, steps: int) -> Any:
        """The memory of a solve from z (B, ...) of at most so many steps: a NamedTuple of tensors and counts, or None."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """The next iterate (B, ...) and memory from z, fz = f(z) and the memory."""


@dataclass(frozen=True)
class Solution:
    """The best iterate of every sample and what it cost.

    z (B, ...): the iterate with the smallest gap; status (B,) int8 of Status; gap (B,): its ||f(z) - z||; residual (B,): gap over
    ||f(z)||; steps (B,): evaluations until the sample was done; nfe: evaluations of f on the whole batch; gaps (nfe, B): every gap
    seen, in order (of a sample that is done too, while others go on); solver_bytes: the solver's own storage.
    """

    z: Tensor
    status: Tensor
    gap: Tensor
    residual: Tensor
    steps: Tensor
    nfe: int
    gaps: Tensor
    solver_bytes: int

    @property
    def converged(self) -> Tensor:
        """(B,) bool: which samples met the tolerance."""
        return self.status == Status.CONVERGED


def _norms(z: Tensor) -> Tensor:
    """(B,) Euclidean norms, accumulated in float32 at least."""
    dtype = torch.float32 if z.dtype in (torch.bfloat16, torch.float16) else z.dtype
    return torch.linalg.vector_norm(z.detach().reshape(z.shape[0], -1), dim=1, dtype=dtype)


def _storage_bytes(memory: Any) -> int:
    tensors = [part for part in (memory if isinstance(memory, tuple) else ()) if isinstance(part, Tensor)]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _rows(mask: Tensor, like: Tensor) -> Tensor:
    """A (B,) mask shaped to broadcast over `like` (B, ...)."""
    return mask.view(-1, *[1] * (like.dim() - 1))


def solve(f: Map, z0: Tensor, solver: Solver, stop: Stop) -> Solution:
    """Find z = f(z) for every sample of z0 (B, ...) on its own: what happens to one does not touch the others.

    Costs `Solution.nfe` evaluations of f and one host sync each (none with `rtol=None`). A sample that is done keeps its best
    iterate; f goes on being evaluated on the whole batch until the last one is done.
    """
    if z0.dim() < 2:
        raise ValueError(f"z0 must be (B, ...) with at least two dimensions, got {tuple(z0.shape)}")
    with torch.set_grad_enabled(torch.is_grad_enabled() and solver.differentiable):
        return _solve(f, z0, solver, stop)


def _solve(f: Map, z0: Tensor, solver: Solver, stop: Stop) -> Solution:
    z, memory = z0, solver.init(z0, stop.max_steps)
    best = z0
    best_gap = best_size = first_gap = status = steps = active = torch.empty(0)
    gaps: list[Tensor] = []
    for step in range(1, stop.max_steps + 1):
        fz = f(z)
        gap, size = _norms(fz.detach() - z.detach()), _norms(fz)
        gaps.append(gap)
        if step == 1:
            active = torch.ones_like(gap, dtype=torch.bool)
            status = torch.full_like(gap, Status.MAX_STEPS, dtype=torch.int8)
            steps = torch.full_like(gap, stop.max_steps, dtype=torch.int32)
            best_gap, best_size, first_gap = gap, size, gap
        finite = torch.isfinite(gap) & torch.isfinite(size)
        better = gap < best_gap  # false for NaN: the best iterate stays finite
        ended = ~finite | (gap > stop.growth * first_gap)
        verdict = torch.where(finite, Status.DIVERGED, Status.NONFINITE)
        if stop.rtol is not None:
            # Finiteness is judged last: inf <= rtol * inf is true.
            met = (gap <= torch.clamp(stop.rtol * size, min=stop.atol)) & finite
            ended, verdict = ended | met, torch.where(met, Status.CONVERGED, verdict)
            better = better | met  # what is called converged is what met the tolerance, were another's gap smaller
        better, ended = better & active, ended & active
        best = torch.where(_rows(better, z), z, best)
        best_gap = torch.where(better, gap, best_gap)
        best_size = torch.where(better, size, best_size)
        status = torch.where(ended, verdict.to(torch.int8), status)
        steps = torch.where(ended, step, steps)
        active = active & ~ended
        if stop.rtol is not None and not bool(active.any()):
            break
        if step < stop.max_steps:
            # Autocast is for f: the solver's own products in half precision would not let it converge.
            with torch.autocast(z.device.type, enabled=False):
                z, memory = solver.step(f, z, fz, memory)
    tiny = torch.finfo(best_size.dtype).tiny
    return Solution(
        z=best,
        status=status,
        gap=best_gap,
        residual=best_gap / best_size.clamp(min=tiny),
        steps=steps,
        nfe=len(gaps),
        gaps=torch.stack(gaps),
        solver_bytes=_storage_bytes(memory),
    )
