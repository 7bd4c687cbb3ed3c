"""How a solve is differentiated, as a value: Implicit, Phantom or Unroll.

Each is called as `adjoint(f, z0, solver, stop, watch)` and returns the solution attached to the graph of f's parameters and inputs;
`watch(phase, solution)` is told of every solve, "forward" now and "backward" when gradients flow.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, lerp
from torch.autograd.graph import GradientEdge, get_gradient_edge

from deq.solve import Map, Solution, Solver, Stop, solve
from deq.solvers import Anderson

Watch = Callable[[str, Solution], None]


class Adjoint(Protocol):
    """Runs a solve and attaches its result to the graph."""

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """The attached solution f(z*) (B, ...)."""


def _solve(f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch, phase: str) -> Tensor:
    """The solution, without a graph, after telling `watch` of it."""
    with torch.no_grad():
        solution = solve(f, z0.detach(), solver, stop)
    watch(phase, solution)
    return solution.z


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """The exact gradient at the fixed point by the implicit function theorem: solve u = J^T u + v, with any solver, to `stop`.

    Memory is one evaluation of f, however many steps the solve took; time is one VJP of f for each backward evaluation. Its error
    is the backward solve's residual plus the forward's. The tolerance is relative: scaling the loss changes nothing. First
    derivatives only: under `create_graph` its backward raises RuntimeError, since a second derivative would silently lack the part
    that comes through z*. Bai, Kolter, Koltun (NeurIPS 2019), theorem 1.
    """

    solver: Solver = field(default_factory=Anderson)
    stop: Stop = field(default_factory=Stop)

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """f(z*) attached; without grad mode, f(z*) alone."""
        z = _solve(f, z0, solver, stop, watch, "forward")
        if not torch.is_grad_enabled():
            return f(z)
        z = _Root.apply(torch.zeros((), device=z.device, requires_grad=True), z)
        edge, fz = get_gradient_edge(z), f(z)
        del z  # what f needs of it, its graph has saved
        # fz is the Function's only tensor argument; what its backward needs besides travels outside the graph.
        return _ImplicitGradient.apply(fz, _Linearisation(self, edge, fz, watch))


class _Root(torch.autograd.Function):
    """The state z as the root of the graph of f(z): gradients can be asked for there, go no further, and keep z not alive."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, z: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


@dataclass(frozen=True)
class _Linearisation:
    adjoint: Implicit
    edge: GradientEdge  # where f(z) takes z
    fz: Tensor
    watch: Watch


class _ImplicitGradient(torch.autograd.Function):
    """Identity forward; backward turns v into u = (I - J)^-T v before it goes on into the graph of f.

    A Function and not a hook: it keeps no reference cycle (a forward without a backward frees its graph) and may run twice.
    """

    @staticmethod
    def forward(ctx: Any, fz: Tensor, linearisation: _Linearisation) -> Tensor:
        ctx.linearisation = linearisation
        return fz.view_as(fz)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (v,) = gradients
        lin: _Linearisation = ctx.linearisation
        if torch.is_grad_enabled():  # create_graph
            raise RuntimeError("Implicit has first derivatives only; use Unroll for higher ones")

        def transposed(u: Tensor) -> Tensor:
            (jtu,) = torch.autograd.grad(lin.fz, lin.edge, u, retain_graph=True, allow_unused=True)
            return v if jtu is None else jtu + v

        return _solve(transposed, v, lin.adjoint.solver, lin.adjoint.stop, lin.watch, "backward"), None


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """An inexact gradient from `steps` attached relaxed iterations at the solution; one full step is Jacobian-free backpropagation.

    Costs no backward solve and stores `steps` evaluations. Biased: the truncated Neumann series of the implicit gradient.
    Geng et al. (NeurIPS 2021), arXiv 2111.05177; Fung et al. (AAAI 2022), arXiv 2103.12803.
    """

    steps: int = 1
    relaxation: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 < self.relaxation <= 1:
            raise ValueError(f"relaxation must be in (0, 1], got {self.relaxation}")

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """The solution after `steps` further attached iterations."""
        z = _solve(f, z0, solver, stop, watch, "forward")
        for _ in range(self.steps):
            z = f(z) if self.relaxation == 1 else lerp(z, f(z), self.relaxation)
        return z


@dataclass(frozen=True, kw_only=True)
class Unroll:
    """Backpropagation through every step of the solve: exact for what was computed, memory linear in the steps.

    Needs a solver that can be differentiated through (Picard); others write their history in place.
    """

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """f(z) of the last solve's iterate, with the graph of all steps."""
        if not solver.differentiable:
            raise ValueError(f"Unroll cannot differentiate through {type(solver).__name__}; use Picard, or Implicit")
        solution = solve(f, z0, solver, stop)
        watch("forward", solution)
        return f(solution.z)
