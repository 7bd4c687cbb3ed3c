"""Fixed-point problems whose answers are known: closed forms, dense solves, Newton in float64; and maps that have no answer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deq import Map, Solution

COSINE = 0.7390851332151607  # the Dottie number, z = cos z


@dataclass(frozen=True)
class Problem:
    """A map, where to start, and its exact solution (B, N) in float64 with the Lipschitz constant of f in the 2-norm."""

    f: Map
    z0: Tensor
    solution: Tensor
    lipschitz: float

    def error(self, z: Tensor) -> float:
        """The largest distance of a sample from its solution, relative to the solution."""
        return ((z.double() - self.solution).norm(dim=1) / self.solution.norm(dim=1)).max().item()


def affine(
    *,
    size: int = 10,
    low: float = -0.9,
    high: float = 0.9,
    batch: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    scale: float = 1.0,
) -> Problem:
    """f(z) = A z + scale b with symmetric A of evenly spread eigenvalues in [low, high]; solved densely."""
    random = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(batch, size, size, generator=random, dtype=torch.float64))
    A = (basis * torch.linspace(low, high, size, dtype=torch.float64)) @ basis.mT
    b = scale * torch.randn(batch, size, generator=random, dtype=torch.float64)
    solution = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - A, b)
    A, b = A.to(dtype), b.to(dtype)
    return Problem(lambda z: (A @ z[..., None])[..., 0] + b, torch.zeros_like(b), solution, max(abs(low), abs(high)))


def negative_spectrum(**settings: int | torch.dtype) -> Problem:
    """Affine with eigenvalues in [-2, 0.5]: Picard diverges, quasi-Newton and Anderson do not mind."""
    return affine(low=-2.0, high=0.5, **settings)  # type: ignore[arg-type]


def tanh(*, size: int = 8, batch: int = 3, norm: float = 0.9, dtype: torch.dtype = torch.float64, seed: int = 0) -> Problem:
    """f(z) = tanh(W z + b) with ||W||_2 = norm; solved by Newton with the dense Jacobian."""
    random = torch.Generator().manual_seed(seed)
    W = torch.randn(size, size, generator=random, dtype=torch.float64)
    W = norm * W / torch.linalg.matrix_norm(W, 2)
    b = torch.randn(batch, size, generator=random, dtype=torch.float64)
    z = torch.zeros_like(b)
    for _ in range(50):
        fz = torch.tanh(z @ W.T + b)
        system = torch.eye(size, dtype=torch.float64) - (1 - fz**2)[:, :, None] * W
        z = z + torch.linalg.solve(system, fz - z)
    W, b = W.to(dtype), b.to(dtype)
    return Problem(lambda z: torch.tanh(z @ W.T + b), torch.zeros_like(b), z, norm)


def cosine(*, batch: int = 3, size: int = 2, dtype: torch.dtype = torch.float64) -> Problem:
    """f(z) = cos z in every coordinate."""
    z0 = torch.linspace(0, 1, batch * size, dtype=dtype).view(batch, size)
    return Problem(torch.cos, z0, torch.full((batch, size), COSINE, dtype=torch.float64), 1.0)


def tripling(z: Tensor) -> Tensor:
    """z -> 3z + 1: Picard runs away from -1/2 while ||f(z) - z|| / ||f(z)|| rests at 2/3."""
    return 3 * z + 1


def translation(z: Tensor) -> Tensor:
    """z -> z + 1: no fixed point, and every residual is the same, so that every window is singular."""
    return z + 1


def rootless(z: Tensor) -> Tensor:
    """z -> z + sqrt(1 + z^2): no fixed point; the gap is smallest at zero, where it is one in every coordinate."""
    return z + torch.sqrt(1 + z * z)


def nan_at_once(z: Tensor) -> Tensor:
    """NaN wherever it is evaluated."""
    return torch.full_like(z, torch.nan)


def inf_at_once(z: Tensor) -> Tensor:
    """Infinite wherever it is evaluated: inf <= rtol * inf must not count as convergence."""
    return torch.full_like(z, torch.inf)


def nan_later(z: Tensor) -> Tensor:
    """z -> z + sqrt(3 - z): from zero, Picard overshoots the double root 3 and leaves the domain at its fourth evaluation."""
    return z + torch.sqrt(3 - z)


def explosive(z: Tensor) -> Tensor:
    """z -> z + 1 + 1e4 z^2: no fixed point and a gap that squares at each Picard step, until it overflows."""
    return z + 1 + 1e4 * z * z


def halving(z: Tensor) -> Tensor:
    """z -> z / 2 + 1, solved by 2."""
    return z / 2 + 1


def slow(z: Tensor) -> Tensor:
    """z -> 0.999 z + 1, solved by 1000, out of Picard's reach in a few hundred steps."""
    return 0.999 * z + 1


def rows(*maps: Callable[[Tensor], Tensor]) -> Map:
    """One map a sample, computed sample by sample: any dependence between samples is the solver's own."""
    return lambda z: torch.stack([f(row) for f, row in zip(maps, z, strict=True)])


def norms(z: Tensor) -> Tensor:
    """(B,) Euclidean norms in float64."""
    return z.detach().double().flatten(1).norm(dim=1)


def silent(phase: str, solution: Solution) -> None:
    """Watch no solve of an adjoint."""


def layer_norm(z: Tensor) -> Tensor:
    """z over its last axis, without its mean and divided by its standard deviation."""
    z = z - z.mean(-1, keepdim=True)
    return z / torch.sqrt(z.square().mean(-1, keepdim=True) + 1e-5)


class Counted:
    """A map that counts its calls."""

    def __init__(self, f: Map) -> None:
        self.f, self.calls = f, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.f(z)


def recurrence_by_loop(decay: Tensor, entering: Tensor, state: Tensor | None = None) -> Tensor:
    """h_t = decay_t h_{t-1} + entering_t (B, T, S) from h_{-1} = `state` (B, S), position by position."""
    h = torch.zeros_like(entering[:, 0]) if state is None else state
    found = []
    for t in range(decay.shape[1]):
        h = decay[:, t] * h + entering[:, t]
        found.append(h)
    return torch.stack(found, dim=1)
