"""Equilibrium propagation: the gradient of a fixed point from two more fixed points, without a Jacobian."""

from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from deq.adjoints.adjoint import SolvingAdjoint, Watch, first_derivatives_only, forward_solve
from deq.precision import HALF
from deq.solve import Map, Solver, Stop, solve


@runtime_checkable
class Potential(Protocol):
    """A Map that is a gradient, f(z) = grad Phi(z): iterating it descends the energy ||z||^2 / 2 - Phi(z)."""

    def __call__(self, z: Tensor) -> Tensor:
        """f(z) (B, ...), the gradient of the sum of the potentials."""

    def potential(self, z: Tensor) -> Tensor:
        """Phi(z) (B,), one number per sample."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that Phi depends on besides z."""

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        """The same map with other tensors, in the order of `tensors`."""


@dataclass(frozen=True, kw_only=True)
class EquilibriumPropagation(SolvingAdjoint):
    """The gradient as a contrast of two fixed points: nudge the state, and difference the potential Phi.

    With v = dL/dz*, the nudged phase solves z_b = f(z_b) - b v (the cost linearised at z*, the same as nudging by the cost itself
    when b -> 0), and with `symmetric` once more for -b. Then, for every tensor p that Phi depends on,

        dL/dp = (dPhi/dp(z_-b) - dPhi/dp(z_b)) / 2b        one-sided: (dPhi/dp(z*) - dPhi/dp(z_b)) / b.

    Needs only f and first derivatives of Phi, no Jacobian-vector product. Costs a bias, O(b^2) symmetric and O(b) one-sided, and
    two backward solves (one-sided: one); f must have a symmetric Jacobian. Memory is Phi's tensors and z*, for any number of steps.
    `watch` gets each nudged solve; the z of its Solution is the displacement from z*.

    `beta` has no unit: the largest component of a sample's nudge b v is `beta` times the root mean square of its z*, so the scale
    of the loss and of the states does not matter. A sample with v = 0 gets no gradient. A larger beta is more biased, a smaller one
    loses digits to cancellation (about 1e-7 / beta in float32). `stop` is relative to the displacement, not to z. The nudged phases
    run in float32 at least, also under autocast: a nudge of 3 % of the state is a few units of bfloat16's last place.
    First derivatives only: backward raises RuntimeError under `create_graph`. Scellier and Bengio (Frontiers 2017), arXiv
    1602.05179; symmetric: Laborieux et al. (Frontiers 2021), arXiv 2006.03824.
    """

    numerics: ClassVar[int] = 1

    beta: float = 0.03
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not (self.beta > 0 and isfinite(self.beta)):
            raise ValueError(f"beta must be positive and finite, got {self.beta}")

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """Return f(z*), attached to the tensors of f's potential. ValueError where f has no potential."""
        if not isinstance(f, Potential):
            raise ValueError(f"EquilibriumPropagation needs an energy-based cell such as EnergyCell; {_name(f)} has no potential")
        constant = f.with_tensors(tuple(tensor.detach() for tensor in f.tensors))
        solution, fz = forward_solve(f, z0, solver, stop, watch, constant)
        if fz.requires_grad:
            raise ValueError(f"{_name(f)} depends on a tensor that needs a gradient but is not in its `tensors`")
        out: Tensor = _Contrast.apply(fz.to(solution.z.dtype, copy=True), self, f, watch, *f.tensors)
        return out

    def _nudged(self, f: Potential, z: Tensor, nudge: Tensor, watch: Watch) -> Tensor:
        """Solve z = f(z) - nudge, from z."""
        fz = f(z).clone()  # subtracted in place of z, so that z itself is the fixed point without a nudge

        def displaced(d: Tensor) -> Tensor:
            return f(z + d) - fz - nudge

        solution = solve(displaced, -nudge, self.solver, self.stop)
        watch("backward", solution)
        return z + solution.z

    def _contrast(self, f: Potential, z: Tensor, v: Tensor, watch: Watch) -> tuple[Tensor, Tensor, Tensor]:
        """Return two states (B, ...) and the weight (B,) with which their potentials' difference has the gradient of the loss."""
        peak = v.flatten(1).abs().amax(1)
        size = z.flatten(1).square().mean(1).sqrt()
        step = self.beta * torch.where(size > 0, size, 1)
        shape = (-1, *[1] * (z.dim() - 1))
        nudge = v / torch.where(peak == 0, 1, peak).view(shape) * step.view(shape)
        pushed = self._nudged(f, z, nudge, watch)
        pulled = self._nudged(f, z, -nudge, watch) if self.symmetric else z
        return pulled, pushed, peak / (2 * step if self.symmetric else step)


def _name(f: Map) -> str:
    return getattr(f, "__qualname__", type(f).__qualname__)


class _Contrast(torch.autograd.Function):
    """Identity on z*; backward maps v = dL/dz* to the gradients of the potential's tensors."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, adjoint: EquilibriumPropagation, f: Potential, watch: Watch, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(z, *tensors)
        ctx.adjoint, ctx.f, ctx.watch = adjoint, f, watch
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first_derivatives_only("EquilibriumPropagation")
        v, z, *saved = (part.float() if part.dtype in HALF else part for part in (*gradients, *ctx.saved_tensors))
        needed = ctx.needs_input_grad[4:]
        tensors = tuple(p.detach().requires_grad_(need) for p, need in zip(saved, needed, strict=True))
        f: Potential = ctx.f.with_tensors(tensors)
        with torch.autocast(z.device.type, enabled=False):
            pulled, pushed, weight = ctx.adjoint._contrast(f, z, v, ctx.watch)
            with torch.enable_grad():
                difference = f.potential(pulled) - f.potential(pushed)
            wanted = [p for p in tensors if p.requires_grad]
            found = iter(torch.autograd.grad(difference, wanted, weight, allow_unused=True))
        return None, None, None, None, *(next(found) if need else None for need in needed)
