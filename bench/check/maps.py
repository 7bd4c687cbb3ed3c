"""Maps with known fixed points, to hold a solver to; and maps that put it in difficulties."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.check.differences import drawn
from deq import Map

_COSINE = 0.7390851332151607  # z = cos z


@dataclass(frozen=True, kw_only=True)
class Known:
    """A map, where to start, and its fixed point (B, N), all float64."""

    name: str
    f: Map
    z0: Tensor
    solution: Tensor

    def error(self, z: Tensor) -> float:
        """The largest distance of a sample from its fixed point, relative to that."""
        return ((z - self.solution).norm(dim=1) / self.solution.norm(dim=1)).max().item()


def affine(*, batch: int = 3, size: int = 8, low: float = -0.9, high: float = 0.9) -> Known:
    """f(z) = A z + b, A symmetric with eigenvalues evenly spread from low to high; solved densely."""
    basis = torch.linalg.qr(drawn(batch, size, size, seed=0))[0]
    A, b = (basis * torch.linspace(low, high, size, dtype=torch.float64)) @ basis.mT, drawn(batch, size, seed=1)
    solution = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - A, b)
    return Known(name="affine", f=lambda z: (A @ z.unsqueeze(2)).squeeze(2) + b, z0=torch.zeros_like(b), solution=solution)


def tanh(*, batch: int = 3, size: int = 8, norm: float = 0.9) -> Known:
    """f(z) = tanh(W z + b) with ||W||_2 = norm; solved by Newton's method with the dense Jacobian."""
    W, b = drawn(size, size, seed=2), drawn(batch, size, seed=3)
    W = norm * W / torch.linalg.matrix_norm(W, 2)
    z = torch.zeros_like(b)
    for _ in range(50):
        fz = torch.tanh(z @ W.T + b)
        z = z + torch.linalg.solve(torch.eye(size, dtype=torch.float64) - (1 - fz**2).unsqueeze(2) * W, fz - z)
    return Known(name="tanh", f=lambda z: torch.tanh(z @ W.T + b), z0=torch.zeros_like(b), solution=z)


def cosine(*, batch: int = 3, size: int = 4) -> Known:
    """f(z) = cos z in every coordinate."""
    z0 = torch.linspace(0, 1, batch * size, dtype=torch.float64).view(batch, size)
    return Known(name="cosine", f=torch.cos, z0=z0, solution=torch.full_like(z0, _COSINE))


# Residuals that are all the same, all zero, or zero from the second evaluation on: what is fitted to them is singular.
SINGULAR: dict[str, Map] = {
    "z + 1": lambda z: z + 1,
    "z": lambda z: z.clone(),
    "a constant": lambda z: torch.ones_like(z),
}


def broken_row(f: Map, row: int) -> Map:
    """f, but not a number in one sample."""

    def broken(z: Tensor) -> Tensor:
        fz = f(z).clone()
        fz[row] = torch.nan
        return fz

    return broken


class Counted:
    """A map that counts its calls."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, z: Tensor) -> Tensor:
        """f(z), counted."""
        self.calls += 1
        return self.f(z)
