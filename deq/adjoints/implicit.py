"""The implicit gradient: a second fixed-point solve in the backward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from deq.adjoints.adjoint import SolvingAdjoint, Watch, attach_gradient, attainable_stop, forward_solve, normalised
from deq.graph import leaves
from deq.solve import Map, Solution, Solver, Stop, solve


@dataclass(frozen=True, kw_only=True)
class Implicit(SolvingAdjoint):
    """The exact gradient by the implicit function theorem: solve u = J^T u + v with any solver, to `stop`.

    Memory is one evaluation of f, for any number of forward steps; time is one VJP of f per backward evaluation. The error is the
    backward solve's residual plus the forward's. The tolerance is relative: scaling the loss by a power of two changes no digit.
    First derivatives only: backward raises RuntimeError under `create_graph`.
    Bai, Kolter, Koltun (NeurIPS 2019), theorem 1.
    """

    numerics: ClassVar[int] = 1

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """Return f(z*); detached without grad mode, or where nothing that f depends on needs a gradient."""

        def backward(transposed: Map, right: Tensor, stop: Stop) -> Solution:
            return solve(lambda u: transposed(u) + right, right, self.solver, stop)

        return attach_implicit("Implicit", f, z0, solver, stop, watch, self.stop, backward)


def attach_implicit(
    name: str,
    f: Map,
    z0: Tensor,
    solver: Solver,
    stop: Stop,
    watch: Watch,
    backward_stop: Stop,
    backward: Callable[..., Solution],
    kept: Callable[[], Sequence[Tensor]] = tuple,
) -> Tensor:
    """Return f(z*), its gradient the u = J^T u + v that `backward(u -> J^T u, v, stop, *kept())` finds; `name` is the adjoint's.

    `kept` is called after the forward solve, for the tensors of it that the backward solve needs.
    """
    root: GradientEdge | None = None

    def rooted(z: Tensor) -> Tensor:
        nonlocal root
        z = _Root.apply(torch.zeros((), device=z.device, requires_grad=True), z)
        root = get_gradient_edge(z)
        return f(z)

    solution, fz = forward_solve(f, z0, solver, stop, watch, rooted)
    z = solution.z
    if root is None or not any(True for _ in leaves(fz, root)):
        return fz.detach().to(z.dtype, copy=True)
    image, dtype, attainable = get_gradient_edge(fz), fz.dtype, attainable_stop(backward_stop, z0)

    def gradient(v: Tensor, *saved: Tensor) -> Tensor:
        right, power = normalised(v)
        if backward_stop.atol > 0:  # atol is in the units of v
            right, power = right * power, torch.ones_like(power)

        def transposed(u: Tensor) -> Tensor:
            (jtu,) = torch.autograd.grad(image, root, u.to(dtype), retain_graph=True, allow_unused=True)
            return torch.zeros_like(u) if jtu is None else jtu

        solution = backward(transposed, right, attainable, *saved)
        watch("backward", solution)
        return (solution.z * power).to(dtype)

    return attach_gradient(fz, z, gradient, name, kept())


class _Root(torch.autograd.Function):
    """Make z the root of the graph of f(z): a gradient can be taken there, flows no further, and does not keep z alive."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, z: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None
