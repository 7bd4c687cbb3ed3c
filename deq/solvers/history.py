"""Products with a history of states (B, L, N), in the form that its layout likes."""

import torch
from torch import Tensor

_SMALL = 400  # multiply-adds a sample; below, torch's bmm leaves the BLAS for plain loops, twice as slow as an elementwise product


def inner(history: Tensor, state: Tensor) -> Tensor:
    """(B, L) inner products of the state (B, N) with every row of the history (B, L, N)."""
    if history.shape[1] * history.shape[2] < _SMALL:
        return torch.linalg.vecdot(history, state.unsqueeze(1))
    return torch.bmm(state.unsqueeze(1), history.mT).squeeze(1)


def combined(weights: Tensor, history: Tensor) -> Tensor:
    """(B, N) sum of the rows of the history (B, L, N), each times its weight (B, L)."""
    if history.shape[1] * history.shape[2] < _SMALL:
        return torch.linalg.vecdot(weights.unsqueeze(2), history, dim=1)
    return torch.bmm(weights.unsqueeze(1), history).squeeze(1)
