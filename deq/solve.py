"""The solve loop: every fixed point in this library, forward and adjoint, is found here.

A Solver only proposes the next iterate. `solve` evaluates f, counts, measures every sample's gap ||f(z) - z||, keeps the best
iterate and reports how each sample ended. Numerical failure never raises: check `Solution.status`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

from deq.checks import check_whole
from deq.precision import full_precision, in_float32

Map = Callable[[Tensor], Tensor]

_LONG = 4096  # numbers in a sample: from here on, copying single samples takes less time than a mask
_device_path: ContextVar[bool] = ContextVar("device path", default=False)


class Status(IntEnum):
    """How one sample's solve ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2
    NONFINITE = 3


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a sample is done: ||f(z) - z|| < atol + rtol ||f(z)||, or max_steps evaluations, or a gap grown by `growth`.

    `rtol=None` takes exactly `max_steps` evaluations without a data-dependent stop (no host sync; traceable under FakeTensorMode)
    and needs `atol=0`; `rtol=0` stops by `atol` alone. `check_every` k checks every k evaluations whether all samples are done: on
    a GPU one host sync in k, for up to k - 1 more evaluations; every sample's outcome stays the same.
    A sample has diverged when its gap exceeds `growth` times the larger of its first gap and one. The bound is absolute because a
    relative gap cannot see divergence (z -> 3z + 1 keeps it at 2/3), and at least one because a solve may start next to an unstable
    fixed point, where the first gap is tiny. Float32 cannot reach an rtol below about 1e-6, nor f in bfloat16 one below about 4e-3
    (adjoints raise it). A float32 gap below about 1e-19 counts as zero, since its square underflows.
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
    """Proposes iterates; does not loop, stop or count. Settings are fields of the solver, state is in the memory it returns.

    Samples are independent: row b of a proposal depends only on row b of the arguments. States are float32 or float64, and `step`
    runs without autocast and TF32: half-precision products would keep a tight solve from converging.
    """

    @property
    def differentiable(self) -> bool:
        """Whether `step` may be differentiated through (its memory is not written in place)."""

    def init(self, z: Tensor, steps: int) -> Any:
        """Return the memory of a solve from z (B, ...) of at most `steps` steps: a NamedTuple of tensors and counts, or None."""

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Return the next iterate (B, ...) and memory, given z, fz = f(z) and the memory."""


@dataclass(frozen=True)
class Solution:
    """The best iterate of every sample and what it cost.

    z (B, ...): the iterate with the smallest gap; status (B,) int8 of Status; gap (B,): its ||f(z) - z||; residual (B,): gap over
    ||f(z)||; steps (B,): evaluations until the sample was done; nfe: evaluations of f on the whole batch; gaps (nfe, B): every gap
    in order, also of samples that are done while others go on; solver_bytes: the solver's own storage.
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


@contextmanager
def force_device_path() -> Iterator[None]:
    """Make solves on a CPU run the operators that they run on a GPU or on fake tensors; the results are the same."""
    token = _device_path.set(True)
    try:
        yield
    finally:
        _device_path.reset(token)


def is_sync_free(tensor: Tensor) -> bool:
    """Whether reading the tensor's values costs no host sync: True on a CPU, except while tracing or in `force_device_path`."""
    return tensor.device.type == "cpu" and type(tensor) is Tensor and not torch.compiler.is_compiling() and not _device_path.get()


def _norms(z: Tensor) -> Tensor:
    """(B,) Euclidean norms."""
    return torch.linalg.vector_norm(z.flatten(1), dim=1)


def _storage_bytes(memory: Any) -> int:
    storages = {
        part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in tree_leaves(memory) if isinstance(part, Tensor)
    }
    return sum(storages.values())


def solve(f: Map, z0: Tensor, solver: Solver, stop: Stop) -> Solution:
    """Find z = f(z) for every sample of z0 (B, ...) independently.

    Costs `Solution.nfe` evaluations of f and, off the CPU, a host sync every `stop.check_every` (none with `rtol=None`). A sample
    that is done keeps its best iterate; f is evaluated on the whole batch until the last one is done.

    The state is float32 at least. For a z0 in half precision, f gets the state in z0's dtype and the solution has z0's dtype; under
    autocast both are float32, since autocast chooses f's precision. f may return a narrower float than its argument.
    Raises ValueError or TypeError where f returns another shape or dtype or writes to its argument, and NotImplementedError under
    torch.func transforms and forward-mode derivatives.
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
    wrapped, z = in_float32(f, z0)
    if z is z0:
        z = z0.clone()  # f may write to its argument, and must not reach the caller's tensor
    solver_context = full_precision(z.device.type)
    memory, samples = solver.init(z, stop.max_steps), None
    # Whether f writes every result to the same memory, as a CUDA graph does; known once a result has been compared with the next.
    static: bool | None = None
    held: Tensor | None = None
    gaps: list[Tensor] = []
    for step in range(1, stop.max_steps + 1):
        fz = _evaluate(wrapped, z)
        if step == 1 and is_sync_free(z) and not torch.equal(z, z0) and not torch.allclose(z, z0.to(z.dtype), 0, 0, equal_nan=True):
            raise _wrote()  # through z.data or NumPy, which the version counter does not see
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
            with solver_context():
                z, memory = solver.step(wrapped, z, fz, memory)
            if static is not False and _aliased(z, fz):
                held, z = (fz if static is None else None), z.clone()
        del fz  # free it before f is evaluated again
    assert samples is not None
    tiny = torch.finfo(samples.best_size.dtype).tiny
    return Solution(
        z=samples.best if wrapped is f else samples.best.to(z0.dtype),
        status=samples.status,
        gap=samples.best_gap,
        residual=samples.best_gap / samples.best_size.clamp(min=tiny),
        steps=samples.steps,
        nfe=len(gaps),
        gaps=torch.stack(gaps),
        solver_bytes=_storage_bytes(memory),
    )


def _evaluate(f: Map, z: Tensor) -> Tensor:
    """Return f(z) in z's dtype; check its shape and dtype, and that f did not write to z."""
    counted = not z.is_inference()  # an inference tensor has no version counter
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


