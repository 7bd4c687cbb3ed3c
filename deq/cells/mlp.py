"""A cell with one hidden layer per position, for tests and for inputs without time."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from deq.cells.cell import Cell
from deq.checks import check_whole
from deq.solve import Map


class MLPCell(Cell):
    """f(z) = tanh(V relu(W z + U x + b) + c), position by position. Parameters: H(2D + 1) + D(H + 1)."""

    numerics: ClassVar[int] = 1

    def __init__(self, *, width: int, hidden: int | None = None, gain: float = 0.5) -> None:
        super().__init__()
        hidden = 2 * width if hidden is None else hidden
        check_whole(width=width, hidden=hidden)
        self.width = width
        self.inject = nn.Linear(width, hidden)
        self.inner = nn.Linear(width, hidden, bias=False)
        self.outer = nn.Linear(hidden, width)
        with torch.no_grad():  # a gain below one starts as a contraction
            for layer in (self.inner, self.outer):
                layer.weight.mul_(gain)

    def bind(self, x: Tensor, memory: None = None) -> Map:
        """Compute U x + b once."""
        injection = self.inject(x)
        return lambda z: torch.tanh(self.outer(torch.relu(self.inner(z) + injection)))
