"""Pack several tensors into the single state that a solver iterates."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pack(*parts: Tensor) -> Tensor:
    """Concatenate parts (B, T, D_i) to one (B, T, sum D_i)."""
    return torch.cat(parts, dim=-1)


def unpack(z: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """Split a packed z into views (B, T, D_i); RuntimeError where the widths do not sum to z's last dimension."""
    return z.split(list(widths), dim=-1)
