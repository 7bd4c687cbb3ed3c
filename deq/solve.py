"""Every fixed point in this library, forward and adjoint, is found by the one loop in this file.

A Solver proposes the next iterate and nothing else; `solve` evaluates f, counts, judges every sample by its own gap ||f(z) - z||,
keeps the best iterate and says how each sample ended. Numerics never raise and never pass silently: look at `Solution.status`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

from deq.checks import check_whole

Map = Callable[[Tensor], Tensor]

HALF = (torch.bfloat16, torch.float16)
_IEEE = ("ieee", "none")  # names of float32 products in float32
_BACKENDS: Any = torch.backends
_UNBOUND = nullcontext()
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
    FakeTensorMode), and takes no `atol`; `rtol=0` stops by `atol` alone. `check_every` k looks every k evaluations whether all are
    done, which on a GPU is one host sync in k and may cost k - 1 evaluations more; how each sample ended stays the same. A sample
    has diverged when its gap exceeds `growth` times the larger of its first gap and one. That is an absolute bound, because a
    relative gap cannot see divergence (z -> 3z + 1 keeps it at 2/3 for ever); and the one is there because a solve may start next
    to an unstable fixed point, where the first gap says nothing of the scale. In float32 an rtol below about 1e-6 is out of reach,
    and where f runs in bfloat16 one below about 4e-3 (adjoints see to that); a float32 gap below about 1e-19 counts as zero, since
    its square is.
    """

    rtol: float | None = 1e-3
    atol: float = 0.0
    max_steps: int = 30
    growth: float = 1e6
    check_every: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.rtol, bool) or not (self.rtol is None or 0 <= self.rtol < math.inf):
            raise ValueError(f"rtol must be None or finite and not negative, got {self.rtol}")
        if isinstance(self.atol, bool) or not 0 <= self.atol < math.inf:
            raise ValueError(f"atol must be finite and not negative, got {self.atol}")
        if self.rtol is None and self.atol > 0:
            raise ValueError(f"rtol=None takes all max_steps evaluations, so atol must be 0, got {self.atol}; rtol=0 stops by atol")
        if self.rtol == 0 and self.atol == 0:
            raise ValueError("rtol and atol cannot both be 0: no solve would end; rtol=None takes exactly max_steps evaluations")
        check_whole(max_steps=self.max_steps, check_every=self.check_every)
        if isinstance(self.growth, bool) or not self.growth > 1:
            raise ValueError(f"growth must be above 1, got {self.growth}")


class Solver(Protocol):
    """Proposes iterates: never loops, never stops, never counts. Settings live in the solver, state in the Memory it returns.

    Samples are independent: row b of a proposal depends on row b of the arguments alone. The states that it is given are float32 or
    float64, and `step` runs without autocast and without TF32: half-precision products would keep a tight solve from converging.
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
    """(B,) Euclidean norms."""
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

    The state of the solve is float32 at least. From a z0 in half precision, f sees the state in z0's dtype (under autocast in
    float32: autocast chooses f's precision), and the solution has z0's dtype. f may return a narrower float than it was given.
    ValueError or TypeError where f returns another shape or dtype or writes to its argument; NotImplementedError under torch.func
    transforms and forward-mode derivatives, which `solve` cannot follow.
    """
    if not isinstance(z0, Tensor) or not z0.is_floating_point():
        raise TypeError(f"z0 must be a floating-point tensor, got {z0.dtype if isinstance(z0, Tensor) else type(z0).__name__}")
    if z0.dim() < 2:
        raise ValueError(f"z0 must be (B, ...) with at least two dimensions, got {tuple(z0.shape)}")
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError("solve cannot run inside torch.func transforms (vmap, grad, jvp, ...): stops depend on values")
    with torch.set_grad_enabled(torch.is_grad_enabled() and solver.differentiable):
        return _solve(f, z0, solver, stop)


