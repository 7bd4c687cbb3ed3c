"""The contract that every sequence model meets, equilibrium or explicit: Core maps (B, T, D) to an Output."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Output:
    """What a Core returns: features y (B, T, width), a detached memory to carry on, a scalar penalty to add to the loss, and
    auxiliary features (each (B, T, width)) for deep supervision."""

    y: Tensor
    memory: Any = None
    penalty: Tensor | None = None
    auxiliary: tuple[Tensor, ...] = ()


class Core(nn.Module, ABC):
    """A causal sequence model over features: y[:, t] depends on x[:, :t+1] and the memory alone. `width` is y's last dimension."""

    width: int

    @abstractmethod
    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Features x (B, T, D) to an Output; the memory it returns is detached from the graph."""
