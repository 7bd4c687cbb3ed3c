"""Base class of cells."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from deq.solve import Map


class Cell(nn.Module, ABC):
    """A family of maps z -> f(z; x).

    `bind` computes once what stays constant through a solve: input injection, dropout masks, normalised weights. `width` is the
    last dimension of the features, and of z too unless a cell overrides `initial_state`.
    """

    width: int

    @abstractmethod
    def bind(self, x: Tensor, memory: Any = None) -> Map:
        """Return the causal map z (shaped like `initial_state`) -> f(z) for features x (B, T, D) and a memory."""

    def initial_state(self, x: Tensor) -> Tensor:
        """Return the first iterate (B, T, N): zeros, as in the paper; N is `width` here."""
        return torch.zeros(*x.shape[:-1], self.width, dtype=x.dtype, device=x.device)

    def features(self, z: Tensor) -> Tensor:
        """Return the features of z for the next layer: z itself, unless it has hidden parts."""
        return z

    def remember(self, z: Tensor, x: Tensor, memory: Any = None) -> Any:
        """Return the detached memory for binding the next segment, or None."""
        return None

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Evaluate f(z; x) once."""
        return self.bind(x)(z)
