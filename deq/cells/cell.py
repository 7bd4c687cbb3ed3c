"""The contract of a cell: everything that stays constant through a solve is fixed once, in `bind`."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from deq.solve import Map


class Cell(nn.Module, ABC):
    """A family of maps z -> f(z; x). Input injection, dropout masks and normalised weights are drawn in `bind`, so that they are
    constant through a solve and nobody has to reset them. `width` is the last dimension of its features, and of z too unless
    the cell says otherwise in `start`."""

    width: int

    @abstractmethod
    def bind(self, x: Tensor, memory: Any = None) -> Map:
        """The map z (shaped like `start`) -> f(z) for features x (B, T, D) and a memory; f(z)[:, t] depends on the past alone."""

    def initial_state(self, x: Tensor) -> Tensor:
        """The first iterate (B, T, N): zeros, as in the paper; N is `width` here."""
        return torch.zeros(*x.shape[:-1], self.width, dtype=x.dtype, device=x.device)

    def features(self, z: Tensor) -> Tensor:
        """What the solution z shows to the next layer: z itself, unless a cell keeps hidden parts in it."""
        return z

    def remember(self, z: Tensor, x: Tensor, memory: Any = None) -> Any:
        """The detached memory to bind the next segment with; None where the cell keeps none."""
        return None

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """One evaluation f(z; x)."""
        return self.bind(x)(z)
