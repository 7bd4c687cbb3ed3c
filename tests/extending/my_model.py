"""A model of your own: a Core gives features (B, T, width) for features (B, T, inputs), and no position sees a later one."""

from typing import Any

import torch
from torch import Tensor, nn

from deq import Core, Output


class Decay(Core):
    """Averages of the past that fade at a rate for each channel, computed in the open, and one layer on top."""

    def __init__(self, *, inputs: int, width: int, slowest: float = 0.95) -> None:
        super().__init__()
        self.width = width
        self.inject, self.out = nn.Linear(inputs, width), nn.Linear(width, width)
        self.rate = nn.Parameter(torch.linspace(0.1, slowest, width).logit())

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        rate, entering = torch.sigmoid(self.rate), self.inject(x)
        state = entering.new_zeros(entering[:, 0].shape) if memory is None else memory
        states = []
        for now in entering.unbind(1):
            state = rate * state + (1 - rate) * now
            states.append(state)
        return Output(torch.tanh(self.out(torch.stack(states, dim=1))), memory=state.detach())
