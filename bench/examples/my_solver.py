"""A solver of your own: it proposes iterates; deq.solve has the loop, the stop and the counts."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from deq import Map


class Last(NamedTuple):
    """The last residual and step length (B, ...); None before the first step."""

    residual: Tensor | None
    length: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Aitken:
    """z + length (f(z) - z), the length of each sample by Aitken's rule (Irons and Tuck 1969)."""

    longest: float = 4.0
    differentiable: ClassVar[bool] = True

    def init(self, z: Tensor, steps: int) -> Last:
        """Return the memory before the first step."""
        return Last(None, None)

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Last) -> tuple[Tensor, Last]:
        """Return the next iterate and memory, given z and fz = f(z)."""
        residual = (fz - z).flatten(1)
        length = torch.ones_like(residual[:, :1])
        if memory.residual is not None and memory.length is not None:
            change = residual - memory.residual
            square = change.square().sum(1, keepdim=True)
            aitken = -memory.length * (memory.residual * change).sum(1, keepdim=True) / square.clamp(min=1e-30)
            length = torch.where(square > 1e-30, aitken.clamp(0.1, self.longest), length)  # no information in a zero change
        return z + (length * residual).view(z.shape), Last(residual, length)
