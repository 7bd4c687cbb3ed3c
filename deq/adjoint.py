"""How a solve is differentiated, as a value: Implicit, Phantom or Unroll.

Each is called as `adjoint(f, z0, solver, stop, watch)` and returns the solution attached to the graph of f's parameters and inputs;
`watch(phase, solution)` is told of every solve, "forward" now and "backward" when gradients flow.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, lerp

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
    is the backward solve's residual plus the forward's. The tolerance is relative: scaling the loss changes nothing. Derivatives of
    any order are right (each order solves again), as far as f's own operators can be differentiated that often; torch raises where
    they cannot. Bai, Kolter, Koltun (NeurIPS 2019), theorem 1.
    """

    solver: Solver = field(default_factory=Anderson)
    stop: Stop = field(default_factory=Stop)

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """f(z*) attached; without grad mode, f(z*) alone."""
        return self.attach(f, _solve(f, z0, solver, stop, watch, "forward"), watch)

    def attach(self, f: Map, z: Tensor, watch: Watch) -> Tensor:
        """f(z) with the gradient that a fixed point z of f has."""
        if not torch.is_grad_enabled():
            return f(z)
        z = z.detach().requires_grad_()
        fz = f(z)
        # fz is the Function's only tensor argument; what its backward needs besides travels outside the graph.
        return _ImplicitGradient.apply(fz, _Linearisation(self, f, z, fz, watch))


@dataclass(frozen=True)
class _Linearisation:
    adjoint: Implicit
    f: Map
    z: Tensor
    fz: Tensor
    watch: Watch


class _ImplicitGradient(torch.autograd.Function):
    """Identity forward; backward turns v into u = (I - J)^-T v before it goes on into the graph of f.

    A Function and not a hook: it keeps no reference cycle (a forward without a backward frees its graph) and may run twice.
    """

    @staticmethod
    def forward(ctx: Any, fz: Tensor, linearisation: _Linearisation) -> Tensor:
        ctx.linearisation = linearisation
        out = fz.view_as(fz)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (v,) = gradients
        lin: _Linearisation = ctx.linearisation
        second_order = torch.is_grad_enabled()  # true under create_graph
        if second_order:
            # The Jacobian must itself depend on the parameters, through z* too: relinearise at the attached solution.
            (z,) = ctx.saved_tensors
            fz = lin.f(z)
        else:
            z, fz = lin.z, lin.fz

        def transposed(u: Tensor) -> Tensor:
            (jtu,) = torch.autograd.grad(fz, z, u, retain_graph=True, create_graph=second_order and torch.is_grad_enabled())
            return jtu + v

        u = _solve(transposed, v, lin.adjoint.solver, lin.adjoint.stop, lin.watch, "backward")
        return (lin.adjoint.attach(transposed, u, lin.watch) if second_order else u), None


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """An inexact gradient from `steps` attached relaxed iterations at the solution; one full step is Jacobian-free backpropagation.

    Costs no backward solve and stores `steps` evaluations. Biased: the truncated Neumann series of the implicit gradient.
    Geng et al. (NeurIPS 2021), arXiv 2111.05177; Fung et al. (AAAI 2022), arXiv 2103.12803.
    """

    steps: int = 1
    relaxation: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
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
