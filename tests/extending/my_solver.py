"""A solver of your own: it proposes iterates; the loop, the stop and the count are deq.solve's."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from deq import Map


class Last(NamedTuple):
    """What a step is compared with: the residual before it, and its length; None before the first."""

    residual: Tensor | None
    step: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Aitken:
    """z + length (f(z) - z), the length for each sample from how its residual changed (Irons and Tuck 1969)."""

    first: float = 1.0
    longest: float = 4.0
    differentiable: ClassVar[bool] = True

    def init(self, z: Tensor, steps: int) -> Last:
        return Last(None, None)

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Last) -> tuple[Tensor, Last]:
        residual = (fz - z).flatten(1)
        length = torch.full_like(residual[:, :1], self.first)
        if memory.residual is not None and memory.step is not None:
            change = residual - memory.residual
            square = change.square().sum(1, keepdim=True)
            found = -memory.step * (memory.residual * change).sum(1, keepdim=True) / square.clamp(min=1e-30)
            length = torch.where(square > 1e-30, found.clamp(0.1, self.longest), length)  # a zero change gives no length
        return z + (length * residual).view(z.shape), Last(residual, length)
