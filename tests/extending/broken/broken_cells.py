"""Cells that break one rule each; only the check of that rule fails."""

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from deq import Cell, Map


class _Sound(Cell):
    """f(z) = tanh(W z) + U x: breaks none."""

    def __init__(self, *, width: int, gain: float = 0.4) -> None:
        super().__init__()
        self.width = width
        self.inner, self.inject = nn.Linear(width, width), nn.Linear(width, width)
        self.inner.weight.data.mul_(gain)

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        injection = self.inject(x)
        return lambda z: torch.tanh(self.inner(z)) + injection


class Narrow(_Sound):
    """Shows one feature less than its width."""

    def features(self, z: Tensor) -> Tensor:
        return z[..., 1:]


class Single(_Sound):
    """Adds numbers that are float64 whatever the features are."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        f = super().bind(x)
        return lambda z: f(z) + torch.zeros(1, dtype=torch.float64)


class Roots(_Sound):
    """Takes the root of what may be negative."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        f = super().bind(x)
        return lambda z: torch.sqrt(f(z))


class Dropping(_Sound):
    """Draws a dropout mask at every evaluation."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        f = super().bind(x)
        return lambda z: functional.dropout(f(z), 0.1, self.training)


class Static(_Sound):
    """Returns one buffer at every call without grad mode, as a CUDA graph does."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        f, buffer = super().bind(x), torch.empty_like(x)
        return lambda z: f(z) if torch.is_grad_enabled() else buffer.copy_(f(z))


class Writing(_Sound):
    """Works in place on the state that it is given."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        f = super().bind(x)

        def writes(z: Tensor) -> Tensor:
            fz = f(z)
            if self.training:
                z.data.mul_(0.5)
            return fz

        return writes


class Noisy(_Sound):
    """Draws noise in evaluation mode, too."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return super().bind(x + 0.1 * torch.randn_like(x))


class Unseeded(_Sound):
    """Takes its noise from where torch's seed does not reach."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return super().bind(x * (1 + random.random()) if self.training else x)


class Mixing(_Sound):
    """Adds the mean over the batch."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return super().bind(x + 0.1 * x.mean(0))


class Normalising(_Sound):
    """Normalises over the batch, in training alone."""

    def __init__(self, *, width: int) -> None:
        super().__init__(width=width)
        self.norm = nn.BatchNorm1d(width)

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return super().bind(self.norm(x.mT).mT)


class Ahead(_Sound):
    """Uses the next position."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        f = super().bind(x)
        return lambda z: f(functional.pad(z, (0, 0, 0, 1))[:, 1:] + z)


class _Crooked(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradients[0] * (1 - y)  # not squared


class Crooked(_Sound):
    """Has a Function of its own, with a wrong derivative."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        injection = self.inject(x)
        return lambda z: _Crooked.apply(self.inner(z)) + injection


class Idle(_Sound):
    """Has a layer that it does not use."""

    def __init__(self, *, width: int) -> None:
        super().__init__(width=width)
        self.spare = nn.Linear(width, width)


class Secret(_Sound):
    """Keeps random numbers outside its state_dict."""

    def __init__(self, *, width: int) -> None:
        super().__init__(width=width)
        self.scale = torch.rand(width)

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        return super().bind(x * self.scale)


class Dragging(_Sound):
    """Hands on a state with its graph."""

    def remember(self, z: Tensor, x: Tensor, memory: Any = None) -> Any:
        return 2 * z


class Adding(_Sound):
    """z -> z + 1, as it were: there is no fixed point."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        step = 2 + torch.tanh(self.inject(x))
        return lambda z: z + step + 0 * self.inner(z).square()

    def __init__(self, *, width: int) -> None:
        super().__init__(width=width)
        self.inner.requires_grad_(False)


class _Clipped(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clamp(-6, 6)


class Clipping(_Sound):
    """Clips what flows through the map backward, which is small once and large where many terms add up."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        injection = self.inject(x)
        return lambda z: 0.9 * _Clipped.apply(z) + 0.01 * torch.tanh(self.inner(z)) + injection


class Looking(_Sound):
    """Decides by values."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        if x.isnan().any():
            raise ValueError("not a number")
        return super().bind(x)


class Leaky(_Sound):
    """Keeps the activations of every evaluation."""

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        f, self.kept = super().bind(x), []

        def keeps(z: Tensor) -> Tensor:
            self.kept.append(f(z))
            return self.kept[-1]

        return keeps
