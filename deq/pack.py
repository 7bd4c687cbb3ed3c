"""Several tensors as one: a solver sees a single state, whatever parts a cell keeps in it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pack(*parts: Tensor) -> Tensor:
    """Parts (B, T, D_i) side by side in one (B, T, sum D_i)."""
    return torch.cat(parts, dim=-1)


def unpack(z: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """The parts (B, T, D_i) of a packed z, as views; widths that do not sum to z's last dimension raise RuntimeError."""
    return z.split(list(widths), dim=-1)
