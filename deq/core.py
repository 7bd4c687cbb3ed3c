"""Base class of sequence models, equilibrium or explicit."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Output:
    """Output of a Core: features y (B, T, width), a detached memory for the next segment, a scalar penalty to add to the loss,
    auxiliary features (each (B, T, width)) for deep supervision, and the detached state f(z*) of a DEQ, to start a solve from;
    it may share y's memory."""

    y: Tensor
    memory: Any = None
    penalty: Tensor | None = None
    auxiliary: tuple[Tensor, ...] = ()
    state: Tensor | None = None


class Core(nn.Module, ABC):
    """A causal sequence model: y[:, t] depends only on x[:, :t+1] and the memory. `width` is y's last dimension."""

    width: int

    @abstractmethod
    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, D) to an Output; its memory is detached from the graph."""
