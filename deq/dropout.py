"""Dropout masks that stay constant through a solve: drawn once, in a cell's `bind` or a core's `forward`."""

import torch
from torch import Tensor
from torch.nn import functional


def check_rates(**rates: float) -> None:
    """Raise ValueError for a rate outside [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must be in [0, 1), got {rate}")


def variational_mask(x: Tensor, rate: float, training: bool) -> Tensor | None:
    """Draw a (B, 1, D) mask for x (B, T, D), equal at all positions, scaled by 1 / (1 - rate); None in evaluation or at rate 0.

    Gal and Ghahramani (NeurIPS 2016), arXiv 1512.05287.
    """
    if not training or rate == 0:
        return None
    keep = torch.full((x.shape[0], 1, x.shape[-1]), 1 - rate, dtype=x.dtype, device=x.device)
    return torch.bernoulli(keep).div_(1 - rate)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x times the mask, or x itself without one."""
    return x if mask is None else x * mask


def dropped_weight(weight: Tensor, rate: float, training: bool) -> Tensor:
    """Drop entries of the weight and scale the rest (DropConnect). Merity et al. (ICLR 2018), arXiv 1708.02182."""
    return functional.dropout(weight, rate, training) if rate else weight