class _Samples:
    """The state of every sample: its best iterate, and whether and how it ended.

    `note` first checks whether any sample ends at this step, which is cheap, and updates all outcomes only where one does. Both
    paths give the same bits: a sample's outcome does not depend on the others in its batch.
    """

    def __init__(self, z: Tensor, gap: Tensor, size: Tensor, stop: Stop) -> None:
        self.best, self.best_gap, self.best_size = z, gap, size
        self.active = torch.ones_like(gap, dtype=torch.bool)
        self.status = torch.full_like(gap, Status.MAX_STEPS, dtype=torch.int8)
        self.steps = torch.full_like(gap, stop.max_steps, dtype=torch.int32)
        limits = torch.finfo(gap.dtype)
        # A sample that is done gets bounds that hold any gap, and a best gap of minus infinity.
        self._rtol = torch.full_like(gap, 0.0 if stop.rtol is None else stop.rtol)
        self._least = torch.full_like(gap, -limits.max if stop.rtol is None else max(stop.atol, limits.tiny))
        self._bar = gap
        growth = min(stop.growth, limits.max)
        self._most = torch.clamp(growth * gap.clamp(min=1), max=limits.max)  # finite, so that an infinite gap exceeds it
        self._sync_free = is_sync_free(z)
        self._any_active = len(gap) > 0
        self._owned = False  # whether best is this object's to write to

    def note(self, step: int, z: Tensor, gap: Tensor, size: Tensor) -> None:
        """Keep better iterates, and record which samples ended."""
        threshold = torch.addcmul(self._least, self._rtol, size)
        # Clamping does not change a gap within its bounds; NaN is not equal to itself.
        if self._sync_free and torch.equal(torch.clamp(gap, threshold, self._most), gap):
            if torch.equal(torch.minimum(gap, self._bar), gap):
                self.best, self.best_gap, self.best_size, self._bar, self._owned = z, gap, size, gap, False
            else:
                self._keep(gap <= self._bar, z, gap, size)
            return
        finite = (gap + size) < math.inf
        met = (gap < threshold) & finite
        ended = (met | ~(finite & (gap <= self._most))) & self.active
        # The iterate that met the tolerance is kept even where an earlier one had a smaller gap.
        self._keep(((gap <= self._bar) | met) & self.active, z, gap, size)
        verdict = torch.where(met, Status.CONVERGED, torch.where(finite, Status.DIVERGED, Status.NONFINITE))
        self.status = torch.where(ended, verdict.to(torch.int8), self.status)
        self.steps = torch.where(ended, step, self.steps)
        self.active = self.active & ~ended
        self._rtol, self._most = self._rtol.masked_fill(ended, -1.0), self._most.masked_fill(ended, math.inf)
        self._least, self._bar = self._least.masked_fill(ended, -math.inf), self._bar.masked_fill(ended, -math.inf)
        self._any_active = not self._sync_free or bool(self.active.any())

    @property
    def over(self) -> bool:
        """Whether all samples have ended; a host sync off the CPU."""
        return not (self._any_active if self._sync_free else bool(self.active.any()))

    def _keep(self, better: Tensor, z: Tensor, gap: Tensor, size: Tensor) -> None:
        self.best_gap = torch.where(better, gap, self.best_gap)
        self.best_size = torch.where(better, size, self.best_size)
        self._bar = torch.where(better, gap, self._bar)
        if not self._sync_free or torch.is_grad_enabled() or math.prod(z.shape[1:]) < _LONG:
            self.best = torch.where(better.view(-1, *[1] * (z.dim() - 1)), z, self.best)
            return
        if not self._owned:
            self.best, self._owned = self.best.clone(), True
        for row in better.nonzero().flatten().tolist():
            self.best[row].copy_(z[row])
