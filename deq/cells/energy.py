"""A cell whose map is the gradient of a potential: its fixed points are the stationary points of an energy."""

from dataclasses import dataclass
from math import log, sqrt
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deq.cells.cell import Cell
from deq.checks import check_whole


def log_cosh(h: Tensor) -> Tensor:
    """Compute log cosh h without overflow; its derivative is tanh h, also at zero."""
    return h + F.softplus(-2 * h, threshold=40) - log(2)  # the default threshold of 20 loses half of float64's digits


@dataclass(frozen=True, eq=False)
class EnergyMap:
    """f(z) = grad Phi(z) = V^T tanh(V z + injection) + c for V (H, D), injection (B, T, H) and c (D,)."""

    V: Tensor
    injection: Tensor
    c: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """f(z) (B, T, D)."""
        return F.linear(torch.tanh(F.linear(z, self.V) + self.injection), self.V.T, self.c)

    def potential(self, z: Tensor) -> Tensor:
        """Return Phi (B,), the sum of log cosh(V z + injection) and <c, z> over a sample's positions."""
        return (log_cosh(F.linear(z, self.V) + self.injection).sum(-1) + z @ self.c).sum(-1)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that Phi depends on besides z: V, injection, c."""
        return self.V, self.injection, self.c

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        """Return the same map with other tensors, in the order of `tensors`."""
        return type(self)(*tensors)


class EnergyCell(Cell):
    """f(z) = V^T tanh(V z + U x + b) + c, position by position, which descends the energy

        E(z; x) = ||z||^2 / 2 - sum log cosh(V z + U x + b) - <c, z>.

    grad E = z - f(z), so a fixed point is a stationary point of E. The Jacobian V^T diag(1 - tanh^2) V is symmetric, as equilibrium
    propagation requires, with eigenvalues in [0, ||V||^2]. V starts with ||V||^2 = `gain`, a contraction below one. Above one, E is
    still bounded below but may have several minima: plain iteration stays at one of them while the weights change, Anderson may
    switch. Positions are not coupled (a symmetric coupling would let the future act on the past), so the cell has no memory and
    suits tasks that the current token answers.
    After Scellier and Bengio (Frontiers 2017), arXiv 1602.05179. Parameters: H (2 D + 1) + D.
    """

    numerics: ClassVar[int] = 1

    def __init__(self, *, width: int, hidden: int | None = None, gain: float = 0.5) -> None:
        super().__init__()
        hidden = 2 * width if hidden is None else hidden
        check_whole(width=width, hidden=hidden)
        if not gain > 0:
            raise ValueError(f"gain must be positive, got {gain}")
        self.width = width
        self.inject = nn.Linear(width, hidden)
        self.V = nn.Parameter(torch.empty(hidden, width))
        self.c = nn.Parameter(torch.zeros(width))
        nn.init.orthogonal_(self.V, sqrt(gain))

    def bind(self, x: Tensor, memory: None = None) -> EnergyMap:
        """Compute U x + b once."""
        return EnergyMap(self.V, self.inject(x), self.c)
