"""Every fixed point in this library, forward and adjoint, is found by the one loop in this file.

A Solver proposes the next iterate and nothing else; `solve` evaluates f, counts, judges every sample by its own gap ||f(z) - z||,
keeps the best iterate and says how each sample ended. Numerics never raise and never pass silently: look at `Solution.status`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

Map = Callable[[Tensor], Tensor]

_LONG = 4096  # numbers in a row: so many are copied row by row in less time than a mask takes


class Status(IntEnum):
    """How one sample's solve ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2
    NONFINITE = 3


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a sample is done: ||f(z) - z|| < atol + rtol ||f(z)||, or max_steps evaluations, or a gap grown by `growth`.

    `rtol=None` asks for exactly `max_steps` evaluations with no data-dependent stop (no host sync; traceable under
    FakeTensorMode). `check_every` k looks every k evaluations whether all are done, which on a GPU is one host sync in k and may
    cost k - 1 evaluations more; how each sample ended stays the same. `growth` compares a sample's gap with its first one, in
    absolute terms: a relative gap cannot see divergence (z -> 3z + 1 keeps it at 2/3 for ever). In float32 an rtol below about
    1e-6 is out of reach.
    """

    rtol: float | None = 1e-3
    atol: float = 0.0
    max_steps: int = 30
    growth: float = 1e6
    check_every: int = 1

    def __post_init__(self) -> None:
        if self.rtol is not None and not self.rtol > 0:
            raise ValueError(f"rtol must be positive or None, got {self.rtol}")
        if not self.atol >= 0:
            raise ValueError(f"atol must not be negative, got {self.atol}")
        if not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise ValueError(f"max_steps must be an integer of at least 1, got {self.max_steps}")
        if not self.growth > 1:
            raise ValueError(f"growth must be above 1, got {self.growth}")
        if not isinstance(self.check_every, int) or self.check_every < 1:
            raise ValueError(f"check_every must be an integer of at least 1, got {self.check_every}")


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


_looking = True


@contextmanager
def without_looking() -> Iterator[None]:
    """Inside, solves run the very operators on a CPU that they run on a GPU or on fake tensors: same results, counts to compare."""
    global _looking
    before, _looking = _looking, False
    try:
        yield
    finally:
        _looking = before


def looks_free(tensor: Tensor) -> bool:
    """Whether values can be looked at for nothing: on a CPU. Elsewhere it is a host sync, and a traced tensor has none."""
    return _looking and tensor.device.type == "cpu" and type(tensor) is Tensor and not torch.compiler.is_compiling()


def _norms(z: Tensor) -> Tensor:
    """(B,) Euclidean norms, accumulated in float32 at least."""
    if z.dtype in (torch.bfloat16, torch.float16):
        return torch.linalg.vector_norm(z.flatten(1), dim=1, dtype=torch.float32)
    return torch.linalg.vector_norm(z.flatten(1), dim=1)


def _storage_bytes(memory: Any) -> int:
    storages = {
        part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in tree_leaves(memory) if isinstance(part, Tensor)
    }
    return sum(storages.values())


def solve(f: Map, z0: Tensor, solver: Solver, stop: Stop) -> Solution:
    """Find z = f(z) for every sample of z0 (B, ...) on its own: what happens to one does not touch the others.

    Costs `Solution.nfe` evaluations of f and, off the CPU, a host sync every `stop.check_every` (none with `rtol=None`). A sample
    that is done keeps its best iterate; f goes on being evaluated on the whole batch until the last one is done.
    """
    if z0.dim() < 2:
        raise ValueError(f"z0 must be (B, ...) with at least two dimensions, got {tuple(z0.shape)}")
    with torch.set_grad_enabled(torch.is_grad_enabled() and solver.differentiable):
        return _solve(f, z0, solver, stop)


def _solve(f: Map, z0: Tensor, solver: Solver, stop: Stop) -> Solution:
    device, autocast = z0.device.type, torch.is_autocast_enabled(z0.device.type)
    z, memory, samples = z0, solver.init(z0, stop.max_steps), None
    gaps: list[Tensor] = []
    for step in range(1, stop.max_steps + 1):
        fz = f(z)
        if torch.is_grad_enabled():
            gap, size = _norms(fz.detach() - z.detach()), _norms(fz.detach())
        else:
            gap, size = _norms(torch.sub(fz, z)), _norms(fz)
        gaps.append(gap)
        if samples is None:
            samples = _Samples(z, gap, size, stop)
        samples.note(step, z, gap, size)
        if stop.rtol is not None and step % stop.check_every == 0 and samples.over:
            break
        if step < stop.max_steps:
            if autocast:  # for f alone: the solver's own products in half precision would not let it converge
                with torch.autocast(device, enabled=False):
                    z, memory = solver.step(f, z, fz, memory)
                z = z.to(z0.dtype)  # f's own dtype is another
            else:
                z, memory = solver.step(f, z, fz, memory)
        del fz  # not while f is evaluated next
    assert samples is not None
    tiny = torch.finfo(samples.best_size.dtype).tiny
    return Solution(
        z=z0.clone() if samples.best is z0 else samples.best,  # the caller's tensor stays the caller's
        status=samples.status,
        gap=samples.best_gap,
        residual=samples.best_gap / samples.best_size.clamp(min=tiny),
        steps=samples.steps,
        nfe=len(gaps),
        gaps=torch.stack(gaps),
        solver_bytes=_storage_bytes(memory),
    )


class _Samples:
    """How every sample stands: its best iterate, and whether and how it ended.

    `note` asks the cheap question first, whether anybody ends here, and works the whole answer out only where that is so. Which
    of the two was taken changes no bit: a sample's outcome does not depend on what the others in its batch do.
    """

    def __init__(self, z: Tensor, gap: Tensor, size: Tensor, stop: Stop) -> None:
        self.best, self.best_gap, self.best_size = z, gap, size
        self.active = torch.ones_like(gap, dtype=torch.bool)
        self.status = torch.full_like(gap, Status.MAX_STEPS, dtype=torch.int8)
        self.steps = torch.full_like(gap, stop.max_steps, dtype=torch.int32)
        limits = torch.finfo(gap.dtype)
        # A sample that is done has bounds that its gap cannot leave, and a best gap that it cannot beat.
        self._rtol = torch.full_like(gap, 0.0 if stop.rtol is None else stop.rtol)
        self._least = torch.full_like(gap, -limits.max if stop.rtol is None else max(stop.atol, limits.tiny))
        self._bar = gap
        growth = min(stop.growth, limits.max)
        self._most = torch.clamp(growth * gap, limits.tiny, limits.max)  # infinity is above it, and zero below
        self._asks = looks_free(z)
        self._left = len(gap) > 0
        self._owned = False  # whether best is this object's to write to

    def note(self, step: int, z: Tensor, gap: Tensor, size: Tensor) -> None:
        """Keep what is better, and note who has ended."""
        threshold = torch.addcmul(self._least, self._rtol, size)
        # A gap within its bounds is what clamping leaves of it; NaN is not equal to itself.
        if self._asks and torch.equal(torch.clamp(gap, threshold, self._most), gap):
            if torch.equal(torch.minimum(gap, self._bar), gap):
                self.best, self.best_gap, self.best_size, self._bar, self._owned = z, gap, size, gap, False
            else:
                self._keep(gap <= self._bar, z, gap, size)
            return
        finite = (gap + size) < math.inf
        met = (gap < threshold) & finite
        ended = (met | ~(finite & (gap <= self._most))) & self.active
        # What is called converged is what met the tolerance, were another's gap smaller.
        self._keep(((gap <= self._bar) | met) & self.active, z, gap, size)
        verdict = torch.where(met, Status.CONVERGED, torch.where(finite, Status.DIVERGED, Status.NONFINITE))
        self.status = torch.where(ended, verdict.to(torch.int8), self.status)
        self.steps = torch.where(ended, step, self.steps)
        self.active = self.active & ~ended
        self._rtol, self._most = self._rtol.masked_fill(ended, -1.0), self._most.masked_fill(ended, math.inf)
        self._least, self._bar = self._least.masked_fill(ended, -math.inf), self._bar.masked_fill(ended, -math.inf)
        self._left = not self._asks or bool(self.active.any())

    @property
    def over(self) -> bool:
        """Whether all have ended; a host sync off the CPU."""
        return not (self._left if self._asks else bool(self.active.any()))

    def _keep(self, better: Tensor, z: Tensor, gap: Tensor, size: Tensor) -> None:
        self.best_gap = torch.where(better, gap, self.best_gap)
        self.best_size = torch.where(better, size, self.best_size)
        self._bar = torch.where(better, gap, self._bar)
        if not self._asks or torch.is_grad_enabled() or math.prod(z.shape[1:]) < _LONG:
            self.best = torch.where(better.view(-1, *[1] * (z.dim() - 1)), z, self.best)
            return
        if not self._owned:
            self.best, self._owned = self.best.clone(), True
        for row in better.nonzero().flatten().tolist():
            self.best[row].copy_(z[row])
