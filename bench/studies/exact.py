"""Reference roots and gradients, by dense linear algebra in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deq import Broyden, Map, Solution, Solver, Stop, solve
from deq.adjoints import Adjoint
from deq.adjoints.adjoint import Watch

_CHUNK = 64  # rows of the Jacobian at a time


def dense_jacobian(f: Map, z: Tensor) -> Tensor:
    """(B, N, N) df/dz at z (B, ...) of N numbers a sample; samples must not depend on each other, so their sum has all rows."""
    rows = torch.func.jacrev(lambda z: f(z).sum(0), chunk_size=_CHUNK)(z)
    return rows.detach().reshape(z[0].numel(), len(z), -1).transpose(0, 1)


def root(f: Map, z0: Tensor) -> Solution:
    """Solve for the fixed point in float64 by Broyden's method; check the residuals, a map may have no root."""
    with torch.no_grad():
        return solve(f, z0, Broyden(window=200), Stop(rtol=1e-12, max_steps=1000))


@dataclass(frozen=True)
class Exact(Adjoint):
    """An Adjoint for reference: the implicit gradient at the root z0, with (I - J)^T u = v solved densely."""

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """f(z0) attached."""
        z = z0.detach()
        system = (torch.eye(z[0].numel(), dtype=z.dtype) - dense_jacobian(f, z)).mT
        fz = f(z)
        if fz.requires_grad:
            fz.register_hook(lambda v: torch.linalg.solve(system, v.flatten(1).unsqueeze(2)).view_as(v))
        return fz
