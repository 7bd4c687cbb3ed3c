"""A cell of your own: what it gives is solved for by `deq`, and repeated by `tied`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deq import Cell, Map


class Gate(Cell):
    """f(z) = g tanh(W z, with the position before it) + (1 - g) U x: what is constant through a solve is computed once, in bind."""

    def __init__(self, *, width: int, gain: float = 0.4) -> None:
        super().__init__()
        self.width = width
        self.inner, self.inject, self.gate = nn.Linear(2 * width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.inner.weight.data.mul_(gain)  # below one: it starts as a contraction

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        gate, injection = torch.sigmoid(self.gate(x)), self.inject(x)

        def f(z: Tensor) -> Tensor:
            before = functional.pad(z, (0, 0, 1, 0))[:, :-1]  # to the left only: no position sees a later one
            return gate * torch.tanh(self.inner(torch.cat((z, before), dim=-1))) + (1 - gate) * injection

        return f