def _solve(f: Map, z0: Tensor, solver: Solver, stop: Stop) -> Solution:
    given, z = single(f, z0)
    if z is z0:
        z = z0.clone()  # the caller's tensor stays the caller's
    bounds = _full_precision(z.device.type)
    memory, samples = solver.init(z, stop.max_steps), None
    # Whether f writes every result to the same memory, as a CUDA graph does. A result that is iterated on tells with the next one.
    static: bool | None = None
    held: Tensor | None = None
    gaps: list[Tensor] = []
    for step in range(1, stop.max_steps + 1):
        fz = _evaluate(given, z)
        if step == 1 and looks_free(z) and not torch.equal(z, z0) and not torch.allclose(z, z0.to(z.dtype), 0, 0, equal_nan=True):
            raise _wrote()  # through z.data or NumPy, which no version counts
        if held is not None:
            static, held = _aliased(fz, held), None
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
            with bounds() if bounds is not None else _UNBOUND:
                z, memory = solver.step(given, z, fz, memory)
            if static is not False and _aliased(z, fz):
                held, z = (fz if static is None else None), z.clone()
        del fz  # not while f is evaluated next
    assert samples is not None
    tiny = torch.finfo(samples.best_size.dtype).tiny
    return Solution(
        z=samples.best.to(z0.dtype),
        status=samples.status,
        gap=samples.best_gap,
        residual=samples.best_gap / samples.best_size.clamp(min=tiny),
        steps=samples.steps,
        nfe=len(gaps),
        gaps=torch.stack(gaps),
        solver_bytes=_storage_bytes(memory),
    )


def single(f: Map, z0: Tensor) -> tuple[Map, Tensor]:
    """f and z0 with the state in float32 at least: f still sees a half-precision state in z0's dtype, under autocast in float32."""
    if z0.dtype not in HALF:
        return f, z0
    if torch.is_autocast_enabled(z0.device.type):
        return f, z0.float()
    return lambda z: f(z.to(z0.dtype)), z0.float()


def _evaluate(f: Map, z: Tensor) -> Tensor:
    """f(z) in z's dtype, after a check of what f did: its shape and dtype, and that it left z as it was."""
    counted = not z.is_inference()  # an inference tensor has no version to count its writes by
    version = z._version if counted else 0
    fz = f(z)
    if not isinstance(fz, Tensor):
        raise TypeError(f"f must return a tensor, got {type(fz).__name__}")
    if fz.shape != z.shape:
        raise ValueError(f"f must return the shape of its argument, {tuple(z.shape)}, got {tuple(fz.shape)}")
    if counted and z._version != version:
        raise _wrote()
    if fz.device != z.device:
        raise ValueError(f"f must return a tensor on {z.device}, where its argument is, got {fz.device}")
    if fz.dtype != z.dtype:
        if not fz.is_floating_point() or torch.promote_types(fz.dtype, z.dtype) != z.dtype:
            raise TypeError(f"f must return its argument's dtype, {z.dtype}, or a narrower float, got {fz.dtype}")
        fz = fz.to(z.dtype)
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(fz).tangent is not None:
        raise NotImplementedError("solve has no forward-mode derivative; use an adjoint and reverse mode")
    return fz


def _wrote() -> ValueError:
    return ValueError("f wrote to its argument z; it must return a new tensor and leave z as it is")


def _aliased(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _full_precision(device: str) -> Callable[[], AbstractContextManager[object]] | None:
    """What a solver's own products run in where autocast or TF32 is on; None where neither is. f keeps them."""
    autocast = torch.is_autocast_enabled(device)
    products = {"cuda": _BACKENDS.cuda.matmul, "cpu": _BACKENDS.mkldnn.matmul}.get(device)
    chosen = _IEEE[0] if products is None else products.fp32_precision
    if chosen == "none":  # left to what holds for all backends
        chosen = _BACKENDS.fp32_precision
    if not autocast and chosen in _IEEE:
        return None

    @contextmanager
    def bounds() -> Iterator[None]:
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            if products is None or chosen in _IEEE:
                yield
                return
            own, products.fp32_precision = products.fp32_precision, "ieee"
            try:
                yield
            finally:
                products.fp32_precision = own

    return bounds


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
        self._most = torch.clamp(growth * gap.clamp(min=1), max=limits.max)  # infinity is above it
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
