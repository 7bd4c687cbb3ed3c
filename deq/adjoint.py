"""How a solve is differentiated, as a value: Implicit, Phantom or Unroll.

Each is called as `adjoint(f, z0, solver, stop, watch)` and returns f(z*), attached to the graph of all that f depends on; it is a
tensor of its own, which may be written to in place. `watch(phase, solution)` is called after every solve, with "forward" now and
with "backward" when gradients flow. Under autocast f alone runs in low precision: state, result and adjoint are float32, and solves
stop at what f's precision can tell (see `reachable`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, lerp
from torch.autograd.graph import get_gradient_edge

from deq.checks import check_whole
from deq.graph import leaves
from deq.solve import HALF, Map, Solution, Solver, Stop, solve
from deq.solvers import Anderson

Watch = Callable[[str, Solution], None]


class Adjoint(Protocol):
    """Runs a solve and attaches its result to the graph.

    Where it has a method `check(solver, stop)`, a DEQ calls that when it is made: an adjoint that cannot work with them raises.
    """

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """The attached solution f(z*) (B, ...)."""


def initial(z0: Tensor) -> Tensor:
    """z0, in float32 at least under autocast."""
    return z0.float() if z0.dtype in HALF and torch.is_autocast_enabled(z0.device.type) else z0


def reachable(stop: Stop, z0: Tensor) -> Stop:
    """The stop, its rtol at least half a unit of the precision in which f runs from z0: 2^-8 in bfloat16, 2^-11 in float16.

    Rounding alone moves f(z) by that much: in bfloat16, residuals of transformer cells stay at 1e-3 to 3e-3, and a solve for 1e-3
    would take all of its steps for nothing. `solve` itself takes every tolerance as it is.
    """
    dtype, device = z0.dtype, z0.device.type
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    floor = torch.finfo(dtype).eps / 2
    return replace(stop, rtol=floor) if dtype in HALF and stop.rtol and stop.rtol < floor else stop


def forward_solve(f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Solution:
    """The solution without a graph; calls `watch`."""
    with torch.no_grad():
        solution = solve(f, initial(z0.detach()), solver, reachable(stop, z0))
    watch("forward", solution)
    return solution


def attached(fz: Tensor, z: Tensor, gradient: Callable[[Tensor], Tensor], name: str) -> Tensor:
    """A copy of fz in the dtype of z whose backward passes `gradient(v)` (B, ...), in fz's dtype, on into the graph of fz.

    A Function and not a hook on fz: an in-place operation on the result cannot drop it, it makes no reference cycle, so that a
    forward without a backward frees its graph, and it may run twice. Under `create_graph` its backward raises RuntimeError, since
    a second derivative would silently lack the part that comes through z*.
    """
    out: Tensor = _Attached.apply(fz, z.dtype, gradient, name)
    return out


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fz: Tensor, dtype: torch.dtype, gradient: Callable[[Tensor], Tensor], name: str) -> Tensor:
        ctx.gradient, ctx.name = gradient, name
        return fz.to(dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        first_derivatives_only(ctx.name)
        return ctx.gradient(gradients[0]), None, None, None


def first_derivatives_only(name: str) -> None:
    """RuntimeError in a backward under `create_graph`."""
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} has first derivatives only; use Unroll for higher ones")


def unit_scaled(v: Tensor) -> tuple[Tensor, Tensor]:
    """v (B, ...) in float32 at least, over a power of two that brings each sample's largest component into [1, 2), and that power.

    Norms and products of the result neither vanish nor overflow, whatever the scale of the loss, and no digit changes.
    """
    v = v if v.dtype == torch.float64 else v.float()
    if v.numel() == 0:
        return v, v.new_ones(())
    peak = v.flatten(1).abs().amax(1)
    power = torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent - 1)
    power = torch.where((peak > 0) & peak.isfinite(), power, 1).view(-1, *[1] * (v.dim() - 1))
    return v / power, power


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """The exact gradient at the fixed point by the implicit function theorem: solve u = J^T u + v, with any solver, to `stop`.

    Memory is one evaluation of f, however many steps the solve took; time is one VJP of f for each backward evaluation. Its error
    is the backward solve's residual plus the forward's. The tolerance is relative: scaling the loss by a power of two changes no
    digit, at any scale that floats have. First derivatives only: under `create_graph` its backward raises RuntimeError.
    Bai, Kolter, Koltun (NeurIPS 2019), theorem 1.
    """

    numerics: ClassVar[int] = 1

    solver: Solver = field(default_factory=Anderson)
    stop: Stop = field(default_factory=Stop)

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """f(z*) attached; f(z*) alone without grad mode, or where nothing that f depends on needs a gradient."""
        z = forward_solve(f, z0, solver, stop, watch).z
        if not torch.is_grad_enabled():
            return f(z).to(z.dtype, copy=True)
        z = _Root.apply(torch.zeros((), device=z.device, requires_grad=True), z)
        root, fz = get_gradient_edge(z), f(z)
        if not any(True for _ in leaves(fz, root)):
            return fz.detach().to(z.dtype, copy=True)
        image, dtype, backward = get_gradient_edge(fz), fz.dtype, reachable(self.stop, z0)

        def gradient(v: Tensor) -> Tensor:
            right, power = unit_scaled(v)
            if self.stop.atol > 0:  # which is in the units of v
                right, power = right * power, torch.ones_like(power)

            def transposed(u: Tensor) -> Tensor:
                (jtu,) = torch.autograd.grad(image, root, u.to(dtype), retain_graph=True, allow_unused=True)
                return right if jtu is None else jtu + right

            solution = solve(transposed, right, self.solver, backward)
            watch("backward", solution)
            return (solution.z * power).to(dtype)

        return attached(fz, z, gradient, "Implicit")


class _Root(torch.autograd.Function):
    """The state z as the root of the graph of f(z): gradients can be asked for there, go no further, and keep z not alive."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, z: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """An inexact gradient from `steps` attached relaxed iterations at the solution; one full step is Jacobian-free backpropagation.

    Costs no backward solve and stores `steps` evaluations. Biased: the truncated Neumann series of the implicit gradient.
    Geng et al. (NeurIPS 2021), arXiv 2111.05177; Fung et al. (AAAI 2022), arXiv 2103.12803.
    """

    numerics: ClassVar[int] = 1

    steps: int = 1
    relaxation: float = 1.0

    def __post_init__(self) -> None:
        check_whole(steps=self.steps)
        if not 0 < self.relaxation <= 1:
            raise ValueError(f"relaxation must be in (0, 1], got {self.relaxation}")

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """The solution after `steps` further attached iterations."""
        z = forward_solve(f, z0, solver, stop, watch).z
        for _ in range(self.steps):
            fz = f(z).to(z.dtype)
            z = fz if self.relaxation == 1 else lerp(z, fz, self.relaxation)
        return attached(z, z, lambda v: v, "Phantom")


@dataclass(frozen=True, kw_only=True)
class Unroll:
    """Backpropagation through every step of the solve: exact for what was computed, memory linear in the steps.

    Needs a solver that can be differentiated through (Picard); others write their history in place.
    """

    numerics: ClassVar[int] = 1

    def check(self, solver: Solver, stop: Stop) -> None:
        """ValueError for a solver that cannot be differentiated through."""
        if not solver.differentiable:
            raise ValueError(f"Unroll cannot differentiate through {type(solver).__name__}; use Picard, or Implicit")

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """f(z) of the last solve's iterate, with the graph of all steps."""
        self.check(solver, stop)
        solution = solve(f, initial(z0), solver, reachable(stop, z0))
        watch("forward", solution)
        return f(solution.z).to(solution.z.dtype, copy=True)
