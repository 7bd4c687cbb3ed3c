"""A cell of your own: model `deq` solves for its fixed point, model `tied` applies it `depth` times."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deq import Cell, Map


class Gate(Cell):
    """f(z)_t = g_t tanh(W (z_t, z_{t-1})) + (1 - g_t) U x_t with gates g = sigmoid(V x)."""

    def __init__(self, *, width: int, gain: float = 0.4) -> None:
        super().__init__()
        self.width = width
        self.inner, self.inject, self.gate = nn.Linear(2 * width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.inner.weight.data.mul_(gain)  # a gain below one starts as a contraction, so the first solves converge

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        """Compute here what stays constant through a solve; return the map z -> f(z)."""
        gate, injection = torch.sigmoid(self.gate(x)), self.inject(x)

        def f(z: Tensor) -> Tensor:
            before = functional.pad(z, (0, 0, 1, 0))[:, :-1]  # shift to later positions: no position sees a later one
            return gate * torch.tanh(self.inner(torch.cat((z, before), dim=-1))) + (1 - gate) * injection

        return f
