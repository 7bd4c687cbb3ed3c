"""Maps with known fixed points, and maps that make a solver's least-squares system singular."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.conformance.compare import random_tensor
from deq import Map


@dataclass(frozen=True, kw_only=True)
class KnownMap:
    """A map, an initial state, and its fixed point (B, N), all float64."""

    name: str
    f: Map
    z0: Tensor
    solution: Tensor

    def error(self, z: Tensor) -> float:
        """The largest relative error over samples."""
        return ((z - self.solution).norm(dim=1) / self.solution.norm(dim=1)).max().item()


def affine(*, batch: int = 3, size: int = 8, low: float = -0.9, high: float = 0.9) -> KnownMap:
    """f(z) = A z + b, A symmetric with eigenvalues evenly spread from low to high; solved densely."""
    basis = torch.linalg.qr(random_tensor(batch, size, size, seed=0))[0]
    A, b = (basis * torch.linspace(low, high, size, dtype=torch.float64)) @ basis.mT, random_tensor(batch, size, seed=1)
    solution = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - A, b)
    return KnownMap(name="affine", f=lambda z: (A @ z.unsqueeze(2)).squeeze(2) + b, z0=torch.zeros_like(b), solution=solution)


def tanh(*, batch: int = 3, size: int = 8, norm: float = 0.9) -> KnownMap:
    """f(z) = tanh(W z + b) with ||W||_2 = norm; solved by Newton's method with the dense Jacobian."""
    W, b = random_tensor(size, size, seed=2), random_tensor(batch, size, seed=3)
    W = norm * W / torch.linalg.matrix_norm(W, 2)
    z = torch.zeros_like(b)
    for _ in range(50):
        fz = torch.tanh(z @ W.T + b)
        z = z + torch.linalg.solve(torch.eye(size, dtype=torch.float64) - (1 - fz**2).unsqueeze(2) * W, fz - z)
    return KnownMap(name="tanh", f=lambda z: torch.tanh(z @ W.T + b), z0=torch.zeros_like(b), solution=z)


def cosine(*, batch: int = 3, size: int = 4) -> KnownMap:
    """f(z) = cos z in every coordinate."""
    z0 = torch.linspace(0, 1, batch * size, dtype=torch.float64).view(batch, size)
    return KnownMap(name="cosine", f=torch.cos, z0=z0, solution=torch.full_like(z0, 0.7390851332151607))


# The residuals are all equal, all zero, or zero from the second evaluation on.
SINGULAR: dict[str, Map] = {
    "z + 1": lambda z: z + 1,
    "z": lambda z: z.clone(),
    "a constant": lambda z: torch.ones_like(z),
}
