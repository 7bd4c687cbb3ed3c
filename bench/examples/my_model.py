"""A model of your own: a Core maps features (B, T, inputs) to (B, T, width); no position sees a later one."""

from typing import Any

import torch
from torch import Tensor, nn

from deq import Core, Output


class Decay(Core):
    """Exponential moving averages of the past with a rate per channel, and one layer on top."""

    def __init__(self, *, inputs: int, width: int, slowest: float = 0.95) -> None:
        super().__init__()
        self.width = width
        self.inject, self.out = nn.Linear(inputs, width), nn.Linear(width, width)
        self.rate = nn.Parameter(torch.linspace(0.1, slowest, width).logit())

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Return features and the state (B, width) to carry into the next segment."""
        rate, injection = torch.sigmoid(self.rate), self.inject(x)
        state = injection.new_zeros(injection[:, 0].shape) if memory is None else memory
        states = []
        for now in injection.unbind(1):
            state = rate * state + (1 - rate) * now
            states.append(state)
        return Output(torch.tanh(self.out(torch.stack(states, dim=1))), memory=state.detach())
