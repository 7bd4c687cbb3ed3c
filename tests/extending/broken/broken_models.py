"""Models that break one rule each; only the check of that rule fails."""

import random
from typing import Any

import torch
from broken_cells import Adding, Leaky, _Crooked
from torch import Tensor, nn
from torch.nn import functional

from deq import DEQ, Core, Implicit, MLPCell, Output, Phantom, Picard, Stop


class _Sound(Core):
    """A causal mean and a layer: breaks none."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.layer = nn.Linear(inputs, width)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        count = torch.arange(1, x.shape[1] + 1, device=x.device).unsqueeze(1)
        return Output(torch.tanh(self.layer(x.cumsum(1) / count)))


class Bare(_Sound):
    """Returns the features, not an Output."""

    def forward(self, x: Tensor, memory: Any = None) -> Any:
        return super().forward(x).y


class Failing(_Sound):
    """Cannot take a single position."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        if x.shape[1] == 1:
            raise RuntimeError("too\nshort")
        return super().forward(x)


class Leaving(_Sound):
    """Ends the process instead of giving a result."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        raise SystemExit(3)


class Logarithms(_Sound):
    """Takes the logarithm of what may be negative."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return Output(super().forward(x).y.log())


class Dropping(_Sound):
    """Drops in evaluation mode, too."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return super().forward(functional.dropout(x, 0.1))


class Counting(_Sound):
    """Changes with every call."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__(inputs=inputs, width=width)
        self.calls = 0

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        self.calls += not self.training
        return super().forward(x * (1 + 0.1 * self.calls))


class Unseeded(_Sound):
    """Takes its noise from where torch's seed does not reach."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return super().forward(x * (1 + random.random()) if self.training else x)


class _Equilibrium(_Sound):
    """A DEQ behind a layer."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__(inputs=inputs, width=width)
        self.solved = DEQ(self.cell(width), solver=Picard(), stop=Stop(), adjoint=self.adjoint())

    def cell(self, width: int) -> Any:
        return MLPCell(width=width)

    def adjoint(self) -> Any:
        return Implicit(solver=Picard())

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return self.solved(super().forward(x).y)


class Unsolved(_Equilibrium):
    """Its equilibrium does not exist."""

    def cell(self, width: int) -> Any:
        return Adding(width=width)


class Rough(_Equilibrium):
    """Declares that its gradient is inexact."""

    def adjoint(self) -> Any:
        return Phantom()


class Hoarding(_Equilibrium):
    """Its equilibrium keeps the activations of every evaluation."""

    def cell(self, width: int) -> Any:
        return Leaky(width=width)


class Mixing(_Sound):
    """Takes the largest of the batch."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        y = super().forward(x).y
        return Output(y - 0.5 * y.amax(0))


class MixingInTraining(_Sound):
    """Mixes samples in training, with a dropout that hides it in the values."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        y = super().forward(functional.dropout(x, 0.1, self.training)).y
        return Output(y + 0.5 * y.mean(0) if self.training else y)


class Ahead(_Sound):
    """Takes the mean of the whole sequence."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return Output(super().forward(x).y + x.mean((1, 2), keepdim=True))


class AheadInTraining(_Sound):
    """Is causal, but for a mean over all positions in training, as of a BatchNorm."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        y = super().forward(functional.dropout(x, 0.1, self.training)).y
        return Output(y - y.mean(1, keepdim=True) if self.training else y)


class AheadBehindAMemory(_Sound):
    """Is causal, but for a sequence that goes on from another."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        y = super().forward(x).y
        return Output(y if memory is None else y + x.mean((1, 2), keepdim=True), memory=y.detach())


class Crooked(_Sound):
    """Has a Function of its own, with a wrong derivative."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return Output(_Crooked.apply(self.layer(x)))


class Cut(_Sound):
    """Detaches a layer's input, and so loses a part of the gradient."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        y = super().forward(x).y
        return Output(y * (1 + y.detach()))


class Idle(_Sound):
    """Has a layer that it does not use."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__(inputs=inputs, width=width)
        self.spare = nn.Linear(width, width)


class Secret(_Sound):
    """Keeps random numbers outside its state_dict."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__(inputs=inputs, width=width)
        self.shift = torch.rand(inputs)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return super().forward(x + self.shift)


class SecretInTraining(_Sound):
    """Follows its inputs in training by a number outside its state_dict."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__(inputs=inputs, width=width)
        self.mean = 0.0

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        mean = self.mean
        if self.training:
            self.mean = 0.9 * mean + 0.1 * x.detach().mean().item()
        return super().forward(x - mean)


class Dragging(_Sound):
    """Hands on a memory with its graph."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        y = super().forward(x).y
        return Output(y, memory=(y[:, -1], [y[:, 0].detach()]))


class Strange(_Sound):
    """Hands on something that is no tensor."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return Output(super().forward(x).y, memory={"when": "yesterday"})


class Looking(_Sound):
    """Decides by values."""

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        if x.isnan().any():
            raise ValueError("not a number")
        return super().forward(x)


class Opening(_Sound):
    """Opens a gate at zero: what lies behind it has no gradient yet."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__(inputs=inputs, width=width)
        self.gate, self.more = nn.Parameter(torch.zeros(width)), nn.Linear(inputs, width)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        return Output(super().forward(x).y + self.gate * self.more(x))
