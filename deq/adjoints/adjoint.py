"""Base class of the adjoints and the functions that they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from deq.precision import HALF
from deq.solve import Map, Solution, Solver, Stop, solve
from deq.solvers import Anderson

Watch = Callable[[str, Solution], None]


class Adjoint(ABC):
    """Differentiates a fixed point: runs the solve and attaches its result to the graph.

    Under autocast only f runs in low precision; the state, the result and the adjoint are float32, and solves use
    `attainable_stop`.
    """

    @abstractmethod
    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """Return f(z*) (B, ...), attached to all that f depends on, in memory of its own.

        Calls `watch(phase, solution)` after every solve, with phase "forward" now and "backward" when gradients flow.
        """

    def check(self, solver: Solver, stop: Stop) -> None:  # noqa: B027
        """Raise ValueError or TypeError for a forward solve that this adjoint cannot differentiate."""


@dataclass(frozen=True, kw_only=True)
class StoppedAdjoint(Adjoint):
    """An adjoint with an iteration in the backward pass, to `stop`."""

    stop: Stop = field(default_factory=Stop)

    @property
    def iterates(self) -> bool:
        """Whether the backward pass iterates; if not, `stop` has no effect."""
        return True


@dataclass(frozen=True, kw_only=True)
class SolvingAdjoint(StoppedAdjoint):
    """An adjoint with a solve in the backward pass, by `solver` to `stop`."""

    solver: Solver = field(default_factory=Anderson)


def attainable_stop(stop: Stop, z0: Tensor) -> Stop:
    """Return the stop with its rtol raised to half a unit of f's precision at z0: 2^-8 in bfloat16, 2^-11 in float16.

    Rounding alone moves f(z) by that much: in bfloat16 the residuals of transformer cells stay at 1e-3 to 3e-3, and a solve to 1e-3
    would always use all its steps. `solve` itself takes every tolerance as it is.
    """
    dtype, device = z0.dtype, z0.device.type
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    least = torch.finfo(dtype).eps / 2
    return replace(stop, rtol=least) if dtype in HALF and stop.rtol and stop.rtol < least else stop


def forward_solve(
    f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch, attached: Map | None = None, more: int = 0
) -> tuple[Solution, Tensor]:
    """Solve without a graph, and call `watch`; return the solution and f(z*), which in grad mode has a graph.

    `attached` computes f where the graph needs another form of it. The adjoint makes `more` evaluations itself, which count.
    """
    with_graph = torch.is_grad_enabled()
    with torch.no_grad():
        stop = attainable_stop(stop, z0)
        solution = solve(f, z0.detach(), solver, stop, image=not with_graph, attached=(attached or f) if with_graph else None)
    assert solution.image is not None
    watch("forward", replace(solution, image=None, nfe=solution.nfe + more))
    return solution, solution.image


def attach_gradient(fz: Tensor, z: Tensor, gradient: Callable[..., Tensor], name: str, kept: Sequence[Tensor] = ()) -> Tensor:
    """Return a copy of fz in z's dtype whose backward passes `gradient(v, *kept)` (B, ...), in fz's dtype, into the graph of fz.

    Tensors that `gradient` needs are passed as `kept`, so that autograd saves, counts and frees them. A Function rather than a hook
    on fz: in-place operations on the result cannot drop it, it makes no reference cycle, and it may run twice. Its backward raises
    RuntimeError under `create_graph`: a second derivative would lack the part through z*.
    """
    out: Tensor = _Attached.apply(fz, z.dtype, gradient, name, *kept)
    return out


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fz: Tensor, dtype: torch.dtype, gradient: Callable[..., Tensor], name: str, *kept: Tensor) -> Tensor:
        ctx.gradient, ctx.name = gradient, name
        ctx.save_for_backward(*kept)
        return fz.to(dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first_derivatives_only(ctx.name)
        return ctx.gradient(gradients[0], *ctx.saved_tensors), None, None, None, *(None for _ in ctx.saved_tensors)


def first_derivatives_only(name: str) -> None:
    """Raise RuntimeError in a backward under `create_graph`."""
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} has first derivatives only; use Unroll for higher ones")


def normalised(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return v (B, ...) over a power of two for each sample, and that power; the largest component is then in [1, 2).

    Float32 at least. Norms and products of the result neither underflow nor overflow at any scale of the loss; no digit changes.
    """
    v = v if v.dtype == torch.float64 else v.float()
    if v.numel() == 0:
        return v, v.new_ones(())
    peak = v.flatten(1).abs().amax(1)
    power = torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent - 1)
    power = torch.where((peak > 0) & peak.isfinite(), power, 1).view(-1, *[1] * (v.dim() - 1))
    return v / power, power
