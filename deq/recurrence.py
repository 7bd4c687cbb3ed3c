"""A diagonal linear recurrence over time, computed for all positions at once by a parallel scan."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_recurrence(decay: Tensor, entering: Tensor, state: Tensor | None = None) -> Tensor:
    """The states h_t = decay_t h_{t-1} + entering_t (B, T, S) from h_{-1} = `state` (B, S), by default 0."""
    if state is not None:
        entering = torch.cat((torch.addcmul(entering[:, :1], decay[:, :1], state.unsqueeze(1)), entering[:, 1:]), dim=1)
    h: Tensor = _Recurrence.apply(decay, entering)
    return h


class _Recurrence(torch.autograd.Function):
    """The recurrence from 0. Its gradient is the recurrence backwards in time, so that only decays and states are stored."""

    generate_vmap_rule = True  # for torch.func.jacrev

    @staticmethod
    def forward(decay: Tensor, entering: Tensor) -> Tensor:
        return _scan(decay, entering)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        decay, h = ctx.saved_tensors
        later = F.pad(decay[:, 1:], (0, 0, 0, 1))  # the decay from each position to the next
        entering = _Recurrence.apply(later.flip(1), gradients[0].flip(1)).flip(1)
        return entering * F.pad(h[:, :-1], (0, 0, 1, 0)), entering


def _scan(decay: Tensor, entering: Tensor) -> Tensor:
    """Combine each position with that 1, 2, 4, ... before it (Hillis and Steele 1986)."""
    h, product, reach = entering.clone(), decay.clone(), 1
    while reach < h.shape[1]:
        h[:, reach:] = torch.addcmul(h[:, reach:], product[:, reach:], h[:, :-reach])
        if 2 * reach < h.shape[1]:
            product[:, reach:] = product[:, reach:] * product[:, :-reach]
        reach *= 2
    return h
